// SPDX-License-Identifier: MIT
#include "rt/write_patience.h"

#include <gtest/gtest.h>

#include <string>

namespace lbd::rt {
namespace {

constexpr uint64_t ms = 1'000'000;

std::string vmstat(uint64_t dirty, uint64_t writeback) {
  return "nr_free_pages 100\nnr_dirtied 5000\nnr_dirty " + std::to_string(dirty) +
         "\nnr_writeback " + std::to_string(writeback) +
         "\nnr_writeback_temp 90000\nnr_dirty_threshold 2000\nnr_dirty_background_threshold 1000\n";
}

TEST(dirty_pages, are_few_below_the_background_threshold) {
  EXPECT_TRUE(dirty_pages::far_from_limit_in(vmstat(0, 0)));
  EXPECT_TRUE(dirty_pages::far_from_limit_in(vmstat(700, 299)));
  EXPECT_FALSE(dirty_pages::far_from_limit_in(vmstat(700, 300)));
  EXPECT_FALSE(dirty_pages::far_from_limit_in(vmstat(3000, 0)));
  EXPECT_FALSE(dirty_pages::far_from_limit_in(""));
  EXPECT_FALSE(dirty_pages::far_from_limit_in("nr_dirty 1\nnr_writeback 1\n"));
  EXPECT_FALSE(dirty_pages::far_from_limit_in("nr_dirty x\nnr_dirty_background_threshold"));
}

TEST(write_patience, ends_with_a_slow_write_and_returns) {
  write_patience p;
  EXPECT_TRUE(p.allows(0));
  p.took(ms / 2, 100 * ms);
  EXPECT_TRUE(p.allows(100 * ms));
  p.took(2 * ms, 200 * ms);
  EXPECT_FALSE(p.allows(200 * ms));
  EXPECT_FALSE(p.allows(219 * ms));
  EXPECT_TRUE(p.allows(220 * ms));
}

TEST(write_patience, is_shorter_each_time_but_never_gone) {
  write_patience p;
  uint64_t now = 1000 * ms, longest = 0;
  for (int i = 0; i < 20; ++i) {
    p.took(5 * ms, now);
    const uint64_t before = now;
    while (!p.allows(now)) now += 10 * ms;
    longest = std::max(longest, now - before);
  }
  EXPECT_GT(longest, 1000 * ms);
  EXPECT_LE(longest, 5010 * ms);
  // After a long quiet time a slow write is an accident again.
  now += 100'000 * ms;
  p.took(5 * ms, now);
  EXPECT_TRUE(p.allows(now + 20 * ms));
}

}  // namespace
}  // namespace lbd::rt
