// SPDX-License-Identifier: MIT
#include "format/qcow2/geometry.h"

#include <gtest/gtest.h>

namespace lbd::qcow2 {
namespace {

constexpr uint64_t GiB = uint64_t{1} << 30;

TEST(qcow2_geometry, default_clusters) {
  geometry g{16, 4, false, GiB};
  EXPECT_EQ(g.cluster_size(), 65536u);
  EXPECT_EQ(g.l2_entries(), 8192u);
  EXPECT_EQ(g.l2_coverage(), 512u << 20);
  EXPECT_EQ(g.l1_entries_for(GiB), 2u);
  EXPECT_EQ(g.l1_entries_for(GiB + 1), 3u);
  EXPECT_EQ(g.l1_entries_for(0), 0u);
  EXPECT_EQ(g.l1_index(GiB - 1), 1u);
  EXPECT_EQ(g.l2_index((512u << 20) + 65536), 1u);
  EXPECT_EQ(g.subclusters(), 1u);
  EXPECT_EQ(g.all_subclusters(), 1u);
  EXPECT_EQ(g.refcounts_per_block(), 32768u);
  EXPECT_EQ(g.refcount_table_index(32768), 1u);
  EXPECT_EQ(g.refcount_block_index(32769), 1u);
}

TEST(qcow2_geometry, extended_entries_halve_the_tables) {
  geometry g{16, 4, true, GiB};
  EXPECT_EQ(g.l2_entry_size(), 16u);
  EXPECT_EQ(g.l2_entries(), 4096u);
  EXPECT_EQ(g.l2_coverage(), 256u << 20);
  EXPECT_EQ(g.subcluster_size(), 2048u);
  EXPECT_EQ(g.subcluster_index(65536 + 2048 * 5 + 7), 5u);
  EXPECT_EQ(g.all_subclusters(), 0xffffffffu);
}

TEST(qcow2_geometry, the_limits_that_the_format_documents) {
  // A 32 MiB L1 table: 128 GiB with 512-byte clusters, 2 EiB with 2 MiB clusters.
  EXPECT_EQ((geometry{9, 4, false, 0}).max_size(), 128 * GiB);
  EXPECT_EQ((geometry{21, 4, false, 0}).max_size(), uint64_t{1} << 61);
  for (uint32_t order = 0; order <= max_refcount_order; ++order) {
    geometry g{12, order, false, 0};
    EXPECT_EQ(g.refcounts_per_block() * g.refcount_bits(), 4096u * 8);
  }
  EXPECT_EQ((geometry{16, 0, false, 0}).max_refcount(), 1u);
  EXPECT_EQ((geometry{16, 6, false, 0}).max_refcount(), ~uint64_t{0});
}

}  // namespace
}  // namespace lbd::qcow2
