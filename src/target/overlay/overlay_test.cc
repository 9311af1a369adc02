// SPDX-License-Identifier: MIT
// The overlay over layers kept in memory, against a plain model of bytes.
#include "target/overlay/overlay.h"

#include <gtest/gtest.h>

#include <map>
#include <numeric>
#include <random>

#include "block/segments.h"

namespace lbd::overlay {
namespace {

using base::errc;
using base::result;
using rt::segments;
using rt::task;

// Bytes in memory that grow when written.
class bytes_device final : public block::block_device {
 public:
  explicit bytes_device(uint64_t size) { limits_.size_bytes = size; }
  const block::limits& limits() const noexcept override { return limits_; }
  task<result<void>> read(uint64_t o, segments to, block::io_opts io) override {
    ++reads;
    cancel = io.cancel;
    co_await rt::yield_now{};
    block::fill_zero(to);
    if (o < bytes.size()) block::copy_to(to, base::bytes_view(bytes).subspan(o));
    co_return result<void>{};
  }
  task<result<void>> write(uint64_t o, segments from, block::io_opts) override {
    co_await rt::yield_now{};
    if (fail_writes) co_return base::io_error{errc::nospc, 0};
    const uint64_t end = o + block::total_bytes(from);
    if (end > bytes.size()) bytes.resize(end);
    block::copy_from(from, base::bytes_span(bytes).subspan(o));
    co_return result<void>{};
  }
  task<result<void>> flush(block::io_opts) override { co_return result<void>{}; }
  std::vector<std::byte> bytes;
  bool fail_writes = false;
  int reads = 0;
  const block::cancel_token* cancel = nullptr;  // of the last read

 private:
  block::limits limits_;
};

// A change layer without a format: a map of granules to places in memory.
class memory_layer final : public block::change_layer {
 public:
  memory_layer(uint64_t size, uint64_t granule, uint64_t cluster)
      : data_(uint64_t{1} << 40), granule_(granule), cluster_(cluster) {
    limits_.size_bytes = size;
  }
  const block::limits& limits() const noexcept override { return limits_; }
  task<result<void>> read(uint64_t, segments, block::io_opts) override { std::abort(); }
  task<result<void>> write(uint64_t, segments, block::io_opts) override { std::abort(); }
  task<result<void>> flush(block::io_opts) override {
    ++flushes;
    co_return result<void>{};
  }
  task<result<block::placement>> locate(uint64_t offset, uint64_t length) override {
    co_await rt::yield_now{};
    block::placement p;
    const uint64_t in = offset % granule_;
    p.length_bytes = std::min(length, granule_ - in);
    const auto at = places_.find(offset / granule_);
    if (at == places_.end()) co_return p;
    p.kind = at->second == zero_place ? block::placement_kind::zero : block::placement_kind::data;
    if (at->second != zero_place) p.offset = at->second + in;
    co_return p;
  }
  block::block_device& data_device() noexcept override { return data_; }
  std::string describe() const override { return "memory layer"; }
  uint64_t granule_bytes() const noexcept override { return granule_; }
  uint64_t cluster_bytes() const noexcept override { return cluster_; }
  task<result<block::allocation>> allocate(uint64_t offset, uint64_t length) override {
    EXPECT_EQ(offset % granule_, 0u);
    EXPECT_EQ(length % granule_, 0u);
    EXPECT_EQ(offset / cluster_, (offset + length - 1) / cluster_);
    co_await rt::yield_now{};
    if (full) co_return base::io_error{errc::nospc, 0};
    const uint64_t c = offset / cluster_;
    if (!clusters_.contains(c)) clusters_[c] = next_++ * cluster_;
    ++outstanding;
    co_return block::allocation{offset, length, clusters_[c] + offset % cluster_};
  }
  task<result<void>> publish(const block::allocation& a) override {
    --outstanding;
    for (uint64_t o = 0; o < a.length_bytes; o += granule_)
      places_[(a.offset + o) / granule_] = a.device_offset + o;
    co_return result<void>{};
  }
  void abandon(const block::allocation&) override { --outstanding; }
  task<result<void>> set_zero(uint64_t offset, uint64_t length, bool) override {
    co_await rt::yield_now{};
    for (uint64_t o = 0; o < length; o += granule_) places_[(offset + o) / granule_] = zero_place;
    co_return result<void>{};
  }
  void set_quiesce(std::function<task<void>()> q) override { quiesce = std::move(q); }
  task<result<void>> seal() override {
    sealed = true;
    co_return result<void>{};
  }
  uint64_t allocated_bytes() const noexcept override { return clusters_.size() * cluster_; }

  bool full = false, sealed = false;
  int outstanding = 0, flushes = 0;
  std::function<task<void>()> quiesce;
  bytes_device data_;

