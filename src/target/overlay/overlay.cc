// SPDX-License-Identifier: MIT
// Reading: the map, routing, and what has to be produced. Writing is in overlay_write.cc.
#include "target/overlay/overlay.h"

#include <algorithm>

#include "base/checked_math.h"
#include "block/segments.h"
#include "target/overlay/overlay_parts.h"

namespace lbd::overlay {

using base::io_error;
using base::result;
using block::errc;
using rt::segments;
using rt::task;

namespace {

// What a routed request carries to its end, in 64 bits. The start keeps 46 bits of nanoseconds: 19
// hours, after which a latency is taken modulo that.
struct routed_cookie {
  static constexpr size_t no_layer = 0xffff;
  static constexpr unsigned time_shift = 18;
  uint32_t epoch = 0;  // 0 or 1
  bool is_write = false;
  size_t layer = no_layer;
  uint64_t begin_ns = 0;

  routed_cookie() = default;
  explicit routed_cookie(uint64_t packed) noexcept
      : epoch(packed & 1),
        is_write((packed & 2) != 0),
        layer(packed >> 2 & no_layer),
        begin_ns(packed >> time_shift) {}
  uint64_t packed() const noexcept {
    return begin_ns << time_shift | layer << 2 | (is_write ? 2u : 0u) | epoch;
  }
  uint64_t since(uint64_t now_ns) const noexcept {
    return ((now_ns - begin_ns) << time_shift) >> time_shift;
  }
};

// Whether a run of a later block, `done` bytes behind the beginning of `first`, lies there as well.
bool goes_on(const run& first, uint64_t done, const run& later) noexcept {
  if (later.kind != first.kind || later.kind == run_kind::opaque) return false;
  return later.kind == run_kind::zero ||
         (later.layer == first.layer && later.offset == first.offset + done);
}

// A reader's wishes, without the place for details: a layer would tell them in its own bytes.
block::io_opts for_layer(block::io_opts io) noexcept {
  io.error = nullptr;
  return io;
}

}  // namespace

device::device(rt::runtime& runtime, std::vector<member> members, block::change_layer* top,
               uint64_t size_bytes)
    : runtime_(runtime),
      home_(rt::reactor::current()),
      members_(std::move(members)),
      top_(top),
      zeros_(std::make_shared<zero_device>(size_bytes)),
      map_(size_bytes),
      epochs_(runtime),
      slots_(runtime.reactor_count()) {
  for (const member& m : members_)
    data_devices_.push_back(m.change ? &m.change->data_device() : m.flat.get());
  for (slot& s : slots_) s.layers = std::vector<lazy_counters>(members_.size());
  limits_.size_bytes = size_bytes;
  limits_.read_only = top_ == nullptr;
  idle_.set();
  if (top_ == nullptr) return;
  granule_bytes_ = top_->granule_bytes();
  lock_unit_bytes_ = std::max(top_->cluster_bytes(), map_block_bytes);
  limits_.can_discard = true;
  limits_.can_write_zeroes = true;
  limits_.fast_zero = true;
  limits_.discard_granularity_bytes = granule_bytes_;
  limits_.preferred_bytes = static_cast<uint32_t>(std::max<uint64_t>(granule_bytes_, 4096));
  if (granule_bytes_ > 4096) limits_.io_opt_bytes = limits_.preferred_bytes;
  top_->set_quiesce([this] { return quiesce(); });
}

device::~device() = default;

void device::leave(uint64_t cookie, errc code) noexcept {
  block::moment end;
  leave_at(cookie, code, end);
}

void device::leave_at(uint64_t cookie, errc code, block::moment& end) noexcept {
  const routed_cookie c(cookie);
  if (c.layer != routed_cookie::no_layer)
    counters_of(c.is_write, c.layer).finished(c.since(end.ns()), code != errc::ok);
  epochs_.leave(c.epoch);
}

block::op_counters& device::counters_of(bool is_write, size_t layer) noexcept {
  layer_counters& c = slots_[rt::reactor::current().index()].layers[layer].get();
  return is_write ? c.writes : c.reads;
}

layer_totals device::totals(size_t layer) const noexcept {
  layer_totals t;
  for (const slot& s : slots_) {
    const layer_counters* c = s.layers[layer].look();
    if (c == nullptr) continue;
    c->reads.add_to(t.reads);
    c->writes.add_to(t.writes);
  }
  return t;
}

// One run for [offset, offset + length), which may cross blocks when they follow each other.
bool device::find_place(uint64_t offset, uint64_t length, run& out) const noexcept {
  const uint64_t block = offset / map_block_bytes;
  const auto begin = static_cast<uint32_t>(offset % map_block_bytes);
  if (length > map_block_bytes - begin) return find_long_place(offset, length, out);
  return map_.find_run(block, begin, begin + static_cast<uint32_t>(length), out);
}

bool device::find_long_place(uint64_t offset, uint64_t length, run& out) const noexcept {
  return find_longest(offset, length, out) == length;
}

// How much of the range, from its beginning, is one run; 0 if the first block is unknown.
uint64_t device::find_longest(uint64_t offset, uint64_t length, run& out) const noexcept {
  uint64_t done = 0;
  while (done < length) {
    const uint64_t at = offset + done;
    run r;
    if (!map_.find_from(at / map_block_bytes, static_cast<uint32_t>(at % map_block_bytes), r))
      break;
    if (done == 0)
      out = r;
    else if (!goes_on(out, done, r))
      break;
    done += std::min<uint64_t>(length - done, r.end - r.begin);
  }
  return done;
}

block::routed device::route(block::op what, uint64_t offset, uint64_t length,
                            block::path& way) noexcept {
  const bool is_write = what == block::op::write;
  if (!is_write && what != block::op::read) return {};
  const uint32_t epoch = epochs_.enter();
  run r;
  const bool found = find_place(offset, length, r) && r.kind != run_kind::opaque &&
                     (!is_write || (top_ != nullptr && r.kind == run_kind::data && r.layer == 0));
  if (!found) {
    epochs_.leave(epoch);
    return {};
  }
  routed_cookie cookie;
  cookie.epoch = epoch;
  cookie.is_write = is_write;
  if (r.kind == run_kind::zero) {
    way.push(*this, cookie.packed());
    return {zeros_.get(), offset};
  }
  counters_of(is_write, r.layer).started(length);
  cookie.layer = r.layer;
  cookie.begin_ns = way.begin().ns();
  way.push(*this, cookie.packed());
  return {data_devices_[r.layer], r.offset};
}

task<result<device::holding>> device::resolve(uint64_t offset, uint64_t length) {
  holding h;
  h.layer = members_.size();
  h.length_bytes = length;
  for (size_t i = 0; i < members_.size(); ++i) {
    const member& m = members_[i];
    const uint64_t size = (m.change ? m.change->limits() : m.flat->limits()).size_bytes;
    if (offset >= size) continue;
    h.length_bytes = std::min(h.length_bytes, size - offset);
    if (m.flat) {
      h.kind = run_kind::data;
      h.layer = i;
      h.offset = offset;
      break;
    }
    CO_TRY(const block::placement p, co_await m.change->locate(offset, h.length_bytes));
    h.length_bytes = std::min(h.length_bytes, p.length_bytes);
    if (p.kind == block::placement_kind::absent) continue;
    h.layer = i;
    h.offset = p.offset;
    h.kind = p.kind == block::placement_kind::zero   ? run_kind::zero
             : p.kind == block::placement_kind::data ? run_kind::data
                                                     : run_kind::opaque;
    break;
  }
  co_return h;
}

// REQUIRES: home, and the range lock of the block is held.
task<result<void>> device::fill_locked(uint64_t block) {
  if (map_.is_known(block)) co_return result<void>{};
  const uint64_t start = block * map_block_bytes;
  const uint64_t end = std::min(start + map_block_bytes, limits_.size_bytes);
  runs all;
  for (uint64_t at = start; at < end;) {
    CO_TRY(const holding h, co_await resolve(at, end - at));
    run r;
    r.begin = static_cast<uint32_t>(at - start);
    r.end = static_cast<uint32_t>(r.begin + h.length_bytes);
    r.kind = h.kind;
    r.offset = h.offset;
    if (h.kind != run_kind::zero) r.layer = static_cast<uint16_t>(h.layer);
    append_run(all, r);
    at += h.length_bytes;
  }
  // A last block that the device cuts short is complete all the same.
  if (!all.empty() && end == limits_.size_bytes) {
    run tail;
    tail.begin = static_cast<uint32_t>(end - start);
    tail.end = map_block_bytes;
    append_run(all, tail);
  }
  map_.set(block, std::move(all));
  retire_some();
  co_return result<void>{};
}

task<result<void>> device::fill_at_home(uint64_t block, uint64_t end) {
  constexpr unsigned at_once = 16;  // then others may go on
  for (unsigned filled = 0; block < end; ++block) {
    if (map_.is_known(block)) continue;
    if (filled++ == at_once) {
      filled = 1;
      co_await rt::yield_now{};
    }
    const uint64_t unit = base::round_down(block * map_block_bytes, lock_unit_bytes_);
    const auto held = co_await locks_.lock(unit, lock_unit_bytes_);
    CO_CHECK(co_await fill_locked(block));
  }
  co_return result<void>{};
}

// Any reactor. The map knows all blocks of the range afterwards, and does not forget them.
task<result<void>> device::learn(uint64_t offset, uint64_t length) {
  uint64_t block = offset / map_block_bytes;
  const uint64_t end = base::div_up(offset + length, map_block_bytes);
  while (block < end && map_.is_known(block)) ++block;
  if (block == end) co_return result<void>{};
  auto work = [this, block, end] { return fill_at_home(block, end); };
  co_return co_await rt::call_on(home_, work);
}

task<result<void>> device::read_run(const run r, uint64_t offset, segments to, block::io_opts io) {
  switch (r.kind) {
    case run_kind::zero:
      block::fill_zero(to);
      co_return result<void>{};
    case run_kind::data: {
      layer_visit here(*this, false, r.layer, block::total_bytes(to));
      const auto done = co_await block::read(*data_devices_[r.layer], r.offset, to, io);
      co_return here.ended(done);
    }
    case run_kind::opaque: {
      layer_visit here(*this, false, r.layer, block::total_bytes(to));
      const auto done = co_await members_[r.layer].change->read(offset, to, io);
      co_return here.ended(done);
    }
  }
  co_return io_error{errc::io, 0};
}

// What lies in one place goes in one request, however many blocks it covers: each may have far to
// go.
task<result<void>> device::read(uint64_t offset, segments to, block::io_opts io) {
  const uint64_t length = block::total_bytes(to);
  CO_CHECK(block::check_range(limits_, offset, length));
  CO_CHECK(co_await learn(offset, length));
  for (uint64_t done = 0; done < length;) {
    const epoch_visit here(*this);
    run r;
    const uint64_t n = find_longest(offset + done, length - done, r);
    if (n == 0) co_return io_error{errc::io, 0};
    const block::segment_list piece(to, done, n);
    CO_CHECK(co_await read_run(r, offset + done, piece.view(), for_layer(io)));
    done += n;
  }
  co_return result<void>{};
}

task<result<void>> device::extents(uint64_t offset, uint64_t length, block::extent_list& out,
                                   block::io_opts io) {
  for (uint64_t done = 0; done < length && !out.full();) {
    const epoch_visit here(*this);
    CO_TRY(const holding h, co_await resolve(offset + done, length - done));
    const bool flat = h.kind == run_kind::data && members_[h.layer].flat != nullptr;
    if (flat) {
      const uint64_t before = out.total_bytes();
      CO_CHECK(co_await members_[h.layer].flat->extents(h.offset, h.length_bytes, out, io));
      if (out.total_bytes() == before) break;
      done += out.total_bytes() - before;
      continue;
    }
    const bool zero = h.kind == run_kind::zero;
    if (!out.append({h.length_bytes, zero, zero})) break;
    done += h.length_bytes;
  }
  co_return result<void>{};
}

}  // namespace lbd::overlay
