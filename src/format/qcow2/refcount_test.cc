// SPDX-License-Identifier: MIT
#include "format/qcow2/refcount.h"

#include <gtest/gtest.h>

#include <vector>

namespace lbd::qcow2 {
namespace {

TEST(qcow2_refcount, every_width_round_trips_without_touching_neighbours) {
  for (uint32_t order = 0; order <= 6; ++order) {
    uint32_t bits = 1u << order;
    uint64_t top = bits == 64 ? ~uint64_t{0} : (uint64_t{1} << bits) - 1;
    std::vector<std::byte> block(64, std::byte{0});
    uint64_t count = block.size() * 8 / bits;
    for (uint64_t i = 0; i < count; ++i) {
      store_refcount(block, order, i, top);
      EXPECT_EQ(load_refcount(block, order, i), top);
      if (i + 1 < count) {
        EXPECT_EQ(load_refcount(block, order, i + 1), 0u) << order;
      }
      store_refcount(block, order, i, i % 2 == 0 ? 1 : 0);
    }
    for (uint64_t i = 0; i < count; ++i) EXPECT_EQ(load_refcount(block, order, i), (i + 1) % 2);
  }
}

TEST(qcow2_refcount, narrow_entries_start_at_the_least_significant_bit) {
  std::vector<std::byte> block(8);
  store_refcount(block, 0, 0, 1);
  store_refcount(block, 0, 9, 1);
  EXPECT_EQ(block[0], std::byte{0x01});
  EXPECT_EQ(block[1], std::byte{0x02});
  block.assign(8, std::byte{0});
  store_refcount(block, 1, 3, 2);
  EXPECT_EQ(block[0], std::byte{0x80});
  store_refcount(block, 2, 3, 0xa);
  EXPECT_EQ(block[1], std::byte{0xa0});
}

TEST(qcow2_refcount, wide_entries_are_big_endian) {
  std::vector<std::byte> block(16);
  store_refcount(block, 4, 1, 0x0102);
  EXPECT_EQ(block[2], std::byte{1});
  EXPECT_EQ(block[3], std::byte{2});
  store_refcount(block, 6, 1, 5);
  EXPECT_EQ(block[15], std::byte{5});
}

TEST(qcow2_refcount_death, a_value_that_does_not_fit_is_a_programming_error) {
  std::vector<std::byte> block(16);
  EXPECT_DEATH(store_refcount(block, 0, 0, 2), "");
  EXPECT_DEATH((void)load_refcount(block, 4, 8), "");
}

}  // namespace
}  // namespace lbd::qcow2
