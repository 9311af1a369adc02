// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <stdlib.h>
#include <unistd.h>

#include "block/device.h"
#include "block/file_device.h"
#include "block/layer.h"
#include "block/segments.h"
#include "rt/runtime.h"

namespace lbd::block {
namespace {

// A bottom of plain bytes, and a device that shifts requests and counts who is inside.
class bytes_device final : public block_device {
 public:
  explicit bytes_device(size_t n) : bytes_(n) { limits_.size_bytes = n; }
  const block::limits& limits() const noexcept override { return limits_; }
  task<result<void>> read(uint64_t o, segments to, io_opts) override {
    copy_to(to, base::bytes_view(bytes_).subspan(o, total_bytes(to)));
    co_return result<void>{};
  }
  task<result<void>> write(uint64_t o, segments from, io_opts) override {
    if (failing) co_return io_error{errc::nospc, 0};
    copy_from(from, base::bytes_span(bytes_).subspan(o, total_bytes(from)));
    co_return result<void>{};
  }
  task<result<void>> flush(io_opts) override { co_return result<void>{}; }
  lease borrow(uint64_t o, uint64_t n) noexcept override {
    return {base::bytes_view(bytes_).subspan(o, n)};
  }
  bool failing = false;

 private:
  std::vector<std::byte> bytes_;
  block::limits limits_;
};

class shifting_device final : public block_device, crossing {
 public:
  shifting_device(block_device& below, uint64_t by) : below_(below), by_(by) {
    limits_ = below.limits();
    limits_.size_bytes -= by;
  }
  const block::limits& limits() const noexcept override { return limits_; }
  task<result<void>> read(uint64_t o, segments to, io_opts io) override {
    return block::read(below_, o + by_, to, io);
  }
  task<result<void>> write(uint64_t o, segments from, io_opts io) override {
    return block::write(below_, o + by_, from, io);
  }
  task<result<void>> flush(io_opts io) override { return below_.flush(io); }
  routed route(op, uint64_t o, uint64_t, path& way) noexcept override {
    way.push(*this, o);
    ++inside;
    return {&below_, o + by_};
  }
  int inside = 0;
  errc last = errc::ok;

 private:
  void leave(uint64_t, errc code) noexcept override {
    --inside;
    last = code;
  }
  block_device& below_;
  uint64_t by_;
  block::limits limits_;
};

TEST(limits, sizes_of_requests_stack_as_in_the_kernel) {
  const auto on = [](std::vector<limits> lower) {
    limits upper;
    for (const limits& l : lower) stack_io_sizes(upper, l);
    return std::vector<uint32_t>{upper.block_bytes, upper.io_min_bytes, upper.io_opt_bytes};
  };
  const auto of = [](uint32_t block_bytes, uint32_t io_min_bytes, uint32_t io_opt_bytes) {
    limits l;
    l.block_bytes = block_bytes;
    l.io_min_bytes = io_min_bytes;
    l.io_opt_bytes = io_opt_bytes;
    return l;
  };
  using sizes = std::vector<uint32_t>;
  EXPECT_EQ(on({of(512, 512, 0)}), (sizes{512, 512, 0}));
  EXPECT_EQ(on({of(512, 65536, 131072), of(512, 512, 0)}), (sizes{512, 65536, 131072}));
  EXPECT_EQ(on({of(512, 65536, 131072), of(512, 32768, 98304)}), (sizes{512, 65536, 393216}));
  EXPECT_EQ(on({of(4096, 4096, 0), of(512, 3072, 6144)}), (sizes{4096, 4096, 0}));
  EXPECT_EQ(on({of(512, 5632, 5632), of(4096, 4096, 0)}), (sizes{4096, 4096, 0}));
  EXPECT_EQ(on({of(512, 512, 0xfffffe00), of(512, 512, 0xfffffa00)}), (sizes{512, 512, 0}))
      << "too large to be said";
}

TEST(walk, ends_at_who_serves_and_leaves_every_crossing) {
  bytes_device bottom(1 << 20);
  shifting_device a(bottom, 4096), b(a, 512);
  path way;
  const place at = walk(b, op::read, 100, 10, way);
  EXPECT_EQ(at.device, &bottom);
  EXPECT_EQ(at.offset, 100u + 512 + 4096);
  EXPECT_EQ(a.inside + b.inside, 2);
  EXPECT_TRUE(at.device->borrow(at.offset, 10));
  way.leave(errc::io);
  EXPECT_EQ(a.inside + b.inside, 0);
  EXPECT_EQ(a.last, errc::io);
  way.leave(errc::ok);
  EXPECT_EQ(a.last, errc::io) << "left twice";
}

TEST(walk, a_stack_deeper_than_a_path_still_works) {
  auto rt = *rt::runtime::start({.reactors = 1});
  bytes_device bottom(1 << 20);
  std::vector<std::unique_ptr<shifting_device>> all;
  block_device* top = &bottom;
  for (size_t i = 0; i < bounds::path_crossings * 2 + 3; ++i) {
    all.push_back(std::make_unique<shifting_device>(*top, 512));
    top = all.back().get();
  }
  const std::string text = "deep";
  const segment_list s(base::as_bytes(text));
  ASSERT_TRUE(rt->run_until(write(*top, 7, s.view(), {})));
  std::string back(4, '?');
  const iovec v{back.data(), 4};
  ASSERT_TRUE(rt->run_until(read(*top, 7, segments(&v, 1), {})));
  EXPECT_EQ(back, text);
  bottom.failing = true;
  const auto r = rt->run_until(write(*top, 7, s.view(), {}));
  EXPECT_EQ(base::code_of(r), errc::nospc);
  for (const auto& d : all) EXPECT_EQ(d->inside, 0);
  EXPECT_EQ(all.back()->last, errc::nospc);
}

// Sends requests to the first of its children that has not failed yet.
class failing_over_device final : public block_device, crossing {
 public:
  explicit failing_over_device(std::vector<bytes_device*> below) : below_(std::move(below)) {}
  const block::limits& limits() const noexcept override { return below_[0]->limits(); }
  task<result<void>> read(uint64_t, segments, io_opts) override {
    co_return io_error{errc::not_connected, 0};
  }
  task<result<void>> write(uint64_t, segments, io_opts) override {
    co_return io_error{errc::not_connected, 0};
  }
  task<result<void>> flush(io_opts) override { co_return result<void>{}; }
  routed route(op, uint64_t o, uint64_t, path& way) noexcept override {
    if (at == below_.size()) return {};
    way.push(*this, at);
    return {below_[at], o};
  }
  size_t at = 0;

