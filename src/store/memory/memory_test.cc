// SPDX-License-Identifier: MIT
#include "store/memory/memory.h"

#include <gtest/gtest.h>

#include "block/segments.h"
#include "rt/runtime.h"
#include "store/null/null.h"

namespace lbd::store {
namespace {

using block::extent;

class memory_store : public testing::Test {
 protected:
  void fill(block::block_device& d, uint64_t offset, size_t n, char c) {
    const std::string text(n, c);
    const block::segment_list s(base::as_bytes(text));
    ASSERT_TRUE(rt_->run_until(d.write(offset, s.view(), {})));
  }
  std::string take(block::block_device& d, uint64_t offset, size_t n) {
    std::string text(n, '?');
    const iovec v{text.data(), n};
    EXPECT_TRUE(rt_->run_until(d.read(offset, rt::segments(&v, 1), {})));
    return text;
  }
  std::vector<extent> runs(block::block_device& d, uint64_t offset, uint64_t n) {
    block::extent_list out;
    EXPECT_TRUE(rt_->run_until(d.extents(offset, n, out, {})));
    return out.runs();
  }
  std::unique_ptr<rt::runtime> rt_ = *rt::runtime::start({.reactors = 1});
};

TEST_F(memory_store, reads_what_was_written_and_zeros_elsewhere) {
  auto d = *memory_device::make(1 << 20);
  EXPECT_EQ(take(*d, 12345, 10), std::string(10, '\0'));
  fill(*d, 65530, 12, 'x');
  EXPECT_EQ(take(*d, 65529, 14), '\0' + std::string(12, 'x') + '\0');
  const auto lent = d->borrow(65530, 12);
  EXPECT_EQ(base::as_text(lent.bytes), std::string(12, 'x'));
}

TEST_F(memory_store, extents_and_discard_agree_with_the_bytes) {
  auto d = *memory_device::make(4 * 65536 + 512);
  EXPECT_EQ(runs(*d, 0, 4 * 65536 + 512), (std::vector<extent>{{4 * 65536 + 512, true, true}}));
  fill(*d, 65536, 2 * 65536, 'a');
  fill(*d, 4 * 65536, 512, 'b');
  EXPECT_EQ(d->allocated_bytes(), 3u * 65536);
  EXPECT_EQ(runs(*d, 0, 4 * 65536 + 512), (std::vector<extent>{{65536, true, true},
                                                               {2 * 65536, false, false},
                                                               {65536, true, true},
                                                               {512, false, false}}));
  ASSERT_TRUE(rt_->run_until(d->discard(65536 + 100, 65536, {})));
  EXPECT_EQ(take(*d, 65536 + 99, 3), std::string("a\0\0", 3));
  EXPECT_EQ(take(*d, 2 * 65536 + 99, 2), std::string("\0a", 2));
  ASSERT_TRUE(rt_->run_until(d->discard(0, 4 * 65536 + 512, {})));
  EXPECT_EQ(d->allocated_bytes(), 0u);
  EXPECT_EQ(take(*d, 4 * 65536, 512), std::string(512, '\0'));
}

TEST_F(memory_store, write_zeroes_keeps_space_when_told_to) {
  auto d = *memory_device::make(65536);
  fill(*d, 0, 65536, 'a');
  ASSERT_TRUE(rt_->run_until(d->write_zeroes(0, 65536, {.flags = block::io_no_unmap})));
  EXPECT_EQ(d->allocated_bytes(), 65536u);
  EXPECT_EQ(take(*d, 100, 4), std::string(4, '\0'));
}

TEST_F(memory_store, a_size_nobody_has_is_refused) {
  const auto r = memory_device::make(uint64_t{1} << 62);
  ASSERT_FALSE(r);
  EXPECT_NE(r.error().message.find("4 EiB"), std::string::npos);
}

TEST_F(memory_store, null_forgets_writes_and_lends_zeros) {
  null_device d(uint64_t{10} << 40);
  fill(d, 1 << 30, 100, 'x');
  EXPECT_EQ(take(d, 1 << 30, 100), std::string(100, '\0'));
  EXPECT_TRUE(base::is_zero(d.borrow(0, 1 << 20).bytes));
  EXPECT_EQ(runs(d, 5, 10), (std::vector<extent>{{10, true, true}}));
}

}  // namespace
}  // namespace lbd::store
