// SPDX-License-Identifier: MIT
// Change files against a model in memory, for every shape that they are written in.
#include "store/qcow2/change_file.h"

#include <algorithm>
#include <random>

#include "store/qcow2/test_images.h"

namespace lbd::store {
namespace {

using base::errc;
using block::placement_kind;

class change_file_test : public image_test {};

new_change_file shape(uint32_t cluster_bits, bool extended, uint64_t size) {
  new_change_file what;
  what.cluster_bits = cluster_bits;
  what.extended_l2 = extended;
  what.size_bytes = size;
  return what;
}

// Random operations on the file and on the model.
class model {
 public:
  model(uint64_t size, uint32_t seed) : bytes(size), random_(seed) {}
  uint64_t below(uint64_t n) { return std::uniform_int_distribution<uint64_t>(0, n - 1)(random_); }
  test_bytes some_bytes(uint64_t n) {
    test_bytes b(n);
    const auto first = static_cast<uint8_t>(below(255) + 1);
    for (size_t i = 0; i < n; ++i) b[i] = static_cast<std::byte>(first + i * 7);
    return b;
  }
  test_bytes bytes;

 private:
  std::mt19937 random_;
};

class shaped : public change_file_test,
               public testing::WithParamInterface<std::tuple<uint32_t, bool, uint32_t>> {
 protected:
  void change(model& m) {
    const uint64_t unit = m.below(2) == 0 ? 512 : 1;
    const uint64_t offset = m.below(m.bytes.size() / unit) * unit;
    const uint64_t most = std::min<uint64_t>(m.bytes.size() - offset, 300000);
    const uint64_t length = std::max(unit, m.below(m.below(3) == 0 ? most : most / 50 + 1));
    const uint64_t n = std::min(length, m.bytes.size() - offset);
    const auto at = m.bytes.begin() + static_cast<ptrdiff_t>(offset);
    const auto end = at + static_cast<ptrdiff_t>(n);
    block::io_opts io;
    switch (m.below(10)) {
      case 0: {
        auto r = wait(image_->discard(offset, n, io));
        ASSERT_TRUE(r);
        // Only whole granules: what it did is what it says now.
        auto now = read(offset, n);
        for (uint64_t i = 0; i < n; ++i) {
          ASSERT_TRUE(now[i] == std::byte{0} || now[i] == at[static_cast<ptrdiff_t>(i)]);
        }
        std::copy(now.begin(), now.end(), at);
        return;
      }
      case 1:
        if (m.below(2) == 0) io.flags = block::io_no_unmap;
        ASSERT_TRUE(wait(image_->write_zeroes(offset, n, io)));
        std::fill(at, end, std::byte{0});
        return;
      case 2:
        ASSERT_EQ(flush(), errc::ok);
        return;
      default: {
        test_bytes data = m.some_bytes(n);
        ASSERT_EQ(write(offset, data), errc::ok);
        std::copy(data.begin(), data.end(), at);
      }
    }
  }
};

TEST_P(shaped, random_changes_read_back_and_qemu_agrees) {
  auto [bits, extended, order] = GetParam();
  model m((3u << 20) + 512 * 5, bits * 10 + order);
  new_change_file what = shape(bits, extended, m.bytes.size());
  what.refcount_order = order;
  create("x.qcow2", what);
  for (int round = 0; round < 4; ++round) {
    for (int i = 0; i < 60; ++i) {
      ASSERT_NO_FATAL_FAILURE(change(m));
      const uint64_t offset = m.below(m.bytes.size() - 5000);
      auto got = read(offset, 5000);
      ASSERT_TRUE(
          std::equal(got.begin(), got.end(), m.bytes.begin() + static_cast<ptrdiff_t>(offset)))
          << round << " " << i;
    }
    close();
    auto c = check("x.qcow2");
    EXPECT_EQ(c.errors, 0u) << c.messages.front();
    EXPECT_EQ(c.leaks, 0u);
    if (has_qemu()) {
      expect_clean("x.qcow2");
      save("model.raw", m.bytes);
      EXPECT_EQ(shell("qemu-img compare -f qcow2 -F raw x.qcow2 model.raw"), 0) << output_;
    }
    open("x.qcow2", round != 2);
    ASSERT_EQ(read(0, m.bytes.size()), m.bytes);
    if (round == 2) {
      image_.reset();
      open("x.qcow2", true);
    }
  }
  close();
}

INSTANTIATE_TEST_SUITE_P(shapes, shaped,
                         testing::Values(std::tuple(9u, false, 4u), std::tuple(9u, false, 6u),
                                         std::tuple(10u, false, 0u), std::tuple(12u, false, 1u),
                                         std::tuple(12u, false, 2u), std::tuple(14u, true, 4u),
                                         std::tuple(16u, false, 3u), std::tuple(16u, true, 4u),
                                         std::tuple(16u, true, 5u), std::tuple(18u, true, 4u),
                                         std::tuple(21u, false, 4u), std::tuple(21u, true, 0u)));

TEST_F(change_file_test, a_new_file_holds_nothing) {
  create("x.qcow2", shape(16, true, 10u << 30));
  auto p = wait(image_->locate(12345 * 512, 1 << 30));
  ASSERT_TRUE(p);
  EXPECT_EQ(p->kind, placement_kind::absent);
  EXPECT_GE(p->length_bytes, 200u << 20);
  EXPECT_LT(image_->allocated_bytes(), 1u << 20);
  EXPECT_EQ(image_->granule_bytes(), 2048u);
  EXPECT_EQ(read(5000, 100), test_bytes(100));
  close();
  EXPECT_LT(std::filesystem::file_size(path("x.qcow2")), 1u << 20);
}

TEST_F(change_file_test, allocation_becomes_visible_with_publish) {
  create("x.qcow2", shape(16, true, 1 << 20));
  auto a = wait(image_->allocate(4096, 4096));
  auto b = wait(image_->allocate(8192, 2048));
  ASSERT_TRUE(a && b);
  // One cluster for both, at their places inside it.
  EXPECT_EQ(b->device_offset, a->device_offset + 4096);
  EXPECT_EQ(wait(image_->locate(4096, 4096))->kind, placement_kind::absent);
  ASSERT_TRUE(wait(image_->publish(*a)));
  auto p = wait(image_->locate(4096, 1 << 20));
  EXPECT_EQ(p->kind, placement_kind::data);
  EXPECT_EQ(p->length_bytes, 4096u);
  EXPECT_EQ(p->offset, a->device_offset);
  image_->abandon(*b);
  EXPECT_EQ(wait(image_->locate(8192, 2048))->kind, placement_kind::absent);
  auto c = wait(image_->allocate(8192, 2048));
  EXPECT_EQ(c->device_offset, b->device_offset);
  image_->abandon(*c);
  close();
  EXPECT_EQ(check("x.qcow2").leaks, 0u);
}

TEST_F(change_file_test, an_abandoned_cluster_is_given_back) {
  create("x.qcow2", shape(16, true, 1 << 20));
  ASSERT_EQ(flush(), errc::ok);
  auto a = wait(image_->allocate(0, 2048));
  ASSERT_TRUE(a);
  image_->abandon(*a);
  close();
  auto c = check("x.qcow2");
  EXPECT_EQ(c.errors + c.leaks, 0u);
}

TEST_F(change_file_test, zeroing_gives_space_back_and_it_is_used_again) {
  create("x.qcow2", shape(16, true, 4 << 20));
  ASSERT_EQ(write(0, test_bytes(2 << 20, std::byte{7})), errc::ok);
  ASSERT_EQ(flush(), errc::ok);
  const uint64_t before = image_->allocated_bytes();
  ASSERT_TRUE(wait(image_->set_zero(0, 1 << 20, false)));
  EXPECT_EQ(wait(image_->locate(0, 1 << 20))->kind, placement_kind::zero);
  ASSERT_TRUE(wait(image_->set_zero(1 << 20, 1 << 16, true)));
  ASSERT_EQ(flush(), errc::ok);
  // Clusters come back beside other requests.
  auto nap = []() -> rt::task<bool> {
    co_await rt::sleep_for(std::chrono::milliseconds(1));
    co_return true;
  };
  for (int i = 0; i < 5000 && image_->allocated_bytes() == before; ++i) wait(nap());
  EXPECT_EQ(image_->allocated_bytes(), before - (1 << 20));
  const auto size = std::filesystem::file_size(path("x.qcow2"));
  ASSERT_EQ(write(3 << 20, test_bytes(1 << 20, std::byte{8})), errc::ok);
  EXPECT_EQ(std::filesystem::file_size(path("x.qcow2")), size);
  EXPECT_EQ(read(0, 1 << 20), test_bytes(1 << 20));
  close();
  auto c = check("x.qcow2");
  EXPECT_EQ(c.errors + c.leaks, 0u);
}

TEST_F(change_file_test, freed_clusters_wait_for_the_readers) {
  create("x.qcow2", shape(16, false, 4 << 20));
  rt::event gone;
  bool asked = false;
  image_->set_quiesce([&]() -> rt::task<void> {
    asked = true;
    return [](rt::event& e) -> rt::task<void> { co_await e.wait(); }(gone);
  });
  ASSERT_EQ(write(0, test_bytes(65536, std::byte{7})), errc::ok);
  const uint64_t first = wait(image_->locate(0, 65536))->offset;
  ASSERT_TRUE(wait(image_->set_zero(0, 65536, false)));
  ASSERT_EQ(flush(), errc::ok);  // does not wait for them
  EXPECT_TRUE(asked);
  ASSERT_EQ(write(1 << 20, test_bytes(65536, std::byte{8})), errc::ok);
  EXPECT_NE(wait(image_->locate(1 << 20, 65536))->offset, first);
  auto leave = [&]() -> rt::task<bool> {
    gone.set();
    co_return true;
  };
  wait(leave());
  ASSERT_EQ(flush(), errc::ok);
  ASSERT_EQ(write(2 << 20, test_bytes(65536, std::byte{9})), errc::ok);
  EXPECT_EQ(wait(image_->locate(2 << 20, 65536))->offset, first);
  close();
}

TEST_F(change_file_test, a_table_that_counts_zero_is_never_allocated) {
  create("x.qcow2", shape(16, false, 4 << 20));
  ASSERT_EQ(write(0, test_bytes(65536, std::byte{7})), errc::ok);
  const auto h = image_->header();
  close();
  // The L2 table's and the first data cluster's counts are lost.
  test_bytes file = load("x.qcow2");
  const uint64_t l2 = base::load_big<uint64_t>(file, h.l1_offset) & 0x00fffffffffffe00;
  const uint64_t block = base::load_big<uint64_t>(file, h.refcount_table_offset);
  base::store_big<uint16_t>(file, block + (l2 >> 16) * 2, 0);
  save("x.qcow2", file);
  open("x.qcow2", true);
  EXPECT_EQ(read(0, 65536), test_bytes(65536, std::byte{7}));
  EXPECT_EQ(write(1 << 20, test_bytes(65536, std::byte{8})), errc::io);
  EXPECT_EQ(read(0, 65536), test_bytes(65536, std::byte{7}));
  close();
}

TEST_F(change_file_test, an_image_whose_header_is_not_counted_is_not_written) {
  create("x.qcow2", shape(16, false, 4 << 20));
  const uint64_t table = image_->header().refcount_table_offset;
  close();
  test_bytes file = load("x.qcow2");
  base::store_big<uint64_t>(file, table, 0);
  save("x.qcow2", file);
  EXPECT_NE(open_error("x.qcow2", true).find("qemu-img check"), std::string::npos);
  EXPECT_EQ(load("x.qcow2"), file);
}

TEST_F(change_file_test, a_new_refcount_block_never_replaces_a_table) {
  new_change_file what = shape(9, false, 64 << 20);
  what.refcount_order = 6;
  create("x.qcow2", what);
  const auto h = image_->header();
  // The second block counts clusters from here on, which is inside the L1 table.
  const uint64_t counted = 64 * 512;
  ASSERT_LT(h.l1_offset, counted);
  ASSERT_LT(counted, h.l1_offset + h.l1_entries * 8);
  const uint64_t guest = (counted - h.l1_offset) / 8 * 64 * 512;
  ASSERT_EQ(write(guest, test_bytes(512, std::byte{7})), errc::ok);
  close();
  test_bytes file = load("x.qcow2");
  base::store_big<uint64_t>(file, h.refcount_table_offset + 8, 0);
  save("x.qcow2", file);
  open("x.qcow2", true);
  EXPECT_EQ(write(0, test_bytes(512, std::byte{8})), errc::io);
  close();
  EXPECT_EQ(load("x.qcow2"), file);
}

TEST_F(change_file_test, an_l2_table_named_twice_is_damage) {
  create("x.qcow2", shape(16, false, 1 << 30));
  ASSERT_EQ(write(0, test_bytes(65536, std::byte{7})), errc::ok);
  const uint64_t l1 = image_->header().l1_offset;
  close();
  test_bytes file = load("x.qcow2");
  base::store_big<uint64_t>(file, l1 + 8, base::load_big<uint64_t>(file, l1));
  save("x.qcow2", file);
  auto c = check("x.qcow2");
  EXPECT_TRUE(c.damaged);
  ASSERT_FALSE(c.messages.empty());
  EXPECT_EQ(c.messages.front(), "an L2 table named twice");
}

TEST_F(change_file_test, sealed_files_are_read_only) {
  create("x.qcow2", shape(16, true, 1 << 20));
  ASSERT_EQ(write(0, test_bytes(4096, std::byte{7})), errc::ok);
  ASSERT_TRUE(wait(image_->seal()));
  EXPECT_EQ(write(0, test_bytes(4096, std::byte{8})), errc::rofs);
  EXPECT_EQ(flush(), errc::ok);
  EXPECT_EQ(read(0, 4096), test_bytes(4096, std::byte{7}));
  auto c = check("x.qcow2");
  EXPECT_EQ(c.errors + c.leaks, 0u);
  // Others may read it now.
  auto second = wait(change_file::open(rt::os_files(), path("x.qcow2"), {}));
  EXPECT_TRUE(second);
}

TEST_F(change_file_test, metadata_beyond_the_cache_is_committed_in_between) {
  new_change_file what = shape(9, false, 32 << 20);
  create("x.qcow2", what);
  close();
  change_file_options options;
  options.writable = true;
  options.cache_bytes = 16384;
  auto f = wait(change_file::open(rt::os_files(), path("x.qcow2"), options));
  ASSERT_TRUE(f);
  image_ = *std::move(f);
  // Far more tables than the cache holds, written without any flush.
  for (uint64_t at = 0; at < (32u << 20); at += 40000) {
    ASSERT_EQ(write(at / 512 * 512, test_bytes(512, static_cast<std::byte>(at / 40000 + 1))),
              errc::ok);
  }
  for (uint64_t at = 0; at < (32u << 20); at += 40000) {
    ASSERT_EQ(read(at / 512 * 512, 1)[0], static_cast<std::byte>(at / 40000 + 1));
  }
  close();
  auto c = check("x.qcow2");
  EXPECT_EQ(c.errors + c.leaks, 0u);
}

TEST_F(change_file_test, what_cannot_be_made_is_told) {
  auto error = [&](new_change_file what) {
    auto f = wait(change_file::create(rt::os_files(), path("y.qcow2"), what));
    return f ? "" : f.error().message;
  };
  EXPECT_NE(error(shape(16, true, 1000)).find("512"), std::string::npos);
  EXPECT_NE(error(shape(9, true, 1024)).find("16 KiB"), std::string::npos);
  EXPECT_NE(error(shape(9, false, uint64_t{1} << 40)).find("larger clusters"), std::string::npos);
  EXPECT_FALSE(std::filesystem::exists(path("y.qcow2")));
  create("x.qcow2", shape(16, true, 0));
  close();
  auto again = wait(change_file::create(rt::os_files(), path("x.qcow2"), shape(16, true, 512)));
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().code, errc::exist);
  save("flat", test_bytes(4096));
  EXPECT_NE(open_error("flat", true).find("--flat"), std::string::npos);
  EXPECT_NE(open_error("missing", true).find("missing"), std::string::npos);
}

TEST_F(change_file_test, damaged_entries_give_errors_and_nothing_else) {
  create("x.qcow2", shape(16, true, 1 << 20));
  ASSERT_EQ(write(0, test_bytes(4096, std::byte{7})), errc::ok);
  ASSERT_EQ(write(65536, test_bytes(4096, std::byte{8})), errc::ok);
  const uint64_t l1 = image_->header().l1_offset;
  close();
  test_bytes file = load("x.qcow2");
  const uint64_t l2 = base::load_big<uint64_t>(file, l1) & 0x00fffffffffffe00;
  base::store_big<uint64_t>(file, l2, uint64_t{1} << 63);  // the header's cluster
  save("x.qcow2", file);
  open("x.qcow2", true);
  test_bytes data(4096);
  const iovec v{data.data(), data.size()};
  auto r = wait(image_->read(0, rt::segments(&v, 1), {}));
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().code, errc::io);
  EXPECT_EQ(write(0, data), errc::io);
  EXPECT_EQ(read(65536, 1)[0], std::byte{8});
  close();
}

}  // namespace
}  // namespace lbd::store
