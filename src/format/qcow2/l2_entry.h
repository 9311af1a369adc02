// SPDX-License-Identifier: MIT
// Entries of L1 and L2 tables.
// Source: QEMU's docs/interop/qcow2 ("Cluster mapping", "Extended L2 Entries").
#pragma once

#include <cstdint>

#include "base/bytes.h"
#include "base/result.h"
#include "format/qcow2/corruption.h"
#include "format/qcow2/geometry.h"

namespace lbd::qcow2 {

// The table's words as they stand on disk (host byte order); `bitmap` is 0 without extended L2.
struct raw_l2_entry {
  uint64_t descriptor = 0;
  uint64_t bitmap = 0;
  friend bool operator==(const raw_l2_entry&, const raw_l2_entry&) = default;
};

// What a guest cluster is. Bit x of the masks is subcluster x; without extended L2 a cluster has
// one subcluster (bit 0). A subcluster in neither mask reads from the layer below.
struct cluster_mapping {
  uint64_t host_offset = 0;       // 0: no host cluster. For compressed data: its first byte
  uint32_t allocated = 0;         // subclusters that read from host_offset
  uint32_t zero = 0;              // subclusters that read as zeros
  uint32_t compressed_bytes = 0;  // not 0: compressed; bytes from host_offset to the last sector
  bool copied = false;            // the host cluster's refcount is exactly one
  friend bool operator==(const cluster_mapping&, const cluster_mapping&) = default;

  bool is_compressed() const noexcept { return compressed_bytes != 0; }
  bool is_unallocated() const noexcept {
    return compressed_bytes == 0 && host_offset == 0 && zero == 0;
  }
};

// Entry `index` of an L2 table. REQUIRES: table.size() == cluster size, index < l2_entries().
raw_l2_entry load_l2_entry(const geometry& g, base::bytes_view table, uint32_t index) noexcept;
void store_l2_entry(const geometry& g, base::bytes_span table, uint32_t index,
                    raw_l2_entry entry) noexcept;

// Errors: see corruption.h. Does not know the file: check host offsets with fixed_areas.
base::result<cluster_mapping> decode_l2_entry(const geometry& g, uint32_t version,
                                              raw_l2_entry entry) noexcept;

// REQUIRES: what decode_l2_entry() may return for the same geometry and version.
raw_l2_entry encode_l2_entry(const geometry& g, const cluster_mapping& m) noexcept;

// L1 entries: the offset of an L2 table (0: none) and its COPIED flag.
struct l1_entry {
  uint64_t l2_offset = 0;
  bool copied = false;
  friend bool operator==(const l1_entry&, const l1_entry&) = default;
};
base::result<l1_entry> decode_l1_entry(const geometry& g, uint64_t word) noexcept;
uint64_t encode_l1_entry(l1_entry e) noexcept;

// Refcount table entries: the offset of a refcount block (0: none).
base::result<uint64_t> decode_refcount_table_entry(const geometry& g, uint64_t word) noexcept;

}  // namespace lbd::qcow2
