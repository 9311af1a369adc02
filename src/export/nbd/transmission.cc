// SPDX-License-Identifier: MIT
#include "export/nbd/transmission.h"

#include <sys/socket.h>

#include <algorithm>

#include "base/log.h"
#include "export/nbd/reply.h"

namespace lbd::nbd_server {
namespace {

using base::errc;
using nbd::wire_error;
using rt::reactor;
using rt::task;

// Reads of this size and above that cannot be lent ask for holes before they read.
constexpr uint32_t look_for_holes_bytes = 64 << 10;
// One wait for payload bytes.
constexpr size_t payload_step_bytes = 1 << 20;
// How long a client may take to notice that it is being disconnected.
constexpr uint64_t linger_ns = 1'000'000'000;
// How often a payload that does not come is looked at; while the server stops the first look
// decides.
constexpr uint64_t payload_watch_ns = 1'000'000'000;
// How often a connection that is too busy to receive looks whether its client is still there.
constexpr uint64_t look_for_hang_up_ns = 50'000'000;

nbd::export_facts facts_of(const agreement& a) noexcept {
  nbd::export_facts f;
  f.size_bytes = a.target->size_bytes.load(std::memory_order_relaxed);
  f.flags = a.target->transmission_flags(a.structured_replies);
  f.block_status = a.block_status;
  return f;
}

bool changes(nbd::command c) noexcept {
  return c == nbd::command::write || c == nbd::command::trim || c == nbd::command::write_zeroes;
}

// Runs something again and again in intervals, until it goes out of scope.
class alarm : rt::timer {
 public:
  template <class F>
  alarm(uint64_t interval_ns, F& action) noexcept : interval_ns_(interval_ns), context_(&action) {
    call_ = [](void* f) { (*static_cast<F*>(f))(); };
    run = [](rt::timer& t) {
      auto& self = static_cast<alarm&>(t);
      self.start();
      self.call_(self.context_);
    };
    start();
  }
  ~alarm() { reactor::current().stop_timer(*this); }
  alarm(const alarm&) = delete;
  alarm& operator=(const alarm&) = delete;