 private:
  void leave(uint64_t, errc) noexcept override {}
  bool again(uint64_t cookie, errc) noexcept override {
    at = cookie + 1;
    return true;
  }
  std::vector<bytes_device*> below_;
};

TEST(walk, a_failed_request_goes_another_way_and_nobody_above_sees_it) {
  auto rt = *rt::runtime::start({.reactors = 1});
  bytes_device first(8192), second(8192);
  failing_over_device either({&first, &second});
  shifting_device top(either, 512);
  const std::string text = "sent twice";
  const segment_list s(base::as_bytes(text));
  first.failing = true;
  ASSERT_TRUE(rt->run_until(write(top, 0, s.view(), {})));
  EXPECT_EQ(base::as_text(second.borrow(512, text.size()).bytes), text);
  EXPECT_EQ(top.last, errc::ok);
  EXPECT_EQ(top.inside, 0);
  EXPECT_EQ(either.at, 1u);
  second.failing = true;
  const auto r = rt->run_until(write(top, 0, s.view(), {}));
  EXPECT_EQ(base::code_of(r), errc::not_connected) << "no way is left";
  EXPECT_EQ(top.last, errc::not_connected);
  EXPECT_EQ(top.inside, 0);
}

TEST(default_operations, are_safe) {
  auto rt = *rt::runtime::start({.reactors = 1});
  bytes_device d(8192);
  const std::vector<std::byte> ones(8192, std::byte{1});
  const segment_list s{base::bytes_view(ones)};
  ASSERT_TRUE(rt->run_until(write(d, 0, s.view(), {})));
  ASSERT_TRUE(rt->run_until(d.write_zeroes(1000, 2000, {})));
  std::vector<std::byte> back(8192);
  const iovec v{back.data(), back.size()};
  ASSERT_TRUE(rt->run_until(read(d, 0, segments(&v, 1), {})));
  EXPECT_TRUE(base::is_zero(base::bytes_view(back).subspan(1000, 2000)));
  EXPECT_EQ(back[999], std::byte{1});
  EXPECT_EQ(back[3000], std::byte{1});
  const auto fast = rt->run_until(d.write_zeroes(0, 512, {.flags = io_fast_only}));
  EXPECT_EQ(base::code_of(fast), errc::notsup);
  extent_list e;
  ASSERT_TRUE(rt->run_until(d.extents(0, 8192, e, {})));
  EXPECT_EQ(e.runs(), (std::vector<extent>{{8192, false, false}}));
}

TEST(file_device, a_file_that_has_grown_tells_data_beyond_its_old_end) {
  auto rt = *rt::runtime::start({.reactors = 1});
  std::string path = "/tmp/lbd-block-test-XXXXXX";
  ::close(::mkstemp(path.data()));
  auto opened = rt::open_file(path, {.writable = true});
  ASSERT_TRUE(opened);
  file_device d(*std::move(opened), file_device::size_rule::growing);
  const std::vector<std::byte> ones(65536, std::byte{1});
  const segment_list s{base::bytes_view(ones)};
  ASSERT_TRUE(rt->run_until(d.write(1 << 20, s.view(), {})));
  extent_list e;
  ASSERT_TRUE(rt->run_until(d.extents(0, 2 << 20, e, {})));
  EXPECT_EQ(e.runs(),
            (std::vector<extent>{
                {1 << 20, true, true}, {65536, false, false}, {(1 << 20) - 65536, true, true}}));
  ::unlink(path.c_str());
}

struct turns {
  int taken = 0;
  bool over = false;
};
task<void> take_turns(turns& t) {
  for (; !t.over; ++t.taken) co_await rt::yield_now{};
}
task<bool> write_beside(file_device& d, segments from, turns& t) {
  rt::spawn(take_turns(t));
  io_opts io;
  io.flags = io_in_turns;
  const auto written = co_await d.write(100, from, io);
  t.over = true;
  co_await rt::yield_now{};
  co_return bool(written);
}

TEST(file_device, a_long_copy_into_memory_lets_others_have_their_turn_where_asked) {
  auto rt = *rt::runtime::start({.reactors = 1});
  std::string path = "/dev/shm/lbd-block-test-XXXXXX";
  ::close(::mkstemp(path.data()));
  auto opened = rt::open_file(path, {.writable = true});
  ASSERT_TRUE(opened);
  ::unlink(path.c_str());
  if (!(*opened)->info().in_memory) GTEST_SKIP() << "/dev/shm is no tmpfs";
  file_device d(*std::move(opened), file_device::size_rule::growing);
  std::vector<std::byte> data(3 << 20), back(3 << 20);
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<std::byte>(i * 2654435761u >> 24);
  segment_list parts;
  const base::bytes_view all(data);
  for (size_t at = 0, n = 1; at < all.size(); at += n, n *= 7) {
    n = std::min(n, all.size() - at);
    parts.add({const_cast<std::byte*>(all.data()) + at, n});
  }
  turns beside;
  ASSERT_TRUE(rt->run_until(write_beside(d, parts.view(), beside)));
  EXPECT_GE(beside.taken, 10);
  const iovec to{back.data(), back.size()};
  ASSERT_TRUE(rt->run_until(d.read(100, segments(&to, 1), {})));
  EXPECT_EQ(back, data);
}

TEST(extent_list, merges_neighbours_and_is_bounded) {
  extent_list e(2);
  EXPECT_TRUE(e.append({10, true, true}));
  EXPECT_TRUE(e.append({20, true, true}));
  EXPECT_TRUE(e.append({5, false, false}));
  EXPECT_FALSE(e.append({5, true, true}));
  EXPECT_EQ(e.total_bytes(), 35u);
  EXPECT_EQ(e.runs().size(), 2u);
}

TEST(segment_list, cuts_across_segments) {
  std::string a = "hello", b = " ", c = "world";
  const iovec v[] = {{a.data(), 5}, {b.data(), 1}, {c.data(), 5}};
  const segment_list cut(v, 3, 5);
  std::string out(5, '?');
  copy_from(cut.view(), std::as_writable_bytes(std::span(out)));
  EXPECT_EQ(out, "lo wo");
  segment_list many;
  for (int i = 0; i < 20; ++i) many.add({a.data(), 5});
  EXPECT_EQ(total_bytes(many.view()), 100u);
  EXPECT_EQ(many.view().size(), 20u);
}

TEST(check_range, refuses_empty_wrapping_and_outside) {
  limits l;
  l.size_bytes = 4096;
  EXPECT_TRUE(check_range(l, 0, 4096));
  EXPECT_FALSE(check_range(l, 0, 0));
  EXPECT_FALSE(check_range(l, 4095, 2));
  EXPECT_FALSE(check_range(l, UINT64_MAX - 1, 4));
}

}  // namespace
}  // namespace lbd::block
