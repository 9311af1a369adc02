// SPDX-License-Identifier: MIT
// The codec against images that qemu-img and qemu-io made (skipped where they are not installed).
#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "format/qcow2/decompress.h"
#include "format/qcow2/header.h"
#include "format/qcow2/l2_entry.h"
#include "format/qcow2/refcount.h"
#include "format/qcow2/snapshot.h"

namespace lbd::qcow2 {
namespace {

using bytes = std::vector<std::byte>;

class qcow2_interop : public testing::Test {
 protected:
  void SetUp() override {
    if (::system("command -v qemu-img qemu-io >/dev/null 2>&1") != 0) {
      GTEST_SKIP() << "qemu-utils is not installed";
    }
    char name[] = "/tmp/lbd-qcow2-XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    dir_ = name;
  }
  void TearDown() override {
    if (!dir_.empty()) std::filesystem::remove_all(dir_);
  }

  void run(const std::string& command) {
    std::string all = "cd " + dir_ + " && (" + command + ") >/dev/null 2>log || (cat log; false)";
    ASSERT_EQ(::system(all.c_str()), 0) << command;
  }
  void load(const std::string& name) {
    std::ifstream in(dir_ + "/" + name, std::ios::binary);
    std::string text((std::istreambuf_iterator<char>(in)), {});
    auto view = base::as_bytes(text);
    file_.assign(view.begin(), view.end());
    auto h = parse_header(file_);
    ASSERT_TRUE(h) << h.error().message;
    h_ = *h;
    auto layout = check_layout(h_, file_.size());
    ASSERT_TRUE(layout) << layout.error().message;
  }
  base::bytes_view at(uint64_t offset, uint64_t length) {
    if (!base::range_fits(offset, length, file_.size())) file_.resize(offset + length);
    return base::bytes_view(file_).subspan(offset, length);
  }
  cluster_mapping map(uint64_t guest) {
    geometry g = h_.shape();
    auto l1 = decode_l1_entry(
        g, base::load_big<uint64_t>(at(h_.l1_offset + g.l1_index(guest) * 8, 8), 0));
    EXPECT_TRUE(l1);
    if (l1->l2_offset == 0) return {};
    auto table = at(l1->l2_offset, g.cluster_size());
    auto m = decode_l2_entry(g, h_.version, load_l2_entry(g, table, g.l2_index(guest)));
    EXPECT_TRUE(m);
    return *m;
  }
  uint64_t refcount(uint64_t offset) {
    geometry g = h_.shape();
    uint64_t cluster = g.cluster_index(offset);
    uint64_t entry = h_.refcount_table_offset + g.refcount_table_index(cluster) * 8;
    auto block = decode_refcount_table_entry(g, base::load_big<uint64_t>(at(entry, 8), 0));
    EXPECT_TRUE(block && *block != 0);
    return load_refcount(at(*block, g.cluster_size()), g.refcount_order,
                         g.refcount_block_index(cluster));
  }

