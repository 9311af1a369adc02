// SPDX-License-Identifier: MIT
#include "format/qcow2/snapshot.h"

#include <gtest/gtest.h>

#include <cstring>

namespace lbd::qcow2 {
namespace {

std::vector<std::byte> entry(uint64_t l1_offset, uint32_t l1_entries, uint32_t extra,
                             std::string_view id, std::string_view name) {
  std::vector<std::byte> b((40 + extra + id.size() + name.size() + 7) / 8 * 8);
  base::store_big<uint64_t>(b, 0, l1_offset);
  base::store_big<uint32_t>(b, 8, l1_entries);
  base::store_big<uint16_t>(b, 12, static_cast<uint16_t>(id.size()));
  base::store_big<uint16_t>(b, 14, static_cast<uint16_t>(name.size()));
  base::store_big<uint32_t>(b, 32, 7);
  base::store_big<uint32_t>(b, 36, extra);
  if (extra >= 16) {
    base::store_big<uint64_t>(b, 40, 99);
    base::store_big<uint64_t>(b, 48, 1 << 20);
  }
  std::memcpy(b.data() + 40 + extra, id.data(), id.size());
  std::memcpy(b.data() + 40 + extra + id.size(), name.data(), name.size());
  return b;
}

header two_snapshots() {
  header h;
  h.size_bytes = 2 << 20;
  h.snapshot_count = 2;
  return h;
}

TEST(qcow2_snapshot, entries_of_both_generations) {
  auto table = entry(0x50000, 1, 0, "1", "old");
  auto second = entry(0x60000, 2, 24, "2", "newer");
  table.insert(table.end(), second.begin(), second.end());
  auto t = parse_snapshot_table(two_snapshots(), table, 0x70000);
  ASSERT_TRUE(t) << t.error().message;
  ASSERT_EQ(t->snapshots.size(), 2u);
  EXPECT_EQ(t->bytes, table.size());
  EXPECT_EQ(t->snapshots[0].name, "old");
  EXPECT_EQ(t->snapshots[0].vm_state_bytes, 7u);
  EXPECT_EQ(t->snapshots[0].size_bytes, 2u << 20);
  EXPECT_EQ(t->snapshots[1].id, "2");
  EXPECT_EQ(t->snapshots[1].vm_state_bytes, 99u);
  EXPECT_EQ(t->snapshots[1].size_bytes, 1u << 20);
  EXPECT_EQ(t->snapshots[1].l1_offset, 0x60000u);
}

TEST(qcow2_snapshot, a_cut_table_asks_for_more) {
  auto table = entry(0x50000, 1, 16, "1", "one");
  auto second = entry(0x60000, 2, 16, "2", "two");
  table.insert(table.end(), second.begin(), second.end());
  for (size_t cut = 0; cut + 4 < table.size(); ++cut) {  // the last 4 bytes are padding
    auto t = parse_snapshot_table(two_snapshots(), base::bytes_view(table).first(cut), 0x70000);
    ASSERT_FALSE(t);
    EXPECT_EQ(t.error().code, base::errc::overflow) << cut;
  }
}

TEST(qcow2_snapshot, tables_out_of_place_are_refused) {
  header h = two_snapshots();
  h.snapshot_count = 1;
  EXPECT_FALSE(parse_snapshot_table(h, entry(0x50200, 1, 0, "1", "x"), 0x70000));
  EXPECT_FALSE(parse_snapshot_table(h, entry(0x70000, 1, 0, "1", "x"), 0x70000));
  EXPECT_FALSE(parse_snapshot_table(h, entry(0x50000, ~0u, 0, "1", "x"), 0x70000));
  auto long_entry = entry(0x50000, 1, 0, "1", "x");
  base::store_big<uint32_t>(long_entry, 36, ~0u);
  auto t = parse_snapshot_table(h, long_entry, 0x70000);
  ASSERT_FALSE(t);
  EXPECT_EQ(t.error().code, base::errc::io);
}

}  // namespace
}  // namespace lbd::qcow2