 private:
  static constexpr uint64_t zero_place = UINT64_MAX;
  const uint64_t granule_, cluster_;
  uint64_t next_ = 1;
  std::map<uint64_t, uint64_t> clusters_, places_;
  block::limits limits_;
};

struct shape {
  uint64_t granule, cluster;
};

class overlay_device : public testing::TestWithParam<shape> {
 protected:
  static constexpr uint64_t size = 5 * 65536 + 1536;

  // A base of letters, smaller than the device, and layers above it.
  void make(size_t layers) {
    const rt::reactor::scope here(rt_->at(0));
    base_ = std::make_shared<bytes_device>(4 * 65536 + 512);
    base_->bytes.resize(base_->limits().size_bytes);
    for (size_t i = 0; i < base_->bytes.size(); ++i)
      base_->bytes[i] = static_cast<std::byte>('a' + i / 512 % 26);
    model_.assign(size, std::byte{0});
    std::copy(base_->bytes.begin(), base_->bytes.end(), model_.begin());
    members_ = {member{nullptr, base_, "base"}};
    for (size_t i = 0; i < layers; ++i) add_layer();
  }
  void add_layer() {
    const rt::reactor::scope here(rt_->at(0));
    if (device_) {
      ASSERT_TRUE(rt_->run_until(device_->close(true)));
    }
    top_ = std::make_shared<memory_layer>(size, GetParam().granule, GetParam().cluster);
    members_.insert(members_.begin(), member{top_, nullptr, "layer"});
    device_ = std::make_unique<device>(*rt_, members_, top_.get(), size);
  }
  task<result<void>> write_task(uint64_t at, std::vector<std::byte> data) {
    const block::segment_list s{base::bytes_view(data)};
    co_return co_await block::write(*device_, at, s.view(), {});
  }
  result<void> write(uint64_t at, std::vector<std::byte> data) {
    auto r = rt_->run_until(write_task(at, data));
    if (r) std::copy(data.begin(), data.end(), model_.begin() + static_cast<ptrdiff_t>(at));
    return r;
  }
  std::vector<std::byte> read(uint64_t at, size_t n) {
    std::vector<std::byte> out(n, std::byte{0xee});
    const iovec v{out.data(), n};
    EXPECT_TRUE(rt_->run_until(block::read(*device_, at, segments(&v, 1), {})));
    return out;
  }
  void expect_all_as_model() {
    const auto got = read(0, size);
    for (uint64_t i = 0; i < size; ++i) ASSERT_EQ(got[i], model_[i]) << "at byte " << i;
  }
  std::unique_ptr<rt::runtime> rt_ = *rt::runtime::start({.reactors = 2});
  std::shared_ptr<bytes_device> base_;
  std::shared_ptr<memory_layer> top_;
  std::vector<member> members_;
  std::unique_ptr<device> device_;
  std::vector<std::byte> model_;
};

INSTANTIATE_TEST_SUITE_P(shapes, overlay_device,
                         testing::Values(shape{2048, 65536}, shape{65536, 65536}, shape{512, 4096},
                                         shape{65536, 2u << 20}, shape{131072, 131072}),
                         [](const auto& i) {
                           return std::to_string(i.param.granule) + "_" +
                                  std::to_string(i.param.cluster);
                         });

TEST_P(overlay_device, random_operations_agree_with_a_model_and_the_base_stays) {
  make(1);
  const auto base_before = base_->bytes;
  std::mt19937_64 random(GetParam().granule + GetParam().cluster);
  for (int i = 0; i < 600; ++i) {
    const uint64_t at = random() % size;
    uint64_t n = 1 + random() % (i % 7 == 0 ? 150'000 : 5'000);
    n = std::min(n, size - at);
    if (i % 100 == 99) add_layer();
    switch (random() % 4) {
      case 0:
      case 1:
        ASSERT_TRUE(write(at, std::vector<std::byte>(n, static_cast<std::byte>(random()))));
        break;
      case 2: {
        const bool keep = random() % 2 == 0;
        const uint32_t flags = keep ? block::io_no_unmap : 0u;
        const auto r = random() % 2 == 0
                           ? rt_->run_until(device_->discard(at, n, {}))
                           : rt_->run_until(device_->write_zeroes(at, n, {.flags = flags}));
        ASSERT_TRUE(r);
        std::fill_n(model_.begin() + static_cast<ptrdiff_t>(at), n, std::byte{0});
        break;
      }
      case 3: {
        const auto got = read(at, n);
        ASSERT_TRUE(
            std::equal(got.begin(), got.end(), model_.begin() + static_cast<ptrdiff_t>(at)));
        break;
      }
    }
  }
  expect_all_as_model();
  EXPECT_EQ(base_->bytes, base_before);
  EXPECT_EQ(top_->outstanding, 0);
}

TEST_P(overlay_device, extents_tell_zeros_where_it_reads_zeros) {
  make(2);
  ASSERT_TRUE(rt_->run_until(device_->discard(131072, 131072, {})));
  std::fill_n(model_.begin() + 131072, 131072, std::byte{0});
  ASSERT_TRUE(write(size - 100, std::vector<std::byte>(100, std::byte{7})));
  block::extent_list out;
  ASSERT_TRUE(rt_->run_until(device_->extents(0, size, out, {})));
  EXPECT_EQ(out.total_bytes(), size);
  uint64_t at = 0;
  bool any_zero = false;
  for (const auto& e : out.runs()) {
    any_zero |= e.zero;
    if (e.zero) {
      EXPECT_TRUE(base::is_zero(base::bytes_view(model_).subspan(at, e.length_bytes)));
    }
    at += e.length_bytes;
  }
  EXPECT_TRUE(any_zero);
  expect_all_as_model();
}

TEST_P(overlay_device, a_full_file_system_is_told_and_changes_nothing) {
  make(1);
  top_->full = true;
  EXPECT_EQ(base::code_of(write(1000, std::vector<std::byte>(9000, std::byte{1}))), errc::nospc);
  expect_all_as_model();
  top_->full = false;
  top_->data_.fail_writes = true;
  EXPECT_EQ(base::code_of(write(1000, std::vector<std::byte>(9000, std::byte{1}))), errc::nospc);
  EXPECT_EQ(top_->outstanding, 0);
  top_->data_.fail_writes = false;
  expect_all_as_model();
  ASSERT_TRUE(write(1000, std::vector<std::byte>(9000, std::byte{1})));
  expect_all_as_model();
}

TEST_P(overlay_device, routes_repeated_requests_without_a_coroutine) {
  make(3);
  ASSERT_TRUE(write(131072, std::vector<std::byte>(65536, std::byte{3})));
  read(0, 4 * 65536);
  const rt::reactor::scope here(rt_->at(0));
  block::path way;
  EXPECT_EQ(block::walk(*device_, block::op::read, 140000, 4096, way).device, &top_->data_);
  way.leave(errc::ok);
  EXPECT_EQ(block::walk(*device_, block::op::write, 140000, 4096, way).device, &top_->data_);
  way.leave(errc::ok);
  EXPECT_EQ(block::walk(*device_, block::op::read, 100, 512, way).device, base_.get());
  way.leave(errc::ok);
  EXPECT_EQ(block::walk(*device_, block::op::write, 100, 512, way).device, device_.get());
  EXPECT_EQ(way.count(), 0u);
}

// The layer below may be far away.
TEST_P(overlay_device, a_read_of_many_unknown_blocks_goes_down_in_one_request) {
  make(2);
  const auto whole = read(100, 4 * 65536 - 1000);
  EXPECT_TRUE(std::equal(whole.begin(), whole.end(), model_.begin() + 100));
  EXPECT_EQ(base_->reads, 1);
  const uint64_t unit = std::max<uint64_t>(GetParam().granule, 65536);
  if (2 * unit > 3 * 65536) return;
  make(2);
  ASSERT_TRUE(write(unit, std::vector<std::byte>(unit, std::byte{7})));
  base_->reads = 0;
  expect_all_as_model();
  EXPECT_EQ(base_->reads, 2);  // before and behind what the top holds
}

TEST_P(overlay_device, a_reader_that_gives_up_is_heard_below) {
  make(1);
  const block::cancel_token token;
  std::vector<std::byte> out(100'000);
  const iovec v{out.data(), out.size()};
  block::io_opts io;
  io.cancel = &token;
  EXPECT_TRUE(rt_->run_until(block::read(*device_, 5000, segments(&v, 1), io)));
  EXPECT_EQ(base_->cancel, &token);
}

uint64_t measured(const block::op_totals& t) {
  return std::accumulate(t.latency.begin(), t.latency.end(), uint64_t{0});
}

TEST_P(overlay_device, counts_requests_bytes_errors_and_latency_of_each_layer) {
  make(2);
  ASSERT_TRUE(write(131072, std::vector<std::byte>(131072, std::byte{3})));
  const layer_totals before = device_->totals(0);
  EXPECT_EQ(before.writes.bytes, 131072u);
  EXPECT_EQ(measured(before.writes), before.writes.requests);
  read(131072, 8192);  // by the map
  read(135168, 4096);
  {
    const rt::reactor::scope here(rt_->at(0));
    block::path way;
    (void)block::walk(*device_, block::op::read, 131072, 512, way);
    way.leave(errc::io);
  }
  read(0, 512);
  const layer_totals top = device_->totals(0), middle = device_->totals(1),
                     base = device_->totals(2);
  EXPECT_EQ(top.reads.requests, before.reads.requests + 3);
  EXPECT_EQ(top.reads.bytes, before.reads.bytes + 8192 + 4096 + 512);
  EXPECT_EQ(top.reads.errors, 1u);
  EXPECT_EQ(measured(top.reads), top.reads.requests);
  EXPECT_GT(top.reads.percentile_ns(0.5), 0u);
  EXPECT_EQ(middle.reads.requests + middle.writes.requests, 0u);
  EXPECT_GE(base.reads.bytes, 512u);
  EXPECT_EQ(measured(base.reads), base.reads.requests);
}

TEST_P(overlay_device, without_a_change_file_on_top_nothing_is_written) {
  make(0);
  const rt::reactor::scope here(rt_->at(0));
  device_ = std::make_unique<device>(*rt_, members_, nullptr, size);
  EXPECT_TRUE(device_->limits().read_only);
  EXPECT_EQ(base::code_of(write(0, std::vector<std::byte>(512, std::byte{1}))), errc::perm);
  EXPECT_EQ(base::code_of(rt_->run_until(device_->discard(0, 512, {}))), errc::perm);
  expect_all_as_model();
}

task<result<void>> write_after(device& d, uint64_t at, std::vector<std::byte> data, int yields) {
  while (yields-- > 0) co_await rt::yield_now{};
  const block::segment_list s{base::bytes_view(data)};
  co_return co_await block::write(d, at, s.view(), {});
}

// Found by simulation: the wide write read a whole granule that the top held, and wrote it back
// over what somebody else had written there meanwhile without a lock.
TEST_P(overlay_device, a_write_that_needs_new_places_in_part_leaves_its_neighbours_alone) {
  const uint64_t border = std::max<uint64_t>(GetParam().granule, 65536);
  for (int delay = 0; delay < 60; ++delay) {
    const rt::reactor::scope here(rt_->at(0));
    make(1);
    top_->data_.bytes.reserve(64u << 20);
    ASSERT_TRUE(write(border, std::vector<std::byte>(8192, std::byte{1})));
    std::vector<task<result<void>>> both;
    both.push_back(
        write_after(*device_, border - 3000, std::vector<std::byte>(6000, std::byte{2}), 0));
    both.push_back(
        write_after(*device_, border + 4096, std::vector<std::byte>(512, std::byte{3}), delay));
    for (const auto& r : rt_->run_until(rt::when_all(std::move(both)))) ASSERT_TRUE(r);
    const auto got = read(border + 4096, 512);
    ASSERT_EQ(std::count(got.begin(), got.end(), std::byte{3}), 512) << "after " << delay;
  }
}

struct stress {
  std::atomic<bool> wrong{false};
};
// Owns the slots [first, first + 40) of 1536 bytes; writes and reads them back.
task<bool> hammer(device& d, stress& s, uint64_t first, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<std::byte> mine(40, std::byte{0});
  std::vector<bool> written(40, false);
  for (int i = 0; i < 400; ++i) {
    const uint64_t k = random() % 40, at = (first + k) * 1536;
    std::vector<std::byte> data(1536, static_cast<std::byte>(random()));
    const iovec v{data.data(), data.size()};
    if (random() % 2 == 0) {
      const auto done = co_await block::write(d, at, segments(&v, 1), {});
      if (!done) s.wrong = true;
      mine[k] = data[0];
      written[k] = true;
    } else if (written[k]) {
      const auto got = co_await block::read(d, at, segments(&v, 1), {});
      if (!got) s.wrong = true;
      if (std::count(data.begin(), data.end(), mine[k]) != 1536) s.wrong = true;
    }
  }
  co_return true;
}
task<bool> hammer_on(rt::runtime& rt, device& d, stress& s, uint64_t i) {
  auto work = [&d, &s, i] { return hammer(d, s, i * 40, i); };
  co_return co_await rt::call_on(rt.at(static_cast<unsigned>(i % rt.reactor_count())), work);
}
task<bool> hammer_all(rt::runtime& rt, device& d, stress& s) {
  std::vector<task<bool>> all;
  for (uint64_t i = 0; i < 5; ++i) all.push_back(hammer_on(rt, d, s, i));
  co_await rt::when_all(std::move(all));
  co_return true;
}

TEST_P(overlay_device, neighbours_in_one_granule_do_not_lose_each_others_writes) {
  make(1);
  // The bytes behind must not move while other reactors write.
  top_->data_.bytes.reserve(64u << 20);
  device_.reset();
  rt_ = *rt::runtime::start({.reactors = 1});
  {
    const rt::reactor::scope here(rt_->at(0));
    device_ = std::make_unique<device>(*rt_, members_, top_.get(), size);
  }
  stress s;
  rt_->run_until(hammer_all(*rt_, *device_, s));
  EXPECT_FALSE(s.wrong);
  EXPECT_TRUE(rt_->run_until(device_->close(false)));
}

}  // namespace
}  // namespace lbd::overlay
