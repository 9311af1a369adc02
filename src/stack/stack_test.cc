// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include "block/segments.h"
#include "stack/device.h"
#include "store/memory/memory.h"

namespace lbd::stack {
namespace {

using base::result;
using rt::task;

std::shared_ptr<store::memory_device> memory(uint64_t size) {
  return std::shared_ptr<store::memory_device>(*store::memory_device::make(size));
}

class stack_device : public testing::Test {
 protected:
  result<void> write(block::block_device& d, uint64_t at, std::string text) {
    const block::segment_list s(base::as_bytes(text));
    return rt_->run_until(block::write(d, at, s.view(), {}));
  }
  std::string read(block::block_device& d, uint64_t at, size_t n) {
    std::string text(n, '?');
    const iovec v{text.data(), n};
    EXPECT_TRUE(rt_->run_until(block::read(d, at, rt::segments(&v, 1), {})));
    return text;
  }
  std::unique_ptr<rt::runtime> rt_ = *rt::runtime::start({.reactors = 2});
};

TEST_F(stack_device, segments_are_joined_and_requests_split_between_them) {
  auto a = memory(8192), b = memory(4096);
  std::vector<table::segment> lines;
  lines.push_back({0, 8192, a});
  lines.push_back({8192, 4096, b});
  device d(*rt_, "d", *table::make(std::move(lines)));
  EXPECT_EQ(d.limits().size_bytes, 12288u);
  ASSERT_TRUE(write(d, 8188, "leftright"));
  EXPECT_EQ(read(*a, 8188, 4), "left");
  EXPECT_EQ(read(*b, 0, 5), "right");
  EXPECT_EQ(read(d, 8188, 9), "leftright");
  block::extent_list e;
  ASSERT_TRUE(rt_->run_until(d.extents(0, 12288, e, {})));
  EXPECT_EQ(e.total_bytes(), 12288u);
  ASSERT_TRUE(rt_->run_until(d.discard(0, 12288, {})));
  EXPECT_EQ(read(d, 8188, 9), std::string(9, '\0'));
}

// A device that takes multiples of 4096 bytes only, and aborts on others.
class strict final : public block::block_device {
 public:
  strict() { open.set(); }
  const block::limits& limits() const noexcept override { return disk_->limits(); }
  task<result<void>> read(uint64_t offset, rt::segments to, block::io_opts io) override {
    check(offset, block::total_bytes(to));
    return disk_->read(offset, to, io);
  }
  task<result<void>> write(uint64_t offset, rt::segments from, block::io_opts io) override {
    check(offset, block::total_bytes(from));
    co_await open.wait();
    co_return co_await disk_->write(offset, from, io);
  }
  task<result<void>> flush(block::io_opts io) override { return disk_->flush(io); }
  task<result<void>> discard(uint64_t offset, uint64_t length, block::io_opts io) override {
    check(offset, length);
    return disk_->discard(offset, length, io);
  }
  task<result<void>> write_zeroes(uint64_t offset, uint64_t length, block::io_opts io) override {
    check(offset, length);
    return disk_->write_zeroes(offset, length, io);
  }
  rt::event open;  // writes wait for it; reactor 0

