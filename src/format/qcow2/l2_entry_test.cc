// SPDX-License-Identifier: MIT
#include "format/qcow2/l2_entry.h"

#include <gtest/gtest.h>

#include <vector>

namespace lbd::qcow2 {
namespace {

constexpr geometry plain{16, 4, false, uint64_t{1} << 30};
constexpr geometry extended{16, 4, true, uint64_t{1} << 30};
constexpr uint64_t copied = uint64_t{1} << 63;
constexpr uint64_t compressed = uint64_t{1} << 62;

corruption fault(const geometry& g, uint32_t version, raw_l2_entry e) {
  auto m = decode_l2_entry(g, version, e);
  return m ? corruption::none : corruption_of(m.error());
}

TEST(qcow2_l2_entry, standard_clusters) {
  auto none = decode_l2_entry(plain, 3, {0, 0});
  ASSERT_TRUE(none);
  EXPECT_TRUE(none->is_unallocated());
  auto data = decode_l2_entry(plain, 3, {copied | 0x50000, 0});
  ASSERT_TRUE(data);
  EXPECT_EQ(data->host_offset, 0x50000u);
  EXPECT_EQ(data->allocated, 1u);
  EXPECT_TRUE(data->copied);
  auto shared = decode_l2_entry(plain, 2, {0x50000, 0});
  ASSERT_TRUE(shared);
  EXPECT_FALSE(shared->copied);
}

TEST(qcow2_l2_entry, zero_clusters_plain_and_preallocated) {
  auto zero = decode_l2_entry(plain, 3, {1, 0});
  ASSERT_TRUE(zero);
  EXPECT_EQ(zero->zero, 1u);
  EXPECT_EQ(zero->host_offset, 0u);
  EXPECT_FALSE(zero->is_unallocated());
  auto reserved = decode_l2_entry(plain, 3, {copied | 0x70001, 0});
  ASSERT_TRUE(reserved);
  EXPECT_EQ(reserved->zero, 1u);
  EXPECT_EQ(reserved->allocated, 0u);
  EXPECT_EQ(reserved->host_offset, 0x70000u);
  EXPECT_EQ(fault(plain, 2, {1, 0}), corruption::zero_flag_in_version_2);
}

TEST(qcow2_l2_entry, extended_bitmaps) {
  auto m = decode_l2_entry(extended, 3, {copied | 0x50000, 0x80000000'00000003});
  ASSERT_TRUE(m);
  EXPECT_EQ(m->allocated, 3u);
  EXPECT_EQ(m->zero, 0x80000000u);
  EXPECT_EQ(fault(extended, 3, {copied | 0x50000, 0x1'00000001}), corruption::subcluster_conflict);
  EXPECT_EQ(fault(extended, 3, {0, 1}), corruption::allocated_without_offset);
  EXPECT_EQ(fault(extended, 3, {copied | 0x50001, 0}), corruption::reserved_bits);
  auto zero_only = decode_l2_entry(extended, 3, {0, 0xffffffff'00000000});
  ASSERT_TRUE(zero_only);
  EXPECT_EQ(zero_only->zero, ~0u);
}

TEST(qcow2_l2_entry, compressed_offset_and_sectors) {
  // 64 KiB clusters: x = 62 - 8 = 54, so 54 offset bits and 8 bits of additional sectors.
  raw_l2_entry e{compressed | uint64_t{3} << 54 | 0x50123, 0};
  auto m = decode_l2_entry(plain, 2, e);
  ASSERT_TRUE(m);
  EXPECT_TRUE(m->is_compressed());
  EXPECT_EQ(m->host_offset, 0x50123u);
  EXPECT_EQ(m->compressed_bytes, 4 * 512 - 0x123u);
  EXPECT_EQ(encode_l2_entry(plain, *m), e);
  // 512-byte clusters: 61 offset bits, those above 55 must be zero.
  geometry tiny{9, 4, false, 1 << 20};
  EXPECT_EQ(fault(tiny, 3, {compressed | uint64_t{1} << 57, 0}), corruption::reserved_bits);
  EXPECT_EQ(fault(plain, 3, {copied | compressed | 0x50123, 0}), corruption::reserved_bits);
}

TEST(qcow2_l2_entry, bad_descriptors_are_told_apart) {
  EXPECT_EQ(fault(plain, 3, {copied | 0x50200, 0}), corruption::unaligned);
  EXPECT_EQ(fault(plain, 3, {copied | 0x50002, 0}), corruption::reserved_bits);
  EXPECT_EQ(fault(plain, 3, {uint64_t{1} << 56, 0}), corruption::reserved_bits);
  EXPECT_EQ(fault(plain, 3, {copied, 0}), corruption::allocated_without_offset);
  EXPECT_EQ(describe(corruption::unaligned), "an offset is not on a cluster boundary");
}

TEST(qcow2_l2_entry, every_mapping_round_trips_in_a_table) {
  for (uint32_t bits = min_cluster_bits; bits <= max_cluster_bits; ++bits) {
    for (bool ext : {false, true}) {
      if (ext && bits < min_extended_cluster_bits) continue;
      geometry g{bits, 4, ext, 1 << 30};
      std::vector<std::byte> table(g.cluster_size());
      uint32_t last = g.l2_entries() - 1;
      cluster_mapping data{g.cluster_size() * 9, ext ? 0x0f0fu : 1u, ext ? 0xf000u : 0u, 0, true};
      cluster_mapping packed{g.cluster_size() * 7 + 100, 0, 0, 2 * 512 - 100, false};
      store_l2_entry(g, table, last, encode_l2_entry(g, data));
      store_l2_entry(g, table, 0, encode_l2_entry(g, packed));
      auto first = decode_l2_entry(g, 3, load_l2_entry(g, table, 0));
      auto end = decode_l2_entry(g, 3, load_l2_entry(g, table, last));
      ASSERT_TRUE(first && end);
      EXPECT_EQ(*first, packed) << bits;
      EXPECT_EQ(*end, data) << bits;
    }
  }
}

TEST(qcow2_l1_entry, offsets_and_flags) {
  auto e = decode_l1_entry(plain, copied | 0x40000);
  ASSERT_TRUE(e);
  EXPECT_EQ(e->l2_offset, 0x40000u);
  EXPECT_TRUE(e->copied);
  EXPECT_EQ(encode_l1_entry(*e), copied | 0x40000);
  EXPECT_EQ(corruption_of(decode_l1_entry(plain, 0x40200).error()), corruption::unaligned);
  EXPECT_EQ(corruption_of(decode_l1_entry(plain, 0x40001).error()), corruption::reserved_bits);
  EXPECT_EQ(corruption_of(decode_l1_entry(plain, copied).error()),
            corruption::allocated_without_offset);
  EXPECT_EQ(*decode_refcount_table_entry(plain, 0x20000), 0x20000u);
  EXPECT_FALSE(decode_refcount_table_entry(plain, 0x20200));
}

}  // namespace
}  // namespace lbd::qcow2
