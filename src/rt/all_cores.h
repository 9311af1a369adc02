// SPDX-License-Identifier: MIT
// Computing that any core may do (ciphers, parity). A little is done at once by the reactor that
// wants it. What is much for one turn waits in its queue, where the others help themselves: whoever
// has time takes the next part. Nobody waits for a reactor that has not begun a part, and one that
// turns out to have work of its own is left alone for a while. A reactor does few parts at a time,
// and all else that is ready in between.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <deque>
#include <vector>

#include "rt/reactor.h"
#include "rt/runtime.h"

namespace lbd::rt {

class all_cores {
 public:
  // One for all who use the runtime. On reactor 0 only.
  static all_cores& of(runtime& r);

  // Parts that may be done in any order and at the same time, each in about a millisecond at most.
  // Lives in the coroutine that awaits it.
  class work : private message {
   public:
    work(unsigned parts, uint64_t bytes) noexcept : parts_(parts), bytes_(bytes) {}
    work(const work&) = delete;
    work& operator=(const work&) = delete;
    // On any reactor's thread; `index` is below the number of parts.
    virtual void do_part(unsigned index) noexcept = 0;
    // All of it, here and now.
    void do_here() noexcept {
      for (unsigned i = 0; i < parts_; ++i) do_part(i);
    }

   protected:
    ~work() = default;

   private:
    friend class all_cores;
    // True: it was the last one.
    bool end_part() noexcept { return left_.fetch_sub(1, std::memory_order_acq_rel) == 1; }
    uint64_t part_bytes() const noexcept { return std::max<uint64_t>(bytes_ / parts_, 1); }
    const unsigned parts_;
    const uint64_t bytes_;
    std::atomic<unsigned> left_{0};
    reactor* home_ = nullptr;
    std::coroutine_handle<> waiter_;
    work* also_finished_ = nullptr;  // by the same helper
  };

  enum class way { at_once, next_turn, shared };
  // Awaitable: all parts of `w` have been done. The caller is resumed on its reactor.
  auto run(work& w) noexcept {
    struct awaiter {
      all_cores& cores;
      work& w;
      way how = way::at_once;
      bool await_ready() noexcept {
        how = cores.choose(w);
        return how == way::at_once;
      }
      void await_suspend(std::coroutine_handle<> h) const {
        if (how == way::next_turn) return reactor::current().schedule(h);
        cores.add(w, h);
      }
      void await_resume() const noexcept {
        if (how != way::shared) cores.do_at_home(w);
      }
    };
    return awaiter{*this, w};
  }

 private:
  static constexpr uint64_t small_bytes = uint64_t{32} << 10;  // larger work takes turns
  static constexpr uint64_t worth_bytes = 4096;                // of smaller work the way costs more
  static constexpr uint64_t alone_bytes = uint64_t{16} << 10;  // of a turn, before it is much
  static constexpr uint64_t bytes_per_helper = uint64_t{16} << 10;  // in the queue
  // What a reactor does at once in one turn; what a helper does.
  static constexpr uint64_t turn_bytes = uint64_t{256} << 10;
  static constexpr unsigned parts_per_turn = 8;  // what a reactor takes of its own queue
  // How much of its own a lane does before it asks a helper again that came for nothing: more each
  // time.
  static constexpr uint64_t least_pause_bytes = uint64_t{256} << 10;
  static constexpr uint64_t most_pause_bytes = uint64_t{4} << 20;
  static constexpr uint64_t own_work_ns = 20000;  // a turn as long as this has work of its own
  static constexpr unsigned works_per_look = 64;  // of those that are done at home, one is timed
  static constexpr uint64_t bytes_of_rate = 4096;

  struct part {
    work* of;
    unsigned index;
  };
  // Parts from one reactor for all; each is taken once.
  class queue {
   public:
    // Its reactor only. False when there is no room.
    bool push(part p) noexcept;
    bool pop(part& p) noexcept;
    size_t size() const noexcept {
      const uint64_t first = first_.load(std::memory_order_acquire);
      return end_.load(std::memory_order_acquire) - first;
    }

   private:
    struct slot {
      std::atomic<work*> of{nullptr};
      std::atomic<unsigned> index{0};
    };
    std::array<slot, 256> slots_;
    alignas(64) std::atomic<uint64_t> first_{0};  // numbers of parts
    alignas(64) std::atomic<uint64_t> end_{0};
  };

  struct lane;
  // To a helper. Whoever makes it `called` has it: its lane's reactor, which sends it, or a helper
  // that goes on.
  struct call : message {
    enum class state { away, called, here };
    lane* of = nullptr;
    std::atomic<state> now{state::away};
    bool is_back = false;      // and the lane has not looked yet
    uint64_t pause_bytes = 0;  // after it has come for nothing
    uint64_t not_before = 0;   // of the lane's bytes
    uint64_t turn_end_ns = 0;  // of the helper's last turn for it
  };
  struct lane_turn : turn_hook {
    uint64_t bytes = 0;
  };
  // A reactor's own, but for the queue and the number of helpers.
  struct alignas(64) lane {
    queue shared;
    std::deque<part> waiting;  // for room in the queue
    std::vector<call> calls;
    lane_turn turn;
    uint64_t bytes = 0;       // of all work so far
    uint64_t look_again = 0;  // at these bytes: there may be somebody to call
    uint64_t uncalled = 0;    // bytes in the queue that nobody was called for
    unsigned last_called = 0;
    unsigned at_home = 0;  // works
    bool runs = false;
    std::atomic<uint64_t> own_ns{0};               // for `bytes_of_rate` of what it does itself
    alignas(64) std::atomic<unsigned> helpers{0};  // that are taking parts
  };

  struct taken {
    uint64_t parts = 0, bytes = 0;
  };
  class finished;

  way choose(const work& w) noexcept;
  void do_at_home(work& w) noexcept;
  void add(work& w, std::coroutine_handle<> waiter);
  task<void> run_all(lane& l);
  static void fill(lane& l);
  static call* take_away(lane& l) noexcept;
  void call_helpers(lane& l);
  static void help(message& m) noexcept;
  static void leave(call& c, bool for_nothing) noexcept;
  static void take_at_home(lane& l) noexcept;
  static taken take_as_helper(lane& l) noexcept;

  runtime* runtime_ = nullptr;
  std::vector<lane> lanes_;
};

}  // namespace lbd::rt
