// SPDX-License-Identifier: MIT
// Computing that any core may do (ciphers, parity). What comes up in one turn of a reactor is done
// by that reactor, and when it is much, by the others too: whoever has time takes the next part.
// Nobody waits for a reactor that has not begun a part. A reactor does few parts at a time, and all
// else that is ready in between.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
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
    void end_part() noexcept;
    const unsigned parts_;
    const uint64_t bytes_;
    std::atomic<unsigned> left_{0};
    reactor* home_ = nullptr;
    std::coroutine_handle<> waiter_;
  };

  // Awaitable: all parts of `w` have been done. The caller is resumed on its reactor.
  auto run(work& w) noexcept {
    struct awaiter {
      all_cores& cores;
      work& w;
      bool await_ready() const noexcept {
        if (cores.lanes_.size() > 1) return false;
        w.do_here();
        return true;
      }
      void await_suspend(std::coroutine_handle<> h) const { cores.add(w, h); }
      void await_resume() const noexcept {}
    };
    return awaiter{*this, w};
  }

 private:
  // Another core is asked for each of these; below, it would come when all is done.
  static constexpr uint64_t bytes_per_helper = uint64_t{64} << 10;
  static constexpr unsigned parts_per_turn = 8;

  struct part {
    work* of;
    unsigned index;
  };
  struct batch;
  struct call : message {
    batch* of = nullptr;
  };
  struct batch {
    std::vector<part> parts;
    std::vector<call> calls;            // to the helpers
    std::atomic<size_t> next{0};        // part that nobody has taken
    std::atomic<unsigned> expected{0};  // helpers that have not come and gone
  };
  // A reactor's own. It takes parts of one batch at a time.
  struct alignas(64) lane {
    std::vector<part> waiting;
    uint64_t bytes = 0;  // of what waits
    bool runs = false;
    unsigned last_helper = 0;
    batch alone;
    std::array<batch, 8> shared;  // at most so many that helpers have not looked at
  };

  void add(work& w, std::coroutine_handle<> waiter);
  task<void> run_all(lane& l);
  batch& begin(lane& l);
  batch* free_batch(lane& l) const noexcept;
  static bool take_parts(batch& b) noexcept;

  runtime* runtime_ = nullptr;
  std::vector<lane> lanes_;
};

}  // namespace lbd::rt
