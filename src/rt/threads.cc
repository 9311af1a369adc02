// SPDX-License-Identifier: MIT
#include "rt/threads.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <vector>

namespace lbd::rt {
namespace {

constexpr unsigned pool_threads = 4;

// Blocking file operations; the requests come back to the reactor through a message.
class blocking_pool {
 public:
  blocking_pool() {
    for (unsigned i = 0; i < pool_threads; ++i) threads_.emplace_back([this] { work(); });
  }
  ~blocking_pool() {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wanted_.notify_all();
    for (auto& t : threads_) t.join();
  }
  struct job : message {
    io_request* request = nullptr;
    reactor* owner = nullptr;
  };
  void add(job* j) {
    {
      std::lock_guard lock(mutex_);
      jobs_.push_back(j);
    }
    wanted_.notify_one();
  }

 private:
  void work() {
    std::unique_lock lock(mutex_);
    for (;;) {
      wanted_.wait(lock, [this] { return stopping_ || !jobs_.empty(); });
      if (jobs_.empty()) return;
      job* j = jobs_.front();
      jobs_.pop_front();
      lock.unlock();
      j->request->result = perform(*j->request);
      j->owner->post(*j);
      lock.lock();
    }
  }

  static int64_t perform(const io_request& r) {
    const off_t at = static_cast<off_t>(r.offset);
    int64_t n = -1;
    switch (r.op) {
      case io_op::read:
        n = ::preadv(r.fd, r.iov, static_cast<int>(r.iov_count), at);
        break;
      case io_op::write:
        n = ::pwritev(r.fd, r.iov, static_cast<int>(r.iov_count), at);
        break;
      case io_op::sync_data:
        n = ::fdatasync(r.fd);
        break;
      case io_op::fallocate:
        n = ::fallocate(r.fd, r.flags, at, static_cast<off_t>(r.length));
        break;
      default:
        return -EINVAL;
    }
    return n < 0 ? -errno : n;
  }

  std::mutex mutex_;
  std::condition_variable wanted_;
  std::deque<job*> jobs_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

class threads_reactor final : public reactor {
 public:
  explicit threads_reactor(unsigned index) : reactor(index) {}
  ~threads_reactor() override {
    pool_.reset();
    if (wake_fd_ >= 0) ::close(wake_fd_);
    if (epoll_fd_ >= 0) ::close(epoll_fd_);
  }

  int open() {
    epoll_fd_ = ::epoll_create1(EPOLL_CLOEXEC);
    wake_fd_ = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (epoll_fd_ < 0 || wake_fd_ < 0) return -errno;
    epoll_event e{};
    e.events = EPOLLIN;
    e.data.fd = wake_fd_;
    return ::epoll_ctl(epoll_fd_, EPOLL_CTL_ADD, wake_fd_, &e) == 0 ? 0 : -errno;
  }

  const char* kind() const noexcept override { return "threads"; }
  uint64_t now_ns() const noexcept override {
    timespec t{};
    clock_gettime(CLOCK_MONOTONIC, &t);
    return static_cast<uint64_t>(t.tv_sec) * 1'000'000'000u + static_cast<uint64_t>(t.tv_nsec);
  }

  void submit(io_request& r) override {
    r.done = false;
    if (r.op <= io_op::fallocate) {
      auto* j = new blocking_pool::job;
      j->request = &r;
      j->owner = this;
      j->run = [](message& m) {
        auto& job = static_cast<blocking_pool::job&>(m);
        io_request& request = *job.request;
        auto& owner = static_cast<threads_reactor&>(*job.owner);
        delete &job;
        owner.complete(request, request.result);
      };
      if (!pool_) pool_ = std::make_unique<blocking_pool>();
      pool_->add(j);
      return;
    }
    r.next = started_;
    started_ = &r;
  }

  void cancel(io_request& r) override {
    for (io_request** p = &started_; *p != nullptr; p = &(*p)->next)
      if (*p == &r) {
        *p = r.next;
        return finish_later(r, -ECANCELED);
      }
    const auto at = waiting_.find(r.fd);
    if (at == waiting_.end()) return;
    for (io_request** slot : {&at->second.in, &at->second.out})
      if (*slot == &r) {
        *slot = nullptr;
        update(r.fd, at->second);
        return finish_later(r, -ECANCELED);
      }
  }

