// SPDX-License-Identifier: MIT
#include "format/dm_snapshot/dm_snapshot.h"

#include <gtest/gtest.h>

#include <vector>

namespace lbd::dm_snapshot {
namespace {

std::vector<std::byte> bytes_of(std::initializer_list<unsigned> values) {
  std::vector<std::byte> out;
  for (const unsigned v : values) out.push_back(static_cast<std::byte>(v));
  return out;
}

// The first bytes of a store that the kernel 6.1 made with chunks of 16 sectors.
TEST(dm_snapshot, header_as_the_kernel_writes_it) {
  const auto disk = bytes_of({'S', 'n', 'A', 'p', 1, 0, 0, 0, 1, 0, 0, 0, 16, 0, 0, 0});
  const header h = load_header(disk);
  EXPECT_EQ(h, (header{header_magic, 1, 1, 16}));
  EXPECT_FALSE(h.is_none());
  std::vector<std::byte> chunk(8192, std::byte{7});
  store_header(chunk, h);
  EXPECT_TRUE(std::equal(disk.begin(), disk.end(), chunk.begin()));
  EXPECT_TRUE(base::is_zero(base::bytes_view(chunk).subspan(header_bytes)));
  EXPECT_TRUE(load_header(std::vector<std::byte>(16)).is_none());
}

TEST(dm_snapshot, where_areas_lie) {
  const geometry g{16};
  EXPECT_EQ(g.entries_per_area(), 512u);
  EXPECT_EQ(g.area_chunk(0), 1u);
  EXPECT_EQ(g.area_chunk(1), 514u);
  EXPECT_TRUE(g.is_metadata(0) && g.is_metadata(1) && g.is_metadata(514));
  EXPECT_FALSE(g.is_metadata(2) || g.is_metadata(513) || g.is_metadata(515));
  EXPECT_EQ(g.skip_area(514), 515u);
  EXPECT_EQ(g.skip_area(513), 513u);
  EXPECT_EQ(geometry{1}.stride(), 33u);
}

TEST(dm_snapshot, entries_and_their_end) {
  const geometry g{1};
  std::vector<std::byte> area(g.chunk_bytes());
  EXPECT_EQ(count_entries(g, area), 0u);
  store_entry(area, 0, {0, 2});
  store_entry(area, 1, {0x0102030405060708, 3});
  store_entry(area, 3, {9, 9});
  EXPECT_EQ(count_entries(g, area), 2u) << "what comes after the end does not count";
  EXPECT_EQ(load_entry(area, 1), (entry{0x0102030405060708, 3}));
  EXPECT_EQ(area[16], std::byte{8});
  for (uint64_t i = 0; i < 32; ++i) store_entry(area, i, {i, i + 2});
  EXPECT_EQ(count_entries(g, area), 32u);
}

TEST(dm_snapshot, runs_are_counted_backwards) {
  const geometry g{1};
  std::vector<std::byte> area(g.chunk_bytes());
  const entry list[] = {{4, 2}, {5, 3}, {6, 4}, {7, 6}, {8, 7}, {20, 8}};
  for (uint64_t i = 0; i < 6; ++i) store_entry(area, i, list[i]);
  EXPECT_EQ(run_at_end(area, 6), 1u);
  EXPECT_EQ(run_at_end(area, 5), 2u) << "the new chunks have a gap";
  EXPECT_EQ(run_at_end(area, 3), 3u) << "not beyond the area's start";
  EXPECT_EQ(run_at_end(area, 1), 1u);
}

TEST(dm_snapshot, entries_that_no_store_holds) {
  const geometry g{8};
  EXPECT_TRUE(is_sound(g, {0, 2}, 3));
  EXPECT_FALSE(is_sound(g, {0, 3}, 3));
  EXPECT_FALSE(is_sound(g, {0, 1}, 3)) << "an area";
  EXPECT_FALSE(is_sound(g, {0, 1 + g.stride()}, 1000));
  EXPECT_FALSE(is_sound(g, {UINT64_MAX, 2}, 3));
  EXPECT_FALSE(is_sound(g, {0, UINT64_MAX}, 3));
}

TEST(dm_snapshot, chunk_sizes) {
  EXPECT_EQ(chunk_size_error(16, 512, 512), nullptr);
  EXPECT_STREQ(chunk_size_error(7, 512, 512), "Chunk size is not a power of 2");
  EXPECT_STREQ(chunk_size_error(0, 512, 512), "Chunk size is not a power of 2");
  EXPECT_STREQ(chunk_size_error(4, 512, 4096), "Chunk size is not a multiple of device blocksize");
  EXPECT_STREQ(chunk_size_error(4, 4096, 512), "Chunk size is not a multiple of device blocksize");
  EXPECT_EQ(chunk_size_error(2097152, 512, 512), nullptr);
  EXPECT_STREQ(chunk_size_error(4194304, 512, 512), "Chunk size is too high");
  EXPECT_STREQ(chunk_size_error(uint64_t{1} << 63, 512, 512), "Chunk size is too high");
}

TEST(dm_snapshot, store_types) {
  std::string error;
  EXPECT_EQ(parse_store_type("P", error), (store_type{true, false}));
  EXPECT_EQ(parse_store_type("po", error), (store_type{true, true}));
  EXPECT_EQ(parse_store_type("POverflow", error), (store_type{true, true}));
  EXPECT_EQ(parse_store_type("Nothing", error), (store_type{false, false}));
  EXPECT_FALSE(parse_store_type("X", error));
  EXPECT_EQ(error, "Exception store type is not P or N");
  EXPECT_FALSE(parse_store_type("Px", error));
  EXPECT_EQ(error, "Unsupported persistent store option: x");
  EXPECT_FALSE(parse_store_type("", error));
  EXPECT_STREQ((store_type{true, true}).text(), "PO");
}

}  // namespace
}  // namespace lbd::dm_snapshot