 private:
  static void check(uint64_t offset, uint64_t length) {
    if (length == 0 || (offset | length) % 4096 != 0) std::abort();
  }
  std::shared_ptr<store::memory_device> disk_ = memory(1 << 20);
};

TEST_F(stack_device, targets_get_whole_units_whatever_is_asked) {
  std::vector<table::segment> lines;
  lines.push_back({0, 1 << 19, std::make_shared<strict>(), 4096});
  lines.push_back({1 << 19, 1 << 19, memory(1 << 19), 512});
  device d(*rt_, "d", *table::make(std::move(lines)));
  std::string model(1 << 20, '\0');
  uint32_t x = 5;
  for (int i = 0; i < 300; ++i) {
    x = x * 1664525 + 1013904223;
    const uint64_t at = (x >> 4) % 1'000'000, n = 1 + (x >> 12) % 20'000;
    if (i % 3 == 0) {
      ASSERT_TRUE(rt_->run_until(d.write_zeroes(at, n, {})));
      model.replace(at, n, n, '\0');
    } else {
      const std::string text(n, static_cast<char>('a' + i % 26));
      ASSERT_TRUE(write(d, at, text));
      model.replace(at, n, text);
    }
    ASSERT_TRUE(read(d, at / 2, n) == model.substr(at / 2, n));
  }
  EXPECT_TRUE(read(d, 0, model.size()) == model);
  ASSERT_TRUE(rt_->run_until(d.discard(5000, 20'000, {})));
  EXPECT_TRUE(read(d, 0, 8192) == model.substr(0, 8192)) << "only whole units go";
  block::extent_list runs;
  ASSERT_TRUE(rt_->run_until(d.extents(777, 5000, runs, {})));
  EXPECT_EQ(runs.total_bytes(), 5000u);
}

// Gives every request back.
class giving_back final : public block::block_device {
 public:
  explicit giving_back(bool read_only = false)
      : limits_{.size_bytes = 1 << 20, .read_only = read_only} {}
  const block::limits& limits() const noexcept override { return limits_; }
  task<result<void>> read(uint64_t, rt::segments, block::io_opts) override { return answer(); }
  task<result<void>> write(uint64_t, rt::segments, block::io_opts) override { return answer(); }
  task<result<void>> flush(block::io_opts) override { return answer(); }
  task<result<void>> discard(uint64_t, uint64_t, block::io_opts) override { return answer(); }
  task<result<void>> write_zeroes(uint64_t, uint64_t, block::io_opts) override { return answer(); }
  int asked = 0;

 private:
  task<result<void>> answer() {
    ++asked;
    co_return base::io_error{base::errc::again, 0};
  }
  const block::limits limits_;
};

TEST_F(stack_device, a_read_only_target_alone_is_not_asked_to_write) {
  const auto target = std::make_shared<giving_back>(true);
  device d(*rt_, "d", table::whole(target));
  EXPECT_EQ(base::code_of(write(d, 0, "no")), base::errc::perm);
  EXPECT_EQ(base::code_of(rt_->run_until(d.discard(0, 512, {}))), base::errc::perm);
  EXPECT_EQ(target->asked, 0);
}

TEST_F(stack_device, requests_that_a_target_gives_back_wait_for_the_next_table) {
  const auto old = std::make_shared<giving_back>();
  device d(*rt_, "d", table::whole(old));
  EXPECT_FALSE(write(d, 0, "nobody keeps it"));
  EXPECT_EQ(old->asked, 1);

  d.keep_given_back();
  std::string text = "kept", seen(4, '?');
  const iovec from{text.data(), 4}, to{seen.data(), 4};
  int done = 0;
  const auto note = [](task<result<void>> t, int& count) -> task<void> {
    const auto r = co_await t;
    if (r) ++count;
  };
  rt::reactor::scope here(rt_->at(0));
  rt::spawn(note(block::write(d, 4096, rt::segments(&from, 1), {}), done));
  rt::spawn(note(d.write(8191, rt::segments(&from, 1), {}), done));
  rt::spawn(note(d.flush({}), done));
  rt::spawn(note(d.discard(0, 512, {}), done));
  rt::spawn(note(d.write_zeroes(512, 512, {}), done));
  rt_->at(0).turn(0);
  EXPECT_EQ(old->asked, 6) << "each of them once";
  ASSERT_TRUE(rt_->run_until(d.suspend(false)));
  rt::spawn(note(d.read(1 << 19, rt::segments(&to, 1), {}), done));
  rt_->at(0).turn(0);
  EXPECT_EQ(old->asked, 6);
  EXPECT_EQ(done, 0);
  const auto next = memory(1 << 20);
  device::builder replace = [next](const table&) -> task<base::outcome<std::unique_ptr<table>>> {
    return [](auto target) -> task<base::outcome<std::unique_ptr<table>>> {
      co_return table::whole(target);
    }(next);
  };
  ASSERT_TRUE(rt_->run_until(d.replace_table(std::move(replace))));
  rt_->run_until(d.resume());
  for (int i = 0; i < 100 && done < 6; ++i) rt_->at(0).turn(1'000'000);
  EXPECT_EQ(done, 6);
  EXPECT_EQ(read(*next, 4096, 4), "kept");
  EXPECT_EQ(read(*next, 8191, 4), "kept");
  EXPECT_EQ(d.totals()[static_cast<size_t>(block::op::write)].errors, 1u) << "before it kept them";
}

// While it is suspended a write of less than a unit waits like every other.
TEST_F(stack_device, a_partial_write_waits_while_suspended) {
  std::vector<table::segment> lines;
  lines.push_back({0, 1 << 20, std::make_shared<strict>(), 4096});
  device d(*rt_, "d", *table::make(std::move(lines)));
  rt::reactor::scope here(rt_->at(0));
  ASSERT_TRUE(rt_->run_until(d.suspend(false)));
  bool done = false;
  auto send = [](device& to, bool& flag) -> task<void> {
    static std::string text = "partial";
    const iovec v{text.data(), text.size()};
    flag = bool(co_await to.write(3, rt::segments(&v, 1), {}));
  };
  rt::spawn(send(d, done));
  for (int i = 0; i < 10; ++i) rt_->at(0).turn(0);
  EXPECT_FALSE(done);
  rt_->run_until(d.resume());
  for (int i = 0; i < 1000 && !done; ++i) rt_->at(0).turn(1'000'000);
  ASSERT_TRUE(done);
  EXPECT_EQ(read(d, 3, 7), "partial");
}

// Part of a unit is written alone, and who wants the device suspended then gives up before it is
// their turn. What comes meanwhile is held until the targets know.
TEST_F(stack_device, a_suspension_can_be_given_up_before_it_waits_for_requests) {
  const auto target = std::make_shared<strict>();
  std::vector<table::segment> lines;
  lines.push_back({0, 1 << 20, target, 4096});
  device d(*rt_, "d", *table::make(std::move(lines)));
  rt::reactor::scope here(rt_->at(0));
  struct parts {
    static task<void> write(device& to, uint64_t at, std::optional<result<void>>& done) {
      static std::string text(4096, 'x');
      const iovec v{text.data(), at % 4096 == 0 ? 4096u : 7u};
      done = co_await to.write(at, rt::segments(&v, 1), {});
    }
    static task<void> suspend(device& which, std::optional<result<void>>& done) {
      done = co_await which.suspend(false);
    }
  };
  const auto turns = [this](int most, auto done) {
    for (int i = 0; i < most && !done(); ++i) rt_->at(0).turn(1'000'000);
  };
  const auto never = [] { return false; };
  std::optional<result<void>> partial, suspended, later;
  target->open.reset();
  rt::spawn(parts::write(d, 3, partial));
  turns(20, never);
  rt::spawn(parts::suspend(d, suspended));
  rt_->run_until(d.give_up_suspension());
  turns(20, never);
  EXPECT_FALSE(partial || suspended);
  target->open.set();
  turns(20'000, [&] { return partial && suspended; });
  ASSERT_TRUE(partial && suspended);
  EXPECT_TRUE(*partial);
  EXPECT_EQ(base::code_of(*suspended), base::errc::canceled);
  rt::spawn(parts::write(d, 4096, later));
  turns(20, never);
  EXPECT_FALSE(later);
  rt_->run_until(d.resume());
  turns(20'000, [&] { return later.has_value(); });
  ASSERT_TRUE(later);
  EXPECT_TRUE(*later);
  ASSERT_TRUE(rt_->run_until(d.suspend(false))) << "it is not given up again";
  rt_->run_until(d.resume());
}

TEST_F(stack_device, tables_with_gaps_are_refused) {
  std::vector<table::segment> lines;
  lines.push_back({0, 4096, memory(4096)});
  lines.push_back({8192, 4096, memory(4096)});
  const auto r = table::make(std::move(lines));
  ASSERT_FALSE(r);
  EXPECT_NE(r.error().message.find("sector 16"), std::string::npos);
}

TEST_F(stack_device, counts_requests_bytes_errors_and_latency) {
  device d(*rt_, "d", table::whole(memory(1 << 20)));
  ASSERT_TRUE(write(d, 0, std::string(4096, 'x')));
  read(d, 0, 512);
  read(d, 0, 512);
  const auto t = d.totals();
  const auto& reads = t[static_cast<size_t>(block::op::read)];
  EXPECT_EQ(reads.requests, 2u);
  EXPECT_EQ(reads.bytes, 1024u);
  EXPECT_EQ(reads.errors, 0u);
  EXPECT_GT(reads.percentile_ns(0.99), 0u);
  EXPECT_EQ(t[static_cast<size_t>(block::op::write)].bytes, 4096u);
}

struct load {
  std::atomic<bool> stop{false};
  std::atomic<bool> wrong{false};
  std::atomic<uint64_t> done{0};
};
task<bool> writer(device& d, load& l, uint64_t at) {
  for (uint64_t i = 0; !l.stop; ++i) {
    uint64_t value = i, back = 0;
    const iovec out{&value, sizeof value}, in{&back, sizeof back};
    const auto w = co_await block::write(d, at, rt::segments(&out, 1), {});
    const auto r = co_await block::read(d, at, rt::segments(&in, 1), {});
    if (!w || !r || back != value) l.wrong = true;
    ++l.done;
    co_await rt::yield_now{};
  }
  co_return true;
}
// A table whose target is the same memory: what was written stays.
task<base::outcome<std::unique_ptr<table>>> same_again(const table& old) {
  co_return table::whole(old.segments()[0].target);
}
task<base::outcome<std::unique_ptr<table>>> refuse(const table&) {
  co_return base::failure{base::errc::inval, "no"};
}
task<bool> swapper(device& d, load& l) {
  for (int i = 0; i < 200; ++i) {
    device::builder good = same_again, bad = refuse;
    const auto swapped = co_await d.replace_table(std::move(good));
    const auto refused = co_await d.replace_table(std::move(bad));
    if (!swapped || refused) l.wrong = true;
    (void)co_await d.suspend(true);
    co_await d.resume();
  }
  l.stop = true;
  co_return true;
}
task<bool> writer_on(rt::runtime& rt, unsigned i, device& d, load& l) {
  auto work = [&d, &l, i] { return writer(d, l, i * 4096); };
  co_return co_await rt::call_on(rt.at(i), work);
}
task<bool> swap_under_load(rt::runtime& rt, device& d, load& l) {
  std::vector<task<bool>> all;
  all.push_back(writer_on(rt, 0, d, l));
  all.push_back(writer_on(rt, 1, d, l));
  all.push_back(swapper(d, l));
  co_await rt::when_all(std::move(all));
  co_return true;
}

TEST_F(stack_device, tables_are_swapped_under_load_and_no_request_fails) {
  device d(*rt_, "d", table::whole(memory(1 << 20)));
  load l;
  rt_->run_until(swap_under_load(*rt_, d, l));
  EXPECT_FALSE(l.wrong);
  EXPECT_GT(l.done, 200u);
}

TEST_F(stack_device, a_suspended_device_holds_requests_until_resume) {
  device d(*rt_, "d", table::whole(memory(1 << 20)));
  ASSERT_TRUE(rt_->run_until(d.suspend(false)));
  const rt::reactor::scope here(rt_->at(0));
  block::path way;
  const auto at = block::walk(d, block::op::read, 0, 512, way);
  EXPECT_EQ(at.device, &d) << "a closed gate serves by the coroutine that waits";
  EXPECT_EQ(way.count(), 0u);
  rt_->run_until(d.resume());
  const auto open = block::walk(d, block::op::read, 0, 512, way);
  EXPECT_NE(open.device, &d);
  way.leave(base::errc::ok);
}

}  // namespace
}  // namespace lbd::stack
