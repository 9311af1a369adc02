// SPDX-License-Identifier: MIT
// Calls into libraries that have threads of their own: one of those threads tells the end of a
// call, the reactor that began it goes on. No locks on the way, and a deadline does not wait for a
// library that hangs.
#pragma once

#include <atomic>
#include <coroutine>
#include <cstdint>
#include <memory>
#include <utility>

#include "rt/call_thread.h"
#include "rt/reactor.h"

namespace lbd::rt {

// One call. Made by new on a reactor, and begun there or, where beginning may block, by begin_on().
// What the library reads and writes during the call belongs to it (a derived class) and not to the
// caller wherever there is a deadline, because a call that was given up goes on. Whoever awaited
// its end deletes it; if it was given up it is deleted when it ends.
class foreign_call : private message {
 public:
  // `late`: counts calls that were given up and have not ended.
  explicit foreign_call(std::shared_ptr<std::atomic<uint64_t>> late = nullptr)
      : home_(reactor::current()), late_(std::move(late)) {}
  virtual ~foreign_call() = default;
  foreign_call(const foreign_call&) = delete;
  foreign_call& operator=(const foreign_call&) = delete;

  // Lets begin() run on that thread, unless the call has been given up by then.
  void begin_on(call_thread& where) noexcept {
    run = [](message& m) {
      auto& call = static_cast<foreign_call&>(m);
      if (call.state_.load(std::memory_order_acquire) != state::waiting)
        call.finish();
      else
        call.begin();
    };
    where.post(*this);
  }

  // Any thread, once, when the result has been stored; the object may be gone afterwards.
  void finish() noexcept {
    run = [](message& m) { static_cast<foreign_call&>(m).come_back(); };
    const state before = state_.exchange(state::finished, std::memory_order_acq_rel);
    if (before == state::waiting) return home_.post_from_outside(*this);
    if (before == state::given_up) end_late();  // or give_up() does it, which is at work
  }

  // Awaitable, on the reactor that made it, in the turn that began the call. True: it has ended.
  // False: `due_ns` (0: never) has passed; the object is no longer the caller's.
  class [[nodiscard]] end {
   public:
    end(foreign_call& c, uint64_t due_ns) noexcept : call_(c), due_ns_(due_ns) {}
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> h) {
      waiter_ = h;
      call_.end_ = this;
      if (due_ns_ == 0) return;
      deadline_.owner = this;
      deadline_.run = [](timer& t) { static_cast<node&>(t).owner->give_up(); };
      reactor::current().start_timer(deadline_, due_ns_);
    }
    bool await_resume() const noexcept { return ended_; }

   private:
    friend foreign_call;
    struct node : timer {
      end* owner = nullptr;
    };
    void ended() {
      reactor::current().stop_timer(deadline_);
      ended_ = true;
      waiter_.resume();
    }
    void give_up() {
      if (call_.give_up()) waiter_.resume();
    }
    foreign_call& call_;
    const uint64_t due_ns_;
    node deadline_;
    std::coroutine_handle<> waiter_;
    bool ended_ = false;
  };
  end ended(uint64_t due_ns) noexcept { return end(*this, due_ns); }

 protected:
  // Calls the library; comes to finish() by its answer, or here if there will be none.
  virtual void begin() noexcept { finish(); }

 private:
  enum class state : uint8_t { waiting, finished, being_given_up, given_up };

  void come_back() { end_->ended(); }
  // False when the call has just ended: its message is on the way. It is counted only when it has
  // been given up, and its end is counted after that: the count is never too low, and never too
  // high for calls that were in time.
  bool give_up() noexcept {
    state before = state::waiting;
    if (!state_.compare_exchange_strong(before, state::being_given_up, std::memory_order_acq_rel))
      return false;
    if (late_ != nullptr) late_->fetch_add(1, std::memory_order_acq_rel);
    before = state::being_given_up;
    if (!state_.compare_exchange_strong(before, state::given_up, std::memory_order_acq_rel))
      end_late();
    return true;
  }
  void end_late() noexcept {
    const auto late = std::move(late_);
    delete this;
    if (late != nullptr) late->fetch_sub(1, std::memory_order_acq_rel);
  }

  reactor& home_;
  std::shared_ptr<std::atomic<uint64_t>> late_;
  std::atomic<state> state_{state::waiting};
  end* end_ = nullptr;
};

}  // namespace lbd::rt
