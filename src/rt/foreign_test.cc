// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "rt/blocking.h"
#include "rt/runtime.h"

namespace lbd::rt {
namespace {

std::unique_ptr<runtime> start(unsigned reactors) {
  auto rt = runtime::start({.reactors = reactors, .how = backend::threads});
  EXPECT_TRUE(rt);
  return *std::move(rt);
}

// A gate that a test opens for a thread that hangs in it.
class latch {
 public:
  void open() {
    const std::lock_guard lock(mutex_);
    open_ = true;
    opened_.notify_all();
  }
  void wait() {
    std::unique_lock lock(mutex_);
    opened_.wait(lock, [this] { return open_; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable opened_;
  bool open_ = false;
};

task<int> sum_of_many(blocking_threads& threads, int count) {
  int sum = 0;
  for (int i = 0; i < count; ++i) {
    auto work = [i] { return i; };
    const auto n = co_await run_blocking<int>(threads, std::move(work), 0);
    sum += *n;
  }
  co_return sum;
}

TEST(foreign, results_come_back_to_the_reactor) {
  auto rt = start(1);
  blocking_threads threads(3);
  EXPECT_EQ(rt->run_until(sum_of_many(threads, 500)), 500 * 499 / 2);
}

task<int> sums_side_by_side(blocking_threads& threads) {
  std::vector<task<int>> tasks;
  for (int i = 0; i < 16; ++i) tasks.push_back(sum_of_many(threads, 50));
  int sum = 0;
  for (int n : co_await when_all(std::move(tasks))) sum += n;
  co_return sum;
}

TEST(foreign, many_callers_share_few_threads) {
  auto rt = start(1);
  blocking_threads threads(2);
  EXPECT_EQ(rt->run_until(sums_side_by_side(threads)), 16 * (50 * 49 / 2));
}

task<bool> give_up(blocking_threads& threads, latch& hangs, std::shared_ptr<int> kept) {
  auto work = [&hangs, kept] {
    hangs.wait();
    return kept;
  };
  const uint64_t due = reactor::current().now_ns() + 5'000'000;
  const auto got = co_await run_blocking<std::shared_ptr<int>>(threads, std::move(work), due);
  co_return got.has_value();
}

TEST(foreign, a_hanging_call_is_given_up_and_its_result_destroyed_later) {
  auto rt = start(1);
  latch hangs;
  auto kept = std::make_shared<int>(1);
  auto threads = std::make_unique<blocking_threads>(1);
  EXPECT_FALSE(rt->run_until(give_up(*threads, hangs, kept)));
  EXPECT_GT(kept.use_count(), 1);
  threads.reset();  // does not wait for the thread
  rt.reset();       // nor does the runtime
  hangs.open();
  while (kept.use_count() > 1) std::this_thread::yield();
}

// A library whose answers race with the deadline: each call ends exactly one way, and the count of
// late ones comes back to zero.
task<bool> racing_deadlines(blocking_threads& threads, std::shared_ptr<std::atomic<uint64_t>> late,
                            int count) {
  struct call final : foreign_call {
    using foreign_call::foreign_call;
  };
  for (int i = 0; i < count; ++i) {
    auto* c = new call(late);
    auto body = [c] { c->finish(); };
    threads.run(std::move(body));
    const uint64_t due = reactor::current().now_ns() + static_cast<uint64_t>(i % 7) * 10'000 + 1;
    const bool ended = co_await c->ended(due);
    if (ended) delete c;
  }
  co_return true;
}

TEST(foreign, answers_race_with_deadlines) {
  auto rt = start(1);
  auto late = std::make_shared<std::atomic<uint64_t>>(0);
  blocking_threads threads(2);
  EXPECT_TRUE(rt->run_until(racing_deadlines(threads, late, 2000)));
  while (late->load() != 0) std::this_thread::yield();
}

// A call that notes when and where it begins.
struct noted_call final : foreign_call {
  explicit noted_call(std::vector<int>& log, int n, latch* hang = nullptr)
      : begun(log), number(n), hangs(hang) {}
  void begin() noexcept override {
    if (hangs != nullptr) hangs->wait();
    begun.push_back(number);
    on_reactor = reactor::on_reactor();
    finish();
  }
  std::vector<int>& begun;  // only the call thread adds
  const int number;
  latch* const hangs;
  bool on_reactor = true;
};

task<bool> begin_one(call_thread& calls, std::vector<int>& log, int number) {
  auto* c = new noted_call(log, number);
  c->begin_on(calls);
  const bool ended = co_await c->ended(0);
  const bool elsewhere = !c->on_reactor;
  delete c;
  co_return ended&& elsewhere;
}
task<bool> begin_many(call_thread& calls, std::vector<int>& log, int count) {
  std::vector<task<bool>> all;
  for (int i = 0; i < count; ++i) all.push_back(begin_one(calls, log, i));
  bool good = true;
  for (bool b : co_await when_all(std::move(all))) good = good && b;
  co_return good;
}

TEST(foreign, calls_begin_elsewhere_and_in_order) {
  auto rt = start(1);
  call_thread calls;
  std::vector<int> begun;
  for (int round = 0; round < 200; ++round) {
    begun.clear();
    ASSERT_TRUE(rt->run_until(begin_many(calls, begun, 1 + round % 5)));
    for (int i = 0; i < 1 + round % 5; ++i) EXPECT_EQ(begun.at(i), i);
  }
}

task<bool> begin_behind_a_hanging_one(call_thread& calls, std::vector<int>& log, latch& hangs,
                                      std::shared_ptr<int> kept) {
  struct second final : foreign_call {
    void begin() noexcept override { std::abort(); }
    std::shared_ptr<int> kept;
  };
  auto* first = new noted_call(log, 1, &hangs);
  auto* behind = new second;
  behind->kept = std::move(kept);
  first->begin_on(calls);
  behind->begin_on(calls);
  const bool ended = co_await behind->ended(reactor::current().now_ns() + 5'000'000);
  hangs.open();
  const bool first_ended = co_await first->ended(0);
  delete first;
  co_return !ended && first_ended;
}

TEST(foreign, a_call_given_up_before_its_turn_never_begins) {
  auto rt = start(1);
  latch hangs;
  std::vector<int> begun;
  auto kept = std::make_shared<int>(1);
  auto calls = std::make_unique<call_thread>();
  EXPECT_TRUE(rt->run_until(begin_behind_a_hanging_one(*calls, begun, hangs, kept)));
  calls.reset();  // what was posted still gets its turn
  while (kept.use_count() > 1) std::this_thread::yield();
  EXPECT_EQ(begun, std::vector<int>{1});
}

TEST(foreign, a_runtime_shares_one_object_of_a_kind) {
  auto rt = start(1);
  rt->shared<std::atomic<int>>() = 7;
  EXPECT_EQ(rt->shared<std::atomic<int>>(), 7);
  EXPECT_EQ(rt->shared<std::atomic<long>>(), 0);
}

}  // namespace
}  // namespace lbd::rt
