// SPDX-License-Identifier: MIT
// The replies of one connection. All that are ready at the end of a turn go out in one send.
#pragma once

#include <array>

#include "export/nbd/connection.h"
#include "export/nbd/request_slot.h"
#include "export/nbd/stoppable_io.h"

namespace lbd::nbd_server {

class output_queue {
 public:
  // `stalled_ns`: a client that takes nothing for so long is cut off.
  output_queue(connection& c, slot_pool& pool, uint64_t stalled_ns) noexcept;
  output_queue(const output_queue&) = delete;
  output_queue& operator=(const output_queue&) = delete;

  // The slot's reply is complete; the slot goes back to the pool when it was sent.
  void push(request_slot& s);
  // Sends until close(); started once.
  rt::task<void> run();
  // REQUIRES: the queue is empty. run() has ended when this returns.
  void close();
  // From now on a client that takes nothing is not waited for for longer than a moment.
  void hurry() noexcept { hurried_ = true; }
  // Whether replies cannot be sent any more.
  bool dead() const noexcept { return dead_; }

 private:
  struct hook : rt::turn_hook {
    output_queue* owner = nullptr;
  };
  struct watch : rt::timer {
    output_queue* owner = nullptr;
  };
  struct wanted;

  void gather() noexcept;
  void sent(size_t bytes);
  void give_up();
  void arm_watch();
  void look_for_stall();
  bool has_loans() const noexcept;
  rt::task<void> take_back_loans();
  rt::task<bool> take_back_loan(request_slot& s, uint64_t already_sent);

  connection& connection_;
  slot_pool& pool_;
  const uint64_t stalled_ns_;
  request_slot* head_ = nullptr;
  request_slot* tail_ = nullptr;
  uint64_t head_sent_ = 0;  // bytes of the first reply that are on their way
  bool dead_ = false;
  bool closed_ = false;
  bool loans_unwanted_ = false;
  bool hurried_ = false;
  std::coroutine_handle<> idle_;  // run(), while it waits for work
  hook hook_;
  watch watch_;
  uint64_t progress_ = 0, progress_seen_ = 0, progress_ns_ = 0;
  stoppable_io sending_;
  msghdr message_{};
  std::array<iovec, block::bounds::segments_per_request> vectors_;
};

}  // namespace lbd::nbd_server
