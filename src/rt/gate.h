// SPDX-License-Identifier: MIT
// Gates: who is inside, counted per reactor without atomics on the way in and out.
//   gate    can be closed: those inside are waited for, newcomers wait until it opens again
//   epochs  never closes: tells when everybody who was inside at some moment has left
#pragma once

#include <atomic>
#include <cassert>
#include <cstdint>
#include <memory>
#include <vector>

#include "rt/reactor.h"
#include "rt/runtime.h"
#include "rt/sync.h"

namespace lbd::rt {

class gate {
 public:
  explicit gate(runtime& rt) : runtime_(rt), slots_(rt.reactor_count()) {}
  gate(const gate&) = delete;
  gate& operator=(const gate&) = delete;

  // Enters if the gate is open. Any reactor; leave() on the same one.
  bool try_enter() noexcept {
    slot& s = slots_[reactor::current().index()];
    if (s.closed) return false;
    ++s.inside;
    return true;
  }
  // Waits while the gate is closed, then is inside.
  task<void> enter() {
    slot& s = slots_[reactor::current().index()];
    while (s.closed) co_await s.opened.wait();
    ++s.inside;
  }
  void leave() noexcept { leave_slot(slots_[reactor::current().index()]); }

  // Closes on every reactor and waits until nobody is inside. False: give_up() ended the wait, and
  // somebody still is; the gate is closed all the same. REQUIRES: no other close is under way
  // (callers serialise), and the caller is not inside.
  task<bool> close() {
    co_await hold();
    bool empty = true;
    for (unsigned i = 0; i < slots_.size(); ++i) {
      auto work = [this, i] { return drained_here(slots_[i]); };
      const bool drained = co_await call_on(runtime_.at(i), work);
      empty = empty && drained;
    }
    co_return empty;
  }
  // Closes on every reactor, and waits for nobody. REQUIRES as close().
  task<void> hold() {
    const uint64_t round = ++round_;
    for (unsigned i = 0; i < slots_.size(); ++i) {
      auto work = [this, i, round] { return close_here(slots_[i], round); };
      co_await call_on(runtime_.at(i), work);
    }
  }
  // Ends the wait of a close() that is under way. On the reactor of that.
  task<void> give_up() {
    const uint64_t round = round_;
    for (unsigned i = 0; i < slots_.size(); ++i) {
      auto work = [this, i, round] { return give_up_here(slots_[i], round); };
      co_await call_on(runtime_.at(i), work);
    }
  }
  task<void> open() {
    for (unsigned i = 0; i < slots_.size(); ++i) {
      auto work = [this, i] { return open_here(slots_[i]); };
      co_await call_on(runtime_.at(i), work);
    }
  }

 private:
  struct alignas(64) slot {
    uint64_t inside = 0;
    uint64_t round = 0;  // of the close that was last
    bool closed = false;
    event drained;
    event opened;
  };
  static void leave_slot(slot& s) noexcept {
    assert(s.inside != 0);
    if (--s.inside == 0 && s.closed) s.drained.set();
  }
  static task<bool> close_here(slot& s, uint64_t round) {
    s.closed = true;
    s.round = round;
    s.opened.reset();
    s.drained.reset();
    if (s.inside == 0) s.drained.set();
    co_return true;
  }
  static task<bool> drained_here(slot& s) {
    co_await s.drained.wait();
    co_return s.inside == 0;
  }
  static task<bool> give_up_here(slot& s, uint64_t round) {
    if (s.closed && s.round == round) s.drained.set();
    co_return true;
  }
  static task<bool> open_here(slot& s) {
    s.closed = false;
    s.opened.set();
    co_return true;
  }

  runtime& runtime_;
  std::vector<slot> slots_;
  uint64_t round_ = 0;  // where close() is called
};

// Readers of versioned state enter and leave; quiesce() returns when all who were inside at the
// call have left. New readers are never held up.
class epochs {
 public:
  explicit epochs(runtime& rt) : runtime_(rt), slots_(rt.reactor_count()) {}
  epochs(const epochs&) = delete;
  epochs& operator=(const epochs&) = delete;

  // The token goes back to leave(), on the same reactor.
  uint32_t enter() noexcept {
    slot& s = slots_[reactor::current().index()];
    ++s.inside[s.now];
    return s.now;
  }
  void leave(uint32_t token) noexcept {
    slot& s = slots_[reactor::current().index()];
    assert(s.inside[token] != 0);
    if (--s.inside[token] == 0 && token != s.now) s.drained.set();
  }
  // One at a time (callers serialise).
  task<void> quiesce() {
    for (unsigned i = 0; i < slots_.size(); ++i) {
      auto work = [this, i] { return quiesce_here(slots_[i]); };
      co_await call_on(runtime_.at(i), work);
    }
  }

 private:
  struct alignas(64) slot {
    uint64_t inside[2] = {0, 0};
    uint32_t now = 0;
    event drained;
  };
  static task<bool> quiesce_here(slot& s) {
    s.drained.reset();
    const uint32_t old = s.now;
    s.now = 1 - old;
    if (s.inside[old] == 0) s.drained.set();
    co_await s.drained.wait();
    co_return true;
  }

  runtime& runtime_;
  std::vector<slot> slots_;
};

}  // namespace lbd::rt
