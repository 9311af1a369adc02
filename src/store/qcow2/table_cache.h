// SPDX-License-Identifier: MIT
// L2 tables and refcount blocks in memory: one cluster each, written back in sectors.
//
// A block is read when first asked for and dropped, oldest first, when there are too many; never
// while it has changes that are not in the file. Changes become a list of sector copies
// (take_changes), which the commit writes in its order; later changes to the same sectors do not
// mix with it. Home reactor only.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <unordered_map>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "rt/file.h"
#include "rt/sync.h"
#include "rt/task.h"

namespace lbd::store {

// The unit of metadata writes: a torn write damages only sectors that it changes.
inline constexpr uint64_t sector_bytes = 512;

// Bytes to be written at a place of the file.
struct file_change {
  uint64_t offset = 0;
  std::vector<std::byte> bytes;
};

struct table_block {
  uint64_t offset = 0;
  std::vector<std::byte> bytes;
  std::vector<bool> dirty;  // per sector
  uint64_t dirty_sectors = 0;
  bool committing = false;  // its taken changes may not be in the file yet
  bool loading = true;
  rt::event loaded;
  std::list<table_block*>::iterator age;
};

class table_cache {
 public:
  table_cache(rt::file& file, uint64_t block_bytes, uint64_t most_bytes);

  // The block at a file offset. The pointer holds until the caller next awaits something.
  rt::task<base::result<table_block*>> get(uint64_t offset);
  bool holds(uint64_t offset) const { return blocks_.contains(offset); }
  // A new block with the given content, nothing of it dirty. REQUIRES: !holds(offset).
  table_block& add(uint64_t offset, std::vector<std::byte> bytes);
  // The block's place will hold something else. Nothing happens to one that has changes or is being
  // read.
  void forget(uint64_t offset) noexcept;
  void mark_dirty(table_block& block, uint64_t at, uint64_t length);

  bool dirty() const noexcept { return !dirty_blocks_.empty(); }
  uint64_t dirty_bytes() const noexcept { return dirty_blocks_.size() * block_bytes_; }
  uint64_t most_bytes() const noexcept { return most_blocks_ * block_bytes_; }

  // Copies of all dirty sectors, neighbours joined; they count as clean from now on.
  std::vector<file_change> take_changes();
  // The end of the commit that took them. Not written: they are dirty again.
  void commit_ended(const std::vector<file_change>& taken, bool written);

 private:
  void drop_oldest();

  rt::file& file_;
  const uint64_t block_bytes_;
  const uint64_t most_blocks_;
  std::unordered_map<uint64_t, std::unique_ptr<table_block>> blocks_;
  std::list<table_block*> by_age_;  // newest first
  std::vector<table_block*> dirty_blocks_;
  std::vector<table_block*> committing_;
};

}  // namespace lbd::store
