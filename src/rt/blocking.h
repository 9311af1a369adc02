// SPDX-License-Identifier: MIT
// Threads for calls that block and have no other form (a library's). A reactor awaits them, with a
// deadline if it likes.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <utility>

#include "rt/foreign.h"
#include "rt/task.h"

namespace lbd::rt {

class blocking_threads {
 public:
  // At most `most` threads, made when they are needed.
  explicit blocking_threads(unsigned most);
  // Waits for nothing: what was given to run() is still done, by threads that end then. A thread
  // that hangs in its call is left behind.
  ~blocking_threads();
  blocking_threads(const blocking_threads&) = delete;
  blocking_threads& operator=(const blocking_threads&) = delete;

  // Runs `work` on one of the threads. Any thread may call.
  void run(std::function<void()> work);

 private:
  struct shared;
  std::shared_ptr<shared> shared_;
};

// Runs `work` on one of the threads and comes back with its result; nothing when `due_ns` (0:
// never) has passed first. A result that comes later is destroyed on that thread.
template <class T>
task<std::optional<T>> run_blocking(blocking_threads& on, std::function<T()> work,
                                    uint64_t due_ns) {
  struct call final : foreign_call {
    std::function<T()> work;
    std::optional<T> value;
  };
  auto* c = new call;
  c->work = std::move(work);
  auto body = [c] {
    c->value.emplace(c->work());
    c->work = nullptr;
    c->finish();
  };
  on.run(std::move(body));
  const bool ended = co_await c->ended(due_ns);
  if (!ended) co_return std::nullopt;
  std::optional<T> out = std::move(c->value);
  delete c;
  co_return out;
}

}  // namespace lbd::rt
