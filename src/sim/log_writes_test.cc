// SPDX-License-Identifier: MIT
// A log of log-writes on a simulated disk, replayed: at each flush it has to give what the disk
// itself says was durable then, and after a power loss what the log counts has to be true.
#include <gtest/gtest.h>

#include <map>

#include "base/log.h"
#include "block/segments.h"
#include "format/dm_log_writes/dm_log_writes.h"
#include "sim/disk.h"
#include "sim/oracle.h"
#include "sim/reactor.h"
#include "stack/device_manager.h"
#include "store/file/file.h"

namespace lbd::sim {
namespace {

using base::outcome;
using block::io_opts;
using dm_log_writes::entry;
using rt::task;
using content = std::vector<std::byte>;

constexpr uint64_t sectors = 400;

class files final : public stack::source_opener {
 public:
  explicit files(sim_disk& disk) : disk_(disk) {}
  task<outcome<block::opened_device>> open(std::string source, bool) override {
    std::shared_ptr<block::block_device>& known = open_[source];
    if (known == nullptr) {
      store::file_options options;
      options.writable = true;
      auto opened = store::open_file_store(disk_, source, options);
      if (!opened) co_return opened.error();
      known = *std::move(opened);
    }
    const uint32_t minor = source == "/log" ? 1 : 0;
    co_return block::opened_device{known, {700, minor}};
  }
  void close() { open_.clear(); }

 private:
  sim_disk& disk_;
  std::map<std::string, std::shared_ptr<block::block_device>> open_;
};

struct step {
  uint64_t sector = 0, count = 0;
  uint32_t stamp = 0;  // 0: zeros
  bool discard = false;
  io_opts io;
};

// One run: requests drawn from a seed, one after the other or several of different places at once,
// with flushes, FUA writes and marks between them.
class run {
 public:
  explicit run(uint64_t seed)
      : random_(seed, 0x6c6f6773), world_(seed), disk_(seed, options()), sources_(disk_) {
    content data(sectors * sector_bytes), log(sector_bytes * 40000);
    fill_stamped(UINT32_MAX, 0, data);
    fill_stamped(UINT32_MAX - 1, 0, log);  // an old one, of which nothing may be taken for new
    disk_.put("/data", data);
    disk_.put("/log", log);
    first_ = data;
  }
  ~run() {
    rt::reactor::scope here(world_.reactor());
    manager_.reset();
    sources_.close();
  }

  void play(bool to_the_end) {
    ASSERT_TRUE(world_.run(begin()).value_or(false));
    const uint64_t cut_ns = to_the_end ? 0 : random_.between(1, 150'000'000);
    ASSERT_TRUE(world_.run(work(cut_ns)).has_value()) << world_.stuck();
    world_.settle();
    check_log(to_the_end);
  }

 private:
  static disk_options options() {
    disk_options o;
    o.can_punch = true;
    return o;
  }

  task<bool> begin() {
    manager_ = std::make_unique<stack::device_manager>(world_.runtime(), sources_);
    stack::device_key key{"d", {}, {}};
    const auto made = manager_->create("d", "", {});
    if (!made) co_return false;
    std::vector<stack::table_line> lines;
    lines.push_back({0, sectors, "log-writes", "/data /log"});
    const auto loaded = co_await manager_->load(key, std::move(lines), false);
    if (!loaded) co_return false;
    const stack::suspend_options how;
    const auto resumed = co_await manager_->resume(key, how);
    if (!resumed) co_return false;
    auto opened = manager_->open(key);
    if (!opened) co_return false;
    device_ = opened->device;
    co_return true;
  }

  task<void> lose_power(uint64_t after_ns) {
    co_await rt::sleep_for(std::chrono::nanoseconds(after_ns));
    off_ = true;
    disk_.crash();
  }

  task<bool> work(uint64_t cut_ns) {
    if (cut_ns != 0) rt::spawn(lose_power(cut_ns));
    for (int i = 0; !off_ && (cut_ns != 0 || i < 150); ++i) {
      co_await rt::sleep_for(std::chrono::microseconds(10));
      const uint64_t what = random_.below(10);
      if (what < 6)
        co_await change();
      else if (what < 9)
        co_await flush();
      else
        co_await mark(i);
    }
    device_.reset();
    stack::device_key key{"d", {}, {}};
    (void)co_await manager_->remove(std::move(key), false);
    co_return true;
  }

