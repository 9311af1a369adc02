// SPDX-License-Identifier: MIT
#include "rt/all_cores.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <thread>

namespace lbd::rt {
namespace {

constexpr uint64_t much = uint64_t{1} << 20;

class cores : public testing::Test {
 protected:
  std::unique_ptr<runtime> rt_ = *runtime::start({.reactors = 3});
  all_cores& cores_ = all_cores::of(*rt_);
};

// Counts how often each part is done, and on how many reactors at once.
class counted final : public all_cores::work {
 public:
  counted(unsigned parts, uint64_t bytes, unsigned meet = 1)
      : work(parts, bytes), done(parts), meet_(meet) {}
  void do_part(unsigned index) noexcept override {
    done[index].fetch_add(1);
    reactors.fetch_or(1u << reactor::current().index());
    inside_.fetch_add(1);
    for (int ms = 0; inside_.load() < meet_ && ms < 50; ++ms)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  bool each_once() const {
    return std::all_of(done.begin(), done.end(), [](const auto& n) { return n.load() == 1; });
  }
  std::vector<std::atomic<unsigned>> done;
  std::atomic<unsigned> reactors{0};

 private:
  const unsigned meet_;
  std::atomic<unsigned> inside_{0};
};

task<bool> do_it(all_cores& cores, counted& w) {
  co_await cores.run(w);
  co_return reactor::current().index() == 0;
}

TEST_F(cores, much_work_is_done_by_all_at_the_same_time) {
  // On a busy machine some do not come for a while.
  unsigned met = 0;
  for (int i = 0; met < 20 && i < 100; ++i) {
    counted w(3, much, 3);
    EXPECT_TRUE(rt_->run_until(do_it(cores_, w))) << "comes back to its reactor";
    EXPECT_TRUE(w.each_once());
    if (w.reactors == 7u) ++met;
  }
  EXPECT_EQ(met, 20u);
}

TEST_F(cores, little_work_stays_where_it_is) {
  for (int i = 0; i < 20; ++i) {
    counted w(3, 4096);
    EXPECT_TRUE(rt_->run_until(do_it(cores_, w)));
    EXPECT_TRUE(w.each_once());
    EXPECT_EQ(w.reactors.load(), 1u);
  }
}

// As many parts as a turn may do: nothing is left for a later one, which may not come. (What was
// left would be a leak, which the address sanitizer finds.)
TEST_F(cores, a_runtime_may_end_with_the_work) {
  for (const uint64_t bytes : {uint64_t{4096}, much}) {
    counted w(8, bytes);
    EXPECT_TRUE(rt_->run_until(do_it(cores_, w)));
    EXPECT_TRUE(w.each_once());
  }
}

task<bool> small_one(all_cores& cores) {
  const unsigned here = reactor::current().index();
  counted w(1, 4096);
  co_await cores.run(w);
  co_return w.each_once() && reactor::current().index() == here;
}

task<bool> many_small_ones(all_cores& cores) {
  bool good = true;
  for (int round = 0; round < 200; ++round) {
    std::vector<task<bool>> all;
    for (int i = 0; i < 40; ++i) all.push_back(small_one(cores));
    for (const bool one : co_await when_all(std::move(all))) good &= one;
    counted large(5, much);
    co_await cores.run(large);
    good &= large.each_once();
  }
  co_return good;
}

task<bool> on(reactor& where, all_cores& cores) {
  auto there = [&cores] { return many_small_ones(cores); };
  co_return co_await call_on(where, there);
}

task<bool> on_all(runtime& rt, all_cores& cores) {
  std::vector<task<bool>> all;
  for (unsigned i = 0; i < rt.reactor_count(); ++i) all.push_back(on(rt.at(i), cores));
  bool good = true;
  for (const bool one : co_await when_all(std::move(all))) good &= one;
  co_return good;
}

// How many parts each reactor does without looking at anything else.
class unbroken final : public all_cores::work {
 public:
  explicit unbroken(unsigned parts) : work(parts, parts * part_bytes) {}
  void do_part(unsigned) noexcept override {
    const unsigned here = reactor::current().index();
    most[here] = std::max(most[here], ++row[here]);
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
  static constexpr uint64_t part_bytes = 32768;
  std::array<unsigned, 3> row{}, most{};  // each reactor's own
  std::atomic<bool> done{false};
};

task<bool> break_rows_here(unbroken& w) {
  while (!w.done) {
    w.row[reactor::current().index()] = 0;
    co_await yield_now{};
  }
  co_return true;
}
task<bool> break_rows(reactor& where, unbroken& w) {
  auto there = [&w] { return break_rows_here(w); };
  co_return co_await call_on(where, there);
}
task<bool> do_at_last(all_cores& cores, unbroken& w) {
  co_await cores.run(w);
  w.done = true;
  co_return true;
}
task<bool> work_and_break(runtime& rt, all_cores& cores, unbroken& w) {
  std::vector<task<bool>> all;
  for (unsigned i = 0; i < rt.reactor_count(); ++i) all.push_back(break_rows(rt.at(i), w));
  all.push_back(do_at_last(cores, w));
  for (const bool one : co_await when_all(std::move(all))) (void)one;
  co_return true;
}

TEST_F(cores, much_work_leaves_time_for_everything_else) {
  unbroken w(600);
  EXPECT_TRUE(rt_->run_until(work_and_break(*rt_, cores_, w)));
  for (const unsigned most : w.most) EXPECT_LE(most, 16u);
}

// As long as a small one may take, and of a size that is worth the way.
class slow_small final : public all_cores::work {
 public:
  explicit slow_small(std::atomic<unsigned>& reactors) : work(1, 4096), reactors_(reactors) {}
  void do_part(unsigned) noexcept override {
    std::this_thread::sleep_for(std::chrono::microseconds(100));
    reactors_.fetch_or(1u << reactor::current().index());
  }

