// SPDX-License-Identifier: MIT
// The simulator itself: it must be deterministic, find planted bugs, and find nothing in what is
// sound.
#include <gtest/gtest.h>
#include <linux/falloc.h>
#include <sys/uio.h>

#include <cstring>
#include <set>

#include "base/log.h"
#include "rt/sync.h"
#include "sim/campaign.h"
#include "sim/canary.h"
#include "sim/oracle.h"
#include "sim/raw.h"
#include "sim/snapshot.h"

namespace lbd::sim {
namespace {

using rt::task;

// Faults are what is wanted here: their log lines would be noise.
class quiet_log final : public testing::Environment {
  void SetUp() override { base::set_log_level(base::log_level::off); }
};
const auto* const quiet = testing::AddGlobalTestEnvironment(new quiet_log);

std::vector<scenario> canaries(bug b) {
  return {{"canary", [b](random& shape) { return make_canary(b, 4096 * shape.between(16, 200)); }}};
}

class planted_bug : public testing::TestWithParam<bug> {};

TEST_P(planted_bug, is_found_within_200_seeds) {
  campaign_options options;
  options.seeds = 200;
  options.shrink_seconds = 0;
  const auto result = run_campaign(canaries(GetParam()), options, 1);
  ASSERT_EQ(result.findings.size(), 1u) << "after " << result.runs << " runs";
}
INSTANTIATE_TEST_SUITE_P(all, planted_bug,
                         testing::Values(bug::flush_without_sync, bug::pointers_first,
                                         bug::forgets_failed_sync, bug::ignores_fua, bug::no_lock,
                                         bug::torn_table, bug::swallows_errors));

// A store whose device does not keep what it promised: snapshots cannot keep theirs.
class planted_store_bug : public testing::TestWithParam<store_bug> {};

TEST_P(planted_store_bug, is_found_within_200_seeds) {
  const store_bug bug = GetParam();
  std::vector<scenario> broken{
      {"snapshot", [bug](random& shape) { return make_broken_snapshot(shape, bug); }}};
  campaign_options options;
  options.seeds = 200;
  options.shrink_seconds = 0;
  const auto result = run_campaign(broken, options, 1);
  ASSERT_EQ(result.findings.size(), 1u) << "after " << result.runs << " runs";
}
INSTANTIATE_TEST_SUITE_P(all, planted_store_bug,
                         testing::Values(store_bug::ignores_flush, store_bug::ignores_all));

TEST(sound_devices, give_no_findings) {
  std::vector<scenario> all = canaries(bug::none);
  all.push_back({"raw", make_raw});
  campaign_options options;
  options.seeds = 300;
  const auto result = run_campaign(all, options, 1);
  for (const finding& f : result.findings) ADD_FAILURE() << to_string(f);
  EXPECT_EQ(result.runs, 300u);
  EXPECT_GT(result.crashes, 300u);
}

TEST(campaign, shrinks_and_replays) {
  campaign_options options;
  options.seeds = 50;
  options.shrink_seconds = 10;
  const auto all = canaries(bug::flush_without_sync);
  const auto first = run_campaign(all, options, 1);
  ASSERT_EQ(first.findings.size(), 1u);
  const finding& f = first.findings[0];
  EXPECT_LT(f.shrunk.steps.size(), 12u) << to_string(f);
  const verdict again = run_seed(all[0], f.seed);
  EXPECT_EQ(again.failure, f.failure.substr(0, again.failure.size()));
}

TEST(plans, come_from_the_seed_alone) {
  EXPECT_EQ(to_string(draw_plan(7, 1 << 20)), to_string(draw_plan(7, 1 << 20)));
  EXPECT_NE(to_string(draw_plan(7, 1 << 20)), to_string(draw_plan(8, 1 << 20)));
}

task<bool> wait_for(rt::event& e) {
  co_await e.wait();
  co_return true;
}

TEST(world, tells_a_deadlock_from_a_wait) {
  {
    world w(1);
    rt::event never;
    EXPECT_FALSE(w.run(wait_for(never)));
    EXPECT_NE(w.stuck().find("deadlock"), std::string::npos);
    // So that who waits can end.
    const rt::reactor::scope here(w.reactor());
    never.set();
    w.reactor().turn(0);
  }
  world w(1);
  auto sleep = []() -> task<uint64_t> {
    const uint64_t start = rt::reactor::current().now_ns();
    co_await rt::sleep_for(std::chrono::hours(1000));
    co_return rt::reactor::current().now_ns() - start;
  };
  EXPECT_EQ(w.run(sleep()), uint64_t{1000} * 3600 * 1'000'000'000);
}

task<bool> note_order(std::vector<int>& order, int who) {
  co_await rt::yield_now();
  order.push_back(who);
  co_return true;
}
std::vector<int> order_of(uint64_t seed) {
  world w(seed);
  std::vector<int> order;
  std::vector<task<bool>> tasks;
  for (int i = 0; i < 8; ++i) tasks.push_back(note_order(order, i));
  w.run(rt::when_all(std::move(tasks)));
  return order;
}

TEST(scheduler, draws_its_order_from_the_seed) {
  EXPECT_EQ(order_of(1), order_of(1));
  std::set<std::vector<int>> seen;
  for (uint64_t seed = 0; seed < 20; ++seed) seen.insert(order_of(seed));
  EXPECT_GT(seen.size(), 15u);
}

// --- the disk ---

class disk_test : public testing::Test {
 protected:
  static disk_options quiet() {
    disk_options o;
    o.short_percent = 0;
    return o;
  }
  void start(uint64_t seed, disk_options o = quiet()) {
    file_.reset();
    disk_.reset();
    world_ = std::make_unique<world>(seed);
    disk_ = std::make_unique<sim_disk>(seed, o);
    reopen();
  }
  bool reopen() {
    rt::open_options o;
    o.writable = o.create = true;
    file_ = *disk_->open("/f", o);
    return true;
  }
  std::vector<std::byte> stamped(uint32_t stamp, uint64_t offset, size_t n) {
    std::vector<std::byte> out(n);
    fill_stamped(stamp, offset, out);
    return out;
  }
  base::errc write(uint64_t offset, std::vector<std::byte> bytes) {
    return base::code_of(*world_->run(file_->write_all(offset, bytes)));
  }
  base::errc sync() {
    auto t = [](rt::file& f) -> task<base::result<void>> {
      CO_CHECK(co_await f.sync_data());
      co_return base::result<void>{};
    };
    return base::code_of(*world_->run(t(*file_)));
  }
  base::errc allocate(int mode, uint64_t offset, uint64_t length) {
    auto t = [](rt::file& f, int m, uint64_t o, uint64_t n) -> task<base::result<void>> {
      CO_CHECK(co_await f.allocate(m, o, n));
      co_return base::result<void>{};
    };
    return base::code_of(*world_->run(t(*file_, mode, offset, length)));
  }
  std::vector<std::byte> read(uint64_t offset, size_t n) {
    std::vector<std::byte> out(n);
    EXPECT_TRUE(*world_->run(file_->read_all(offset, out)));
    return out;
  }
  void crash() {
    rt::reactor::scope here(world_->reactor());
    disk_->crash();
  }

  std::unique_ptr<world> world_;
  std::unique_ptr<sim_disk> disk_;
  std::unique_ptr<rt::file> file_;
};

TEST_F(disk_test, what_is_synced_survives_and_the_rest_may_or_may_not) {
  unsigned all = 0, none = 0, some = 0, short_file = 0;
  for (uint64_t seed = 0; seed < 300; ++seed) {
    start(seed);
    write(0, stamped(1, 0, 8192));
    ASSERT_EQ(sync(), base::errc::ok);
    write(4096, stamped(2, 4096, 8192));
    crash();
    ASSERT_TRUE(reopen());
    ASSERT_EQ(read(0, 4096), stamped(1, 0, 4096));
    unsigned kept = 0;
    for (uint64_t at = 4096; at < 12288; at += 512) {
      const auto found = read(at, 512);
      if (found == stamped(2, at, 512))
        ++kept;
      else if (at < 8192)
        ASSERT_EQ(found, stamped(1, at, 512));
      else
        ASSERT_TRUE(base::is_zero(found));
    }
    all += kept == 16;
    none += kept == 0;
    some += kept > 0 && kept < 16;
    short_file += file_->info().size_bytes == 8192;
  }
  EXPECT_GT(all, 10u);
  EXPECT_GT(none, 10u);
  EXPECT_GT(some, 10u);
  EXPECT_GT(short_file, 10u);
}

TEST_F(disk_test, a_failed_sync_may_drop_what_it_should_have_written) {
  unsigned lost = 0, kept = 0;
  for (uint64_t seed = 0; seed < 100; ++seed) {
    start(seed);
    ASSERT_EQ(sync(), base::errc::ok);
    write(0, stamped(1, 0, 512));
    disk_->inject(fault::sync_error);
    ASSERT_EQ(sync(), base::errc::io);
    EXPECT_EQ(disk_->failed_syncs(), 1u);
    ASSERT_EQ(sync(), base::errc::ok) << "the kernel pretends that all is well";
    crash();
    ASSERT_TRUE(reopen());
    (read(0, 512) == stamped(1, 0, 512) ? kept : lost) += 1;
  }
  EXPECT_GT(lost, 10u);
  EXPECT_GT(kept, 10u);
}

TEST_F(disk_test, a_false_alarm_is_a_write_that_was_done) {
  start(1);
  disk_->inject(fault::false_alarm, 1);
  EXPECT_EQ(write(0, stamped(1, 0, 512)), base::errc::ok);
  EXPECT_EQ(write(0, stamped(2, 0, 512)), base::errc::io);
  EXPECT_EQ(read(0, 512), stamped(2, 0, 512));
  EXPECT_EQ(write(0, stamped(3, 0, 512)), base::errc::ok);
}

TEST_F(disk_test, requests_after_a_power_loss_fail) {
  start(1);
  write(0, stamped(1, 0, 512));
  crash();
  EXPECT_EQ(write(0, stamped(2, 0, 512)), base::errc::io);
  EXPECT_EQ(sync(), base::errc::io);
}

TEST_F(disk_test, space_runs_out_and_comes_back) {
  start(1);
  disk_->set_space(8192);
  EXPECT_EQ(write(0, stamped(1, 0, 8192)), base::errc::ok);
  EXPECT_EQ(write(8192, stamped(1, 8192, 512)), base::errc::nospc);
  EXPECT_EQ(write(0, stamped(2, 0, 8192)), base::errc::ok) << "rewriting needs no room";
  EXPECT_EQ(allocate(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096), base::errc::ok);
  EXPECT_EQ(write(8192, stamped(1, 8192, 4096)), base::errc::ok);
  EXPECT_EQ(disk_->used_bytes(), 8192u);
}

TEST_F(disk_test, holes_are_found) {
  start(1);
  write(0, stamped(1, 0, 16384));
  EXPECT_EQ(allocate(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4000, 8384), base::errc::ok);
  EXPECT_TRUE(base::is_zero(read(4000, 8384)));
  EXPECT_EQ(read(0, 4000), stamped(1, 0, 4000));
  const auto data = file_->extent_at(0), hole = file_->extent_at(4096 + 512);
  EXPECT_FALSE(data.hole);
  EXPECT_EQ(data.length_bytes, 4096u);
  EXPECT_TRUE(hole.hole);
  EXPECT_EQ(hole.length_bytes, 12288u - 4096 - 512);
  EXPECT_FALSE(file_->extent_at(12288).hole);
}

TEST_F(disk_test, locks_belong_to_the_open_file) {
  start(1);
  auto other = *disk_->open("/f", {});
  using rt::lock_kind;
  EXPECT_TRUE(file_->lock(lock_kind::shared, 100, 2));
  EXPECT_TRUE(other->lock(lock_kind::shared, 101, 1));
  EXPECT_FALSE(other->lock(lock_kind::exclusive, 100, 1));
  EXPECT_TRUE(other->would_block(lock_kind::exclusive, 100, 1));
  EXPECT_TRUE(file_->lock(lock_kind::none, 100, 1));
  EXPECT_TRUE(other->lock(lock_kind::exclusive, 100, 1));
  EXPECT_FALSE(file_->lock(lock_kind::shared, 100, 1));
  other.reset();
  EXPECT_TRUE(file_->lock(lock_kind::exclusive, 0, 1000));
}

TEST_F(disk_test, stuck_requests_wait_for_their_release) {
  start(1);
  disk_->inject(fault::stuck);
  auto t = [](rt::file& f) -> task<uint64_t> {
    (void)co_await f.sync_data();
    co_return rt::reactor::current().now_ns();
  };
  const uint64_t before = world_->reactor().now_ns();
  EXPECT_GT(*world_->run(t(*file_)) - before, 9'000'000'000u);
}

// --- the oracle ---

class oracle_test : public testing::Test {
 protected:
  std::vector<std::byte> stamped(uint32_t stamp, uint64_t offset = 0, size_t n = 512) {
    std::vector<std::byte> out(n);
    fill_stamped(stamp, offset, out);
    return out;
  }
  bool seen(uint32_t stamp) { return model_.check_read(model_.begin(), 0, stamped(stamp)).empty(); }
  void write(uint32_t stamp, bool durable = false) {
    model_.end_write(model_.begin_write(0, 512, stamp), true, durable);
  }
  void flush(bool ok = true) { model_.end_flush(model_.begin(), ok); }
  oracle model_{std::vector<std::byte>(65536)};
};

TEST_F(oracle_test, running_devices_show_the_last_write) {
  EXPECT_TRUE(seen(0));
  write(1);
  EXPECT_TRUE(seen(1));
  EXPECT_FALSE(seen(0));
  const auto two = model_.begin_write(0, 512, 2), three = model_.begin_write(0, 512, 3);
  EXPECT_TRUE(seen(1) && seen(2) && seen(3)) << "in flight";
  model_.end_write(two, true, false);
  EXPECT_TRUE(seen(2) && seen(3) && !seen(1));
  model_.end_write(three, true, false);
  EXPECT_TRUE(seen(2) && seen(3)) << "at the same time: any order";
  write(4);
  EXPECT_TRUE(seen(4) && !seen(2) && !seen(3));
}

TEST_F(oracle_test, reads_may_see_what_began_before_they_ended) {
  write(1);
  const uint64_t began = model_.begin();
  write(2);
  EXPECT_EQ(model_.check_read(began, 0, stamped(1)), "");
  EXPECT_EQ(model_.check_read(began, 0, stamped(2)), "");
  EXPECT_NE(model_.check_read(began, 0, stamped(0)), "");
}

TEST_F(oracle_test, a_crash_keeps_what_was_flushed_or_newer) {
  const auto after_crash = [&](uint32_t stamp) {
    oracle copy = model_;
    std::vector<std::byte> all(65536);
    fill_stamped(stamp, 0, base::bytes_span(all).first(512));
    return copy.check_after_crash(all).empty();
  };
  write(1);
  EXPECT_TRUE(after_crash(0) && after_crash(1));
  flush();
  write(2);
  EXPECT_TRUE(!after_crash(0) && after_crash(1) && after_crash(2));
  write(3, true);
  EXPECT_TRUE(!after_crash(1) && !after_crash(2) && after_crash(3));
  const uint64_t flushing = model_.begin();
  write(4);
  model_.end_flush(flushing, true);
  EXPECT_TRUE(after_crash(3) && after_crash(4)) << "answered after the flush had begun";
  flush(false);
  EXPECT_TRUE(after_crash(3) && after_crash(4));
}

TEST_F(oracle_test, sectors_are_not_torn_and_small_writes_are_followed_to_the_byte) {
  write(1);
  const auto two = model_.begin_write(0, 512, 2);
  auto mixed = stamped(1);
  std::memcpy(mixed.data(), stamped(2).data(), 100);
  EXPECT_NE(model_.check_read(model_.begin(), 0, mixed), "");
  model_.end_write(two, true, false);
  model_.end_write(model_.begin_write(10, 20, 3), true, false);
  auto bytes = stamped(2);
  EXPECT_NE(model_.check_read(model_.begin(), 0, bytes), "");
  fill_stamped(3, 10, base::bytes_span(bytes).subspan(10, 20));
  EXPECT_EQ(model_.check_read(model_.begin(), 0, bytes), "");
}

TEST_F(oracle_test, a_failed_write_may_have_happened_but_not_later) {
  write(1);
  model_.end_write(model_.begin_write(0, 512, 2), false, false);
  EXPECT_TRUE(seen(1) && seen(2));
  write(3);
  EXPECT_TRUE(seen(3) && !seen(2));
}

}  // namespace
}  // namespace lbd::sim
