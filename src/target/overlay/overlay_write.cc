// SPDX-License-Identifier: MIT
// Writing: first writes fill granules from below and are published at the home reactor.
#include <algorithm>

#include "base/checked_math.h"
#include "block/segments.h"
#include "rt/buffer_pool.h"
#include "target/overlay/overlay.h"
#include "target/overlay/overlay_parts.h"

namespace lbd::overlay {

using base::io_error;
using base::result;
using block::errc;
using rt::segments;
using rt::task;

namespace {

// Freed map entries are given back in batches: a grace period costs a visit of every reactor.
constexpr size_t retired_per_batch = 256;

// [offset, offset + length) widened to whole units.
struct widened {
  uint64_t begin, end;
  widened(uint64_t offset, uint64_t length, uint64_t unit)
      : begin(base::round_down(offset, unit)), end(base::round_up(offset + length, unit)) {}
};

}  // namespace

task<result<void>> device::write(uint64_t offset, segments from, block::io_opts io) {
  if (top_ == nullptr) co_return io_error{errc::perm, 0};
  CO_CHECK(block::check_range(limits_, offset, block::total_bytes(from)));
  auto work = [this, offset, from, io] { return write_at_home(offset, from, io); };
  co_return co_await rt::call_on(home_, work);
}

task<result<void>> device::flush(block::io_opts io) {
  if (top_ == nullptr) co_return result<void>{};
  auto work = [this, io] { return top_->flush(io); };
  co_return co_await rt::call_on(home_, work);
}

task<result<void>> device::write_at_home(uint64_t offset, segments from, block::io_opts io) {
  const uint64_t length = block::total_bytes(from);
  for (uint64_t done = 0; done < length;) {
    // Chunks bound the locks held and end at block borders.
    const uint64_t at = offset + done;
    const uint64_t chunk_end =
        base::round_down(at, block::bounds::copy_chunk_bytes) + block::bounds::copy_chunk_bytes;
    const uint64_t n = std::min(length - done, chunk_end - at);
    const block::segment_list piece(from, done, n);
    CO_CHECK(co_await write_span(at, piece.view()));
    done += n;
  }
  if (io.fua()) co_return co_await top_->flush(io);
  co_return result<void>{};
}

// The longest part of [offset, offset + length) that lies in one piece of the top, or none of which
// does. REQUIRES: its blocks are known.
device::part device::next_part(uint64_t offset, uint64_t length) const noexcept {
  part found;
  while (found.length_bytes < length) {
    const uint64_t at = offset + found.length_bytes;
    const auto begin = static_cast<uint32_t>(at % map_block_bytes);
    const block_map::known k = map_.find(at / map_block_bytes);
    const runs whole{k.whole};
    const runs& all = k.what == block_map::known::kind::mixed ? *k.parts : whole;
    run r;
    for (const run& one : all)
      if (one.begin <= begin && begin < one.end) r = one;
    const bool in_top = r.kind == run_kind::data && r.layer == 0;
    const uint64_t place = r.offset + (begin - r.begin);
    if (found.length_bytes == 0) {
      found.in_top = in_top;
      found.place = place;
    } else if (in_top != found.in_top || (in_top && place != found.place + found.length_bytes)) {
      break;
    }
    found.length_bytes += r.end - begin;
  }
  found.length_bytes = std::min(found.length_bytes, length);
  return found;
}

// Writes a span whose blocks it locks. What the top holds is written where it is, and no byte
// beside it: others write there without a lock. The rest gets new places.
task<result<void>> device::write_span(uint64_t offset, segments from) {
  const uint64_t length = block::total_bytes(from);
  const widened units(offset, length, lock_unit_bytes_);
  const auto held = co_await locks_.lock(units.begin, units.end - units.begin);
  const widened whole(offset, length, granule_bytes_);
  const uint64_t end = std::min(whole.end, limits_.size_bytes);
  for (uint64_t b = whole.begin / map_block_bytes; b * map_block_bytes < end; ++b)
    CO_CHECK(co_await fill_locked(b));
  for (uint64_t done = 0; done < length;) {
    const part p = next_part(offset + done, length - done);
    const block::segment_list piece(from, done, p.length_bytes);
    if (p.in_top) {
      const epoch_visit here(*this);
      layer_visit counted(*this, true, 0, p.length_bytes);
      const auto written = co_await data_devices_[0]->write(p.place, piece.view(), {});
      CO_CHECK(counted.ended(written));
    } else {
      CO_CHECK(co_await write_new(offset + done, piece.view()));
    }
    done += p.length_bytes;
  }
  co_return result<void>{};
}

// Writes a part that the top does not hold: widened to granules, with what is missing at both ends
// read from the device as it is now. REQUIRES: home, blocks locked and known.
task<result<void>> device::write_new(uint64_t offset, segments from) {
  const uint64_t length = block::total_bytes(from);
  const widened whole(offset, length, granule_bytes_);
  const uint64_t head = offset - whole.begin, tail = whole.end - (offset + length);
  if (head == 0 && tail == 0) co_return co_await store_granules(offset, from);

  rt::buffer edges(granule_bytes_ * 2);
  const base::bytes_span before = edges.span().first(head);
  const base::bytes_span after = edges.span().subspan(granule_bytes_, tail);
  // Past the device's end a granule holds zeros.
  const uint64_t tail_in_device =
      std::min(whole.end, limits_.size_bytes) - std::min(offset + length, limits_.size_bytes);
  std::memset(after.data(), 0, after.size());
  if (head != 0) {
    const block::segment_list to{base::bytes_view(before)};
    CO_CHECK(co_await read(whole.begin, to.view(), {}));
  }
  if (tail_in_device != 0) {
    const block::segment_list to{base::bytes_view(after.first(tail_in_device))};
    CO_CHECK(co_await read(offset + length, to.view(), {}));
  }
  block::segment_list all;
  all.add({before.data(), before.size()});
  for (const iovec& v : from) all.add(v);
  all.add({after.data(), after.size()});
  co_return co_await store_granules(whole.begin, all.view());
}

// Allocates, writes and publishes whole granules; places that follow each other are written at
// once. REQUIRES: home, blocks locked and known.
task<result<void>> device::store_granules(uint64_t offset, segments from) {
  const uint64_t length = block::total_bytes(from);
  std::vector<block::allocation> taken;
  result<void> failed;
  for (uint64_t done = 0; done < length && failed;) {
    const uint64_t at = offset + done;
    const uint64_t cluster = top_->cluster_bytes();
    const uint64_t n = std::min(length - done, cluster - at % cluster);
    const auto a = co_await top_->allocate(at, n);
    if (a)
      taken.push_back(*a);
    else
      failed = a.error();
    done += n;
  }
  for (size_t i = 0; i < taken.size() && failed;) {
    uint64_t n = taken[i].length_bytes;
    size_t next = i + 1;
    while (next < taken.size() && taken[next].device_offset == taken[i].device_offset + n)
      n += taken[next++].length_bytes;
    const block::segment_list piece(from, taken[i].offset - offset, n);
    layer_visit counted(*this, true, 0, n);
    failed = co_await data_devices_[0]->write(taken[i].device_offset, piece.view(), {});
    failed = counted.ended(failed);
    i = next;
  }
  for (const block::allocation& a : taken) {
    if (!failed) {
      top_->abandon(a);
      continue;
    }
    const auto published = co_await top_->publish(a);
    if (!published) {
      failed = published;
      continue;
    }
    note(a.offset, a.length_bytes, run_kind::data, a.device_offset);
  }
  retire_some();
  co_return failed;
}

// Takes a change of the top up into the map, block by block; unknown blocks stay unknown.
void device::note(uint64_t offset, uint64_t length, run_kind kind, uint64_t place) {
  for (uint64_t done = 0; done < length;) {
    const uint64_t at = offset + done, block = at / map_block_bytes;
    const auto begin = static_cast<uint32_t>(at % map_block_bytes);
    const uint64_t n = std::min(length - done, map_block_bytes - begin);
    run r;
    r.begin = begin;
    r.end = static_cast<uint32_t>(begin + n);
    r.kind = kind;
    if (kind == run_kind::data) r.offset = place + done;
    const block_map::known k = map_.find(block);
    if (k.what == block_map::known::kind::mixed)
      map_.set(block, splice_run(*k.parts, r));
    else if (k.what == block_map::known::kind::uniform)
      map_.set(block, splice_run(runs{k.whole}, r));
    done += n;
  }
}

task<result<void>> device::discard(uint64_t offset, uint64_t length, block::io_opts io) {
  if (top_ == nullptr) co_return io_error{errc::perm, 0};
  CO_CHECK(block::check_range(limits_, offset, length));
  auto work = [this, offset, length, io] { return zero_at_home(offset, length, false, io); };
  co_return co_await rt::call_on(home_, work);
}

task<result<void>> device::write_zeroes(uint64_t offset, uint64_t length, block::io_opts io) {
  if (top_ == nullptr) co_return io_error{errc::perm, 0};
  CO_CHECK(block::check_range(limits_, offset, length));
  const bool keep = (io.flags & block::io_no_unmap) != 0;
  auto work = [this, offset, length, keep, io] { return zero_at_home(offset, length, keep, io); };
  co_return co_await rt::call_on(home_, work);
}

task<result<void>> device::zero_at_home(uint64_t offset, uint64_t length, bool keep_space,
                                        block::io_opts io) {
  const uint64_t end = offset + length;
  const uint64_t first = std::min(base::round_up(offset, granule_bytes_), end);
  // The device's last granule may reach past its end.
  const uint64_t last =
      end == limits_.size_bytes ? end : std::max(base::round_down(end, granule_bytes_), first);
  if (offset < first) CO_CHECK(co_await zero_by_writing(offset, first - offset));
  for (uint64_t at = first; at < last;) {
    uint64_t n = 0;
    {
      const uint64_t unit = base::round_down(at, lock_unit_bytes_);
      const auto held = co_await locks_.lock(unit, lock_unit_bytes_);
      // Where no layer holds anything there is nothing to hide; such runs are long.
      CO_TRY(const holding h, co_await resolve(at, last - at));
      n = h.length_bytes;
      if (keep_space || h.kind != run_kind::zero) {
        n = std::min(last - at, unit + lock_unit_bytes_ - at);
        CO_CHECK(co_await zero_granules(at, n, keep_space));
      } else if (n < last - at) {
        // The run ends inside a granule only where a layer's size does.
        n = std::max(base::round_down(at + n, granule_bytes_), at) - at;
        if (n == 0) {
          n = std::min(last - at, granule_bytes_);
          CO_CHECK(co_await zero_granules(at, n, keep_space));
        }
      }
    }
    at += n;
  }
  if (last < end) CO_CHECK(co_await zero_by_writing(last, end - last));
  if (io.fua()) co_return co_await top_->flush(io);
  co_return result<void>{};
}

// REQUIRES: home, the block locked, granule-aligned but for the device's end.
task<result<void>> device::zero_granules(uint64_t offset, uint64_t length, bool keep_space) {
  const uint64_t end = base::round_up(offset + length, granule_bytes_);
  for (uint64_t at = offset; at < end;) {
    const uint64_t cluster = top_->cluster_bytes();
    const uint64_t n = std::min(end - at, cluster - at % cluster);
    CO_CHECK(co_await top_->set_zero(at, n, keep_space));
    note(at, std::min(n, base::round_up(limits_.size_bytes, map_block_bytes) - at), run_kind::zero,
         0);
    at += n;
  }
  retire_some();
  co_return result<void>{};
}

// Less than a granule.
task<result<void>> device::zero_by_writing(uint64_t offset, uint64_t length) {
  rt::buffer zeros(length);
  std::memset(zeros.data(), 0, length);
  const block::segment_list from{base::bytes_view(zeros.span())};
  co_return co_await write_span(offset, from.view());
}

task<void> device::quiesce() {
  const auto held = co_await quiesce_lock_.lock();
  co_await epochs_.quiesce();
}

void device::retire_some() {
  if (freeing_ || map_.retired_count() < retired_per_batch) return;
  freeing_ = true;
  idle_.reset();
  rt::spawn(free_retired());
}

task<void> device::free_retired() {
  while (map_.retired_count() >= retired_per_batch) {
    const auto gone = map_.take_retired();
    co_await quiesce();
  }
  freeing_ = false;
  idle_.set();
}

task<result<void>> device::close(bool seal_top) {
  co_await idle_.wait();
  if (top_ == nullptr) co_return result<void>{};
  // When sealing fails, everything goes on as before.
  if (seal_top) CO_CHECK(co_await top_->seal());
  // The hook leads here: nobody may call it any more, and a call under way ends first.
  top_->set_quiesce({});
  const auto held = co_await quiesce_lock_.lock();
  co_return result<void>{};
}

}  // namespace lbd::overlay
