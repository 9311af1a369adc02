// SPDX-License-Identifier: MIT
// Arithmetic of a qcow2 image: clusters, subclusters, table indices, limits. All offsets and sizes
// in bytes unless the name says otherwise.
// Source: QEMU's docs/interop/qcow2 ("Host cluster management", "Cluster mapping").
#pragma once

#include <bit>
#include <cstdint>

#include "base/checked_math.h"

namespace lbd::qcow2 {

inline constexpr uint32_t min_cluster_bits = 9;
inline constexpr uint32_t max_cluster_bits = 21;
inline constexpr uint32_t min_extended_cluster_bits = 14;
inline constexpr uint32_t max_refcount_order = 6;
inline constexpr uint32_t extended_subclusters = 32;
inline constexpr uint64_t max_l1_bytes = 32u << 20;
inline constexpr uint64_t max_refcount_table_bytes = 8u << 20;
inline constexpr uint32_t max_snapshots = 65536;
inline constexpr uint64_t max_snapshot_table_bytes = 64u << 20;
inline constexpr uint64_t max_host_offset = uint64_t{1} << 56;  // tables hold bits 9 to 55

// REQUIRES (of every function): cluster_bits and refcount_order within the limits above.
struct geometry {
  uint32_t cluster_bits = 16;
  uint32_t refcount_order = 4;
  bool extended_l2 = false;
  uint64_t size_bytes = 0;  // what a guest sees

  constexpr uint64_t cluster_size() const noexcept { return uint64_t{1} << cluster_bits; }
  constexpr uint64_t offset_in_cluster(uint64_t offset) const noexcept {
    return offset & (cluster_size() - 1);
  }
  constexpr bool aligned(uint64_t offset) const noexcept { return offset_in_cluster(offset) == 0; }
  constexpr uint64_t cluster_index(uint64_t offset) const noexcept {
    return offset >> cluster_bits;
  }
  constexpr uint64_t clusters_for(uint64_t bytes) const noexcept {
    return base::div_up(bytes, cluster_size());
  }

  // Guest side. A table without extended entries has clusters of one "subcluster".
  constexpr uint32_t subclusters() const noexcept { return extended_l2 ? extended_subclusters : 1; }
  constexpr uint32_t all_subclusters() const noexcept { return extended_l2 ? ~uint32_t{0} : 1; }
  constexpr uint32_t subcluster_bits() const noexcept {
    return extended_l2 ? cluster_bits - 5 : cluster_bits;
  }
  constexpr uint64_t subcluster_size() const noexcept { return uint64_t{1} << subcluster_bits(); }
  constexpr uint32_t subcluster_index(uint64_t guest) const noexcept {
    return static_cast<uint32_t>(offset_in_cluster(guest) >> subcluster_bits());
  }

  constexpr uint32_t l2_entry_size() const noexcept { return extended_l2 ? 16 : 8; }
  constexpr uint32_t l2_bits() const noexcept { return cluster_bits - (extended_l2 ? 4 : 3); }
  constexpr uint32_t l2_entries() const noexcept { return uint32_t{1} << l2_bits(); }
  constexpr uint32_t l2_index(uint64_t guest) const noexcept {
    return static_cast<uint32_t>(guest >> cluster_bits) & (l2_entries() - 1);
  }
  constexpr uint64_t l1_index(uint64_t guest) const noexcept {
    return guest >> (cluster_bits + l2_bits());
  }
  // Guest bytes that one L2 table maps.
  constexpr uint64_t l2_coverage() const noexcept {
    return uint64_t{1} << (cluster_bits + l2_bits());
  }
  // L1 entries that a guest size needs.
  constexpr uint64_t l1_entries_for(uint64_t guest_size) const noexcept {
    return base::div_up(guest_size, l2_coverage());
  }
  // The largest guest size that an L1 table within its limit can map.
  constexpr uint64_t max_size() const noexcept {
    uint32_t shift = cluster_bits + l2_bits();
    uint64_t entries = max_l1_bytes / 8;
    return shift + static_cast<uint32_t>(std::bit_width(entries)) > 63 ? uint64_t{1} << 62
                                                                       : entries << shift;
  }

  // Host side.
  constexpr uint32_t refcount_bits() const noexcept { return uint32_t{1} << refcount_order; }
  constexpr uint64_t max_refcount() const noexcept {
    return refcount_order == 6 ? ~uint64_t{0} : (uint64_t{1} << refcount_bits()) - 1;
  }
  constexpr uint64_t refcounts_per_block() const noexcept {
    return cluster_size() * 8 / refcount_bits();
  }
  constexpr uint64_t refcount_table_index(uint64_t cluster) const noexcept {
    return cluster / refcounts_per_block();
  }
  constexpr uint64_t refcount_block_index(uint64_t cluster) const noexcept {
    return cluster % refcounts_per_block();
  }
};

}  // namespace lbd::qcow2