 private:
  void start() {
    reactor::current().start_timer(*this, reactor::current().now_ns() + interval_ns_);
  }
  const uint64_t interval_ns_;
  void* const context_;
  void (*call_)(void*);
};

}  // namespace

transmission::transmission(connection& c, const agreement& agreed, uint64_t stalled_ns)
    : connection_(c),
      export_(agreed.target),
      device_(agreed.target->device()),
      facts_(facts_of(agreed)),
      structured_(agreed.structured_replies),
      tcp_(is_tcp(c.socket.fd())),
      stalled_ns_(stalled_ns),
      output_(c, pool_, stalled_ns) {}

task<bool> transmission::serve() {
  rt::spawn(output_.run());
  co_await receive_requests();
  connection_.ending.store(true, std::memory_order_release);
  if (pending_ != nullptr) pool_.release(*std::exchange(pending_, nullptr));
  if (!disconnected_ && !draining_ && !told_lost_) co_await tell_lost();
  co_await pool_.all_returned();
  if (told_lost_) co_await export_->lost->gone(connection_.id);
  output_.close();
  if (draining_ && !output_.dead() && tcp_) co_await linger();
  co_return true;
}

task<void> transmission::tell_lost() {
  told_lost_ = true;
  if (gone(connection_.socket.fd())) cancel_.cancel();
  std::vector<byte_range> ranges;
  pool_.for_each_changing([&ranges](const request_slot& s) {
    ranges.push_back({s.request.offset, s.request.offset + s.request.length});
  });
  co_await export_->lost->lost(connection_.id, std::move(ranges));
}

// Input that waits behind requests under way is not to be carried out when its client is gone.
void transmission::look_for_hang_up() {
  if (told_lost_ || !hung_up(connection_.socket.fd())) return;
  connection_.abort();
  rt::spawn(tell_lost());
}

task<bool> transmission::drain() {
  draining_ = true;
  output_.hurry();
  if (waiting_for_input_) receiving_.cancel();
  co_return true;
}

task<void> transmission::receive_requests() {
  bool more = true;
  while (more) {
    need what = need::nothing;
    while (what == need::nothing) what = next_request();
    more = co_await provide(what);
  }
}

// False when there is nothing to be done any more.
task<bool> transmission::provide(need what) {
  if (what == need::input) co_return co_await receive_more();
  if (what == need::payload) co_return co_await receive_payload();
  if (what == need::skip) co_return co_await refuse_write();
  if (what == need::stop) co_return false;
  auto look = [this] { look_for_hang_up(); };
  const alarm watch(look_for_hang_up_ns, look);
  if (what == need::slot) pending_ = co_await pool_.take();
  if (what == need::memory) co_await pool_.charge(*pending_, front_.length);
  if (what == need::clearance) {
    const byte_range range{front_.offset, front_.offset + front_.length};
    co_await export_->lost->clear_of(range, connection_);
    cleared_ = true;
  }
  co_return true;
}

// Looks at the request at the front and starts it, or says what is missing.
transmission::need transmission::next_request() {
  if (input_.size() < nbd::request_bytes) return need::input;
  if (connection_.aborted.load(std::memory_order_relaxed)) return need::stop;
  const auto front = input_.front(nbd::request_bytes).first<nbd::request_bytes>();
  const auto r = nbd::decode_request(front);
  if (!r) {
    base::log_debug("nbd", "client " + connection_.peer + " sent no request: disconnected");
    return need::stop;
  }
  if (r->type == nbd::command::disc) {
    disconnected_ = true;
    return need::stop;
  }
  return take_request(*r);
}

transmission::need transmission::take_request(const nbd::request& r) {
  front_ = r;
  const wire_error error = nbd::request_error(r, facts_);
  const uint32_t payload = nbd::payload_bytes(r);
  if (error != wire_error::none && payload != 0) return need::skip;
  const bool complete = input_.size() - nbd::request_bytes >= payload;
  if (!complete && payload <= receive_buffer::in_place_bytes) return need::input;
  if (error == wire_error::none && changes(r.type) && !cleared_ && export_->lost->any())
    return need::clearance;
  if (pending_ == nullptr) pending_ = pool_.try_take();
  if (pending_ == nullptr) return need::slot;
  const bool holds_memory =
      error == wire_error::none && (r.type == nbd::command::read || !complete);
  if (holds_memory && pending_->charged_bytes == 0 && r.length != 0 &&
      !pool_.try_charge(*pending_, r.length))
    return need::memory;

  input_.consume(nbd::request_bytes);
  pending_->request = r;
  pending_->structured = structured_;
  cleared_ = false;
  connection_.counters.requests.add(1);
  if (!complete) return need::payload;
  request_slot& s = *std::exchange(pending_, nullptr);
  if (error != wire_error::none) {
    fail(s, error);
    return need::nothing;
  }
  if (payload != 0) {
    s.payload_in = input_.pin();
    s.payload = input_.front(payload);
    input_.consume(payload);
  }
  start(s);
  return need::nothing;
}

void transmission::start(request_slot& s) {
  if (s.request.length == 0 && s.request.type != nbd::command::flush) return finish(s, errc::ok);
  s.changing = changes(s.request.type);
  switch (s.request.type) {
    case nbd::command::read:
      return start_read(s);
    case nbd::command::write:
      return start_write(s);
    case nbd::command::flush:
      return rt::spawn(flush(s));
    case nbd::command::trim:
      return rt::spawn(discard(s));
    case nbd::command::write_zeroes:
      return rt::spawn(write_zeroes(s));
    case nbd::command::block_status:
      return rt::spawn(block_status(s));
    case nbd::command::cache:  // advice: what is read often is cached below
    case nbd::command::disc:
      return finish(s, errc::ok);
  }
}

void transmission::start_read(request_slot& s) {
  const nbd::request& r = s.request;
  s.at = block::walk(device_, block::op::read, r.offset, r.length, s.way);
  if (const block::lease lent = s.at.device->borrow(s.at.offset, r.length)) {
    s.lent = true;
    reply_data(s, lent.bytes.data());
    return answer_read(s);
  }
  const bool whole = (r.flags & nbd::command_flag::df) != 0;
  const bool look_for_holes = structured_ && !whole && r.length >= look_for_holes_bytes;
  if (look_for_holes || r.length > device_.limits().max_transfer_bytes)
    return rt::spawn(read_runs(s, look_for_holes));
  rt::spawn(read_from(s));
}

void transmission::start_write(request_slot& s) {
  const nbd::request& r = s.request;
  // A FUA write is not routed: only the devices on the way know what else must be durable.
  const bool durable = (r.flags & nbd::command_flag::fua) != 0;
  s.at = durable ? block::place{&device_, r.offset}
                 : block::walk(device_, block::op::write, r.offset, r.length, s.way);
  rt::spawn(write(s));
}

task<bool> transmission::receive_more() {
  if (draining_ && (std::exchange(drained_, true) || !readable_now(connection_.socket.fd())))
    co_return false;
  if (input_.needs_chunk()) {
    co_await pool_.charge_chunk();
    input_.renew();
  }
  base::bytes_span room = input_.room();
  // Between large payloads only the header is fetched, so that the next one needs no copy either.
  if (std::exchange(last_was_large_, false) && input_.size() == 0)
    room = room.first(nbd::request_bytes);
  waiting_for_input_ = true;
  const int64_t n = co_await receive_into(room, 0);
  waiting_for_input_ = false;
  if (n == -ECANCELED && draining_) co_return true;
  if (n <= 0) co_return false;
  input_.received(static_cast<size_t>(n));
  facts_.size_bytes = export_->size_bytes.load(std::memory_order_relaxed);
  co_return true;
}

task<int64_t> transmission::receive_into(base::bytes_span to, int flags) {
  iovec v{to.data(), to.size()};
  msghdr m{};
  m.msg_iov = &v;
  m.msg_iovlen = 1;
  for (;;) {
    const int64_t n =
        co_await receiving_.message(rt::io_op::recv, connection_.socket.fd(), m, flags);
    if (n != -EINTR && n != -EAGAIN) co_return n;
  }
}

// The rest of a large payload, into a buffer of its own.
task<bool> transmission::receive_payload() {
  request_slot& s = *pending_;
  const uint32_t length = s.request.length;
  s.owned = rt::buffer(length);
  size_t done = std::min<size_t>(input_.size(), length);
  std::memcpy(s.owned.data(), input_.front(done).data(), done);
  input_.consume(done);
  last_was_large_ = true;
  const uint64_t look_ns = std::min(payload_watch_ns, stalled_ns_);
  uint64_t waited_ns = 0;
  auto cut_off = [this, look_ns, &waited_ns] {
    waited_ns += look_ns;
    if (waited_ns < stalled_ns_ && !draining_) return;
    base::log_warn("nbd", "client " + connection_.peer + " sends no payload: disconnected");
    connection_.abort();
  };
  while (done < length) {
    const size_t step = std::min<size_t>(length - done, payload_step_bytes);
    waited_ns = 0;
    const alarm stall(look_ns, cut_off);
    const int64_t n = co_await receive_into({s.owned.data() + done, step}, MSG_WAITALL);
    if (n <= 0) co_return false;
    done += static_cast<size_t>(n);
  }
  pending_ = nullptr;
  s.payload = {s.owned.data(), length};
  start(s);
  co_return true;
}

// Reads over a payload that is not wanted, then says why.
task<bool> transmission::refuse_write() {
  const nbd::request r = front_;
  // Now: the export may have grown when the payload has been drained.
  const wire_error error = nbd::request_error(r, facts_);
  if (r.length > nbd::max_drained_payload_bytes) co_return false;
  input_.consume(nbd::request_bytes);
  connection_.counters.requests.add(1);
  uint64_t left = r.length;
  auto cut_off = [this] { connection_.abort(); };
  for (;;) {
    const size_t here = std::min<uint64_t>(left, input_.size());
    input_.consume(here);
    left -= here;
    if (left == 0) break;
    const alarm stall(stalled_ns_, cut_off);
    const bool more = co_await receive_more();
    if (!more) co_return false;
  }
  if (pending_ == nullptr) pending_ = co_await pool_.take();
  request_slot& s = *std::exchange(pending_, nullptr);
  s.request = r;
  s.structured = structured_;
  fail(s, error);
  co_return true;
}

// Lets the client read the last replies before the connection is reset under it: a close with
// unread input would take them back on TCP.
task<void> transmission::linger() {
  const int fd = connection_.socket.fd();
  ::shutdown(fd, SHUT_WR);
  auto stop = [this] { connection_.abort(); };
  const alarm limit(linger_ns, stop);
  rt::buffer sink(receive_chunk::bytes);
  for (;;) {
    const int64_t n = co_await receive_into(sink.span(), 0);
    if (n <= 0) co_return;
  }
}

void transmission::finish(request_slot& s, errc code) {
  if (code != errc::ok) return fail(s, nbd::to_wire(code, s.request));
  reply_done(s);
  answer(s);
}

void transmission::fail(request_slot& s, wire_error error) {
  connection_.counters.errors.add(1);
  reply_error(s, error);
  answer(s);
}

void transmission::answer(request_slot& s) {
  s.changing = false;
  connection_.counters.answered.add(1);
  output_.push(s);
}

void transmission::answer_read(request_slot& s) {
  connection_.counters.bytes_read.add(s.request.length);
  answer(s);
}

}  // namespace lbd::nbd_server
