// SPDX-License-Identifier: MIT
// Answers as the kernel's own header lays them out.
#include <gtest/gtest.h>
#include <linux/dm-ioctl.h>
#include <sys/sysmacros.h>

#include <cstring>

#include "wire/dm/ioctl.h"

namespace lbd::dm {
namespace {

header asked(uint32_t data_size, uint32_t flags = 0) {
  header h;
  h.data_size = data_size;
  h.flags = flags;
  h.name = "base";
  return h;
}

const dm_ioctl& head_of(const std::vector<std::byte>& bytes) {
  return *reinterpret_cast<const dm_ioctl*>(bytes.data());
}
template <class T>
const T& data_of(const std::vector<std::byte>& bytes, size_t at = 0) {
  return *reinterpret_cast<const T*>(bytes.data() + head_of(bytes).data_start + at);
}
const char* aligned_after(const char* text) {
  const auto end = reinterpret_cast<uintptr_t>(text + std::strlen(text) + 1);
  return reinterpret_cast<const char*>((end + 7) & ~uintptr_t{7});
}

TEST(dm_answer, without_data) {
  answer a(asked(16384));
  a.head().device = encode_number({253, 3});
  a.head().open_count = 2;
  a.head().flags |= flag::active_present;
  const auto bytes = a.finish();
  ASSERT_EQ(bytes.size(), 305u);
  EXPECT_EQ(head_of(bytes).data_size, 305u);
  EXPECT_EQ(head_of(bytes).version[1], 47u);
  EXPECT_EQ(head_of(bytes).dev, makedev(253, 3));
  EXPECT_EQ(head_of(bytes).open_count, 2);
  EXPECT_STREQ(head_of(bytes).name, "base");
  EXPECT_EQ(head_of(bytes).flags, uint32_t{DM_ACTIVE_PRESENT_FLAG});
}

TEST(dm_answer, nothing_but_the_version) {
  answer a(asked(16384));
  a.put_nothing();
  EXPECT_EQ(a.finish(), version_answer());
  EXPECT_EQ(version_answer().size(), 12u);
}

TEST(dm_answer, lists_devices) {
  const std::vector<listed_device> all = {{{253, 0}, "a", "", 1}, {{253, 300}, "longer", "ID", 9}};
  for (const bool uuids : {false, true}) {
    answer a(asked(16384, uuids ? DM_UUID_FLAG : 0));
    a.put_devices(all);
    const auto bytes = a.finish();
    EXPECT_EQ(head_of(bytes).data_size, bytes.size());
    const auto& first = data_of<dm_name_list>(bytes);
    EXPECT_EQ(first.dev, makedev(253, 0));
    EXPECT_STREQ(first.name, "a");
    const auto* numbers = reinterpret_cast<const uint32_t*>(aligned_after(first.name));
    EXPECT_EQ(numbers[0], 1u);
    EXPECT_EQ(numbers[1], uuids ? 2u : 0u);
    const auto& second = data_of<dm_name_list>(bytes, first.next);
    EXPECT_EQ(second.dev, makedev(253, 300));
    EXPECT_STREQ(second.name, "longer");
    EXPECT_EQ(second.next, 0u);
    numbers = reinterpret_cast<const uint32_t*>(aligned_after(second.name));
    EXPECT_EQ(numbers[0], 9u);
    EXPECT_EQ(numbers[1], uuids ? 1u : 0u);
    if (!uuids) continue;
    EXPECT_STREQ(reinterpret_cast<const char*>(numbers + 2), "ID");
  }
}

TEST(dm_answer, an_empty_list_has_no_number) {
  answer a(asked(16384));
  a.put_devices({});
  EXPECT_EQ(data_of<dm_name_list>(a.finish()).dev, 0u);
}

// The caller comes again with a larger buffer until everything fits.
template <class Put>
void fits_only_in(size_t data_bytes, Put put) {
  for (uint32_t size = 305; size <= 312 + data_bytes; ++size) {
    answer a(asked(size));
    put(a);
    const auto bytes = a.finish();
    EXPECT_LE(bytes.size(), std::max(size, 305u));
    const bool full = (head_of(bytes).flags & DM_BUFFER_FULL_FLAG) != 0;
    EXPECT_EQ(full, size < 312 + data_bytes) << size;
  }
}

TEST(dm_answer, small_buffers_are_told) {
  fits_only_in(24 + 8, [](answer& a) { a.put_devices({{{253, 0}, "four-and-5", "", 1}}); });
  fits_only_in(24, [](answer& a) { a.put_deps({{8, 0}, {8, 16}}); });
  fits_only_in(24 + 24, [](answer& a) {
    a.put_versions({{"zero", {1, 1, 0}}, {"linear", {1, 4, 0}}});
  });
  fits_only_in(5 + 1, [](answer& a) { a.put_reply("text"); });
  fits_only_in(48 + 40 + 3 + 1, [](answer& a) {
    a.put_status({{0, 8, "linear", "8:0 0"}, {8, 8, "zero", "ab"}});
  });
}

TEST(dm_answer, deps) {
  answer a(asked(16384));
  a.put_deps({{254, 32}, {254, 0}});
  const auto bytes = a.finish();
  const auto& deps = data_of<dm_target_deps>(bytes);
  ASSERT_EQ(deps.count, 2u);
  EXPECT_EQ(deps.dev[0], makedev(254, 32));
  EXPECT_EQ(deps.dev[1], makedev(254, 0));
  EXPECT_EQ(bytes.size(), 312u + 24u);
}

TEST(dm_answer, status_counts_from_the_start_of_the_data) {
  answer a(asked(16384));
  a.put_status({{0, 8, "linear", "8:0 0"}, {8, 16, "a-type-of-15-chr", "x"}, {24, 1, "zero", ""}});
  const auto bytes = a.finish();
  EXPECT_EQ(head_of(bytes).target_count, 3u);
  const auto& first = data_of<dm_target_spec>(bytes);
  EXPECT_STREQ(first.target_type, "linear");
  EXPECT_STREQ(reinterpret_cast<const char*>(&first + 1), "8:0 0");
  EXPECT_EQ(first.next, 48u);
  const auto& second = data_of<dm_target_spec>(bytes, first.next);
  EXPECT_EQ(second.sector_start, 8u);
  EXPECT_EQ(second.length, 16u);
  EXPECT_STREQ(second.target_type, "a-type-of-15-ch");
  EXPECT_EQ(second.next, 48u + 48u);
  const auto& third = data_of<dm_target_spec>(bytes, second.next);
  EXPECT_STREQ(third.target_type, "zero");
  EXPECT_STREQ(reinterpret_cast<const char*>(&third + 1), "");
  EXPECT_EQ(bytes.size(), 312u + 96u + 41u);
}

TEST(dm_answer, versions) {
  answer a(asked(16384));
  a.put_versions({{"striped", {1, 6, 0}}, {"linear", {1, 4, 0}}});
  const auto bytes = a.finish();
  const auto& first = data_of<dm_target_versions>(bytes);
  EXPECT_STREQ(first.name, "striped");
  EXPECT_EQ(first.version[1], 6u);
  const auto& second = data_of<dm_target_versions>(bytes, first.next);
  EXPECT_STREQ(second.name, "linear");
  EXPECT_EQ(second.next, 0u);
}

TEST(dm_answer, replies) {
  answer a(asked(16384));
  a.put_reply("0: 0+16");
  const auto bytes = a.finish();
  EXPECT_NE(head_of(bytes).flags & DM_DATA_OUT_FLAG, 0u);
  EXPECT_STREQ(&data_of<char>(bytes), "0: 0+16");
  EXPECT_EQ(bytes.size(), 312u + 8u);
}

}  // namespace
}  // namespace lbd::dm