 protected:
  void poll_io(uint64_t wait_ns) override {
    const bool finished_now = try_started() || flush_finished();
    if (finished_now) wait_ns = 0;
    sleeping_.store(true, std::memory_order_seq_cst);
    if (messages_pending()) wait_ns = 0;
    const int timeout_ms =
        wait_ns == UINT64_MAX
            ? -1
            : static_cast<int>(std::min<uint64_t>((wait_ns + 999'999) / 1'000'000, 1'000'000));
    epoll_event events[64];
    const int n = ::epoll_wait(epoll_fd_, events, std::size(events), timeout_ms);
    sleeping_.store(false, std::memory_order_relaxed);
    for (int i = 0; i < n; ++i) handle(events[i]);
    flush_finished();
  }

  void wake() noexcept override {
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t n = ::write(wake_fd_, &one, sizeof one);
  }

 private:
  struct interest {
    io_request* in = nullptr;   // recv, accept, wait_readable
    io_request* out = nullptr;  // send, connect, wait_writable
    uint32_t events = 0;        // what epoll watches now
  };

  static bool is_input(io_op op) noexcept {
    return op == io_op::recv || op == io_op::accept || op == io_op::wait_readable;
  }

  // One attempt without blocking; -EAGAIN means wait. `ready` tells that epoll said so.
  static int64_t attempt(io_request& r, bool ready) {
    int64_t n = -1;
    switch (r.op) {
      case io_op::recv:
        n = ::recvmsg(r.fd, r.message, (r.flags & ~MSG_WAITALL) | MSG_DONTWAIT);
        break;
      case io_op::send:
        n = ::sendmsg(r.fd, r.message, (r.flags & ~MSG_WAITALL) | MSG_DONTWAIT);
        break;
      case io_op::accept:
        if (!ready) return -EAGAIN;  // the listening socket may be a blocking one
        n = ::accept4(r.fd, nullptr, nullptr, r.flags | SOCK_CLOEXEC);
        break;
      case io_op::connect:
        if (ready) {
          int error = 0;
          socklen_t bytes = sizeof error;
          ::getsockopt(r.fd, SOL_SOCKET, SO_ERROR, &error, &bytes);
          return -error;
        }
        ::fcntl(r.fd, F_SETFL, ::fcntl(r.fd, F_GETFL) | O_NONBLOCK);
        n = ::connect(r.fd, r.address, r.address_bytes);
        if (n < 0 && errno == EINPROGRESS) return -EAGAIN;
        if (n < 0 && errno == EAGAIN) return -ECONNREFUSED;  // a Unix socket's backlog is full
        break;
      default:
        return ready ? 0 : -EAGAIN;
    }
    return n < 0 ? -errno : n;
  }

  bool try_started() {
    io_request* list = started_;
    started_ = nullptr;
    bool any = false;
    while (list != nullptr) {
      io_request& r = *list;
      list = r.next;
      const int64_t n = attempt(r, false);
      if (n != -EAGAIN) {
        finish_later(r, n);
        any = true;
        continue;
      }
      interest& w = waiting_[r.fd];
      (is_input(r.op) ? w.in : w.out) = &r;
      update(r.fd, w);
    }
    return any;
  }

  void update(int fd, interest& w) {
    const uint32_t wanted = (w.in != nullptr ? uint32_t{EPOLLIN | EPOLLRDHUP} : 0) |
                            (w.out != nullptr ? uint32_t{EPOLLOUT} : 0);
    if (wanted == w.events) return;
    epoll_event e{};
    e.events = wanted;
    e.data.fd = fd;
    const int op = wanted == 0 ? EPOLL_CTL_DEL : w.events == 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;
    // A closed descriptor left epoll by itself: a later one of the same number is added anew.
    if (::epoll_ctl(epoll_fd_, op, fd, &e) != 0 && op == EPOLL_CTL_MOD)
      ::epoll_ctl(epoll_fd_, EPOLL_CTL_ADD, fd, &e);
    w.events = wanted;
    if (wanted == 0) waiting_.erase(fd);
  }

  void handle(const epoll_event& e) {
    if (e.data.fd == wake_fd_) {
      uint64_t count = 0;
      [[maybe_unused]] const ssize_t n = ::read(wake_fd_, &count, sizeof count);
      return;
    }
    const auto at = waiting_.find(e.data.fd);
    if (at == waiting_.end()) return;
    const bool broken = (e.events & (EPOLLERR | EPOLLHUP)) != 0;
    interest& w = at->second;
    if (broken || (e.events & (EPOLLIN | EPOLLRDHUP)) != 0) advance(w.in);
    if (broken || (e.events & EPOLLOUT) != 0) advance(w.out);
    update(e.data.fd, w);
  }

  void advance(io_request*& slot) {
    if (slot == nullptr) return;
    const int64_t n = attempt(*slot, true);
    if (n == -EAGAIN) return;
    finish_later(*slot, n);
    slot = nullptr;
  }

  void finish_later(io_request& r, int64_t result) {
    r.result = result;
    finished_.push_back(&r);
  }
  bool flush_finished() {
    const bool any = !finished_.empty();
    while (!finished_.empty()) {
      io_request* r = finished_.front();
      finished_.pop_front();
      complete(*r, r->result);
    }
    return any;
  }

  int epoll_fd_ = -1;
  int wake_fd_ = -1;
  io_request* started_ = nullptr;
  std::unordered_map<int, interest> waiting_;
  std::deque<io_request*> finished_;
  std::unique_ptr<blocking_pool> pool_;
};

}  // namespace

base::outcome<std::unique_ptr<reactor>> make_threads_reactor(unsigned index) {
  auto r = std::make_unique<threads_reactor>(index);
  if (const int rc = r->open(); rc < 0)
    return base::failure{static_cast<base::errc>(-rc), "cannot make an epoll instance"};
  return std::unique_ptr<reactor>(std::move(r));
}

}  // namespace lbd::rt
