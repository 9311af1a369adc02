// SPDX-License-Identifier: MIT
// A thread that begins calls into a library which may block before they go on by themselves.
#pragma once

#include <memory>

#include "rt/reactor.h"

namespace lbd::rt {

// Turns a list of messages around, each of which was pushed in front of the others.
message* oldest_first(message* newest) noexcept;

class call_thread {
 public:
  call_thread();
  // Waits for nothing: what was posted before still runs, and the thread ends then. One that hangs
  // is left behind. Any thread, also this one.
  ~call_thread();
  call_thread(const call_thread&) = delete;
  call_thread& operator=(const call_thread&) = delete;

  // Runs `m` on the thread, after everything that was posted before. Any thread, no locks. As with
  // reactors, `m` may be gone once it has run.
  void post(message& m) noexcept;

 private:
  struct shared;
  std::shared_ptr<shared> shared_;
};

}  // namespace lbd::rt
