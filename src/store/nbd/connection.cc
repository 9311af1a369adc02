// SPDX-License-Identifier: MIT
#include "store/nbd/connection.h"

#include <algorithm>

#include "base/log.h"
#include "block/segments.h"
#include "wire/nbd/request_check.h"
#include "wire/nbd/transmission.h"

namespace lbd::store {

using base::errc;
using base::failure;
using base::outcome;
using rt::task;

namespace {

constexpr uint64_t ms = 1'000'000;
constexpr uint64_t watch_every_ns = 100 * ms;
constexpr uint64_t look_every_ns = 20 * ms;
constexpr uint64_t first_pause_ns = 20 * ms;
constexpr uint64_t longest_pause_ns = 2000 * ms;
// While the rest of a large read goes straight to its place, this much of the next reply comes
// along.
constexpr size_t behind_direct_bytes = 16 << 10;
constexpr size_t most_segments = 1024;  // IOV_MAX

bool is_over(const nbd_call& call, uint64_t now) noexcept {
  return call.deadline_ns != 0 && now >= call.deadline_ns;
}
bool is_canceled(const nbd_call& call) noexcept {
  return call.cancel != nullptr && call.cancel->canceled();
}

// Whether requests made for the session `first` may go to `later`, which may offer more.
bool same_session(const nbd_session& first, const nbd_session& later) noexcept {
  constexpr uint16_t read_only = nbd::transmission_flag::read_only;
  return later.size_bytes == first.size_bytes && (later.flags & first.flags) == first.flags &&
         later.has(read_only) == first.has(read_only) && later.sizes == first.sizes &&
         later.structured == first.structured &&
         later.allocation_context.has_value() == first.allocation_context.has_value();
}

}  // namespace

void write_log::add(uint64_t order, uint64_t offset, uint64_t length) {
  const entry e{order, offset, offset + length};
  if (entries_.size() < most) {
    entries_.push_back(e);
  } else {
    entry& oldest = entries_[count_ % most];
    forgotten_ = std::max(forgotten_, oldest.order);
    oldest = e;
  }
  ++count_;
}

bool write_log::overlapped_since(uint64_t order, uint64_t offset, uint64_t length) const noexcept {
  if (forgotten_ > order) return true;
  return std::any_of(entries_.begin(), entries_.end(), [&](const entry& e) {
    return e.order > order && e.begin < offset + length && offset < e.end;
  });
}

nbd_connection::nbd_connection(rt::reactor& home, std::shared_ptr<nbd_shared> shared)
    : home_(home), shared_(std::move(shared)), buffer_(receive_buffer_bytes) {
  for (size_t i = table_size; i-- > 0;) free_.push_back(static_cast<uint16_t>(i));
  watch_.owner = this;
  watch_.run = [](rt::timer& t) { static_cast<owned_timer&>(t).owner->tick(); };
  pause_.owner = this;
  pause_.run = [](rt::timer& t) { static_cast<owned_timer&>(t).owner->wake_.set(); };
  limit_.owner = this;
  limit_.run = [](rt::timer& t) {
    nbd_connection& self = *static_cast<owned_timer&>(t).owner;
    self.limit_handshake(self.handshake_due_ns_);
  };
  hook_.owner = this;
  hook_.run = [](rt::turn_hook& h) {
    nbd_connection& self = *static_cast<owned_hook&>(h).owner;
    if (self.is_up() && !self.sending_) rt::spawn(self.send_queued());
  };
}

// ---- Life
// -------------------------------------------------------------------------------------------

task<outcome<rt::socket>> nbd_connection::connect(uint64_t due_ns) {
  failure last{errc::noent, "it has no address"};
  for (size_t i = 0; i < shared_->addresses.size(); ++i) {
    auto s = co_await rt::socket::connect(shared_->addresses[i], due_ns, abandoned_);
    if (s) co_return std::move(*s);
    const errc code = s.error().code;
    const bool nobody = code == errc{ECONNREFUSED} || code == errc::noent;
    last = failure{code, base::to_string(code) + (nobody ? " (is it running?)" : "")};
    if (is_abandoned()) break;
  }
  co_return last;
}

// Ends the handshake when it has taken too long or is not wanted any more.
void nbd_connection::limit_handshake(uint64_t due_ns) {
  handshake_due_ns_ = due_ns;
  const uint64_t now = home_.now_ns();
  if (now >= due_ns || is_abandoned()) return socket_.shutdown();
  home_.start_timer(limit_, abandoned_ == nullptr ? due_ns : std::min(due_ns, now + look_every_ns));
}

task<outcome<nbd_session>> nbd_connection::establish(uint64_t due_ns) {
  CO_TRY(socket_, co_await connect(due_ns));
  if (closing_) co_return failure{errc::canceled, "it is being closed"};
  limit_handshake(due_ns);
  auto session = co_await nbd_negotiate(socket_, shared_->export_name);
  home_.stop_timer(limit_);
  if (is_abandoned()) co_return failure{errc::canceled, "it is not wanted any more"};
  if (!session) co_return session.error();
  std::vector<uint32_t> contexts;
  if (session->allocation_context) contexts.push_back(*session->allocation_context);
  parser_.emplace(session->structured, std::move(contexts));
  begin_ = end_ = 0;
  co_return std::move(*session);
}

task<outcome<void>> nbd_connection::open(std::shared_ptr<nbd_connection> self, bool first,
                                         const std::atomic<bool>* abandoned) {
  nbd_connection& c = *self;
  c.abandoned_ = abandoned;
  const uint64_t due_ns = c.home_.now_ns() + c.shared_->attempt_limit_ns;
  auto session = co_await c.establish(due_ns);
  c.abandoned_ = nullptr;
  if (!session) {
    c.socket_.close();
    co_return session.error();
  }
  if (first) c.shared_->session = *session;
  if (!same_session(c.shared_->session, *session)) {
    c.socket_.close();
    co_return failure{errc::protocol, "it offers another export on a further connection"};
  }
  c.running_ = true;
  c.up_ = true;
  c.home_.start_timer(c.watch_, c.home_.now_ns() + watch_every_ns);
  rt::spawn(run(std::move(self)));
  co_return outcome<void>{};
}

task<void> nbd_connection::run(std::shared_ptr<nbd_connection> self) {
  nbd_connection& c = *self;
  while (!c.closing_) {
    const std::string why = co_await c.receive();
    co_await c.drop_socket();
    if (c.closing_) break;
    c.lost(why);
    co_await c.reconnect();
  }
  co_await c.drop_socket();
  c.home_.stop_timer(c.watch_);
  c.fail_all(errc::canceled);
  c.running_ = false;
  c.ended_.set();
}

// Ends both directions and waits until the kernel has let go of the callers' memory.
task<void> nbd_connection::drop_socket() {
  up_ = false;
  socket_.shutdown();
  while (sending_) co_await send_idle_.wait();
  socket_.close();
  home_.drop(hook_);
  queue_.clear();
  direct_ = {};
  begin_ = end_ = 0;
}

void nbd_connection::lost(const std::string& why) {
  nbd_shared& s = *shared_;
  down_since_ns_ = home_.now_ns();
  server_leaves_ = false;
  base::log_warn("nbd", "connection to " + s.peer + " lost: " + why +
                            " in_flight=" + std::to_string(in_flight_));
  if (s.session.has(nbd::transmission_flag::send_flush) && s.written > s.flushed &&
      !s.lost_writes.exchange(true)) {
    base::log_error("nbd", "writes to " + s.peer +
                               " were answered but not flushed when the connection broke; flushes "
                               "fail from now on");
  }
  for (nbd_call* call : table_) {
    if (call == nullptr) continue;
    call->where = nbd_call::stage::waiting;
    call->reply = nbd::reply_state(call->asked());
    call->extents.clear();
    watch(*call);
  }
}

task<void> nbd_connection::reconnect() {
  nbd_shared& s = *shared_;
  uint64_t pause_ns = first_pause_ns;
  std::string last_reason;
  while (!closing_) {
    const uint64_t now = home_.now_ns();
    check_outage(now);
    uint64_t due_ns = now + s.attempt_limit_ns;
    if (!given_up_) {
      due_ns = std::min(due_ns, std::max(down_since_ns_ + s.outage_limit_ns, now + 100 * ms));
    }
    const auto session = co_await establish(due_ns);
    if (closing_) co_return;
    std::string reason;
    if (!session) {
      reason = session.error().message;
    } else if (!same_session(s.session, *session)) {
      reason = "the export is not the same any more";
    } else {
      co_await resume_calls();
      s.reconnections.fetch_add(1);
      base::log_info("nbd", "connection to " + s.peer + " is back");
      co_return;
    }
    if (reason != last_reason) base::log_warn("nbd", s.peer + ": " + reason);
    last_reason = reason;
    co_await drop_socket();
    co_await pause(pause_ns);
    pause_ns = std::min(pause_ns * 2, longest_pause_ns);
  }
}

task<void> nbd_connection::pause(uint64_t ns) {
  if (closing_) co_return;
  wake_.reset();
  home_.start_timer(pause_, home_.now_ns() + ns);
  co_await wake_.wait();
  home_.stop_timer(pause_);
}

std::vector<nbd_call*> nbd_connection::calls_in_order() const {
  std::vector<nbd_call*> calls;
  for (nbd_call* call : table_) {
    if (call != nullptr) calls.push_back(call);
  }
  std::sort(calls.begin(), calls.end(), [](const nbd_call* a, const nbd_call* b) {
    return a->asked().cookie >> 16 < b->asked().cookie >> 16;
  });
  return calls;
}

// Sends again what waits, in its old order; what must not be sent again fails.
task<void> nbd_connection::resume_calls() {
  resuming_ = true;
  const std::vector<nbd_call*> old_calls = calls_in_order();
  for (nbd_call* call : old_calls) {
    const errc refusal = co_await refusal_to_resend(*call);
    if (refusal != errc::ok) complete(*call, refusal);
  }
  resuming_ = false;
  given_up_ = false;
  down_since_ns_ = 0;
  last_progress_ns_ = home_.now_ns();
  up_ = true;
  for (nbd_call* call : calls_in_order()) {
    if (is_canceled(*call))
      complete(*call, errc::canceled);
    else
      enqueue(*call);
  }
}

// Asks another connection's log, on its reactor.
task<bool> nbd_connection::overlapped_here(const nbd_connection& c, const nbd_call& call) {
  const nbd::request& asked = call.asked();
  co_return c.log_.overlapped_since(call.order, asked.offset, asked.length);
}

task<errc> nbd_connection::refusal_to_resend(nbd_call& call) {
  if (is_canceled(call)) co_return errc::canceled;
  if (is_over(call, home_.now_ns())) co_return errc::timed_out;
  if (!call.writes() || !call.was_sent) co_return errc::ok;
  const nbd::request& asked = call.asked();
  bool overlapped = false;
  for (const auto& weak : shared_->all) {
    const auto other = weak.lock();
    if (!other || other.get() == this) continue;
    auto ask = [&] { return overlapped_here(*other, call); };
    overlapped = co_await rt::call_on(other->home_, ask) || overlapped;
  }
  // Its own writes last: some may have been asked for meanwhile.
  overlapped = log_.overlapped_since(call.order, asked.offset, asked.length) || overlapped;
  if (!overlapped) co_return errc::ok;
  base::log_warn("nbd", "a write to " + shared_->peer +
                            " without an answer is not sent again: its range was written since");
  co_return errc::io;
}

task<void> nbd_connection::close() {
  if (!running_) co_return;
  closing_ = true;
  wake_.set();
  if (is_up() && !sending_ && queue_.empty()) {
    std::byte raw[nbd::request_bytes];
    nbd::encode_request(raw, nbd::request{nbd::command::disc, 0, 0, 0, 0});
    sending_ = true;
    send_idle_.reset();
    (void)co_await socket_.send_all(raw);
    sending_ = false;
    send_idle_.set();
  }
  socket_.shutdown();
  co_await ended_.wait();
}

void nbd_connection::check_outage(uint64_t now) {
  if (given_up_ || now - down_since_ns_ < shared_->outage_limit_ns) return;
  given_up_ = true;
  base::log_error("nbd", shared_->peer + " has not come back: requests fail until it does");
  fail_all(errc::timed_out);
}

void nbd_connection::tick() {
  if (closing_) return;
  const uint64_t now = home_.now_ns();
  home_.start_timer(watch_, now + watch_every_ns);
  if (is_up()) {
    const bool stalled = in_flight_ > 0 && now - last_progress_ns_ > shared_->reply_limit_ns;
    if (stalled) {
      base::log_warn("nbd", shared_->peer + " has not answered for too long");
      socket_.shutdown();
    }
    return;
  }
  // Before the outage has begun to be counted, or while calls are being looked at, nothing expires.
  if (resuming_ || sending_ || down_since_ns_ == 0) return;
  for (nbd_call* call : calls_in_order()) {
    if (call->where != nbd_call::stage::waiting) continue;
    if (is_canceled(*call))
      complete(*call, errc::canceled);
    else if (is_over(*call, now))
      complete(*call, errc::timed_out);
  }
  check_outage(now);
}

// ---- Sending
// ----------------------------------------------------------------------------------------

task<errc> nbd_connection::perform(nbd_call& call) {
  co_await slots_.acquire();
  if (closing_ || !running_)
    call.code = errc::canceled;
  else if (given_up_)
    call.code = errc::not_connected;
  else
    co_await answer_of{*this, call};
  slots_.release(1);
  co_return call.code;
}

void nbd_connection::begin(nbd_call& call) {
  const uint16_t index = free_.back();
  free_.pop_back();
  table_[index] = &call;
  call.reply.asked.cookie = ++serial_ << 16 | index;
  if (in_flight_++ == 0) last_progress_ns_ = home_.now_ns();
  if (call.writes()) {
    call.order = shared_->write_order.fetch_add(1) + 1;
    log_.add(call.order, call.asked().offset, call.asked().length);
  }
  if (is_up())
    enqueue(call);
  else
    watch(call);
}

// One that is canceled already is seen by tick().
void nbd_connection::watch(nbd_call& call) {
  if (call.cancel == nullptr || call.watched) return;
  call.canceled.owner = this;
  call.canceled.call = &call;
  call.canceled.run = [](rt::cancel_token::watcher& w) {
    const auto& mine = static_cast<nbd_call::watch&>(w);
    mine.owner->canceled(*mine.call);
  };
  call.watched = call.cancel->watch(call.canceled);
}

void nbd_connection::unwatch(nbd_call& call) noexcept {
  if (std::exchange(call.watched, false)) call.cancel->unwatch(call.canceled);
}

void nbd_connection::canceled(nbd_call& call) {
  call.watched = false;
  // While calls are being looked at, resume_calls() sees it.
  if (!is_up() && !resuming_ && !sending_ && call.where == nbd_call::stage::waiting)
    complete(call, errc::canceled);
}

void nbd_connection::enqueue(nbd_call& call) {
  unwatch(call);
  nbd::encode_request(call.header, call.asked());
  call.where = nbd_call::stage::queued;
  queue_.push_back(&call);
  home_.at_turn_end(hook_);
}

task<void> nbd_connection::send_queued() {
  sending_ = true;
  send_idle_.reset();
  while (is_up() && !queue_.empty()) {
    batch_.swap(queue_);
    const errc sent = co_await send_batch();
    for (nbd_call* call : batch_) {
      call->where = nbd_call::stage::sent;
      if (call->answered) complete(*call, call->code);
    }
    batch_.clear();
    if (sent != errc::ok) {
      socket_.shutdown();  // the receiving side notices and ends the connection
      break;
    }
  }
  sending_ = false;
  send_idle_.set();
}

task<errc> nbd_connection::send_batch() {
  send_iov_.clear();
  for (nbd_call* call : batch_) {
    call->where = nbd_call::stage::sending;
    call->was_sent = true;
    send_iov_.push_back({call->header.data(), call->header.size()});
    if (call->asked().type != nbd::command::write) continue;
    send_iov_.insert(send_iov_.end(), call->data.begin(), call->data.end());
  }
  size_t at = 0;
  while (at < send_iov_.size()) {
    msghdr m{};
    m.msg_iov = &send_iov_[at];
    m.msg_iovlen = std::min(send_iov_.size() - at, most_segments);
    rt::io_request r;
    r.op = rt::io_op::send;
    r.fd = socket_.fd();
    r.message = &m;
    r.flags = MSG_NOSIGNAL;
    rt::os_request send(r);
    const int64_t n = co_await send;
    if (n < 0) co_return static_cast<errc>(-n);
    last_progress_ns_ = home_.now_ns();
    auto left = static_cast<size_t>(n);
    while (at < send_iov_.size() && left >= send_iov_[at].iov_len) left -= send_iov_[at++].iov_len;
    if (left == 0) continue;
    send_iov_[at].iov_base = static_cast<std::byte*>(send_iov_[at].iov_base) + left;
    send_iov_[at].iov_len -= left;
  }
  co_return errc::ok;
}

// ---- Receiving
// --------------------------------------------------------------------------------------

// Receives and obeys replies until the connection ends; says why it did.
task<std::string> nbd_connection::receive() {
  for (;;) {
    const std::string why = parse();
    if (!why.empty()) co_return why;
    prepare_receive();
    msghdr m{};
    m.msg_iov = receive_iov_.data();
    m.msg_iovlen = receive_iov_.size();
    rt::io_request r;
    r.op = rt::io_op::recv;
    r.fd = socket_.fd();
    r.message = &m;
    rt::os_request receive(r);
    const int64_t n = co_await receive;
    if (n == 0) co_return "the server closed it";
    if (n < 0) co_return base::to_string(static_cast<errc>(-n));
    last_progress_ns_ = home_.now_ns();
    take_received(static_cast<size_t>(n));
  }
}

void nbd_connection::prepare_receive() {
  receive_iov_.clear();
  if (direct_.left != 0) {
    const block::segment_list rest(direct_.call->data, direct_.offset, direct_.left);
    const rt::segments parts = rest.view();
    const size_t count = std::min(parts.size(), most_segments - 1);
    receive_iov_.assign(parts.begin(), parts.begin() + static_cast<ptrdiff_t>(count));
    if (count == parts.size()) receive_iov_.push_back({buffer_.data(), behind_direct_bytes});
    return;
  }
  if (begin_ == end_) begin_ = end_ = 0;
  if (begin_ != 0 && buffer_.size() - end_ < nbd::reply_parser::max_need) {
    std::memmove(buffer_.data(), buffer_.data() + begin_, end_ - begin_);
    end_ -= begin_;
    begin_ = 0;
  }
  receive_iov_.push_back({buffer_.data() + end_, buffer_.size() - end_});
}

void nbd_connection::take_received(size_t bytes) {
  const size_t direct = std::min<size_t>(bytes, direct_.left);
  direct_.offset += direct;
  direct_.left -= static_cast<uint32_t>(direct);
  end_ += bytes - direct;
  if (direct == 0 || direct_.left != 0) return;
  const direct_read finished = direct_;
  direct_ = {};
  if (finished.done) answered(*finished.call, finished.error);
}

std::string nbd_connection::parse() {
  using kind = nbd::reply_event::kind;
  const auto find_state = [this](uint64_t cookie) -> nbd::reply_state* {
    nbd_call* call = find(cookie);
    return call == nullptr ? nullptr : &call->reply;
  };
  while (direct_.left == 0 && !server_leaves_) {
    const base::bytes_view in(buffer_.data() + begin_, end_ - begin_);
    const nbd::reply_event e = parser_->next(in, find_state);
    if (e.what == kind::more) return {};
    if (e.what == kind::violation) return "it broke the protocol: " + std::string(e.text);
    begin_ += e.consumed;
    nbd_call& call = *table_[e.cookie & 0xffff];
    switch (e.what) {
      case kind::data:
        take_data(call, e);
        continue;
      case kind::hole:
        block::fill_zero(
            block::segment_list(call.data, e.offset - call.asked().offset, e.length).view());
        break;
      case kind::extents:
        take_extents(call, e);
        break;
      case kind::error:
        if (!e.text.empty()) {
          base::log_debug("nbd", shared_->peer + " says: " + std::string(e.text));
        }
        break;
      default:
        break;
    }
    if (e.done) answered(call, e.error);
  }
  return server_leaves_ ? "it shuts down" : "";
}

nbd_call* nbd_connection::find(uint64_t cookie) noexcept {
  const size_t index = cookie & 0xffff;
  nbd_call* call = index < table_size ? table_[index] : nullptr;
  if (call == nullptr || call->asked().cookie != cookie || call->answered) return nullptr;
  const bool on_its_way =
      call->where == nbd_call::stage::sending || call->where == nbd_call::stage::sent;
  return on_its_way ? call : nullptr;
}

void nbd_connection::take_data(nbd_call& call, const nbd::reply_event& e) {
  const uint64_t offset = e.offset - call.asked().offset;
  const auto here = static_cast<uint32_t>(std::min<size_t>(end_ - begin_, e.length));
  const base::bytes_view bytes(buffer_.data() + begin_, here);
  if (call.data.size() == 1) {
    std::memcpy(static_cast<std::byte*>(call.data[0].iov_base) + offset, bytes.data(), here);
  } else {
    block::copy_to(block::segment_list(call.data, offset, here).view(), bytes);
  }
  begin_ += here;
  if (here == e.length) {
    if (e.done) answered(call, e.error);
    return;
  }
  begin_ = end_ = 0;
  direct_ = {&call, offset + here, e.length - here, e.done, e.error};
}

void nbd_connection::take_extents(nbd_call& call, const nbd::reply_event& e) {
  const nbd::request& asked = call.asked();
  uint64_t at = e.offset;
  for (size_t i = 0; i < nbd::extent_count(e); ++i) {
    nbd::extent x = nbd::extent_at(e, i);
    if (call.extents.size() == block::bounds::extents_per_answer) return;
    const uint64_t left = asked.offset + asked.length - at;
    at += x.length;
    x.length = static_cast<uint32_t>(std::min<uint64_t>(x.length, left));
    call.extents.push_back(x);
  }
}

void nbd_connection::answered(nbd_call& call, nbd::wire_error error) {
  if (error == nbd::wire_error::shutdown) {
    server_leaves_ = true;  // the call stays and is sent again to the next server
    return;
  }
  const errc code = nbd::from_wire(error);
  const bool durable = (call.asked().flags & nbd::command_flag::fua) != 0;
  if (call.writes() && code == errc::ok && !durable) shared_->written.fetch_add(1);
  if (call.where == nbd_call::stage::sending) {
    // The kernel still reads the payload: the caller must not have it back yet.
    call.answered = true;
    call.code = code;
    return;
  }
  complete(call, code);
}

void nbd_connection::complete(nbd_call& call, errc code) {
  const auto index = static_cast<uint16_t>(call.asked().cookie & 0xffff);
  unwatch(call);
  table_[index] = nullptr;
  free_.push_back(index);
  --in_flight_;
  call.code = code;
  home_.schedule(call.waiter);
}

void nbd_connection::fail_all(errc code) {
  for (nbd_call* call : calls_in_order()) complete(*call, code);
}

}  // namespace lbd::store
