// SPDX-License-Identifier: MIT
#include "block/file_device.h"

#include <linux/falloc.h>

#include <algorithm>

#include "base/checked_math.h"
#include "base/log.h"
#include "block/segments.h"

namespace lbd::block {
namespace {

constexpr uint64_t disk_block_bytes = 4096;
// What a write that takes turns copies in one of them: less than a core's cache holds.
constexpr uint64_t turn_bytes = 128 << 10;

template <class T>
void raise_to(std::atomic<T>& value, T at_least) noexcept {
  T now = value.load(std::memory_order_relaxed);
  while (now < at_least && !value.compare_exchange_weak(now, at_least, std::memory_order_acq_rel)) {
  }
}

block::limits limits_of(const rt::file_info& info, file_device::size_rule rule) {
  block::limits l;
  l.size_bytes = rule == file_device::size_rule::growing ? uint64_t{INT64_MAX} / 512 * 512
                                                         : base::round_up(info.size_bytes, 512);
  l.read_only = !info.writable;
  l.can_discard = info.writable;
  l.can_write_zeroes = info.writable;
  l.fast_zero = info.writable && !info.is_block_device;
  l.discard_granularity_bytes = 4096;
  l.block_bytes = std::max<uint32_t>(info.direct_align_bytes, 512);
  l.io_min_bytes = l.block_bytes;
  return l;
}

}  // namespace

file_device::file_device(std::unique_ptr<rt::file> file, size_rule rule)
    : limits_(limits_of(file->info(), rule)),
      file_(std::move(file)),
      end_(file_->info().size_bytes) {}

void file_device::note_written(uint64_t end) noexcept {
  raise_to(end_, end);
  written_.fetch_add(1, std::memory_order_acq_rel);
}

task<result<void>> file_device::read(uint64_t offset, segments to, io_opts) {
  const uint64_t wanted = total_bytes(to);
  if (to.size() <= bounds::segments_per_request) {
    CO_TRY(const size_t n, co_await file_->read(offset, to));
    if (n == wanted) co_return result<void>{};
  }
  // Rare: a short result, the end of the file, or very many segments.
  for (uint64_t done = 0; done < wanted;) {
    const segment_list rest(to, done, wanted - done);
    const segments some =
        rest.view().first(std::min(rest.view().size(), bounds::segments_per_request));
    CO_TRY(const size_t n, co_await file_->read(offset + done, some));
    if (n == 0) {
      fill_zero(rest.view());
      break;
    }
    done += n;
  }
  co_return result<void>{};
}

task<result<void>> file_device::write(uint64_t offset, segments from, io_opts io) {
  if (limits_.read_only) co_return io_error{errc::perm, 0};
  if (io.fua() && sync_failed()) co_return io_error{errc::io, 0};
  const uint64_t wanted = total_bytes(from);
  const bool in_turns = (io.flags & io_in_turns) != 0 && file_->info().in_memory;
  const uint64_t most = in_turns ? turn_bytes : wanted;
  for (uint64_t done = 0; done < wanted;) {
    const segment_list rest(from, done, std::min(wanted - done, most));
    const segments some =
        rest.view().first(std::min(rest.view().size(), bounds::segments_per_request));
    const auto n = co_await file_->write(offset + done, some);
    if (!n) co_return n.error();
    if (*n == 0) co_return io_error{errc::io, 0};
    done += *n;
    if (in_turns && done < wanted) co_await rt::yield_now{};
  }
  note_written(offset + wanted);
  if (io.fua()) co_return co_await flush(io);
  co_return result<void>{};
}

task<result<void>> file_device::flush(io_opts) {
  if (sync_failed()) co_return io_error{errc::io, 0};
  if (synced_.load(std::memory_order_acquire) >= written_.load(std::memory_order_acquire))
    co_return result<void>{};
  // The kernel tells an error of writing back once per open file, so syncs go one after the other:
  // no other one may take the error and leave this one with a success.
  rt::reactor* home = nullptr;
  if (sync_home_.compare_exchange_strong(home, &rt::reactor::current())) home = sync_home_;
  auto work = [this] { return sync_at_home(); };
  co_return co_await rt::call_on(*home, work);
}

task<result<void>> file_device::sync_at_home() {
  const auto held = co_await syncing_.lock();
  if (sync_failed()) co_return io_error{errc::io, 0};
  const uint64_t covered = written_.load(std::memory_order_acquire);
  if (synced_.load(std::memory_order_acquire) >= covered) co_return result<void>{};
  const auto r = co_await file_->sync_data();
  if (!r && file_->info().syncs_again) co_return r.error();
  if (!r) {
    sync_failed_.store(true, std::memory_order_release);
    base::log_error("file", "fdatasync of '" + file_->info().path +
                                "' failed: " + base::to_string(r.error().code) +
                                "; no later flush of this file will succeed");
    co_return r.error();
  }
  raise_to(synced_, covered);
  co_return result<void>{};
}

task<result<void>> file_device::allocate(int mode, uint64_t offset, uint64_t length, io_opts io) {
  if (sync_failed() && io.fua()) co_return io_error{errc::io, 0};
  CO_CHECK(co_await file_->allocate(mode, offset, length));
  written_.fetch_add(1, std::memory_order_acq_rel);
  if (io.fua()) co_return co_await flush(io);
  co_return result<void>{};
}

task<result<void>> file_device::discard(uint64_t offset, uint64_t length, io_opts io) {
  if (limits_.read_only) co_return io_error{errc::perm, 0};
  if (no_punch_.load(std::memory_order_relaxed)) co_return result<void>{};
  const auto r = co_await allocate(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length, io);
  if (r || r.error().code != errc::notsup) co_return r;
  no_punch_ = true;
  co_return result<void>{};
}

task<result<void>> file_device::write_zeroes(uint64_t offset, uint64_t length, io_opts io) {
  if (limits_.read_only) co_return io_error{errc::perm, 0};
  const bool in_file = offset + length <= end_bytes();
  const bool may_punch = (io.flags & io_no_unmap) == 0 && !file_->info().is_block_device;
  if (may_punch && in_file && !no_punch_.load(std::memory_order_relaxed)) {
    const auto r =
        co_await allocate(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length, io);
    if (r || r.error().code != errc::notsup) co_return r;
    no_punch_ = true;
  }
  const bool fits = !file_->info().is_block_device || (offset | length) % disk_block_bytes == 0;
  if (fits && !no_zero_range_.load(std::memory_order_relaxed)) {
    const auto r = co_await allocate(FALLOC_FL_ZERO_RANGE, offset, length, io);
    if (r) note_written(offset + length);
    if (r || r.error().code != errc::notsup) co_return r;
    no_zero_range_ = true;
  }
  co_return co_await block_device::write_zeroes(offset, length, io);
}

task<result<void>> file_device::extents(uint64_t offset, uint64_t length, extent_list& out,
                                        io_opts) {
  const uint64_t end = offset + length;
  while (offset < end && !out.full()) {
    if (offset >= end_bytes()) {
      out.append({end - offset, true, true});
      break;
    }
    const rt::file_extent e = file_->extent_at(offset);
    const uint64_t n = std::min(e.length_bytes, end - offset);
    if (n == 0) break;
    out.append({n, e.hole, e.hole});
    offset += n;
  }
  co_return result<void>{};
}

lease file_device::borrow(uint64_t offset, uint64_t length) noexcept {
  const base::bytes_view map = file_->mapping();
  const uint64_t end = std::min<uint64_t>(map.size(), end_bytes());
  if (!base::range_fits(offset, length, end) || !file_->resident(offset, length)) return {};
  return {map.subspan(offset, length)};
}

}  // namespace lbd::block
