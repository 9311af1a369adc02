// SPDX-License-Identifier: MIT
#include "format/qcow2/header.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace lbd::qcow2 {
namespace {

using base::errc;
using testing::HasSubstr;

header sample() {
  header h;
  h.size_bytes = uint64_t{1} << 30;
  h.incompatible = feature_extended_l2;
  h.l1_entries = 4;
  h.l1_offset = 0x30000;
  h.refcount_table_offset = 0x10000;
  h.refcount_table_clusters = 1;
  h.extra_fields.assign(7, std::byte{0});
  h.backing_name = "base.img";
  h.backing_format = "raw";
  h.feature_names = known_feature_names();
  return h;
}

std::vector<std::byte> bytes_of(const header& h) {
  auto b = serialize_header(h);
  EXPECT_TRUE(b) << b.error().message;
  return *b;
}

std::string error_of(const base::outcome<header>& r) { return r ? "" : r.error().message; }
std::string error_of(const base::outcome<void>& r) { return r ? "" : r.error().message; }

TEST(qcow2_header, a_new_image_round_trips) {
  auto parsed = parse_header(bytes_of(sample()));
  ASSERT_TRUE(parsed) << error_of(parsed);
  EXPECT_EQ(*parsed, sample());
  EXPECT_TRUE(check_supported(*parsed));
  EXPECT_TRUE(check_layout(*parsed, 0x40000));
}

TEST(qcow2_header, bytes_stand_where_the_format_says) {
  auto b = bytes_of(sample());
  EXPECT_EQ(base::load_big<uint32_t>(b, 0), 0x514649fbu);
  EXPECT_EQ(base::load_big<uint32_t>(b, 20), 16u);
  EXPECT_EQ(base::load_big<uint64_t>(b, 24), uint64_t{1} << 30);
  EXPECT_EQ(base::load_big<uint64_t>(b, 40), 0x30000u);
  EXPECT_EQ(base::load_big<uint64_t>(b, 72), 16u);
  EXPECT_EQ(base::load_big<uint32_t>(b, 96), 4u);
  EXPECT_EQ(base::load_big<uint32_t>(b, 100), 112u);
  auto name = base::load_big<uint64_t>(b, 8);
  EXPECT_EQ(base::as_text(base::bytes_view(b).subspan(name)), "base.img");
}

TEST(qcow2_header, all_extensions_are_kept) {
  header h = sample();
  h.data_file_name = "data.raw";
  h.bitmaps = bitmaps_extension{2, 128, 0x70000};
  h.crypto = crypto_extension{0x80000, 4096};
  h.unknown.push_back({0x12345678, {std::byte{1}, std::byte{2}, std::byte{3}}});
  h.unknown.push_back({0x12345679, {}});
  auto parsed = parse_header(bytes_of(h));
  ASSERT_TRUE(parsed) << error_of(parsed);
  EXPECT_EQ(*parsed, h);
}

TEST(qcow2_header, version_2_and_the_short_version_3) {
  header h = sample();
  h.version = 2;
  h.incompatible = 0;
  h.header_length = header_bytes_v2;
  h.extra_fields.clear();
  auto parsed = parse_header(bytes_of(h));
  ASSERT_TRUE(parsed) << error_of(parsed);
  EXPECT_EQ(*parsed, h);
  header s = sample();
  s.header_length = min_header_bytes_v3;
  s.extra_fields.clear();
  parsed = parse_header(bytes_of(s));
  ASSERT_TRUE(parsed) << error_of(parsed);
  EXPECT_EQ(*parsed, s);
}

TEST(qcow2_header, fixed_fields_change_without_touching_names) {
  auto b = bytes_of(sample());
  auto before = b;
  auto h = parse_header(b);
  ASSERT_TRUE(h);
  h->l1_offset = 0x90000;
  h->autoclear = 0;
  store_fixed_fields(*h, b);
  auto after = parse_header(b);
  ASSERT_TRUE(after);
  EXPECT_EQ(after->l1_offset, 0x90000u);
  EXPECT_EQ(after->backing_name, "base.img");
  EXPECT_TRUE(std::equal(b.begin() + 104, b.end(), before.begin() + 104));
}

TEST(qcow2_header, foreign_files_are_named_with_a_remedy) {
  std::vector<std::byte> zeros(512);
  EXPECT_THAT(error_of(parse_header(zeros)), HasSubstr("--flat"));
  EXPECT_THAT(error_of(parse_header({})), HasSubstr("not a qcow2 image"));
  auto b = bytes_of(sample());
  base::store_big<uint32_t>(b, 4, 1);
  EXPECT_THAT(error_of(parse_header(b)), HasSubstr("qemu-img convert"));
}

TEST(qcow2_header, unsupported_features_are_named) {
  header h = sample();
  h.incompatible |= uint64_t{1} << 40 | uint64_t{1} << 41;
  h.feature_names.push_back({0, 40, "warp drive"});
  auto r = check_supported(h);
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().code, errc::notsup);
  EXPECT_THAT(r.error().message, HasSubstr("'warp drive', number 41"));
  EXPECT_THAT(r.error().message, HasSubstr("qemu-img convert"));
  h = sample();
  h.incompatible |= feature_corrupt;
  EXPECT_THAT(error_of(check_supported(h)), HasSubstr("qemu-img check -r all"));
  h = sample();
  h.incompatible |= feature_data_file;
  EXPECT_THAT(error_of(check_supported(h)), HasSubstr("external data file"));
  h = sample();
  h.crypt_method = 2;
  EXPECT_THAT(error_of(check_supported(h)), HasSubstr("encrypted"));
  h = sample();
  h.incompatible |= feature_compression_type;
  EXPECT_THAT(error_of(check_supported(h)), HasSubstr("contradicts"));
  h.compression = 2;
  EXPECT_THAT(error_of(check_supported(h)), HasSubstr("compression type 2"));
  h.compression = 1;
  EXPECT_TRUE(check_supported(h));
  h.incompatible |= feature_dirty;
  EXPECT_TRUE(check_supported(h));
}

