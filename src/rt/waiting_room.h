// SPDX-License-Identifier: MIT
// Where coroutines of one reactor wait until a moment has come, somebody lets them go, or they are
// canceled, whatever is first. Not for other threads.
#pragma once

#include <coroutine>
#include <cstdint>
#include <map>
#include <utility>

#include "rt/cancel.h"
#include "rt/reactor.h"

namespace lbd::rt {

class waiting_room {
 public:
  static constexpr uint64_t no_end = UINT64_MAX;

  waiting_room() {
    clock_.room = this;
    clock_.run = [](timer& t) { static_cast<clock&>(t).room->release_due(); };
  }
  // REQUIRES: nobody waits.
  ~waiting_room() = default;
  waiting_room(const waiting_room&) = delete;
  waiting_room& operator=(const waiting_room&) = delete;

  // Awaitable. Says nothing of why it ended: whoever waits looks at the clock and the token.
  class [[nodiscard]] stay : private cancel_token::watcher {
   public:
    stay(waiting_room& room, uint64_t due_ns, const cancel_token* cancel) noexcept
        : room_(room), due_ns_(due_ns), cancel_(cancel) {}
    bool await_ready() const noexcept { return false; }
    bool await_suspend(std::coroutine_handle<> h) {
      handle_ = h;
      run = [](cancel_token::watcher& w) { static_cast<stay&>(w).leave_alone(); };
      if (cancel_ != nullptr && !cancel_->watch(*this)) return false;
      at_ = room_.guests_.emplace(due_ns_, this);
      room_.set_clock();
      return true;
    }
    void await_resume() const noexcept {}

   private:
    friend class waiting_room;
    void leave_alone() {
      room_.guests_.erase(at_);
      room_.set_clock();
      reactor::current().schedule(handle_);
    }
    // The room has already forgotten it.
    void leave() {
      if (cancel_ != nullptr) cancel_->unwatch(*this);
      reactor::current().schedule(handle_);
    }

    waiting_room& room_;
    const uint64_t due_ns_;
    const cancel_token* const cancel_;
    std::coroutine_handle<> handle_;
    std::multimap<uint64_t, stay*>::iterator at_;
  };
  // At `due_ns` those leave first who came first. `cancel` may be nullptr.
  stay until(uint64_t due_ns, const cancel_token* cancel) noexcept {
    return stay(*this, due_ns, cancel);
  }

  // In the order of their moments.
  void release_all() {
    for (const auto& [due, guest] : std::exchange(guests_, {})) guest->leave();
    set_clock();
  }
  bool empty() const noexcept { return guests_.empty(); }

 private:
  struct clock : timer {
    waiting_room* room = nullptr;
  };
  void release_due() {
    const uint64_t now = reactor::current().now_ns();
    while (!guests_.empty() && guests_.begin()->first <= now) {
      stay* guest = guests_.begin()->second;
      guests_.erase(guests_.begin());
      guest->leave();
    }
    set_clock();
  }
  void set_clock() {
    reactor& here = reactor::current();
    const uint64_t due_ns = guests_.empty() ? no_end : guests_.begin()->first;
    if (due_ns == no_end) return here.stop_timer(clock_);
    if (!clock_.armed || clock_.due_ns != due_ns) here.start_timer(clock_, due_ns);
  }

  std::multimap<uint64_t, stay*> guests_;
  clock clock_;
};

}  // namespace lbd::rt
