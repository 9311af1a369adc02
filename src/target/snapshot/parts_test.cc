// SPDX-License-Identifier: MIT
// The exception map and the chunk tracker by themselves.
#include <gtest/gtest.h>

#include <random>
#include <unordered_map>

#include "target/snapshot/chunk_tracker.h"
#include "target/snapshot/exception_map.h"

namespace lbd::snapshot {
namespace {

using rt::task;

TEST(exception_map, agrees_with_a_plain_map) {
  exception_map m;
  std::unordered_map<uint64_t, uint64_t> model;
  std::mt19937_64 random(7);
  for (int i = 0; i < 60'000; ++i) {
    const bool near = random() % 2 == 0;
    const uint64_t old_chunk = near ? random() % 4000 : random() >> 8;
    switch (random() % 4) {
      case 0:
        m.erase(old_chunk);
        model.erase(old_chunk);
        break;
      case 1: {
        const auto at = model.find(old_chunk);
        const auto found = m.find(old_chunk);
        ASSERT_EQ(found.found(), at != model.end());
        if (found.found()) {
          ASSERT_EQ(found.new_chunk(), at->second);
        }
        break;
      }
      default: {
        const uint64_t new_chunk = random() >> 3;
        m.insert(old_chunk, new_chunk, false);
        model[old_chunk] = new_chunk;
      }
    }
  }
  ASSERT_EQ(m.size(), model.size());
  uint64_t largest = 0;
  for (const auto& [old_chunk, new_chunk] : model) {
    ASSERT_EQ(m.find(old_chunk).new_chunk(), new_chunk);
    largest = std::max(largest, new_chunk);
  }
  EXPECT_EQ(m.largest_new_chunk(), largest);
  EXPECT_TRUE(m.has_retired());
  m.take_retired();
  EXPECT_FALSE(m.has_retired());
}

TEST(exception_map, settling_is_seen_until_it_ends) {
  exception_map m;
  EXPECT_FALSE(m.find(5).found());
  m.insert(5, 77, true);
  EXPECT_TRUE(m.find(5).settling());
  EXPECT_EQ(m.find(5).new_chunk(), 77u);
  m.settle(5);
  EXPECT_FALSE(m.find(5).settling());
  EXPECT_EQ(m.find(5).new_chunk(), 77u);
  m.settle(6);
  EXPECT_FALSE(m.find(6).found());
}

class tracker : public testing::Test {
 protected:
  static task<void> drained(chunk_tracker& t, uint64_t first, uint64_t count, bool& over) {
    co_await t.drain(first, count);
    over = true;
  }
  void settle() {
    for (int i = 0; i < 10; ++i) rt_->at(0).turn(0);
  }
  std::unique_ptr<rt::runtime> rt_ = *rt::runtime::start({.reactors = 2});
  rt::reactor::scope here_{rt_->at(0)};
  chunk_tracker tracker_{*rt_};
};

TEST_F(tracker, waits_for_those_inside_and_not_for_newcomers) {
  EXPECT_FALSE(tracker_.busy(0, 1000));
  const uint64_t visit = tracker_.enter(100, 4);
  EXPECT_TRUE(tracker_.busy(103, 1));
  EXPECT_FALSE(tracker_.busy(104, 10));
  bool over = false, other = false;
  rt::spawn(drained(tracker_, 102, 1, over));
  rt::spawn(drained(tracker_, 10, 5, other));
  settle();
  EXPECT_FALSE(over);
  EXPECT_TRUE(other) << "nobody is there";
  const uint64_t newcomer = tracker_.enter(102, 1);
  tracker_.leave(visit);
  settle();
  EXPECT_TRUE(over);
  tracker_.leave(newcomer);
  rt_->run_until(tracker_.close());
}

TEST_F(tracker, hears_of_those_who_leave_on_other_reactors) {
  auto enter = [](chunk_tracker& t) -> task<uint64_t> { co_return t.enter(7, 1); };
  auto enter_there = [&] { return enter(tracker_); };
  auto on_other = [](rt::runtime& rt, auto& work) -> task<uint64_t> {
    co_return co_await rt::call_on(rt.at(1), work);
  };
  const uint64_t visit = rt_->run_until(on_other(*rt_, enter_there));
  EXPECT_TRUE(tracker_.busy(7, 1));
  bool over = false;
  rt::spawn(drained(tracker_, 7, 1, over));
  settle();
  EXPECT_FALSE(over);
  auto leave = [](chunk_tracker& t, uint64_t v) -> task<uint64_t> {
    t.leave(v);
    co_return 0;
  };
  auto leave_there = [&] { return leave(tracker_, visit); };
  rt_->run_until(on_other(*rt_, leave_there));
  rt_->run_until(tracker_.close());
  settle();
  EXPECT_TRUE(over);
}

TEST_F(tracker, many_visits_and_drains) {
  std::mt19937_64 random(3);
  std::vector<uint64_t> inside;
  int over = 0, asked = 0;
  auto count = [](chunk_tracker& t, uint64_t chunk, int& done) -> task<void> {
    co_await t.drain(chunk, 3);
    ++done;
  };
  for (int i = 0; i < 3000; ++i) {
    if (inside.size() < 20 && random() % 2 == 0) {
      inside.push_back(tracker_.enter(random() % 5000, 1 + random() % 64));
    } else if (!inside.empty()) {
      const size_t at = random() % inside.size();
      tracker_.leave(inside[at]);
      inside.erase(inside.begin() + static_cast<ptrdiff_t>(at));
    }
    if (random() % 8 == 0) {
      ++asked;
      rt::spawn(count(tracker_, random() % 5000, over));
    }
    rt_->at(0).turn(0);
  }
  for (const uint64_t visit : inside) tracker_.leave(visit);
  rt_->run_until(tracker_.close());
  settle();
  EXPECT_EQ(over, asked);
  EXPECT_FALSE(tracker_.busy(0, 256));
}

}  // namespace
}  // namespace lbd::snapshot
