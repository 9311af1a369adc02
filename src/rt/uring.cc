// SPDX-License-Identifier: MIT
#include "rt/uring.h"

#include <liburing.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "rt/idle_pace.h"

namespace lbd::rt {
namespace {

constexpr unsigned queue_entries = 1024;

uint64_t monotonic_ns() noexcept {
  timespec t{};
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<uint64_t>(t.tv_sec) * 1'000'000'000u + static_cast<uint64_t>(t.tv_nsec);
}

// Made disabled: a ring belongs to the thread that enables it (SINGLE_ISSUER).
int make_ring(io_uring& ring, bool& single_issuer) noexcept {
  io_uring_params p{};
  p.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_CQSIZE |
            IORING_SETUP_CLAMP | IORING_SETUP_R_DISABLED;
  p.cq_entries = queue_entries * 4;
  int rc = io_uring_queue_init_params(queue_entries, &ring, &p);
  single_issuer = rc == 0;
  if (rc != -EINVAL) return rc;
  p = io_uring_params{};  // a kernel before 6.1
  p.flags = IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP | IORING_SETUP_R_DISABLED;
  p.cq_entries = queue_entries * 4;
  return io_uring_queue_init_params(queue_entries, &ring, &p);
}

class uring_reactor final : public reactor {
 public:
  uring_reactor(unsigned index, uring_options options) : reactor(index), pace_(options.spin_ns) {}
  ~uring_reactor() override {
    if (made_) io_uring_queue_exit(&ring_);
    if (wake_fd_ >= 0) ::close(wake_fd_);
  }

  // All that may run out is taken here, where it can be told.
  int open() noexcept {
    wake_fd_ = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (wake_fd_ < 0) return -errno;
    const int rc = make_ring(ring_, single_issuer_);
    made_ = rc >= 0;
    return rc;
  }

  const char* kind() const noexcept override { return "io_uring"; }
  uint64_t now_ns() const noexcept override { return monotonic_ns(); }

  void submit(io_request& r) override {
    use_ring();
    r.done = false;
    io_uring_sqe* sqe = next_sqe();
    prepare(*sqe, r);
    io_uring_sqe_set_data(sqe, &r);
  }

  void cancel(io_request& r) override {
    use_ring();
    io_uring_sqe* sqe = next_sqe();
    io_uring_prep_cancel(sqe, &r, 0);
    io_uring_sqe_set_data(sqe, nullptr);
  }

 protected:
  void poll_io(uint64_t wait_ns) override {
    use_ring();
    if (!aside_.empty()) wait_ns = 0;
    if (wait_ns == 0) {
      io_uring_submit_and_get_events(&ring_);
      reap();
      return;
    }
    const uint64_t start = monotonic_ns();
    if (!harvest_without_sleep(start, wait_ns))
      sleep(wait_ns);
    else if (io_uring_sq_ready(&ring_) != 0)
      io_uring_submit_and_get_events(&ring_);
    pace_.note(monotonic_ns() - start);
    reap();
  }

  void wake() noexcept override {
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t n = ::write(wake_fd_, &one, sizeof one);
  }

 private:
  // By the thread that runs this reactor, when it first does so.
  void use_ring() {
    if (enabled_) return;
    // What io_uring_enable_rings() does, which Debian 12's library leaves out. Fails for enabled
    // rings only.
    const auto fd = static_cast<unsigned>(ring_.ring_fd);
    if (io_uring_register(fd, IORING_REGISTER_ENABLE_RINGS, nullptr, 0) < 0) std::abort();
    enabled_ = true;
    arm_wake();
  }

  io_uring_sqe* next_sqe() {
    io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
    while (sqe == nullptr) {
      // Kernels before 5.19 take nothing (EBUSY) while completions find no room in their queue.
      if (io_uring_submit(&ring_) < 0) set_aside();
      sqe = io_uring_get_sqe(&ring_);
    }
    return sqe;
  }

  // Makes room in the completion queue without running anybody: the caller is in the middle of
  // something. reap() goes on from here.
  void set_aside() {
    io_uring_get_events(&ring_);
    finished batch[batch_size];
    while (const unsigned n = take_completions(batch))
      aside_.insert(aside_.end(), batch, batch + n);
  }

  void arm_wake() {
    io_uring_sqe* sqe = next_sqe();
    io_uring_prep_poll_multishot(sqe, wake_fd_, POLLIN);
    io_uring_sqe_set_data(sqe, &wake_fd_);
  }

