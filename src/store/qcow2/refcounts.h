// SPDX-License-Identifier: MIT
// Which host clusters of a writable image are in use: the refcount table and its blocks.
//
// Counts change in memory only; the commit writes them. A cluster that is allocated here is on disk
// as used before any table that points to it is written, and a cluster given back is used again
// only after no durable table points to it: the change file sees to both orders. Home reactor only;
// callers exclude each other (every operation may wait for a block to be read).
#pragma once

#include <cstdint>
#include <set>
#include <vector>

#include "format/qcow2/header.h"
#include "store/qcow2/table_cache.h"

namespace lbd::store {

class refcount_store {
 public:
  // `areas` outlives this.
  refcount_store(rt::file& file, const qcow2::fixed_areas& areas, const qcow2::geometry& g,
                 uint64_t cache_bytes);

  // Reads the table that the header tells of.
  rt::task<base::result<void>> load(const qcow2::header& h);

  rt::task<base::result<uint64_t>> get(uint64_t cluster);
  // A free cluster, counted 1 from now on; its file offset. Errors: nospc (table full, or no room
  // for a new block), io.
  rt::task<base::result<uint64_t>> allocate();
  // One reference less. The new count.
  rt::task<base::result<uint64_t>> release(uint64_t cluster);
  bool has_block(uint64_t cluster) const noexcept;
  // Whether a refcount block that is in memory lies there.
  bool holds(uint64_t offset) const { return cache_.holds(offset); }

  bool dirty() const noexcept { return cache_.dirty() || !dirty_entries_.empty(); }
  uint64_t dirty_bytes() const noexcept { return cache_.dirty_bytes(); }
  // Blocks first; then, when there are any, the table's sectors after a sync: an entry must not
  // point to a block that is not there.
  std::vector<file_change> take_block_changes() { return cache_.take_changes(); }
  std::vector<file_change> take_table_changes();
  void commit_ended(const std::vector<file_change>& blocks, const std::vector<file_change>& table,
                    bool written);

 private:
  rt::task<base::result<table_block*>> block_of(uint64_t cluster);
  rt::task<base::result<void>> make_block(uint64_t index, uint64_t cluster);
  void put(table_block& block, uint64_t cluster, uint64_t count);

  rt::file& file_;
  const qcow2::fixed_areas& areas_;
  const qcow2::geometry g_;
  table_cache cache_;
  uint64_t table_offset_ = 0;
  std::vector<uint64_t> table_;       // offsets of blocks, 0: none
  std::set<uint64_t> dirty_entries_;  // indices into table_
  uint64_t next_cluster_ = 0;         // no free cluster below
};

}  // namespace lbd::store