 private:
  std::atomic<unsigned>& reactors_;
};

task<bool> slow_small_one(all_cores& cores, std::atomic<unsigned>& reactors) {
  slow_small w(reactors);
  co_await cores.run(w);
  co_return true;
}
task<bool> slow_small_ones(all_cores& cores, std::atomic<unsigned>& reactors) {
  std::vector<task<bool>> all;
  for (int i = 0; i < 64; ++i) all.push_back(slow_small_one(cores, reactors));
  for (const bool one : co_await when_all(std::move(all))) (void)one;
  co_return true;
}

TEST_F(cores, many_small_ones_of_one_turn_are_much_work) {
  std::atomic<unsigned> reactors{0};
  for (int round = 0; reactors != 7u && round < 200; ++round)
    rt_->run_until(slow_small_ones(cores_, reactors));
  EXPECT_EQ(reactors.load(), 7u);
}

task<bool> until(std::atomic<bool>& told) {
  while (!told) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  co_return true;
}
task<bool> kept_busy(reactor& where, std::atomic<bool>& told) {
  auto there = [&told] { return until(told); };
  co_return co_await call_on(where, there);
}
task<bool> then_tell(all_cores& cores, std::atomic<unsigned>& reactors, std::atomic<bool>& told) {
  for (int round = 0; round < 4; ++round) {
    co_await slow_small_ones(cores, reactors);
    counted large(40, much);
    co_await cores.run(large);
    reactors |= large.reactors;
  }
  told = true;
  co_return true;
}
task<bool> while_others_are_busy(runtime& rt, all_cores& cores, std::atomic<unsigned>& reactors) {
  std::atomic<bool> told{false};
  std::vector<task<bool>> all;
  for (unsigned i = 1; i < rt.reactor_count(); ++i) all.push_back(kept_busy(rt.at(i), told));
  all.push_back(then_tell(cores, reactors, told));
  for (const bool one : co_await when_all(std::move(all))) (void)one;
  co_return true;
}

TEST_F(cores, nobody_waits_for_reactors_that_do_not_come) {
  std::atomic<unsigned> reactors{0};
  rt_->run_until(while_others_are_busy(*rt_, cores_, reactors));
  EXPECT_EQ(reactors.load(), 1u);
  // Those who came for nothing are asked again later.
  for (int round = 0; reactors != 7u && round < 2000; ++round)
    rt_->run_until(slow_small_ones(cores_, reactors));
  EXPECT_EQ(reactors.load(), 7u);
}

TEST_F(cores, every_part_is_done_once_while_all_ask_each_other) {
  EXPECT_TRUE(rt_->run_until(on_all(*rt_, cores_)));
}

}  // namespace
}  // namespace lbd::rt