  // Requests that do not overlap, at once.
  task<void> change() {
    std::vector<step> steps;
    uint64_t at = random_.below(sectors / 2);
    for (uint64_t n = random_.between(1, 5); n > 0 && at < sectors; --n) {
      step s;
      s.sector = at;
      s.count = std::min(random_.between(1, 30), sectors - at);
      const uint64_t kind = random_.below(10);
      s.discard = kind == 0;
      s.stamp = kind < 2 ? 0 : ++stamp_;
      if (!s.discard && random_.percent(15)) s.io.flags = block::io_fua;
      at += s.count + random_.below(40);
      steps.push_back(s);
    }
    std::vector<task<bool>> all;
    for (const step& s : steps) all.push_back(carry_out(s));
    co_await rt::when_all(std::move(all));
  }

  task<bool> carry_out(step s) {
    content bytes(s.count * sector_bytes);
    fill_stamped(s.stamp, s.sector * sector_bytes, bytes);
    base::result<void> done;
    if (s.discard) {
      done = co_await device_->discard(s.sector * sector_bytes, bytes.size(), s.io);
    } else {
      const block::segment_list all{base::bytes_view(bytes)};
      done = co_await block::write(*device_, s.sector * sector_bytes, all.view(), s.io);
    }
    co_return done.has_value();
  }

  task<void> flush() {
    const auto done = co_await device_->flush({});
    if (!done || off_) co_return;
    durable_.push_back(disk_.durable_bytes_of("/data"));
  }

  task<void> mark(int number) {
    stack::device_key key{"d", {}, {}};
    std::vector<std::string> words{"mark", "m" + std::to_string(number)};
    const auto done = co_await manager_->message(std::move(key), 0, std::move(words));
    if (done && !off_) counted_flushes_ = durable_.size();
  }

  void replay(const entry& e, base::bytes_view data, content& onto) {
    const auto at = static_cast<ptrdiff_t>(e.sector * sector_bytes);
    if (e.is(entry::discard))
      std::fill_n(onto.begin() + at, e.sectors * sector_bytes, std::byte{0});
    else
      std::copy(data.begin(), data.end(), onto.begin() + at);
  }

  void check_log(bool to_the_end) {
    const content log = disk_.bytes_of("/log");
    const dm_log_writes::super s = dm_log_writes::load_super(log);
    // The power may go before anything was counted.
    if (dm_log_writes::super_error(s) != nullptr) {
      EXPECT_EQ(counted_flushes_, 0u);
      EXPECT_FALSE(to_the_end);
      return;
    }
    ASSERT_EQ(s.sector_bytes, sector_bytes);
    content onto = first_;
    size_t flushes = 0, marks = 0;
    uint64_t at = sector_bytes;
    for (uint64_t i = 0; i < s.entries; ++i) {
      const base::bytes_view sector = base::bytes_view(log).subspan(at, sector_bytes);
      const entry e = dm_log_writes::load_entry(sector);
      at += sector_bytes;
      ASSERT_TRUE(dm_log_writes::is_sound(e, sector_bytes, log.size() - at)) << i;
      ASSERT_LE(e.sector + e.sectors, sectors) << i;
      const uint64_t bytes = e.data_sectors() * sector_bytes;
      replay(e, base::bytes_view(log).subspan(at, bytes), onto);
      at += bytes;
      marks += e.is(entry::mark);
      if (!e.is(entry::flush)) continue;
      // One more may be in the log than was answered before the power went.
      if (flushes < durable_.size()) {
        ASSERT_TRUE(onto == durable_[flushes]) << "flush " << flushes;
      }
      ++flushes;
    }
    EXPECT_GE(flushes, counted_flushes_) << "a mark makes durable what is before it";
    if (!to_the_end) return;
    EXPECT_EQ(flushes, durable_.size());
    EXPECT_GT(marks, 0u);
    EXPECT_TRUE(onto == disk_.bytes_of("/data"));
  }

  random random_;
  world world_;
  sim_disk disk_;
  files sources_;
  std::unique_ptr<stack::device_manager> manager_;
  std::shared_ptr<block::block_device> device_;
  content first_;
  std::vector<content> durable_;  // of the data, at each flush
  size_t counted_flushes_ = 0;    // before the last mark
  uint32_t stamp_ = 0;
  bool off_ = false;
};

class log_replay : public testing::TestWithParam<bool> {
 protected:
  void SetUp() override { base::set_log_level(base::log_level::off); }
};

TEST_P(log_replay, agrees_with_the_disks_own_record) {
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    run one(seed);
    one.play(GetParam());
    if (HasFatalFailure()) return;
  }
}
INSTANTIATE_TEST_SUITE_P(all, log_replay, testing::Bool(), [](const auto& to_the_end) {
  return std::string(to_the_end.param ? "of_a_whole_run" : "after_a_power_loss");
});

}  // namespace
}  // namespace lbd::sim
