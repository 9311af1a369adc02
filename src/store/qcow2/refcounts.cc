// SPDX-License-Identifier: MIT
#include "store/qcow2/refcounts.h"

#include <algorithm>

#include "format/qcow2/l2_entry.h"
#include "format/qcow2/refcount.h"

namespace lbd::store {

using base::errc;
using base::io_error;
using base::result;
using rt::task;

refcount_store::refcount_store(rt::file& file, const qcow2::fixed_areas& areas,
                               const qcow2::geometry& g, uint64_t cache_bytes)
    : file_(file), areas_(areas), g_(g), cache_(file, g.cluster_size(), cache_bytes) {}

task<result<void>> refcount_store::load(const qcow2::header& h) {
  table_offset_ = h.refcount_table_offset;
  std::vector<std::byte> bytes(uint64_t{h.refcount_table_clusters} << h.cluster_bits);
  CO_CHECK(co_await file_.read_all(table_offset_, bytes));
  table_.resize(bytes.size() / 8);
  for (size_t i = 0; i < table_.size(); ++i) {
    CO_TRY(table_[i],
           qcow2::decode_refcount_table_entry(g_, base::load_big<uint64_t>(bytes, i * 8)));
    if (table_[i] != 0) CO_CHECK(areas_.check_cluster(table_[i]));
  }
  // The first block counts the header.
  if (h.size_bytes > 0 && (table_.empty() || table_[0] == 0)) {
    co_return qcow2::corrupt(qcow2::corruption::refcount_mismatch);
  }
  co_return result<void>{};
}

bool refcount_store::has_block(uint64_t cluster) const noexcept {
  const uint64_t index = g_.refcount_table_index(cluster);
  return index < table_.size() && table_[index] != 0;
}

// REQUIRES: has_block(cluster).
task<result<table_block*>> refcount_store::block_of(uint64_t cluster) {
  co_return co_await cache_.get(table_[g_.refcount_table_index(cluster)]);
}

void refcount_store::put(table_block& block, uint64_t cluster, uint64_t count) {
  const uint64_t index = g_.refcount_block_index(cluster);
  qcow2::store_refcount(block.bytes, g_.refcount_order, index, count);
  cache_.mark_dirty(block, index * g_.refcount_bits() / 8, std::max(1u, g_.refcount_bits() / 8));
}

task<result<uint64_t>> refcount_store::get(uint64_t cluster) {
  if (!has_block(cluster)) co_return uint64_t{0};
  CO_TRY(table_block * block, co_await block_of(cluster));
  co_return qcow2::load_refcount(block->bytes, g_.refcount_order, g_.refcount_block_index(cluster));
}

// Space for the block is taken from the file system at once, so that a commit does not run out of
// it.
task<result<void>> refcount_store::make_block(uint64_t index, uint64_t cluster) {
  const uint64_t at = cluster << g_.cluster_bits;
  // A cluster that counts 0 but holds a table or another block: writing to such an image would
  // destroy it.
  if (areas_.overlaps(at, at + g_.cluster_size()) ||
      std::find(table_.begin(), table_.end(), at) != table_.end()) {
    co_return qcow2::corrupt(qcow2::corruption::refcount_mismatch);
  }
  std::vector<std::byte> bytes(g_.cluster_size());
  CO_CHECK(co_await file_.write_all(at, bytes));
  table_block& block = cache_.add(at, std::move(bytes));
  table_[index] = at;
  dirty_entries_.insert(index);
  // A block usually counts itself.
  if (g_.refcount_table_index(cluster) == index) put(block, cluster, 1);
  co_return result<void>{};
}

task<result<uint64_t>> refcount_store::allocate() {
  const uint64_t per_block = g_.refcounts_per_block();
  for (;;) {
    const uint64_t index = g_.refcount_table_index(next_cluster_);
    if (index >= table_.size() || next_cluster_ << g_.cluster_bits >= qcow2::max_host_offset) {
      co_return io_error{errc::nospc};
    }
    // Without a block nothing there is used, so its first cluster can hold the block.
    if (table_[index] == 0) CO_CHECK(co_await make_block(index, index * per_block));
    CO_TRY(table_block * block, co_await block_of(next_cluster_));
    for (uint64_t i = g_.refcount_block_index(next_cluster_); i < per_block; ++i) {
      if (qcow2::load_refcount(block->bytes, g_.refcount_order, i) != 0) continue;
      const uint64_t cluster = index * per_block + i;
      // The tables themselves counted 0: using them as data would destroy the image.
      const uint64_t offset = cluster << g_.cluster_bits;
      if (areas_.overlaps(offset, offset + g_.cluster_size())) {
        co_return qcow2::corrupt(qcow2::corruption::refcount_mismatch);
      }
      put(*block, cluster, 1);
      next_cluster_ = cluster + 1;
      co_return offset;
    }
    next_cluster_ = (index + 1) * per_block;
  }
}

task<result<uint64_t>> refcount_store::release(uint64_t cluster) {
  CO_TRY(const uint64_t count, co_await get(cluster));
  if (count == 0) co_return qcow2::corrupt(qcow2::corruption::refcount_mismatch);
  CO_TRY(table_block * block, co_await block_of(cluster));
  put(*block, cluster, count - 1);
  if (count == 1) next_cluster_ = std::min(next_cluster_, cluster);
  co_return count - 1;
}

std::vector<file_change> refcount_store::take_table_changes() {
  std::set<uint64_t> sectors;
  for (uint64_t i : dirty_entries_) sectors.insert(i * 8 / sector_bytes);
  dirty_entries_.clear();
  std::vector<file_change> out;
  for (uint64_t s : sectors) {
    file_change c{table_offset_ + s * sector_bytes, std::vector<std::byte>(sector_bytes)};
    for (uint64_t i = 0; i < sector_bytes / 8; ++i) {
      base::store_big<uint64_t>(c.bytes, i * 8, table_[s * sector_bytes / 8 + i]);
    }
    out.push_back(std::move(c));
  }
  return out;
}

void refcount_store::commit_ended(const std::vector<file_change>& blocks,
                                  const std::vector<file_change>& table, bool written) {
  cache_.commit_ended(blocks, written);
  if (written) return;
  for (const file_change& c : table) dirty_entries_.insert((c.offset - table_offset_) / 8);
}

}  // namespace lbd::store
