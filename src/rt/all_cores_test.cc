// SPDX-License-Identifier: MIT
#include "rt/all_cores.h"

#include <gtest/gtest.h>

#include <algorithm>
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
    for (int ms = 0; inside_.load() < meet_ && ms < 20'000; ++ms)
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
  for (int i = 0; i < 20; ++i) {
    counted w(3, much, 3);
    EXPECT_TRUE(rt_->run_until(do_it(cores_, w))) << "comes back to its reactor";
    EXPECT_TRUE(w.each_once());
    EXPECT_EQ(w.reactors.load(), 7u);
  }
}

TEST_F(cores, little_work_stays_where_it_is) {
  for (int i = 0; i < 20; ++i) {
    counted w(3, 4096);
    EXPECT_TRUE(rt_->run_until(do_it(cores_, w)));
    EXPECT_TRUE(w.each_once());
    EXPECT_EQ(w.reactors.load(), 1u);
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

TEST_F(cores, every_part_is_done_once_while_all_ask_each_other) {
  EXPECT_TRUE(rt_->run_until(on_all(*rt_, cores_)));
}

}  // namespace
}  // namespace lbd::rt
