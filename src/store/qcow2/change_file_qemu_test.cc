// SPDX-License-Identifier: MIT
// Images that QEMU's tools made, and what they say about ours (skipped where they are missing).
#include <gmock/gmock.h>

#include "store/qcow2/test_images.h"

namespace lbd::store {
namespace {

using base::errc;
using block::placement_kind;
using testing::HasSubstr;

class qemu_images : public image_test {
 protected:
  void SetUp() override {
    if (!has_qemu()) GTEST_SKIP() << "qemu-utils is not installed";
    image_test::SetUp();
  }
  // Random-looking content with holes, compressible.
  void make_raw(const std::string& name, uint64_t size) {
    test_bytes b(size);
    for (uint64_t i = 0; i < size; ++i) {
      if (i / 30000 % 3 != 1) b[i] = static_cast<std::byte>(i * i / 1000 % 17 + i / 30000);
    }
    save(name, b);
  }
};

TEST_F(qemu_images, every_kind_reads_the_same) {
  make_raw("r.raw", (5 << 20) + 512);
  const char* kinds[] = {"-o compat=0.10",
                         "-o compat=1.1",
                         "-o extended_l2=on",
                         "-o cluster_size=512",
                         "-o cluster_size=2M,extended_l2=on",
                         "-o refcount_bits=1",
                         "-o refcount_bits=64,lazy_refcounts=on",
                         "-c -o compat=0.10",
                         "-c -o compression_type=zstd",
                         "-c -o cluster_size=4k",
                         "-c -o extended_l2=on",
                         "-o preallocation=metadata"};
  const test_bytes want = load("r.raw");
  for (const char* kind : kinds) {
    run(std::string("rm -f x.qcow2; qemu-img convert -f raw -O qcow2 ") + kind + " r.raw x.qcow2");
    open("x.qcow2", false);
    EXPECT_EQ(read(0, want.size()), want) << kind;
    for (uint64_t at = 1 << 20; at < 2 << 20; at += 4096)
      ASSERT_EQ(read(at, 4096), test_bytes(want.begin() + static_cast<ptrdiff_t>(at),
                                           want.begin() + static_cast<ptrdiff_t>(at + 4096)));
    EXPECT_EQ(read(123456, 4321), test_bytes(want.begin() + 123456, want.begin() + 127777)) << kind;
    image_.reset();
    auto c = check("x.qcow2");
    EXPECT_EQ(c.errors + c.leaks, 0u) << kind << (c.messages.empty() ? "" : c.messages.front());
  }
}

TEST_F(qemu_images, every_kind_that_is_written_can_be_written_over) {
  make_raw("r.raw", (5 << 20) + 512);
  const char* kinds[] = {"-o compat=1.1",
                         "-o extended_l2=on",
                         "-o cluster_size=512",
                         "-o cluster_size=4k,refcount_bits=1",
                         "-o lazy_refcounts=on",
                         "-c",
                         "-c -o compression_type=zstd,extended_l2=on",
                         "-c -o cluster_size=4k",
                         "-o preallocation=metadata,extended_l2=on"};
  for (const char* kind : kinds) {
    run(std::string("rm -f x.qcow2; qemu-img convert -f raw -O qcow2 ") + kind + " r.raw x.qcow2");
    test_bytes want = load("r.raw");
    open("x.qcow2", true);
    for (uint64_t at : {uint64_t{100}, uint64_t{70000}, uint64_t{1 << 20}, uint64_t{5 << 20}}) {
      const test_bytes data(at == 70000 ? 200000 : 412, static_cast<std::byte>(at % 200 + 3));
      ASSERT_EQ(write(at, data), errc::ok) << kind;
      std::copy(data.begin(), data.end(), want.begin() + static_cast<ptrdiff_t>(at));
    }
    ASSERT_TRUE(wait(image_->write_zeroes(2 << 20, 300000, {})));
    std::fill_n(want.begin() + (2 << 20), 300000, std::byte{0});
    EXPECT_EQ(read(0, want.size()), want) << kind;
    close();
    expect_clean("x.qcow2");
    save("want.raw", want);
    EXPECT_EQ(shell("qemu-img compare -f qcow2 -F raw x.qcow2 want.raw"), 0) << kind << output_;
  }
}

TEST_F(qemu_images, ours_pass_as_backing_and_overlay) {
  make_raw("base.raw", 1 << 20);
  new_change_file what;
  what.size_bytes = 2 << 20;
  what.backing_name = "base.raw";
  what.backing_format = "raw";
  create("x.qcow2", what);
  ASSERT_EQ(write(4096, test_bytes(4096, std::byte{9})), errc::ok);
  ASSERT_TRUE(wait(image_->set_zero(8192, 2048, false)));
  close();
  expect_clean("x.qcow2");
  run("qemu-img convert -f qcow2 -O raw x.qcow2 all.raw");
  test_bytes want = load("base.raw");
  want.resize(2 << 20);
  std::fill_n(want.begin() + 4096, 4096, std::byte{9});
  std::fill_n(want.begin() + 8192, 2048, std::byte{0});
  EXPECT_EQ(load("all.raw"), want);
  run("qemu-img info x.qcow2");
  EXPECT_THAT(output_, HasSubstr("backing file: base.raw"));
  EXPECT_THAT(output_, HasSubstr("extended l2: true"));
  // And QEMU goes on where we stopped.
  run("qemu-io -f qcow2 -c 'write -P 3 6k 100k' -c 'discard 1M 256k' x.qcow2 && "
      "qemu-img resize -f qcow2 x.qcow2 3M");
  open("x.qcow2", true);
  EXPECT_EQ(read(6 << 10, 100 << 10), test_bytes(100 << 10, std::byte{3}));
  EXPECT_EQ(image_->limits().size_bytes, 3u << 20);
  ASSERT_EQ(write(0, test_bytes(3 << 20, std::byte{4})), errc::ok);
  close();
  expect_clean("x.qcow2");
}

TEST_F(qemu_images, internal_snapshots_stay_as_they_are) {
  for (std::string kind : {"extended_l2=on", "extended_l2=off", "cluster_size=512"}) {
    make_raw("r.raw", 3 << 20);
    run("rm -f x.qcow2; qemu-img convert -f raw -O qcow2 -o " + kind +
        " r.raw x.qcow2 && "
        "qemu-img snapshot -c one x.qcow2 && qemu-io -f qcow2 -c 'write -P 1 0 100k' x.qcow2 && "
        "qemu-img snapshot -c two x.qcow2");
    run("qemu-img convert -l one -O raw x.qcow2 one.raw && qemu-img convert -l two -O raw x.qcow2 "
        "two.raw");
    test_bytes want = load("two.raw");
    open("x.qcow2", true);
    EXPECT_EQ(wait(image_->locate(0, 4096))->kind, placement_kind::opaque);
    ASSERT_EQ(write(5000, test_bytes(3000, std::byte{2})), errc::ok);
    std::fill_n(want.begin() + 5000, 3000, std::byte{2});
    ASSERT_TRUE(wait(image_->set_zero(1 << 20, 1 << 20, false)));
    std::fill_n(want.begin() + (1 << 20), 1 << 20, std::byte{0});
    ASSERT_TRUE(wait(image_->write_zeroes(131072 + 16384, 16384, {})));
    std::fill_n(want.begin() + 131072 + 16384, 16384, std::byte{0});
    EXPECT_EQ(read(0, want.size()), want);
    close();
    expect_clean("x.qcow2");
    run("qemu-img convert -l one -O raw x.qcow2 one2.raw && cmp one.raw one2.raw");
    run("qemu-img convert -l two -O raw x.qcow2 two2.raw && cmp two.raw two2.raw");
    save("want.raw", want);
    run("qemu-img compare -f qcow2 -F raw x.qcow2 want.raw");
    run("qemu-img snapshot -d one x.qcow2 && qemu-img snapshot -a two x.qcow2");
    expect_clean("x.qcow2");
  }
}

TEST_F(qemu_images, a_dirty_image_is_repaired_when_opened_for_writing) {
  for (std::string size : {"64k", "4k", "512"}) {
    run("rm -f x.qcow2; qemu-img create -f qcow2 -o lazy_refcounts=on,cluster_size=" + size +
        " x.qcow2 10M");
    // qemu-io's abort leaves the image as a crash would.
    shell("qemu-io -f qcow2 -c 'write -P 5 1M 3M' -c flush -c abort x.qcow2");
    run("qemu-img info x.qcow2");
    EXPECT_GT(check("x.qcow2").errors, 0u);
    open("x.qcow2", false);  // reading needs no refcounts
    EXPECT_EQ(read(1 << 20, 3 << 20), test_bytes(3 << 20, std::byte{5}));
    image_.reset();
    open("x.qcow2", true);
    ASSERT_EQ(write(5 << 20, test_bytes(100000, std::byte{6})), errc::ok);
    close();
    expect_clean("x.qcow2");
    run("qemu-io -f qcow2 -r -c 'read -P 5 1M 3M' -c 'read -P 6 5M 100000' x.qcow2");
    EXPECT_THAT(output_, testing::Not(HasSubstr("failed")));
  }
}

TEST_F(qemu_images, leaked_clusters_are_given_back_when_opened_for_writing) {
  run("qemu-img create -f qcow2 x.qcow2 10M && qemu-io -c 'write -P 5 0 1M' x.qcow2 && "
      "qemu-img snapshot -c s x.qcow2");
  test_bytes image = load("x.qcow2");
  const uint64_t end = image.size() / 65536 + 1;
  image.resize((end + 10) * 65536);
  const auto table = base::load_big<uint64_t>(image, 48);
  const auto block = base::load_big<uint64_t>(image, table);
  for (const uint64_t c : {end, end + 3, end + 9})
    base::store_big<uint16_t>(image, block + c * 2, 1);
  save("x.qcow2", image);
  EXPECT_EQ(shell("qemu-img check x.qcow2"), 3) << output_;
  open("x.qcow2", false);  // reading changes nothing
  image_.reset();
  EXPECT_EQ(shell("qemu-img check x.qcow2"), 3) << output_;
  open("x.qcow2", true);
  EXPECT_EQ(shell("qemu-img check -U x.qcow2"), 0) << output_;
  ASSERT_EQ(write(1 << 20, test_bytes(1 << 20, std::byte{6})), errc::ok);
  close();
  expect_clean("x.qcow2");
  run("qemu-io -r -c 'read -P 5 0 1M' -c 'read -P 6 1M 1M' x.qcow2");
  EXPECT_THAT(output_, testing::Not(HasSubstr("failed")));
}

// A table that its L1 entry calls shared although nobody else uses it: it is copied, and its old
// place becomes free while it is still in memory.
TEST_F(qemu_images, a_flag_that_is_wrong_costs_a_copy_only) {
  run("qemu-img create -f qcow2 -o cluster_size=4k x.qcow2 8M && qemu-io -c 'write -P 5 0 1M' "
      "x.qcow2");
  test_bytes image = load("x.qcow2");
  const auto l1 = base::load_big<uint64_t>(image, 40);
  const auto entry = base::load_big<uint64_t>(image, l1);
  base::store_big<uint64_t>(image, l1, entry & ~(uint64_t{1} << 63));
  save("x.qcow2", image);
  open("x.qcow2", true);
  EXPECT_EQ(read(0, 4096), test_bytes(4096, std::byte{5}));
  ASSERT_EQ(write(0, test_bytes(4096, std::byte{6})), errc::ok);
  for (int i = 0; i < 8; ++i) {
    ASSERT_EQ(flush(), errc::ok);
    ASSERT_EQ(write((2 << 20) + i * 65536, test_bytes(65536, std::byte{7})), errc::ok);
  }
  close();
  expect_clean("x.qcow2");
}

// What several snapshots share is counted for each, and read once.
TEST_F(qemu_images, tables_that_snapshots_share_are_counted_for_each) {
  run("qemu-img create -f qcow2 -o cluster_size=4k x.qcow2 16M && "
      "qemu-io -c 'write -P 5 0 16M' x.qcow2 && qemu-img snapshot -c s x.qcow2");
  const image_check c = check("x.qcow2");
  EXPECT_EQ(c.errors, 0u);
  EXPECT_EQ(c.leaks, 0u);
  EXPECT_EQ(*std::max_element(c.uses.begin(), c.uses.end()), 2u);
}

TEST_F(qemu_images, a_short_refcount_table_grows) {
  // One cluster of 512 bytes counts 8 MiB; QEMU made it for an image that was small once.
  run("qemu-img create -f qcow2 -o cluster_size=512 x.qcow2 1M && "
      "qemu-img resize -f qcow2 x.qcow2 32M");
  open("x.qcow2", true);
  ASSERT_EQ(write(0, test_bytes(32 << 20, std::byte{6})), errc::ok);
  close();
  expect_clean("x.qcow2");
}

TEST_F(qemu_images, dirty_bitmaps_lose_their_consistency_bit) {
  run("qemu-img create -f qcow2 x.qcow2 1M && qemu-img bitmap --add x.qcow2 b");
  open("x.qcow2", true);
  EXPECT_EQ(image_->header().autoclear, 0u);
  ASSERT_EQ(write(0, test_bytes(65536, std::byte{6})), errc::ok);
  close();
  EXPECT_EQ(check("x.qcow2").errors, 0u);
}

TEST_F(qemu_images, images_that_are_refused_name_the_remedy) {
  run("qemu-img create -f qcow2 -o compat=0.10 v2.qcow2 1M");
  EXPECT_THAT(open_error("v2.qcow2", true), HasSubstr("qemu-img amend"));
  EXPECT_EQ(open_error("v2.qcow2", false), "");
  image_.reset();
  run("qemu-img create -f qcow2 -o data_file=d.raw x.qcow2 1M");
  EXPECT_THAT(open_error("x.qcow2", false), HasSubstr("external data file"));
  run("qemu-img create -f qcow2 y.qcow2 1M && truncate -s 100k y.qcow2");
  EXPECT_THAT(open_error("y.qcow2", false), HasSubstr("truncated"));
}

}  // namespace
}  // namespace lbd::store
