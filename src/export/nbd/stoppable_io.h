// SPDX-License-Identifier: MIT
// One socket operation at a time that somebody else on the same reactor may end early.
#pragma once

#include "rt/reactor.h"

namespace lbd::nbd_server {

class stoppable_io {
 public:
  bool active() const noexcept { return active_; }
  // The operation ends soon, with -ECANCELED unless it was faster. No-op when there is none.
  void cancel() {
    if (active_) rt::reactor::current().cancel(request_);
  }

  // Awaitables: bytes or a descriptor, or -errno. The message stays alive until then.
  auto message(rt::io_op op, int fd, msghdr& m, int flags) noexcept {
    request_ = {};
    request_.op = op;
    request_.fd = fd;
    request_.message = &m;
    request_.flags = flags;
    return awaiter{*this};
  }
  auto accept(int fd) noexcept {
    request_ = {};
    request_.op = rt::io_op::accept;
    request_.fd = fd;
    return awaiter{*this};
  }

 private:
  struct [[nodiscard]] awaiter {
    stoppable_io& io;
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> h) const {
      io.request_.waiter = h;
      io.active_ = true;
      rt::reactor::current().submit(io.request_);
    }
    int64_t await_resume() const noexcept {
      io.active_ = false;
      return io.request_.result;
    }
  };
  rt::io_request request_;
  bool active_ = false;
};

}  // namespace lbd::nbd_server