TEST(qcow2_header, damaged_fields_are_refused) {
  auto good = bytes_of(sample());
  auto with32 = [&](size_t at, uint32_t v) {
    auto b = good;
    base::store_big<uint32_t>(b, at, v);
    return error_of(parse_header(b));
  };
  EXPECT_THAT(with32(20, 8), HasSubstr("cluster size"));
  EXPECT_THAT(with32(20, 22), HasSubstr("cluster size"));
  EXPECT_THAT(with32(20, 13), HasSubstr("16 KiB"));
  EXPECT_THAT(with32(96, 7), HasSubstr("refcount order"));
  EXPECT_THAT(with32(100, 96), HasSubstr("header length"));
  EXPECT_THAT(with32(100, 106), HasSubstr("header length"));
  EXPECT_THAT(with32(100, 1u << 31), HasSubstr("header length"));
  EXPECT_THAT(with32(16, 1024), HasSubstr("too long"));
  EXPECT_THAT(with32(8, 1), HasSubstr("outside"));
  EXPECT_THAT(with32(116, 0xfffffff0), HasSubstr("extension"));
  for (size_t cut = 0; cut < good.size(); ++cut) {
    auto r = parse_header(base::bytes_view(good).first(cut));
    EXPECT_FALSE(r) << cut;
  }
}

TEST(qcow2_header, layout_limits) {
  auto with = [](auto change, uint64_t file_bytes = 0x40000) {
    header h = sample();
    change(h);
    return error_of(check_layout(h, file_bytes));
  };
  EXPECT_EQ(with([](header&) {}), "");
  EXPECT_EQ(with([](header&) {}, 0x30000 + 32), "");  // QEMU ends a new file with the last L1 entry
  EXPECT_THAT(with([](header&) {}, 0x30000 + 31), HasSubstr("beyond the end"));
  EXPECT_THAT(with([](header& h) { h.l1_offset = 0x30200; }), HasSubstr("boundary"));
  EXPECT_THAT(with([](header& h) { h.l1_offset = 0; }), HasSubstr("overlaps the header"));
  EXPECT_THAT(with([](header& h) { h.l1_offset = 0x10000; }), HasSubstr("overlap"));
  EXPECT_THAT(with([](header& h) { h.l1_entries = 3; }), HasSubstr("too small"));
  EXPECT_THAT(with([](header& h) { h.l1_entries = (4u << 20) + 1; }), HasSubstr("32 MiB"));
  EXPECT_THAT(with([](header& h) { h.refcount_table_clusters = 129; }), HasSubstr("8 MiB"));
  EXPECT_THAT(with([](header& h) { h.refcount_table_clusters = 0; }), HasSubstr("empty"));
  EXPECT_THAT(with([](header& h) { h.refcount_table_offset = ~uint64_t{0xffff}; }),
              HasSubstr("beyond the end"));
  EXPECT_THAT(with([](header& h) { h.snapshot_count = 65537; }), HasSubstr("65536"));
  EXPECT_THAT(with([](header& h) {
                h.snapshot_count = 1;
                h.snapshots_offset = 0x50000;
              }),
              HasSubstr("snapshot table"));
  EXPECT_THAT(with([](header& h) { h.size_bytes = ~uint64_t{0}; }), HasSubstr("too small"));
}

TEST(qcow2_header, a_name_too_long_for_the_cluster_is_refused) {
  header h = sample();
  h.backing_name = std::string(1024, 'x');
  EXPECT_FALSE(serialize_header(h));
  h.backing_name = std::string(1023, 'x');
  EXPECT_TRUE(serialize_header(h));
  h.cluster_bits = 9;
  h.incompatible = 0;
  EXPECT_FALSE(serialize_header(h));
}

TEST(qcow2_header, host_offsets_are_checked_against_the_fixed_areas) {
  fixed_areas areas(sample(), 0x60000);
  auto fault = [&](uint64_t offset) {
    auto r = areas.check_cluster(offset);
    return r ? corruption::none : corruption_of(r.error());
  };
  EXPECT_EQ(fault(0x40000), corruption::none);
  EXPECT_EQ(fault(0x50000), corruption::none);
  EXPECT_EQ(fault(0x60000), corruption::outside_file);
  EXPECT_EQ(fault(0x50200), corruption::unaligned);
  EXPECT_EQ(fault(0), corruption::overlaps_metadata);
  EXPECT_EQ(fault(0x10000), corruption::overlaps_metadata);
  EXPECT_EQ(fault(0x30000), corruption::overlaps_metadata);
  EXPECT_TRUE(areas.check_bytes(0x5ff00, 512));
  EXPECT_FALSE(areas.check_bytes(0x2ff00, 512));
  EXPECT_FALSE(areas.check_bytes(0x60000, 512));
}

}  // namespace
}  // namespace lbd::qcow2
