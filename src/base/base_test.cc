// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <array>

#include "base/bytes.h"
#include "base/checked_math.h"
#include "base/result.h"
#include "base/size_text.h"

namespace lbd::base {
namespace {

TEST(size_text, reads_what_people_write) {
  EXPECT_EQ(*parse_size("4096"), 4096u);
  EXPECT_EQ(*parse_size("1G"), 1ull << 30);
  EXPECT_EQ(*parse_size("1g"), 1ull << 30);
  EXPECT_EQ(*parse_size("64KiB"), 65536u);
  EXPECT_EQ(*parse_size("1.5T"), (3ull << 40) / 2);
  EXPECT_EQ(*parse_size("2048s"), 1u << 20);
  EXPECT_EQ(*parse_size("512B"), 512u);
}

TEST(size_text, refuses_the_rest_and_says_what_to_write) {
  for (const char* bad : {"", "G", "-1", "1KB", "1X", "1.G", "1.3", "99999999999P", "8E", "1 G"}) {
    const auto r = parse_size(bad);
    ASSERT_FALSE(r) << bad;
    EXPECT_EQ(r.error().code, errc::inval);
    EXPECT_NE(r.error().message.find(std::string("'") + bad + "'"), std::string::npos);
  }
}

TEST(size_text, formats_exactly) {
  EXPECT_EQ(format_size(0), "0 B");
  EXPECT_EQ(format_size(511), "511 B");
  EXPECT_EQ(format_size(1536), "1536 B");
  EXPECT_EQ(format_size(1536 << 10), "1536 KiB");
  EXPECT_EQ(format_size(1ull << 40), "1 TiB");
}

TEST(bytes, byte_order_round_trips) {
  std::array<std::byte, 12> b{};
  store_big<uint32_t>(b, 0, 0x01020304u);
  EXPECT_EQ(b[0], std::byte{1});
  EXPECT_EQ(load_big<uint32_t>(b, 0), 0x01020304u);
  EXPECT_EQ(load_little<uint32_t>(b, 0), 0x04030201u);
  store_little<uint64_t>(b, 4, 0x1122334455667788ull);
  EXPECT_EQ(b[4], std::byte{0x88});
  EXPECT_EQ(load_little<uint64_t>(b, 4), 0x1122334455667788ull);
}

TEST(bytes, zero_detection) {
  std::array<std::byte, 100> b{};
  EXPECT_TRUE(is_zero(b));
  EXPECT_TRUE(is_zero({}));
  b[99] = std::byte{1};
  EXPECT_FALSE(is_zero(b));
}

TEST(checked_math, ranges_do_not_wrap) {
  EXPECT_TRUE(range_fits(0, 10, 10));
  EXPECT_FALSE(range_fits(1, 10, 10));
  EXPECT_FALSE(range_fits(UINT64_MAX, 2, 10));
  EXPECT_TRUE(range_fits(10, 0, 10));
  EXPECT_FALSE(checked_add<uint64_t>(UINT64_MAX, 1));
  EXPECT_EQ(round_up(513, 512), 1024u);
}

result<int> half(int v) {
  if (v % 2 != 0) return io_error{errc::inval, 7};
  return v / 2;
}
result<int> quarter(int v) {
  TRY(const int h, half(v));
  return half(h);
}

TEST(result, errors_propagate_with_detail) {
  EXPECT_EQ(*quarter(8), 2);
  const auto r = quarter(6);
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().detail, 7);
  EXPECT_EQ(sizeof(io_error), 4u);
}

}  // namespace
}  // namespace lbd::base
