// SPDX-License-Identifier: MIT
#include "block/copy.h"

#include <gtest/gtest.h>

#include "block/segments.h"
#include "rt/runtime.h"

namespace lbd::block {
namespace {

// Bytes that can be told to fail, and that count what is asked of them.
class disk final : public block_device {
 public:
  explicit disk(size_t n) : bytes(n) { limits_.size_bytes = n; }
  const block::limits& limits() const noexcept override { return limits_; }
  task<result<void>> read(uint64_t o, segments to, io_opts) override {
    ++reads;
    in_flight_most = std::max(in_flight_most, ++in_flight);
    co_await rt::yield_now{};
    --in_flight;
    if (o >= bad_from) co_return io_error{errc::io, 0};
    copy_to(to, base::bytes_view(bytes).subspan(o, total_bytes(to)));
    co_return result<void>{};
  }
  task<result<void>> write(uint64_t o, segments from, io_opts) override {
    ++writes;
    co_await rt::yield_now{};
    if (o + total_bytes(from) > bad_from) co_return io_error{errc::nospc, 0};
    copy_from(from, base::bytes_span(bytes).subspan(o, total_bytes(from)));
    co_return result<void>{};
  }
  task<result<void>> write_zeroes(uint64_t o, uint64_t n, io_opts) override {
    ++zeroes;
    co_await rt::yield_now{};
    if (o + n > bad_from) co_return io_error{errc::nospc, 0};
    std::fill_n(bytes.begin() + static_cast<ptrdiff_t>(o), n, std::byte{0});
    co_return result<void>{};
  }
  task<result<void>> flush(io_opts) override {
    ++flushes;
    if (bad_from == 0) co_return io_error{errc::io, 0};
    co_return result<void>{};
  }
  std::vector<std::byte> part(size_t o, size_t n) const {
    const auto begin = bytes.begin() + static_cast<ptrdiff_t>(o);
    return {begin, begin + static_cast<ptrdiff_t>(n)};
  }

  std::vector<std::byte> bytes;
  uint64_t bad_from = UINT64_MAX;  // every request that reaches this byte fails
  int reads = 0, writes = 0, zeroes = 0, flushes = 0, in_flight = 0, in_flight_most = 0;

