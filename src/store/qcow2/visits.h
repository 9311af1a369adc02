// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>

#include "rt/sync.h"
#include "rt/task.h"

namespace lbd::store {

// Who is inside, on one reactor, told apart by whether they came before or after a moment.
class visits {
 public:
  class [[nodiscard]] guard {
   public:
    explicit guard(visits& v) noexcept : visits_(v), turn_(v.turn_) { ++v.inside_[turn_]; }
    guard(const guard&) = delete;
    guard& operator=(const guard&) = delete;
    ~guard() {
      if (--visits_.inside_[turn_] == 0 && turn_ != visits_.turn_) visits_.drained_.set();
    }

   private:
    visits& visits_;
    const unsigned turn_;
  };

  // Returns when everybody who is inside at the call has left. One call at a time.
  rt::task<void> have_left() {
    const unsigned before = turn_;
    turn_ = 1 - before;
    drained_.reset();
    if (inside_[before] == 0) co_return;
    co_await drained_.wait();
  }

 private:
  uint64_t inside_[2] = {0, 0};
  unsigned turn_ = 0;
  rt::event drained_;
};

}  // namespace lbd::store
