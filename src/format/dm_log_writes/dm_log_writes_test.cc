// SPDX-License-Identifier: MIT
#include "format/dm_log_writes/dm_log_writes.h"

#include <gtest/gtest.h>

#include <vector>

namespace lbd::dm_log_writes {
namespace {

std::vector<std::byte> sector_of(const std::string& begin) {
  const auto bytes = base::as_bytes(begin);
  std::vector<std::byte> out(bytes.begin(), bytes.end());
  out.resize(512);
  return out;
}

// The first bytes of a log that the kernel 6.1 made, after its end mark.
TEST(dm_log_writes, super_as_the_kernel_writes_it) {
  using namespace std::string_literals;
  const auto disk = sector_of("rhswfsj\0\1\0\0\0\0\0\0\0\6\0\0\0\0\0\0\0\0\2\0\0"s);
  const super s = load_super(disk);
  EXPECT_EQ(s, (super{super_magic, 1, 6, 512}));
  EXPECT_EQ(super_error(s), nullptr);
  std::vector<std::byte> again(512, std::byte{7});
  store_super(again, s);
  EXPECT_EQ(again, disk);
}

TEST(dm_log_writes, logs_that_cannot_be_read) {
  EXPECT_NE(super_error({0, 1, 0, 512}), nullptr);
  EXPECT_NE(super_error({super_magic, 2, 0, 512}), nullptr);
  for (const uint32_t bytes : {0u, 1u, 256u, 513u, 3072u, 1u << 17})
    EXPECT_NE(super_error({super_magic, 1, 0, bytes}), nullptr) << bytes;
  for (const uint32_t bytes : {512u, 4096u, 65536u})
    EXPECT_EQ(super_error({super_magic, 1, 0, bytes}), nullptr) << bytes;
}

TEST(dm_log_writes, entries) {
  std::vector<std::byte> sector(4096, std::byte{7});
  const entry mark{0, 0, entry::mark, 4};
  store_entry(sector, mark, "here");
  EXPECT_EQ(load_entry(sector), mark);
  EXPECT_EQ(text_of(sector, mark), "here");
  EXPECT_EQ(text_of(sector, entry{0, 1, 0, 4}), "") << "only marks have one";
  EXPECT_TRUE(base::is_zero(base::bytes_view(sector).subspan(entry_bytes + 4)));
  EXPECT_EQ(text_of(sector, entry{0, 0, entry::mark, UINT64_MAX}).size(), 4096 - entry_bytes);
  EXPECT_TRUE(mark.tells_super());
  EXPECT_TRUE((entry{0, 1, entry::fua, 0}).tells_super());
  EXPECT_FALSE((entry{0, 0, entry::flush, 0}).tells_super());
  EXPECT_EQ((entry{1, 7, 0, 0}).data_sectors(), 7u);
  EXPECT_EQ((entry{1, 7, entry::discard, 0}).data_sectors(), 0u);
}

TEST(dm_log_writes, entries_that_cannot_be) {
  EXPECT_TRUE(is_sound({5, 8, 0, 0}, 512, 8 * 512));
  EXPECT_FALSE(is_sound({5, 8, 0, 0}, 512, 8 * 512 - 1)) << "its data is not all there";
  EXPECT_TRUE(is_sound({5, 8, entry::discard, 0}, 512, 0));
  EXPECT_FALSE(is_sound({UINT64_MAX / 512, 1, entry::discard, 0}, 512, 0));
  EXPECT_FALSE(is_sound({0, UINT64_MAX, entry::discard, 0}, 512, 0));
  EXPECT_TRUE(is_sound({0, 0, entry::mark, 480}, 512, 0));
  EXPECT_FALSE(is_sound({0, 0, entry::mark, 481}, 512, 0));
}

TEST(dm_log_writes, kinds_in_words) {
  EXPECT_EQ(kind_text({0, 8, 0, 0}), "write");
  EXPECT_EQ(kind_text({0, 8, entry::fua | entry::metadata, 0}), "write fua metadata");
  EXPECT_EQ(kind_text({0, 0, entry::flush, 0}), "flush");
  EXPECT_EQ(kind_text({0, 8, entry::discard, 0}), "discard");
  EXPECT_EQ(kind_text({0, 0, entry::mark, 1}), "mark");
  EXPECT_EQ(kind_text({0, 0, 0, 0}), "nothing");
}

}  // namespace
}  // namespace lbd::dm_log_writes
