// SPDX-License-Identifier: MIT
#include "stack/device.h"

#include <algorithm>

#include "base/checked_math.h"
#include "block/segments.h"
#include "stack/device_visit.h"

namespace lbd::stack {

using base::errc;
using base::io_error;
using base::result;
using block::io_opts;
using block::op;
using rt::segments;
using rt::task;

namespace {

// A cookie holds the operation in its low bits and the start time above.
constexpr uint64_t op_bits = 3;

uint64_t make_cookie(op what, uint64_t now_ns) noexcept {
  return now_ns << op_bits | static_cast<uint64_t>(what);
}

// The bytes [begin, begin + length) of the segments.
task<result<void>> read_cut(block::block_device& from, uint64_t offset, segments to, uint64_t begin,
                            uint64_t length, io_opts io) {
  const block::segment_list part(to, begin, length);
  co_return co_await block::read(from, offset, part.view(), io);
}
task<result<void>> write_cut(block::block_device& to, uint64_t offset, segments from,
                             uint64_t begin, uint64_t length, io_opts io) {
  const block::segment_list part(from, begin, length);
  co_return co_await block::write(to, offset, part.view(), io);
}

}  // namespace

device::device(rt::runtime& runtime, std::string name, std::unique_ptr<table> first)
    : runtime_(runtime),
      name_(std::move(name)),
      gate_(runtime),
      limits_(nullptr),
      counters_(runtime.reactor_count()) {
  adopt(std::move(first));
}

device::~device() = default;

void device::adopt(std::unique_ptr<table> next) {
  all_limits_.push_back(std::make_unique<const block::limits>(next->limits()));
  limits_.store(all_limits_.back().get(), std::memory_order_release);
  live_ = std::move(next);
}

void device::expect_limits(block::limits of_next_table) {
  of_next_table.size_bytes = 0;
  all_limits_.push_back(std::make_unique<const block::limits>(of_next_table));
  limits_.store(all_limits_.back().get(), std::memory_order_release);
}

bool device::set_read_only(bool now) {
  if (limits().read_only == now) return false;
  block::limits changed = limits();
  changed.read_only = now;
  all_limits_.push_back(std::make_unique<const block::limits>(changed));
  limits_.store(all_limits_.back().get(), std::memory_order_release);
  return true;
}

uint64_t device::count_start(op what, uint64_t bytes, block::moment& begin) noexcept {
  counters_.started(rt::reactor::current().index(), what, bytes);
  return make_cookie(what, begin.ns());
}

void device::count_end(uint64_t cookie, errc code, block::moment& end) noexcept {
  const auto what = static_cast<op>(cookie & ((1u << op_bits) - 1));
  const uint64_t started = cookie >> op_bits;
  const bool failed = code != errc::ok && !again(cookie, code);
  counters_.finished(rt::reactor::current().index(), what, end.ns() - started, failed);
}

void device::leave(uint64_t cookie, errc code) noexcept {
  block::moment end;
  leave_at(cookie, code, end);
}

// The end of a routed request.
void device::leave_at(uint64_t cookie, errc code, block::moment& end) noexcept {
  count_end(cookie, code, end);
  gate_.leave();
}

bool device::again(uint64_t, errc code) noexcept {
  return code == errc::again && keeping_.load(std::memory_order_acquire);
}

void device::keep_given_back() {
  kept_go_.reset();
  keeping_.store(true, std::memory_order_release);
}

task<bool> device::resumed_here() {
  if (!keeping_.load(std::memory_order_relaxed)) co_return false;
  co_await kept_go_.wait();
  co_return true;
}

task<bool> device::given_back(errc code) {
  if (code != errc::again || !keeping_.load(std::memory_order_acquire)) co_return false;
  auto wait = [this] { return resumed_here(); };
  co_return co_await rt::call_on(runtime_.at(0), wait);
}

block::routed device::route(op what, uint64_t offset, uint64_t length, block::path& way) noexcept {
  // What may be given back has to be kept by a coroutine; one also knows which sectors to count.
  if (keeping_.load(std::memory_order_relaxed) || regions_.counts() || !gate_.try_enter())
    return {};
  const table::segment* s = live_->find(offset);
  if (s == nullptr || length > s->end() - offset || !live_->serves(offset, length) ||
      (what != op::read && refuses_writes())) {
    gate_.leave();
    return {};
  }
  way.push(*this, count_start(what, length, way.begin()));
  return {s->target.get(), offset - s->start};
}

struct device::piece {
  block::block_device& target;
  uint64_t offset;  // on the target
  uint64_t done;    // bytes of the request before it
  uint64_t length;
};

// Lets `serve` have the range, piece by piece, until one fails. A range that lies in one segment
// costs nothing: the caller gets the task of its target.
template <class Serve>
task<result<void>> device::each_piece(uint64_t offset, uint64_t length, Serve serve) {
  const table::segment* s = live_->find(offset);
  if (s != nullptr && length <= s->end() - offset)
    return serve(piece{*s->target, offset - s->start, 0, length});
  return several_pieces(offset, length, std::move(serve));
}
template <class Serve>
task<result<void>> device::several_pieces(uint64_t offset, uint64_t length, Serve serve) {
  for (uint64_t done = 0; done < length;) {
    const table::segment* s = live_->find(offset + done);
    if (s == nullptr) co_return io_error{errc::inval, 0};
    const uint64_t n = std::min(length - done, s->end() - (offset + done));
    CO_CHECK(co_await serve(piece{*s->target, offset + done - s->start, done, n}));
    done += n;
  }
  co_return result<void>{};
}

task<result<void>> device::read_inside(uint64_t offset, segments to, io_opts io) {
  const uint64_t length = block::total_bytes(to);
  return each_piece(offset, length, [to, length, io](const piece& p) {
    if (p.length == length) return block::read(p.target, p.offset, to, io);
    return read_cut(p.target, p.offset, to, p.done, p.length, io);
  });
}

task<result<void>> device::read(uint64_t offset, segments to, io_opts io) {
  const uint64_t length = block::total_bytes(to);
  for (;;) {
    co_await gate_.enter();
    result<void> r;
    {
      visit here(*this, op::read, offset, length);
      if (live_->serves(offset, length))
        r = co_await read_inside(offset, to, io);
      else
        r = co_await read_partial(offset, to, io);
      here.code = base::code_of(r);
    }
    if (r) co_return r;
    const bool sent_again = co_await given_back(r.error().code);
    if (!sent_again) co_return r;
  }
}

task<result<void>> device::write_inside(uint64_t offset, segments from, io_opts io) {
  const uint64_t length = block::total_bytes(from);
  return each_piece(offset, length, [from, length, io](const piece& p) {
    if (p.length == length) return block::write(p.target, p.offset, from, io);
    return write_cut(p.target, p.offset, from, p.done, p.length, io);
  });
}

task<result<void>> device::write(uint64_t offset, segments from, io_opts io) {
  const uint64_t length = block::total_bytes(from);
  for (;;) {
    co_await gate_.enter();
    result<void> r;
    if (refuses_writes()) {
      gate_.leave();
      r = io_error{errc::perm, 0};
    } else if (!live_->serves(offset, length)) {
      gate_.leave();
      r = co_await write_partial(offset, from, io);
    } else {
      visit here(*this, op::write, offset, length);
      r = co_await write_inside(offset, from, io);
      here.code = base::code_of(r);
    }
    if (r) co_return r;
    const bool sent_again = co_await given_back(r.error().code);
    if (!sent_again) co_return r;
  }
}

task<result<void>> device::flush_targets(io_opts io) {
  result<void> first;
  const block::block_device* before = nullptr;
  for (const auto& s : live_->segments()) {
    if (s.target.get() == before) continue;
    before = s.target.get();
    // All of them, even after a failure: as much as can be durable shall be.
    auto r = co_await s.target->flush(io);
    if (!r && first) first = r;
  }
  co_return first;
}

task<result<void>> device::flush(io_opts io) {
  for (;;) {
    co_await gate_.enter();
    result<void> r;
    {
      visit here(*this, op::flush, 0, 0);
      r = co_await flush_targets(io);
      here.code = base::code_of(r);
    }
    if (r) co_return r;
    const bool sent_again = co_await given_back(r.error().code);
    if (!sent_again) co_return r;
  }
}

task<result<void>> device::discard_inside(uint64_t offset, uint64_t length, io_opts io) {
  return each_piece(offset, length,
                    [io](const piece& p) { return p.target.discard(p.offset, p.length, io); });
}

// Parts of units at the ends are not discarded.
task<result<void>> device::discard(uint64_t offset, uint64_t length, io_opts io) {
  for (;;) {
    co_await gate_.enter();
    if (refuses_writes()) {
      gate_.leave();
      co_return io_error{errc::perm, 0};
    }
    result<void> r;
    {
      visit here(*this, op::discard, offset, length);
      uint64_t begin = offset, end = offset + length;
      if (!live_->serves(offset, length)) {
        begin = base::round_up(begin, live_->unit_bytes());
        end = base::round_down(end, live_->unit_bytes());
      }
      if (begin < end) r = co_await discard_inside(begin, end - begin, io);
      here.code = base::code_of(r);
    }
    if (r) co_return r;
    const bool sent_again = co_await given_back(r.error().code);
    if (!sent_again) co_return r;
  }
}

task<result<void>> device::zero_inside(uint64_t offset, uint64_t length, io_opts io) {
  return each_piece(offset, length,
                    [io](const piece& p) { return p.target.write_zeroes(p.offset, p.length, io); });
}

task<result<void>> device::write_zeroes(uint64_t offset, uint64_t length, io_opts io) {
  for (;;) {
    co_await gate_.enter();
    result<void> r;
    if (refuses_writes()) {
      gate_.leave();
      r = io_error{errc::perm, 0};
    } else if (!live_->serves(offset, length)) {
      gate_.leave();
      r = co_await zero_partial(offset, length, io);
    } else {
      visit here(*this, op::write_zeroes, offset, length);
      r = co_await zero_inside(offset, length, io);
      here.code = base::code_of(r);
    }
    if (r) co_return r;
    const bool sent_again = co_await given_back(r.error().code);
    if (!sent_again) co_return r;
  }
}

task<result<void>> device::extents_inside(uint64_t offset, uint64_t length, block::extent_list& out,
                                          io_opts io) {
  for (uint64_t done = 0; done < length && !out.full();) {
    const table::segment* s = live_->find(offset + done);
    if (s == nullptr) break;
    const uint64_t n = std::min(length - done, s->end() - (offset + done));
    const uint64_t before = out.total_bytes();
    CO_CHECK(co_await s->target->extents(offset + done - s->start, n, out, io));
    if (out.total_bytes() - before < n) break;
    done += n;
  }
  co_return result<void>{};
}

task<result<void>> device::extents(uint64_t offset, uint64_t length, block::extent_list& out,
                                   io_opts io) {
  const uint64_t before = out.total_bytes();
  for (;;) {
    co_await gate_.enter();
    result<void> r;
    {
      visit here(*this, op::extents, offset, length);
      if (live_->serves(offset, length))
        r = co_await extents_inside(offset, length, out, io);
      else
        r = co_await extents_partial(offset, length, out, io);
      here.code = base::code_of(r);
    }
    // What has been told already is not told twice.
    if (r || out.total_bytes() != before) co_return r;
    const bool sent_again = co_await given_back(r.error().code);
    if (!sent_again) co_return r;
  }
}

task<result<void>> device::suspend(bool flush) {
  given_up_ = false;
  const auto held = co_await control_.lock();
  if (!suspended_) {
    bool drained = false;
    if (given_up_) {
      co_await gate_.hold();
    } else {
      draining_ = true;
      drained = co_await gate_.close();
      draining_ = false;
    }
    suspended_ = true;
    if (!drained) co_return io_error{errc::canceled, 0};
    regions_.forget_old();
  }
  if (!flush) co_return result<void>{};
  co_return co_await flush_targets({});
}

task<void> device::give_up_suspension() {
  given_up_ = true;
  if (draining_) co_await gate_.give_up();
}

task<void> device::resume() {
  const auto held = co_await control_.lock();
  if (!suspended_) co_return;
  suspended_ = false;
  co_await gate_.open();
  keeping_.store(false, std::memory_order_release);
  kept_go_.set();
}

task<base::outcome<void>> device::replace_table(builder build) {
  const auto held = co_await control_.lock();
  const bool was_suspended = suspended_;
  if (!was_suspended) (void)co_await gate_.close();
  auto made = co_await build(*live_);
  const uint64_t size_before = limits().size_bytes;
  base::outcome<void> answer;
  std::unique_ptr<table> old;
  if (made) {
    old = std::move(live_);
    adopt(*std::move(made));
  } else {
    answer = made.error();
  }
  if (!was_suspended) co_await gate_.open();
  if (resized_ && limits().size_bytes != size_before) resized_(limits().size_bytes);
  co_return answer;
}

}  // namespace lbd::stack
