// SPDX-License-Identifier: MIT
// The set of reactors of a process, one thread each. The thread that makes the runtime runs reactor
// 0 by run_until(); the others have threads of their own.
#pragma once

#include <map>
#include <memory>
#include <thread>
#include <vector>

#include "base/result.h"
#include "rt/reactor.h"

namespace lbd::rt {

enum class backend { automatic, uring, threads };

struct runtime_options {
  unsigned reactors = 0;  // 0: as many as there are CPUs, at most 16
  backend how = backend::automatic;
  uint64_t spin_ns = 50'000;  // adaptive busy polling of idle io_uring reactors; 0 is off
};

class runtime {
 public:
  // Errors: no back end works (the message says why).
  static base::outcome<std::unique_ptr<runtime>> start(runtime_options options);
  // For tests and the simulator: the given reactors, no threads; the caller turns them.
  explicit runtime(std::vector<std::unique_ptr<reactor>> reactors);
  ~runtime();
  runtime(const runtime&) = delete;
  runtime& operator=(const runtime&) = delete;

  unsigned reactor_count() const noexcept { return static_cast<unsigned>(reactors_.size()); }
  reactor& at(unsigned index) noexcept { return *reactors_[index]; }

  // The runtime's one object of a kind that all who use the runtime share (connections to a
  // cluster, say): made when first asked for, destroyed when the reactors have stopped. On reactor
  // 0 only.
  template <class T>
  T& shared() {
    static constexpr char key = 0;
    auto& slot = shared_[&key];
    if (slot == nullptr) slot = std::make_shared<T>();
    return *static_cast<T*>(slot.get());
  }

  // Runs reactor 0 on the calling thread until `t` has finished.
  template <class T>
  T run_until(task<T> t) {
    reactor::scope here(at(0));
    std::optional<T> value;
    spawn(finish_into(std::move(t), value));
    while (!value) at(0).turn(UINT64_MAX);
    return std::move(*value);
  }
  void run_until(task<void> t) {
    auto with_value = [](task<void> inner) -> task<bool> {
      co_await inner;
      co_return true;
    };
    run_until(with_value(std::move(t)));
  }

  // Stops the other reactors' threads and joins them. REQUIRES: nothing of theirs is in use.
  void stop();

 private:
  template <class T>
  static task<void> finish_into(task<T> t, std::optional<T>& value) {
    value.emplace(co_await t);
  }
  std::vector<std::unique_ptr<reactor>> reactors_;
  std::vector<std::thread> threads_;
  std::map<const void*, std::shared_ptr<void>> shared_;
};

}  // namespace lbd::rt