 private:
  block::limits limits_;
};

class copying : public testing::Test {
 protected:
  static constexpr size_t size = 1 << 20;
  copying() {
    for (size_t i = 0; i < size; ++i) from.bytes[i] = static_cast<std::byte>(i * 7 + i / 509);
  }
  copy_result copy(copier& by, region source, std::vector<copy_destination> to,
                   copy_options how = {}) {
    return rt_->run_until(by.copy(source, std::move(to), std::move(how)));
  }
  std::unique_ptr<rt::runtime> rt_ = *rt::runtime::start({.reactors = 1});
  disk from{size}, a{size}, b{size}, c{size};
};

copier::options pieces(uint64_t bytes, unsigned at_once, uint64_t memory_bytes) {
  copier::options o;
  o.piece_bytes = bytes;
  o.pieces_of_a_job = at_once;
  o.memory_bytes = memory_bytes;
  return o;
}

TEST_F(copying, one_request_to_several_regions_tells_which_failed) {
  const std::vector<std::byte> data(4096, std::byte{9});
  const segment_list s{base::bytes_view(data)};
  b.bad_from = 0;
  const region to[] = {{&a, 0, 4096}, {&b, 0, 4096}, {&c, 8192, 4096}};
  EXPECT_EQ(rt_->run_until(write_regions(to, s.view(), {})), 0b010u);
  EXPECT_EQ(a.part(0, 4096), data);
  EXPECT_EQ(c.part(8192, 4096), data);
  EXPECT_EQ(rt_->run_until(zero_regions(to, {})), 0b010u);
  EXPECT_TRUE(base::is_zero(c.part(8192, 4096)));
  const region twice[] = {{&a, 0, 1}, {&b, 0, 1}, {&a, 512, 1}, {&b, 0, 1}};
  EXPECT_EQ(rt_->run_until(flush_regions(twice, {})), 0b1010u);
  EXPECT_EQ(a.flushes, 1) << "a device is flushed once";
}

TEST_F(copying, several_destinations_share_one_read) {
  copier all;
  const auto r = copy(all, {&from, 4096, 65536},
                      {{&a, 0, 0, 65536}, {&b, 512, 4096, 8192}, {&c, 100, 65535, 1}});
  EXPECT_TRUE(r.ok());
  EXPECT_EQ(from.reads, 1);
  EXPECT_EQ(a.part(0, 65536), from.part(4096, 65536));
  EXPECT_EQ(b.part(512, 8192), from.part(8192, 8192));
  EXPECT_EQ(c.bytes[100], from.bytes[4096 + 65535]);
  EXPECT_EQ(b.bytes[512 + 8192], std::byte{0});
}

TEST_F(copying, pieces_run_in_parallel_within_the_memory) {
  copier all(pieces(4096, 8, 4 * 4096));
  uint64_t told = 0;
  copy_options how;
  how.progress = [&](uint64_t done) {
    EXPECT_GT(done, told);
    told = done;
  };
  const auto r = copy(all, {&from, 0, 100'000}, {{&a, 0, 0, 50'001}, {&b, 0, 50'001, 49'999}}, how);
  EXPECT_TRUE(r.ok());
  EXPECT_EQ(told, 100'000u);
  EXPECT_EQ(from.reads, 25);
  EXPECT_EQ(from.in_flight_most, 4);
  EXPECT_EQ(a.part(0, 50'001), from.part(0, 50'001));
  EXPECT_EQ(b.part(0, 49'999), from.part(50'001, 49'999));
  EXPECT_EQ(a.bytes[50'001], std::byte{0});
}

TEST_F(copying, a_read_error_ends_the_job) {
  copier all(pieces(4096, 1, 4096));
  from.bad_from = 8192;
  const auto r = copy(all, {&from, 0, 65536}, {{&a, 0, 0, 65536}});
  EXPECT_EQ(r.read_error, errc::io);
  EXPECT_FALSE(r.ok());
  EXPECT_EQ(from.reads, 3);
  EXPECT_EQ(a.part(0, 8192), from.part(0, 8192));
}

TEST_F(copying, a_broken_destination_ends_the_job_or_only_itself) {
  copier all(pieces(4096, 2, 65536));
  b.bad_from = 8192;
  copy_options on;
  on.keep_going = true;
  const auto r = copy(all, {&from, 0, 65536}, {{&a, 0, 0, 65536}, {&b, 0, 0, 65536}}, on);
  EXPECT_EQ(r.failed, 0b10u);
  EXPECT_EQ(a.part(0, 65536), from.part(0, 65536));
  EXPECT_LE(b.writes, 4) << "nothing goes to a destination that has failed";
  from.reads = 0;
  const auto s = copy(all, {&from, 0, 65536}, {{&a, 0, 0, 65536}, {&b, 0, 0, 65536}});
  EXPECT_EQ(s.failed, 0b10u);
  EXPECT_LE(from.reads, 4);
}

TEST_F(copying, zeros_are_not_written_as_data_where_asked) {
  std::fill_n(from.bytes.begin() + 65536, 3 * 65536, std::byte{0});
  std::fill(a.bytes.begin(), a.bytes.end(), std::byte{1});
  copier all;
  copy_options how;
  how.zeroes = true;
  EXPECT_TRUE(copy(all, {&from, 0, size}, {{&a, 0, 0, size}}, how).ok());
  EXPECT_EQ(a.bytes, from.bytes);
  EXPECT_EQ(a.zeroes, 1);
  EXPECT_EQ(a.writes, 2);
  EXPECT_TRUE(copy(all, {&from, 0, size}, {{&b, 0, 0, size}}).ok());
  EXPECT_EQ(b.zeroes, 0);
}

TEST_F(copying, keeps_to_its_speed) {
  copier::options o = pieces(65536, 4, 8 * 65536);
  o.bytes_per_second = uint64_t{10} << 20;
  copier slow(o);
  auto timed = [](copier& one, disk& source, disk& to) -> task<uint64_t> {
    const uint64_t begin = rt::reactor::current().now_ns();
    const region all{&source, 0, size};
    std::vector<copy_destination> where;
    where.push_back({&to, 0, 0, size});
    (void)co_await one.copy(all, std::move(where));
    co_return rt::reactor::current().now_ns() - begin;
  };
  // The last of 16 pieces begins when the others have had their time: 15/16 of 0.1 s.
  EXPECT_GE(rt_->run_until(timed(slow, from, a)), 93'000'000u);
  EXPECT_EQ(a.bytes, from.bytes);
}

TEST_F(copying, many_jobs_share_one_copier) {
  copier all(pieces(4096, 4, 2 * 4096));
  auto many = [](copier& one, disk& source, disk& to) -> task<bool> {
    std::vector<task<copy_result>> jobs;
    for (uint64_t i = 0; i < 16; ++i) {
      const region part{&source, i * 65536, 65536};
      std::vector<copy_destination> where;
      where.push_back({&to, (15 - i) * 65536, 0, 65536});
      jobs.push_back(one.copy(part, std::move(where)));
    }
    const auto done = co_await rt::when_all(std::move(jobs));
    bool good = true;
    for (const copy_result& r : done) good &= r.ok();
    co_return good;
  };
  EXPECT_TRUE(rt_->run_until(many(all, from, a)));
  EXPECT_LE(from.in_flight_most, 2);
  for (size_t i = 0; i < 16; ++i)
    EXPECT_EQ(a.part((15 - i) * 65536, 65536), from.part(i * 65536, 65536));
  EXPECT_EQ(all.copied_bytes(), size);
}

TEST_F(copying, zeroing_regions) {
  std::fill(a.bytes.begin(), a.bytes.end(), std::byte{1});
  copier all;
  std::vector<region> where;
  where.push_back({&a, 4096, 8192});
  where.push_back({&b, 0, 512});
  b.bad_from = 0;
  EXPECT_EQ(rt_->run_until(all.zero(std::move(where))), 0b10u);
  EXPECT_TRUE(base::is_zero(a.part(4096, 8192)));
  EXPECT_EQ(a.bytes[4095], std::byte{1});
}

}  // namespace
}  // namespace lbd::block
