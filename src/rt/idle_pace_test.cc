// SPDX-License-Identifier: MIT
#include "rt/idle_pace.h"

#include <gtest/gtest.h>

#include <initializer_list>

namespace lbd::rt {
namespace {

constexpr uint64_t us = 1'000;

void repeat(idle_pace& pace, int times, std::initializer_list<uint64_t> gaps_us) {
  for (int i = 0; i < times; ++i)
    for (uint64_t gap : gaps_us) pace.note(gap * us);
}

TEST(idle_pace, looks_when_work_comes_quickly) {
  idle_pace pace(50 * us);
  EXPECT_EQ(pace.look_ns(), 0u);
  repeat(pace, 100, {15});
  EXPECT_GE(pace.look_ns(), 15 * us);
  EXPECT_LE(pace.look_ns(), 50 * us);
}

TEST(idle_pace, a_storage_that_takes_its_time_is_not_watched) {
  idle_pace pace(50 * us);
  repeat(pace, 100, {200, 0, 35});  // the answer, our own sending, the client's next request
  EXPECT_EQ(pace.look_ns(), 0u);
  pace.note(35 * us);
  EXPECT_EQ(pace.look_ns(), 0u);
}

TEST(idle_pace, now_and_then_a_longer_gap_changes_nothing) {
  idle_pace pace(50 * us);
  repeat(pace, 10, {15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 60, 15, 15});
  EXPECT_GT(pace.look_ns(), 0u);
}

TEST(idle_pace, a_pause_ends_it_until_work_comes_quickly_again) {
  idle_pace pace(50 * us);
  repeat(pace, 100, {15});
  pace.note(10'000'000 * us);
  EXPECT_EQ(pace.look_ns(), 0u);
  repeat(pace, 50, {15});
  EXPECT_GT(pace.look_ns(), 0u);
}

TEST(idle_pace, never_when_it_is_off) {
  idle_pace pace(0);
  repeat(pace, 100, {1});
  EXPECT_EQ(pace.look_ns(), 0u);
}

}  // namespace
}  // namespace lbd::rt
