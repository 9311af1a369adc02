// SPDX-License-Identifier: MIT
#include "store/qcow2/table_cache.h"

#include <algorithm>

#include "base/checked_math.h"

namespace lbd::store {

using base::result;
using rt::task;

namespace {
constexpr uint64_t least_blocks = 2;
}

table_cache::table_cache(rt::file& file, uint64_t block_bytes, uint64_t most_bytes)
    : file_(file),
      block_bytes_(block_bytes),
      most_blocks_(std::max(least_blocks, most_bytes / block_bytes)) {}

task<result<table_block*>> table_cache::get(uint64_t offset) {
  for (;;) {
    auto found = blocks_.find(offset);
    if (found == blocks_.end()) break;
    table_block& b = *found->second;
    if (!b.loading) {
      by_age_.splice(by_age_.begin(), by_age_, b.age);
      co_return &b;
    }
    // Somebody else reads it. The block may be gone when we run again.
    co_await b.loaded.wait();
  }
  auto fresh = std::make_unique<table_block>();
  table_block& b = *fresh;
  b.offset = offset;
  b.bytes.resize(block_bytes_);
  by_age_.push_front(&b);
  b.age = by_age_.begin();
  blocks_.emplace(offset, std::move(fresh));
  auto read = co_await file_.read_all(offset, b.bytes);
  b.loading = false;
  b.loaded.set();
  if (!read) {
    by_age_.erase(b.age);
    blocks_.erase(offset);
    co_return read.error();
  }
  b.dirty.resize(block_bytes_ / sector_bytes);
  by_age_.splice(by_age_.begin(), by_age_, b.age);
  drop_oldest();
  co_return &b;
}

table_block& table_cache::add(uint64_t offset, std::vector<std::byte> bytes) {
  auto fresh = std::make_unique<table_block>();
  table_block& b = *fresh;
  b.offset = offset;
  b.bytes = std::move(bytes);
  b.dirty.resize(block_bytes_ / sector_bytes);
  b.loading = false;
  b.loaded.set();
  by_age_.push_front(&b);
  b.age = by_age_.begin();
  blocks_[offset] = std::move(fresh);
  drop_oldest();
  return b;
}

void table_cache::forget(uint64_t offset) noexcept {
  const auto found = blocks_.find(offset);
  if (found == blocks_.end()) return;
  const table_block& b = *found->second;
  if (b.loading || b.committing || b.dirty_sectors != 0) return;
  by_age_.erase(b.age);
  blocks_.erase(found);
}

void table_cache::mark_dirty(table_block& block, uint64_t at, uint64_t length) {
  if (block.dirty_sectors == 0) dirty_blocks_.push_back(&block);
  for (uint64_t s = at / sector_bytes; s <= (at + length - 1) / sector_bytes; ++s) {
    if (block.dirty[s]) continue;
    block.dirty[s] = true;
    ++block.dirty_sectors;
  }
}

std::vector<file_change> table_cache::take_changes() {
  std::vector<file_change> out;
  for (table_block* b : dirty_blocks_) {
    for (uint64_t s = 0; s < b->dirty.size(); ++s) {
      if (!b->dirty[s]) continue;
      uint64_t end = s;
      while (end < b->dirty.size() && b->dirty[end]) b->dirty[end++] = false;
      auto first = b->bytes.begin() + static_cast<ptrdiff_t>(s * sector_bytes);
      auto last = b->bytes.begin() + static_cast<ptrdiff_t>(end * sector_bytes);
      out.push_back({b->offset + s * sector_bytes, {first, last}});
      s = end;
    }
    b->dirty_sectors = 0;
    b->committing = true;
    committing_.push_back(b);
  }
  dirty_blocks_.clear();
  return out;
}

void table_cache::commit_ended(const std::vector<file_change>& taken, bool written) {
  for (table_block* b : committing_) b->committing = false;
  committing_.clear();
  if (!written) {
    for (const file_change& c : taken) {
      auto found = blocks_.find(base::round_down(c.offset, block_bytes_));
      if (found == blocks_.end()) continue;
      mark_dirty(*found->second, c.offset % block_bytes_, c.bytes.size());
    }
  }
  drop_oldest();
}

void table_cache::drop_oldest() {
  // The newest block stays: somebody has just asked for it.
  auto at = by_age_.end();
  while (blocks_.size() > most_blocks_ && at != by_age_.begin()) {
    --at;
    table_block* b = *at;
    if (at == by_age_.begin()) break;
    if (b->loading || b->committing || b->dirty_sectors != 0) continue;
    at = by_age_.erase(at);
    blocks_.erase(b->offset);
  }
}

}  // namespace lbd::store
