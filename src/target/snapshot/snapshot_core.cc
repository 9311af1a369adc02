// SPDX-License-Identifier: MIT
// Requests, and the life of an exception. What is written to new chunks is in snapshot_write.cc.
#include "target/snapshot/snapshot_core.h"

#include <algorithm>

#include "base/log.h"
#include "block/segments.h"

namespace lbd::snapshot {

// Inside an epoch of the exception map.
class snapshot_core::look_up {
 public:
  explicit look_up(const snapshot_core& c) noexcept : core_(c), token_(c.epochs_.enter()) {}
  look_up(const look_up&) = delete;
  look_up& operator=(const look_up&) = delete;
  ~look_up() { core_.epochs_.leave(token_); }

 private:
  const snapshot_core& core_;
  const uint32_t token_;
};

snapshot_core::snapshot_core(rt::runtime& runtime, block::opened_device origin,
                             std::unique_ptr<exception_store> store, block::copier& copies)
    : home_(rt::reactor::current()),
      origin_(std::move(origin)),
      store_(std::move(store)),
      copies_(copies),
      epochs_(runtime),
      tracker_(runtime) {
  store_->on_done([this](pending_ref p, bool ok) { exception_done(std::move(p), ok); });
}

snapshot_core::~snapshot_core() = default;

task<result<bool>> snapshot_core::load() {
  CO_TRY(const exception_store::loaded l, co_await store_->load(exceptions_));
  exceptions_.take_retired();  // nobody else looks yet
  if (!l.valid) {
    base::log_warn("device-mapper", "snapshots: Snapshot is marked invalid.");
    set_flag(invalid_flag | dropped_flag);
  }
  co_return l.valid;
}

task<void> snapshot_core::until_no_pending() {
  while (!pending_.empty() || background_ != 0) {
    fewer_.reset();
    co_await fewer_.wait();
  }
}

task<void> snapshot_core::close() {
  co_await until_no_pending();
  co_await store_->idle();
  co_await tracker_.close();
}

void snapshot_core::set_owner(uint64_t end_bytes,
                              std::function<void(std::vector<std::string>)> event) {
  end_bytes_.store(end_bytes, std::memory_order_release);
  event_ = std::move(event);
}

// --- any reactor ---

snapshot_core::span snapshot_core::find_span(uint64_t offset, uint64_t length) const noexcept {
  const look_up here(*this);
  const uint64_t unit = chunk_bytes(), end = offset + length;
  uint64_t chunk = offset / unit;
  const exception_map::answer first = exceptions_.find(chunk);
  span s;
  s.in_store = first.found();
  if (s.in_store) s.place = store_->place_of(first.new_chunk()) + offset % unit;
  uint64_t until = (chunk + 1) * unit;
  for (uint64_t n = 1; until < end; ++n, until += unit) {
    const exception_map::answer next = exceptions_.find(++chunk);
    if (next.found() != s.in_store) break;
    if (s.in_store && next.new_chunk() != first.new_chunk() + n) break;
  }
  s.length = std::min(until, end) - offset;
  return s;
}

bool snapshot_core::needs_exception(uint64_t offset, uint64_t length) const noexcept {
  if ((flags() & (dropped_flag | merging_flag)) != 0) return false;
  const uint64_t end = std::min(offset + length, end_bytes_.load(std::memory_order_acquire));
  if (offset >= end) return false;
  const look_up here(*this);
  const uint64_t unit = chunk_bytes();
  for (uint64_t chunk = offset / unit; chunk * unit < end; ++chunk) {
    const exception_map::answer a = exceptions_.find(chunk);
    if (!a.found() || a.settling()) return true;
  }
  return false;
}

void snapshot_core::leave(uint64_t cookie, errc) noexcept { tracker_.leave(cookie); }

block::routed snapshot_core::route_read(uint64_t offset, uint64_t length,
                                        block::path& way) noexcept {
  if (!valid()) return {};
  const uint64_t unit = chunk_bytes();
  const uint64_t first = offset / unit, count = (offset + length - 1) / unit - first + 1;
  if (count > chunk_tracker::chunks_most) return {};
  const uint64_t visit = tracker_.enter(first, count);
  const span s = find_span(offset, length);
  if (s.length == length && !s.in_store) {
    way.push(*this, visit);
    return {origin_.device.get(), offset};
  }
  tracker_.leave(visit);
  if (s.length != length) return {};
  return {&store_->device(), s.place};
}

block::routed snapshot_core::route_write(uint64_t offset, uint64_t length) noexcept {
  if (flags() != 0) return {};
  const span s = find_span(offset, length);
  if (!s.in_store || s.length != length) return {};
  return {&store_->device(), s.place};
}

task<result<void>> snapshot_core::read(uint64_t offset, segments to, io_opts io) {
  const uint64_t unit = chunk_bytes(), length = block::total_bytes(to);
  for (uint64_t done = 0; done < length;) {
    if (!valid()) co_return io_error{errc::io, 0};
    const uint64_t at = offset + done;
    const uint64_t most = chunk_tracker::chunks_most * unit - at % unit;
    const uint64_t n = std::min(length - done, most);
    const uint64_t first = at / unit, count = (at + n - 1) / unit - first + 1;
    const uint64_t visit = tracker_.enter(first, count);
    const span s = find_span(at, n);
    const block::segment_list part(to, done, s.length);
    result<void> r;
    if (s.in_store) {
      tracker_.leave(visit);
      r = co_await block::read(store_->device(), s.place, part.view(), io);
    } else {
      r = co_await block::read(*origin_.device, at, part.view(), io);
      tracker_.leave(visit);
    }
    if (!r) co_return r;
    done += s.length;
  }
  co_return result<void>{};
}

task<result<void>> snapshot_core::write(uint64_t offset, segments from, io_opts io) {
  const uint64_t length = block::total_bytes(from);
  for (uint64_t done = 0; done < length;) {
    if ((flags() & (invalid_flag | overflow_flag)) != 0) co_return io_error{errc::io, 0};
    const uint64_t at = offset + done;
    const span s = find_span(at, length - done);
    const block::segment_list part(from, done, s.length);
    if (s.in_store) {
      CO_CHECK(co_await block::write(store_->device(), s.place, part.view(), io));
      done += s.length;
      continue;
    }
    const segments rest = part.view();
    auto work = [this, at, rest, io] { return write_new(at, rest, io); };
    CO_TRY(const uint64_t written, co_await rt::call_on(home_, work));
    done += written;
  }
  co_return result<void>{};
}

task<result<void>> snapshot_core::zero_exceptions(uint64_t offset, uint64_t length, io_opts io) {
  if ((flags() & (invalid_flag | overflow_flag)) != 0) co_return io_error{errc::io, 0};
  const uint64_t end = base::round_down(offset + length, chunk_bytes());
  for (uint64_t at = base::round_up(offset, chunk_bytes()); at < end;) {
    const span s = find_span(at, end - at);
    if (s.in_store) CO_CHECK(co_await store_->device().write_zeroes(s.place, s.length, io));
    at += s.length;
  }
  co_return result<void>{};
}

task<result<void>> snapshot_core::extents(uint64_t offset, uint64_t length, block::extent_list& out,
                                          io_opts io) {
  for (uint64_t done = 0; done < length && !out.full();) {
    if (!valid()) co_return io_error{errc::io, 0};
    const span s = find_span(offset + done, length - done);
    const uint64_t before = out.total_bytes();
    if (s.in_store)
      CO_CHECK(co_await store_->device().extents(s.place, s.length, out, io));
    else
      CO_CHECK(co_await origin_.device->extents(offset + done, s.length, out, io));
    const uint64_t got = out.total_bytes() - before;
    done += got;
    if (got < s.length) break;
  }
  co_return result<void>{};
}

// --- home reactor ---

uint64_t snapshot_core::origin_bytes_of(const chunk_run& run) const noexcept {
  const uint64_t begin = run.old_chunk * chunk_bytes();
  const uint64_t size = origin_.device->limits().size_bytes;
  return begin >= size ? 0 : std::min(run.count * chunk_bytes(), size - begin);
}

pending_ref snapshot_core::find_pending(uint64_t chunk) const noexcept {
  auto at = pending_.upper_bound(chunk);
  if (at == pending_.begin()) return nullptr;
  --at;
  return chunk - at->first < at->second->run.count ? at->second : nullptr;
}

pending_ref snapshot_core::add_pending(uint64_t old_chunk, exception_store::space at) {
  auto p = std::make_shared<pending>();
  p->run = {old_chunk, at.first, at.count};
  p->ticket = next_ticket_++;
  pending_.emplace(old_chunk, p);
  chunks_in_flight_ += at.count;
  return p;
}

task<void> snapshot_core::throttle() {
  while (chunks_in_flight_ >= chunks_in_flight_most) {
    fewer_.reset();
    co_await fewer_.wait();
  }
}

task<void> snapshot_core::begin_exceptions(uint64_t offset, uint64_t length,
                                           std::vector<pending_ref>& made,
                                           std::vector<pending_ref>& others) {
  co_await throttle();
  if (!valid()) {
    co_await invalidate(errc::io);  // waits for whoever does it already
    co_return;
  }
  const uint64_t unit = chunk_bytes(), end = std::min(offset + length, end_bytes_.load());
  if (merging() || offset >= end) co_return;
  const uint64_t last = (end - 1) / unit;
  for (uint64_t chunk = offset / unit; chunk <= last;) {
    if (const pending_ref p = find_pending(chunk)) {
      others.push_back(p);
      chunk = p->run.old_chunk + p->run.count;
      continue;
    }
    if (exceptions_.find(chunk).found()) {
      ++chunk;
      continue;
    }
    const auto next = pending_.lower_bound(chunk);
    uint64_t most = (next == pending_.end() ? last + 1 : std::min(last + 1, next->first)) - chunk;
    uint64_t absent = 1;
    while (absent < most && !exceptions_.find(chunk + absent).found()) ++absent;
    const auto space = store_->allocate(absent);
    if (!space) {
      co_await invalidate(errc::nomem);
      co_return;
    }
    made.push_back(add_pending(chunk, *space));
    chunk += (*space).count;
  }
}

// The store takes them in the order of their allocation.
void snapshot_core::complete(pending_ref p, bool copied) {
  const uint64_t ticket = p->ticket;
  complete_.emplace(ticket, std::pair(std::move(p), copied));
  while (!complete_.empty() && complete_.begin()->first == next_commit_) {
    auto first = complete_.extract(complete_.begin());
    ++next_commit_;
    store_->commit(std::move(first.mapped().first), first.mapped().second);
  }
}

void snapshot_core::exception_done(pending_ref p, bool ok) {
  if (!ok || !valid()) {
    ++background_;
    return rt::spawn(fail_later(std::move(p)));
  }
  const chunk_run& run = p->run;
  // From here on reads go to the store; those that were sent to the origin before are waited for.
  for (uint64_t i = 0; i < run.count; ++i)
    exceptions_.insert(run.old_chunk + i, run.new_chunk + i, true);
  if (exceptions_.has_retired() && !freeing_) {
    ++background_;
    rt::spawn(free_retired());
  }
  if (tracker_.busy(run.old_chunk, run.count)) {
    ++background_;
    return rt::spawn(settle_later(std::move(p)));
  }
  finish(std::move(p));
}

task<void> snapshot_core::settle_later(pending_ref p) {
  co_await tracker_.drain(p->run.old_chunk, p->run.count);
  --background_;
  finish(std::move(p));
}

task<void> snapshot_core::fail_later(pending_ref p) {
  co_await invalidate(errc::io);
  p->failed = true;
  --background_;
  finish(std::move(p));
}

void snapshot_core::finish(pending_ref p) {
  for (uint64_t i = 0; i < p->run.count; ++i) exceptions_.settle(p->run.old_chunk + i);
  pending_.erase(p->run.old_chunk);
  chunks_in_flight_ -= p->run.count;
  p->done.set();
  fewer_.set();
}

task<void> snapshot_core::free_retired() {
  freeing_ = true;
  while (exceptions_.has_retired()) {
    const auto old = exceptions_.take_retired();
    co_await epochs_.quiesce();
  }
  freeing_ = false;
  --background_;
  fewer_.set();
}

// Whoever returns from here may rely on it: also after a crash the snapshot is not used any more.
task<void> snapshot_core::invalidate(errc why) {
  set_flag(invalid_flag);
  const auto held = co_await dropping_.lock();
  if ((flags() & dropped_flag) != 0) co_return;
  base::log_error("device-mapper", std::string("snapshots: Invalidating snapshot: ") +
                                       (why == errc::nomem ? "Unable to allocate exception."
                                                           : "Error reading/writing."));
  co_await store_->drop();
  set_flag(dropped_flag);
  if (event_) event_({});
}

task<void> snapshot_core::set_merging(bool merging) {
  co_await until_no_pending();
  if (merging) {
    set_flag(merging_flag);
    co_return;
  }
  // A snapshot relies on exceptions that are on the device.
  const auto kept = co_await store_->remember();
  if (!kept) co_await invalidate(errc::io);
  store_->allocate_from(exceptions_.largest_new_chunk() + 1);
  flags_.store(flags() & ~(merging_flag | merge_failed_flag), std::memory_order_release);
}

}  // namespace lbd::snapshot
