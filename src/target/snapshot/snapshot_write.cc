// SPDX-License-Identifier: MIT
// Writes of chunks that have no exception yet. Home reactor.
#include <algorithm>

#include "base/log.h"
#include "block/segments.h"
#include "target/snapshot/snapshot_core.h"

namespace lbd::snapshot {

// A part of a request in new chunks: a run of whole ones, which need no copy, or a part of one.
struct snapshot_core::piece {
  pending_ref p;
  uint64_t offset = 0;  // bytes
  uint64_t length = 0;
  bool whole = false;
};

// Places for as much of the range as has neither an exception nor a pending one. Returns how many
// bytes that is. Errors: nospc, when there is no place for the first chunk.
result<uint64_t> snapshot_core::allocate_pieces(uint64_t offset, uint64_t length,
                                                std::vector<piece>& out) {
  const uint64_t unit = chunk_bytes();
  const uint64_t last_of_batch =
      std::max((offset / unit + 1) * unit, base::round_down(offset + batch_bytes, unit));
  const uint64_t end = std::min(offset + length, last_of_batch);
  uint64_t at = offset;
  while (at < end) {
    const uint64_t chunk = at / unit, chunk_end = (chunk + 1) * unit;
    if (find_pending(chunk)) break;
    piece p;
    p.offset = at;
    p.whole = at % unit == 0 && chunk_end <= end;
    uint64_t most = p.whole ? (end - at) / unit : 1;
    const auto next = pending_.lower_bound(chunk);
    if (next != pending_.end()) most = std::min(most, next->first - chunk);
    const auto space = store_->allocate(most);
    if (!space && out.empty()) return space.error();
    if (!space) break;
    p.p = add_pending(chunk, *space);
    p.length = p.whole ? (*space).count * unit : std::min(end, chunk_end) - at;
    at += p.length;
    out.push_back(std::move(p));
  }
  return at - offset;
}

// Brings the data of new chunks to the store: the request's own, or the origin's around it. Other
// than the request itself this cannot be given up any more.
task<bool> snapshot_core::fill_piece(const piece& p, segments from, uint64_t offset, io_opts io) {
  const uint64_t place = store_->place_of(p.p->run.new_chunk);
  bool copied = false;
  if (p.whole) {
    const block::segment_list part(from, p.offset - offset, p.length);
    io_opts data;
    data.trace_id = io.trace_id;
    // The entries of a persistent store are written after a flush.
    if (!store_->type().persistent) data.flags = io.flags;
    const auto r = co_await block::write(store_->device(), place, part.view(), data);
    copied = r.has_value();
  } else {
    const uint64_t n = origin_bytes_of(p.p->run);
    const block::region source{origin_.device.get(), p.p->run.old_chunk * chunk_bytes(), n};
    std::vector<block::copy_destination> to;
    to.push_back({&store_->device(), place, 0, n});
    const block::copy_result r = co_await copies_.copy(source, std::move(to));
    copied = r.ok();
  }
  complete(p.p, copied);
  co_return copied;
}

task<void> snapshot_core::store_full() {
  if (!store_->type().overflow) co_return co_await invalidate(errc::nomem);
  if (overflowed()) co_return;
  set_flag(overflow_flag);
  base::log_error("device-mapper", "snapshots: Snapshot overflowed: Unable to allocate exception.");
}

// Writes the beginning of a range whose first chunk had no exception; returns how many bytes, 0
// when it is to be looked up again.
task<result<uint64_t>> snapshot_core::write_new(uint64_t offset, segments from, io_opts io) {
  co_await throttle();
  if ((flags() & (invalid_flag | overflow_flag)) != 0) co_return io_error{errc::io, 0};
  const span s = find_span(offset, block::total_bytes(from));
  if (s.in_store) co_return uint64_t{0};
  if (const pending_ref p = find_pending(offset / chunk_bytes())) {
    co_await p->done.wait();
    co_return uint64_t{0};
  }
  std::vector<piece> pieces;
  const auto taken = allocate_pieces(offset, s.length, pieces);
  if (!taken) {
    co_await store_full();
    co_return io_error{errc::io, 0};
  }
  if (pieces.size() == 1) {
    co_await fill_piece(pieces[0], from, offset, io);
  } else {
    std::vector<task<bool>> all;
    for (const piece& p : pieces) all.push_back(fill_piece(p, from, offset, io));
    co_await rt::when_all(std::move(all));
  }
  for (const piece& p : pieces) {
    co_await p.p->done.wait();
    if (p.p->failed) co_return io_error{errc::io, 0};
  }
  for (const piece& p : pieces) {
    if (p.whole) continue;
    const block::segment_list part(from, p.offset - offset, p.length);
    const uint64_t place = store_->place_of(p.p->run.new_chunk) + p.offset % chunk_bytes();
    CO_CHECK(co_await block::write(store_->device(), place, part.view(), io));
  }
  co_return *taken;
}

}  // namespace lbd::snapshot