  static void prepare(io_uring_sqe& sqe, io_request& r) {
    switch (r.op) {
      case io_op::read:
        io_uring_prep_readv(&sqe, r.fd, r.iov, r.iov_count, r.offset);
        break;
      case io_op::write:
        io_uring_prep_writev(&sqe, r.fd, r.iov, r.iov_count, r.offset);
        break;
      case io_op::sync_data:
        io_uring_prep_fsync(&sqe, r.fd, IORING_FSYNC_DATASYNC);
        break;
      case io_op::fallocate:
        io_uring_prep_fallocate(&sqe, r.fd, r.flags, static_cast<off_t>(r.offset),
                                static_cast<off_t>(r.length));
        break;
      case io_op::recv:
        io_uring_prep_recvmsg(&sqe, r.fd, r.message, static_cast<unsigned>(r.flags));
        break;
      case io_op::send:
        io_uring_prep_sendmsg(&sqe, r.fd, r.message, static_cast<unsigned>(r.flags));
        break;
      case io_op::accept:
        io_uring_prep_accept(&sqe, r.fd, nullptr, nullptr, r.flags | SOCK_CLOEXEC);
        break;
      case io_op::connect:
        io_uring_prep_connect(&sqe, r.fd, r.address, r.address_bytes);
        break;
      case io_op::wait_readable:
        io_uring_prep_poll_add(&sqe, r.fd, POLLIN);
        break;
      case io_op::wait_writable:
        io_uring_prep_poll_add(&sqe, r.fd, POLLOUT);
        break;
      case io_op::resize:
        std::abort();  // done inline by the file
    }
  }

  // Looks for completions for a little while when they have lately come quickly; true if it found
  // some or has been given work by another thread.
  bool harvest_without_sleep(uint64_t start, uint64_t wait_ns) {
    const uint64_t look_ns = pace_.look_ns();
    if (look_ns == 0) return false;
    const uint64_t until = start + std::min(wait_ns, look_ns);
    io_uring_submit(&ring_);
    for (;;) {
      io_uring_get_events(&ring_);
      if (io_uring_cq_ready(&ring_) != 0 || messages_pending()) return true;
      if (monotonic_ns() >= until) return false;
    }
  }

  void sleep(uint64_t wait_ns) {
    sleeping_.store(true, std::memory_order_seq_cst);
    if (messages_pending()) {
      sleeping_.store(false, std::memory_order_relaxed);
      io_uring_submit_and_get_events(&ring_);
      return;
    }
    io_uring_cqe* cqe = nullptr;
    __kernel_timespec ts{};
    ts.tv_sec = static_cast<int64_t>(std::min<uint64_t>(wait_ns / 1'000'000'000u, 86400));
    ts.tv_nsec = static_cast<long long>(wait_ns % 1'000'000'000u);
    if (wait_ns == UINT64_MAX)
      io_uring_submit_and_wait(&ring_, 1);
    else
      io_uring_submit_and_wait_timeout(&ring_, &cqe, 1, &ts, nullptr);
    sleeping_.store(false, std::memory_order_relaxed);
  }

  // A completion, copied: resuming a waiter may submit and so reuse the queue's slots.
  struct finished {
    void* data;
    int result;
    unsigned flags;
  };
  static constexpr unsigned batch_size = 256;

  unsigned take_completions(finished (&out)[batch_size]) {
    io_uring_cqe* batch[batch_size];
    const unsigned n = io_uring_peek_batch_cqe(&ring_, batch, batch_size);
    for (unsigned i = 0; i < n; ++i)
      out[i] = {io_uring_cqe_get_data(batch[i]), batch[i]->res, batch[i]->flags};
    io_uring_cq_advance(&ring_, n);
    return n;
  }

  void reap() {
    finished done[batch_size];
    for (;;) {
      const unsigned n = take_completions(done);
      for (unsigned i = 0; i < n; ++i) finish(done[i]);
      const std::vector<finished> earlier = std::exchange(aside_, {});
      for (const finished& f : earlier) finish(f);
      if (n == 0 && earlier.empty()) return;
    }
  }

  void finish(const finished& f) {
    if (f.data == nullptr) return;
    if (f.data == &wake_fd_) {
      uint64_t count = 0;
      [[maybe_unused]] const ssize_t n = ::read(wake_fd_, &count, sizeof count);
      if ((f.flags & IORING_CQE_F_MORE) == 0) arm_wake();
      return;
    }
    complete(*static_cast<io_request*>(f.data), f.result);
  }

  io_uring ring_{};
  bool made_ = false;
  bool enabled_ = false;
  bool single_issuer_ = false;
  int wake_fd_ = -1;
  std::vector<finished> aside_;
  idle_pace pace_;
};

}  // namespace

base::outcome<std::unique_ptr<reactor>> make_uring_reactor(unsigned index, uring_options options) {
  auto r = std::make_unique<uring_reactor>(index, options);
  if (const int rc = r->open(); rc < 0)
    return base::failure{base::error_from_errno(-rc).code,
                         "cannot make an io_uring (too few descriptors or too little memory: see "
                         "ulimit -n and -l)"};
  return std::unique_ptr<reactor>(std::move(r));
}

bool uring_available() noexcept {
  io_uring ring{};
  bool single = false;
  if (make_ring(ring, single) < 0) return false;
  io_uring_queue_exit(&ring);
  return true;
}

}  // namespace lbd::rt
