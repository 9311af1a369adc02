// SPDX-License-Identifier: MIT
#include "export/nbd/output_queue.h"

#include <algorithm>

#include "base/log.h"
#include "export/nbd/reply.h"
#include "wire/nbd/request_check.h"

namespace lbd::nbd_server {
namespace {

using rt::reactor;
using rt::task;

// How often a send that does not end is looked at; memory that was lent is taken back after about
// one such time, so that a stalled client does not keep a device from being suspended.
constexpr uint64_t watch_ns = 1'000'000'000;

}  // namespace

output_queue::output_queue(connection& c, slot_pool& pool, uint64_t stalled_ns) noexcept
    : connection_(c), pool_(pool), stalled_ns_(stalled_ns) {
  hook_.owner = this;
  hook_.run = [](rt::turn_hook& h) {
    auto& self = *static_cast<hook&>(h).owner;
    if (self.idle_) std::exchange(self.idle_, {}).resume();
  };
  watch_.owner = this;
  watch_.run = [](rt::timer& t) { static_cast<watch&>(t).owner->look_for_stall(); };
}

void output_queue::push(request_slot& s) {
  if (dead_) return pool_.release(s);
  s.next = nullptr;
  (tail_ != nullptr ? tail_->next : head_) = &s;
  tail_ = &s;
  if (idle_) reactor::current().at_turn_end(hook_);
}

// Waits for the end of a turn in which there is something to send, or for close().
struct output_queue::wanted {
  output_queue& queue;
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> h) const {
    queue.idle_ = h;
    if (queue.head_ != nullptr) reactor::current().at_turn_end(queue.hook_);
  }
  void await_resume() const noexcept {}
};

task<void> output_queue::run() {
  for (;;) {
    co_await wanted{*this};
    if (closed_) co_return;
    gather();
    arm_watch();
    const int64_t n =
        co_await sending_.message(rt::io_op::send, connection_.socket.fd(), message_, MSG_NOSIGNAL);
    ++progress_;
    if (n > 0) sent(static_cast<size_t>(n));
    const bool unreadable = n == -EFAULT && has_loans();
    if (unreadable || loans_unwanted_) co_await take_back_loans();
    if (n < 0 && !unreadable && n != -ECANCELED && n != -EINTR && n != -EAGAIN) give_up();
  }
}

void output_queue::close() {
  closed_ = true;
  reactor::current().drop(hook_);
  reactor::current().stop_timer(watch_);
  if (idle_) std::exchange(idle_, {}).resume();
}

void output_queue::gather() noexcept {
  size_t count = 0;
  uint64_t skip = head_sent_;
  for (request_slot* s = head_; s != nullptr && count < vectors_.size(); s = s->next) {
    for (const iovec& v : s->reply()) {
      if (skip >= v.iov_len) {
        skip -= v.iov_len;
        continue;
      }
      if (count == vectors_.size()) break;
      vectors_[count++] = {static_cast<std::byte*>(v.iov_base) + skip, v.iov_len - skip};
      skip = 0;
    }
  }
  message_ = {};
  message_.msg_iov = vectors_.data();
  message_.msg_iovlen = count;
}

void output_queue::sent(size_t bytes) {
  head_sent_ += bytes;
  while (head_ != nullptr && head_sent_ >= head_->reply_bytes) {
    request_slot* s = head_;
    head_sent_ -= s->reply_bytes;
    head_ = s->next;
    if (head_ == nullptr) tail_ = nullptr;
    pool_.release(*s);
  }
}

// The client is gone or broke the connection: nothing can be answered any more.
void output_queue::give_up() {
  dead_ = true;
  connection_.abort();
  while (head_ != nullptr) {
    request_slot* s = head_;
    head_ = s->next;
    pool_.release(*s);
  }
  tail_ = nullptr;
  head_sent_ = 0;
}

void output_queue::arm_watch() {
  if (watch_.armed) return;
  progress_seen_ = progress_;
  progress_ns_ = reactor::current().now_ns();
  reactor::current().start_timer(watch_, progress_ns_ + std::min(watch_ns, stalled_ns_));
}

void output_queue::look_for_stall() {
  if (!sending_.active()) return;  // the next send arms the watch again
  const uint64_t now = reactor::current().now_ns();
  if (progress_ != progress_seen_) {
    progress_seen_ = progress_;
    progress_ns_ = now;
  } else if (now - progress_ns_ >= (hurried_ ? std::min(watch_ns, stalled_ns_) : stalled_ns_)) {
    base::log_warn("nbd", "client " + connection_.peer + " takes no replies: disconnected");
    connection_.abort();
  } else if (!loans_unwanted_ && has_loans()) {
    // The stall is counted on: this is no progress.
    loans_unwanted_ = true;
    --progress_;
    sending_.cancel();
  }
  reactor::current().start_timer(watch_, now + std::min(watch_ns, stalled_ns_));
}

bool output_queue::has_loans() const noexcept {
  for (const request_slot* s = head_; s != nullptr; s = s->next)
    if (s->lent) return true;
  return false;
}

// Copies what was lent, so that its paths can be left, or because the kernel cannot read it any
// more (a mapped file was truncated): the device's own read finds zeros or an error there.
task<void> output_queue::take_back_loans() {
  loans_unwanted_ = false;
  for (request_slot* s = head_; s != nullptr && !dead_; s = s->next) {
    if (!s->lent) continue;
    const uint64_t already_sent = s == head_ ? head_sent_ : 0;
    const bool taken = co_await take_back_loan(*s, already_sent);
    if (!taken) co_return give_up();
  }
}

task<bool> output_queue::take_back_loan(request_slot& s, uint64_t already_sent) {
  s.owned = rt::buffer(s.request.length);
  const iovec to{s.owned.data(), s.request.length};
  const auto r = co_await s.at.device->read(s.at.offset, rt::segments(&to, 1), {});
  s.way.leave(base::code_of(r));
  s.lent = false;
  if (r) {
    s.parts[1].iov_base = s.owned.data();
    co_return true;
  }
  // A reply that has begun with success cannot end otherwise.
  if (already_sent != 0) co_return false;
  reply_error(s, nbd::to_wire(r.error().code, s.request));
  co_return true;
}

}  // namespace lbd::nbd_server
