// SPDX-License-Identifier: MIT
// Changing the map of a change file: allocation, zeroing, and writes for those who use it alone.
#include <algorithm>
#include <cstring>

#include "block/segments.h"
#include "rt/buffer_pool.h"
#include "store/qcow2/change_file.h"

namespace lbd::store {

using base::errc;
using base::io_error;
using base::result;
using block::allocation;
using qcow2::cluster_mapping;
using rt::segments;
using rt::task;

void change_file::set_l1(uint64_t index, qcow2::l1_entry e) {
  l1_[index] = qcow2::encode_l1_entry(e);
  dirty_l1_.insert(index);
}

void change_file::put_entry(table_block& l2, uint64_t offset, const cluster_mapping& m) {
  const uint32_t index = g_.l2_index(offset);
  const qcow2::raw_l2_entry raw = qcow2::encode_l2_entry(g_, m);
  if (raw == qcow2::load_l2_entry(g_, l2.bytes, index)) return;
  qcow2::store_l2_entry(g_, l2.bytes, index, raw);
  l2_.mark_dirty(l2, uint64_t{index} * g_.l2_entry_size(), g_.l2_entry_size());
}

uint32_t change_file::mask_of(uint64_t offset, uint64_t length) const noexcept {
  const uint32_t first = g_.subcluster_index(offset);
  const auto count = static_cast<uint32_t>(length >> g_.subcluster_bits());
  return (count >= 32 ? ~uint32_t{0} : (uint32_t{1} << count) - 1) << first;
}

task<result<uint64_t>> change_file::allocate_cluster() {
  CO_TRY(const uint64_t offset, co_await refcounts_.allocate());
  // A table that counts 0 must not be overwritten, whatever else is wrong.
  if (l2_.holds(offset) || refcounts_.holds(offset)) {
    const io_error e = qcow2::corrupt(qcow2::corruption::refcount_mismatch);
    tell_corruption(e);
    co_return e;
  }
  areas_.set_file_bytes(std::max(areas_.file_bytes(), offset + g_.cluster_size()));
  used_bytes_ += g_.cluster_size();
  fresh_.push_back(offset);
  co_return offset;
}

// By the device, which knows then that there is something to sync.
task<result<void>> change_file::write_at(uint64_t offset, base::bytes_view bytes) {
  const iovec v{const_cast<std::byte*>(bytes.data()), bytes.size()};
  co_return co_await io_.write(offset, segments(&v, 1), {});
}

// A table of our own for an L1 entry: empty, or a copy of one that a snapshot shares. It is written
// out whole at once, so that a commit finds its space taken.
task<result<void>> change_file::new_l2_table(uint64_t l1_index, uint64_t copy_of) {
  std::vector<std::byte> bytes(g_.cluster_size());
  if (copy_of != 0) CO_CHECK(co_await file_.read_all(copy_of, bytes));
  CO_TRY(const uint64_t offset, co_await allocate_cluster());
  auto written = co_await write_at(offset, bytes);
  if (!written) {
    dropped_.push_back(g_.cluster_index(offset));
    co_return written.error();
  }
  l2_.add(offset, std::move(bytes));
  set_l1(l1_index, {offset, true});
  if (copy_of != 0) {
    // It may be in memory from reading, and its cluster become data, where nobody shares it after
    // all.
    l2_.forget(copy_of);
    old_tables_.insert(g_.cluster_index(copy_of));
    dropped_.push_back(g_.cluster_index(copy_of));
  }
  co_return result<void>{};
}

// REQUIRES: map_lock_ is held.
task<result<table_block*>> change_file::l2_for_writing(uint64_t l1_index) {
  if (l1_index >= l1_.size()) co_return io_error{errc::inval};
  CO_TRY(const qcow2::l1_entry e, tell(qcow2::decode_l1_entry(g_, l1_[l1_index])));
  if (e.l2_offset != 0) CO_CHECK(tell(areas_.check_cluster(e.l2_offset)));
  if (!e.copied) CO_CHECK(co_await new_l2_table(l1_index, e.l2_offset));
  co_return co_await l2_for_reading(l1_index);
}

void change_file::drop_references(const cluster_mapping& m) {
  if (m.host_offset == 0) return;
  const uint64_t first = g_.cluster_index(m.host_offset);
  const uint64_t bytes = m.is_compressed() ? m.compressed_bytes : 1;
  const uint64_t last = g_.cluster_index(m.host_offset + bytes - 1);
  for (uint64_t c = first; c <= last; ++c) dropped_.push_back(c);
}

// Gives the guest cluster a host cluster that nobody shares, with the same content. REQUIRES:
// map_lock_ is held.
task<result<cluster_mapping>> change_file::make_own(uint64_t offset, cluster_mapping m) {
  cluster_mapping own;
  own.zero = m.is_compressed() ? 0 : m.zero;
  own.allocated = m.is_compressed() ? g_.all_subclusters() : m.allocated;
  if (own.allocated != 0) {
    rt::buffer content(g_.cluster_size());
    std::fill(content.span().begin(), content.span().end(), std::byte{0});
    CO_CHECK(co_await read_cluster(m, content.span()));
    CO_TRY(own.host_offset, co_await allocate_cluster());
    own.copied = true;
    auto written = co_await write_at(own.host_offset, content.span());
    if (!written) {
      dropped_.push_back(g_.cluster_index(own.host_offset));
      co_return written.error();
    }
  }
  CO_TRY(table_block * l2, co_await l2_for_reading(g_.l1_index(offset)));
  put_entry(*l2, offset, own);
  drop_references(m);
  co_return own;
}

// Metadata that waits to be written is bounded.
task<result<void>> change_file::wait_for_room() {
  if (sealed_ || !writable_) co_return io_error{errc::rofs};
  if (failed_) co_return *failed_;
  if (l2_.dirty_bytes() + refcounts_.dirty_bytes() >= l2_.most_bytes()) {
    CO_CHECK(co_await flush_home());
  }
  co_return result<void>{};
}

task<result<allocation>> change_file::allocate(uint64_t offset, uint64_t length) {
  const uint64_t granules = granule_bytes() - 1;
  if (((offset | length) & granules) != 0 || length == 0 || offset >= limits_.size_bytes ||
      g_.cluster_index(offset) != g_.cluster_index(offset + length - 1)) {
    co_return io_error{errc::inval};
  }
  CO_CHECK(co_await wait_for_room());
  auto held = co_await map_lock_.lock();
  allocation a{offset, length, g_.offset_in_cluster(offset)};
  auto found = pending_.find(g_.cluster_index(offset));
  if (found == pending_.end()) {
    CO_TRY(const table_block* l2, co_await l2_for_writing(g_.l1_index(offset)));
    CO_TRY(cluster_mapping m, entry_at(*l2, offset));
    if (m.host_offset != 0 && !m.copied) {
      CO_TRY(m, co_await make_own(offset, m));
    }
    pending_cluster p{m.host_offset, 0, m.host_offset == 0};
    if (p.fresh) {
      CO_TRY(p.host_offset, co_await allocate_cluster());
    }
    found = pending_.emplace(g_.cluster_index(offset), p).first;
  }
  ++found->second.users;
  a.device_offset += found->second.host_offset;
  co_return a;
}

task<result<void>> change_file::publish(const allocation& a) {
  auto l2 = co_await l2_for_reading(g_.l1_index(a.offset));
  if (!l2 || *l2 == nullptr) {
    abandon(a);
    co_return l2 ? result<void>(io_error{errc::io}) : result<void>(l2.error());
  }
  auto entry = entry_at(**l2, a.offset);
  if (!entry) {
    abandon(a);
    co_return entry.error();
  }
  cluster_mapping m = *entry;
  const uint32_t mask = mask_of(a.offset, a.length_bytes);
  m.host_offset = a.device_offset - g_.offset_in_cluster(a.offset);
  m.copied = true;
  m.allocated |= mask;
  m.zero &= ~mask;
  put_entry(**l2, a.offset, m);
  auto found = pending_.find(g_.cluster_index(a.offset));
  found->second.fresh = false;
  if (--found->second.users == 0) pending_.erase(found);
  commit_if_much();
  co_return result<void>{};
}

void change_file::abandon(const allocation& a) {
  auto found = pending_.find(g_.cluster_index(a.offset));
  if (--found->second.users != 0) return;
  if (found->second.fresh) dropped_.push_back(g_.cluster_index(found->second.host_offset));
  pending_.erase(found);
}

// One cluster's part of set_zero(). REQUIRES: map_lock_ is held.
task<result<void>> change_file::zero_cluster(uint64_t offset, uint64_t length, bool keep_space) {
  const uint32_t mask = mask_of(offset, length);
  CO_TRY(const table_block* before, co_await l2_for_writing(g_.l1_index(offset)));
  CO_TRY(cluster_mapping m, entry_at(*before, offset));
  if (m.host_offset != 0 && !m.copied) {
    if (mask == g_.all_subclusters()) {
      drop_references(m);
      m = cluster_mapping{};
    } else {
      CO_TRY(m, co_await make_own(offset, m));
    }
  }
  m.zero |= mask;
  m.allocated &= ~mask;
  const bool in_use = keep_space || m.allocated != 0 || pending_.contains(g_.cluster_index(offset));
  if (m.host_offset != 0 && !in_use) {
    dropped_.push_back(g_.cluster_index(m.host_offset));
    m.host_offset = 0;
    m.copied = false;
  }
  CO_TRY(table_block * l2, co_await l2_for_reading(g_.l1_index(offset)));
  put_entry(*l2, offset, m);
  co_return result<void>{};
}

task<result<void>> change_file::set_zero(uint64_t offset, uint64_t length, bool keep_space) {
  const uint64_t end = offset + length;
  if (((offset | length) & (granule_bytes() - 1)) != 0 ||
      end > base::round_up(limits_.size_bytes, granule_bytes())) {
    co_return io_error{errc::inval};
  }
  while (offset < end) {
    CO_CHECK(co_await wait_for_room());
    const uint64_t table_end = (g_.l1_index(offset) + 1) * g_.l2_coverage();
    const uint64_t stop = std::min(end, table_end);
    {
      auto held = co_await map_lock_.lock();
      while (offset < stop) {
        const uint64_t n =
            std::min(stop - offset, g_.cluster_size() - g_.offset_in_cluster(offset));
        CO_CHECK(co_await zero_cluster(offset, n, keep_space));
        offset += n;
      }
    }
    commit_if_much();
    if (offset < end) co_await rt::yield_now{};
  }
  co_return result<void>{};
}

// Whole granules inside one cluster.
task<result<void>> change_file::write_granules(uint64_t offset, segments from) {
  CO_TRY(const allocation a, co_await allocate(offset, block::total_bytes(from)));
  auto written = co_await io_.write(a.device_offset, from, {});
  if (!written) {
    abandon(a);
    co_return written.error();
  }
  co_return co_await publish(a);
}

// Anything inside one cluster.
task<result<void>> change_file::write_piece(uint64_t offset, segments from) {
  const uint64_t length = block::total_bytes(from);
  const uint64_t begin = base::round_down(offset, granule_bytes());
  const uint64_t end = base::round_up(offset + length, granule_bytes());
  auto held = co_await writes_.lock(begin, end - begin);
  if (begin == offset && end == offset + length) co_return co_await write_granules(offset, from);
  rt::buffer whole(end - begin);
  const uint64_t readable = std::min(end, limits_.size_bytes) - begin;
  std::memset(whole.data(), 0, whole.size());
  const iovec old{whole.data(), readable};
  CO_CHECK(co_await read(begin, segments(&old, 1), {}));
  block::copy_from(from, whole.span().subspan(offset - begin, length));
  const iovec all{whole.data(), whole.size()};
  co_return co_await write_granules(begin, segments(&all, 1));
}

task<result<void>> change_file::write(uint64_t offset, segments from, block::io_opts io) {
  uint64_t left = block::total_bytes(from);
  if (!base::range_fits(offset, left, limits_.size_bytes)) co_return io_error{errc::inval};
  uint64_t done = 0;
  while (left > 0) {
    const uint64_t at = offset + done;
    const uint64_t n = std::min(left, g_.cluster_size() - g_.offset_in_cluster(at));
    block::segment_list part(from, done, n);
    CO_CHECK(co_await write_piece(at, part.view()));
    done += n;
    left -= n;
  }
  if (io.fua()) co_return co_await flush(io);
  co_return result<void>{};
}

task<result<void>> change_file::discard(uint64_t offset, uint64_t length, block::io_opts io) {
  if (!base::range_fits(offset, length, limits_.size_bytes)) co_return io_error{errc::inval};
  const uint64_t begin = base::round_up(offset, granule_bytes());
  // The last granule may reach beyond the size: nothing there is anybody's.
  const uint64_t up_to = offset + length;
  const uint64_t end = up_to == limits_.size_bytes ? base::round_up(up_to, granule_bytes())
                                                   : base::round_down(up_to, granule_bytes());
  if (begin < end) {
    auto held = co_await writes_.lock(begin, end - begin);
    CO_CHECK(co_await set_zero(begin, end - begin, false));
  }
  if (io.fua()) co_return co_await flush(io);
  co_return result<void>{};
}

task<result<void>> change_file::write_zeroes(uint64_t offset, uint64_t length, block::io_opts io) {
  if (!base::range_fits(offset, length, limits_.size_bytes)) co_return io_error{errc::inval};
  const uint64_t end = offset + length;
  const bool keep_space = (io.flags & block::io_no_unmap) != 0;
  rt::buffer zeros(granule_bytes());
  std::memset(zeros.data(), 0, zeros.size());
  while (offset < end) {
    const uint64_t inside = offset & (granule_bytes() - 1);
    const uint64_t whole = base::round_down(end - offset, granule_bytes());
    if (inside == 0 && whole != 0) {
      auto held = co_await writes_.lock(offset, whole);
      CO_CHECK(co_await set_zero(offset, whole, keep_space));
      offset += whole;
      continue;
    }
    const uint64_t n = std::min(end - offset, granule_bytes() - inside);
    const iovec v{zeros.data(), n};
    CO_CHECK(co_await write(offset, segments(&v, 1), {}));
    offset += n;
  }
  if (io.fua()) co_return co_await flush(io);
  co_return result<void>{};
}

}  // namespace lbd::store