  std::string dir_;
  bytes file_;
  header h_;
};

TEST_F(qcow2_interop, headers_of_every_kind_parse_and_serialize_to_the_same_meaning) {
  run("qemu-img create -f raw base.raw 10M");
  const char* options[] = {"compat=0.10",
                           "compat=1.1",
                           "compat=1.1,extended_l2=on",
                           "cluster_size=512",
                           "cluster_size=2M",
                           "cluster_size=2M,extended_l2=on",
                           "refcount_bits=1",
                           "refcount_bits=64",
                           "compression_type=zstd",
                           "lazy_refcounts=on",
                           "backing_file=base.raw,backing_fmt=raw",
                           "compat=0.10,backing_file=base.raw,backing_fmt=raw",
                           "preallocation=metadata"};
  for (const char* o : options) {
    run(std::string("qemu-img create -f qcow2 -o ") + o + " x.qcow2 10M");
    load("x.qcow2");
    EXPECT_TRUE(check_supported(h_)) << o;
    EXPECT_EQ(h_.size_bytes, 10u << 20) << o;
    auto again = serialize_header(h_);
    ASSERT_TRUE(again) << o;
    auto parsed = parse_header(*again);
    ASSERT_TRUE(parsed) << o;
    EXPECT_EQ(*parsed, h_) << o;
  }
  EXPECT_EQ(h_.feature_names, known_feature_names());
}

TEST_F(qcow2_interop, a_header_written_here_reads_in_qemu_img) {
  run("qemu-img create -f raw base.raw 10M");
  run("qemu-img create -f qcow2 -o extended_l2=on x.qcow2 10M");
  load("x.qcow2");
  h_.backing_name = "base.raw";
  h_.backing_format = "raw";
  auto b = serialize_header(h_);
  ASSERT_TRUE(b);
  std::fstream out(dir_ + "/x.qcow2", std::ios::in | std::ios::out | std::ios::binary);
  out.write(reinterpret_cast<const char*>(b->data()), static_cast<std::streamsize>(b->size()));
  out.close();
  run("qemu-img check x.qcow2");
  run("qemu-img info --backing-chain x.qcow2 | grep 'backing file: base.raw'");
  run("qemu-img info x.qcow2 | grep 'extended l2: true'");
}

TEST_F(qcow2_interop, an_external_data_file_is_refused) {
  run("qemu-img create -f qcow2 -o data_file=d.raw x.qcow2 1M");
  load("x.qcow2");
  EXPECT_FALSE(check_supported(h_));
  EXPECT_EQ(h_.data_file_name, "d.raw");
}

TEST_F(qcow2_interop, mappings_and_refcounts_of_every_width) {
  for (int bits : {1, 2, 4, 8, 16, 32, 64}) {
    run("qemu-img create -f qcow2 -o refcount_bits=" + std::to_string(bits) + " x.qcow2 10M");
    run("qemu-io -c 'write -P 5 64k 64k' -c 'write -z 192k 64k' x.qcow2");
    load("x.qcow2");
    EXPECT_TRUE(map(0).is_unallocated());
    auto m = map(64 << 10);
    EXPECT_EQ(m.allocated, 1u);
    EXPECT_TRUE(m.copied);
    EXPECT_EQ(at(m.host_offset, 1)[0], std::byte{5});
    EXPECT_TRUE(fixed_areas(h_, file_.size()).check_cluster(m.host_offset));
    EXPECT_EQ(refcount(m.host_offset), 1u);
    EXPECT_EQ(refcount(0), 1u);
    EXPECT_EQ(refcount(m.host_offset + h_.shape().cluster_size()), 0u);
    EXPECT_EQ(map(192 << 10).zero, 1u);
  }
}

TEST_F(qcow2_interop, subclusters) {
  run("qemu-img create -f qcow2 -o extended_l2=on x.qcow2 10M");
  run("qemu-io -c 'write -P 5 4k 4k' -c 'write -z 8k 2k' x.qcow2");
  load("x.qcow2");
  auto m = map(0);
  EXPECT_EQ(m.allocated, 0xcu);
  EXPECT_EQ(m.zero, 0x10u);
  EXPECT_EQ(at(m.host_offset + 4096, 1)[0], std::byte{5});
}

TEST_F(qcow2_interop, compressed_clusters_of_both_kinds) {
  for (std::string type : {"zlib", "zstd"}) {
    run("rm -f x.qcow2; head -c 1M /dev/zero | tr '\\0' 'q' > r.raw; printf abc >> r.raw; "
        "qemu-img convert -c -f raw -O qcow2 -o compression_type=" +
        type + " r.raw x.qcow2");
    load("x.qcow2");
    for (uint64_t guest : {uint64_t{0}, uint64_t{512 << 10}, uint64_t{1 << 20}}) {
      auto m = map(guest);
      ASSERT_TRUE(m.is_compressed()) << type;
      EXPECT_TRUE(fixed_areas(h_, file_.size()).check_bytes(m.host_offset, m.compressed_bytes));
      bytes out(65536);
      ASSERT_TRUE(decompress_cluster(static_cast<compression_type>(h_.compression),
                                     at(m.host_offset, m.compressed_bytes), out));
      EXPECT_EQ(out[0], guest == 1 << 20 ? std::byte{'a'} : std::byte{'q'});
      EXPECT_EQ(out[65535], guest == 1 << 20 ? std::byte{0} : std::byte{'q'});
    }
  }
}

TEST_F(qcow2_interop, snapshots) {
  run("qemu-img create -f qcow2 x.qcow2 10M && qemu-io -c 'write -P 1 0 64k' x.qcow2 && "
      "qemu-img snapshot -c first x.qcow2 && qemu-img snapshot -c 'second one' x.qcow2");
  load("x.qcow2");
  ASSERT_EQ(h_.snapshot_count, 2u);
  auto t = parse_snapshot_table(h_, at(h_.snapshots_offset, 4096), file_.size());
  ASSERT_TRUE(t) << t.error().message;
  EXPECT_EQ(t->snapshots[0].name, "first");
  EXPECT_EQ(t->snapshots[1].name, "second one");
  EXPECT_EQ(t->snapshots[1].size_bytes, 10u << 20);
  auto m = map(0);
  EXPECT_FALSE(m.copied);
  EXPECT_EQ(refcount(m.host_offset), 3u);
}

}  // namespace
}  // namespace lbd::qcow2
