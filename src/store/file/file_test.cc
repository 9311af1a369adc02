// SPDX-License-Identifier: MIT
#include "store/file/file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <random>

#include "block/segments.h"
#include "rt/runtime.h"

namespace lbd::store {
namespace {

using base::errc;

// On /tmp (usually a disk's file system) and on /dev/shm (memory), cached and direct.
struct where {
  const char* folder;
  bool direct;
};

class file_store : public testing::TestWithParam<where> {
 protected:
  static constexpr size_t size = 1 << 20;
  void SetUp() override {
    path_ = std::string(GetParam().folder) + "/lbd-file-test-XXXXXX";
    const int fd = ::mkstemp(path_.data());
    ASSERT_GE(fd, 0);
    ASSERT_EQ(::ftruncate(fd, size), 0);
    ::close(fd);
  }
  void TearDown() override { ::unlink(path_.c_str()); }
  std::unique_ptr<block::block_device> open(bool writable) {
    const rt::reactor::scope here(rt_->at(0));
    auto d = open_file_store(rt::os_files(), path_, {writable, GetParam().direct});
    if (!d) {
      message_ = d.error().message;
      return nullptr;
    }
    return *std::move(d);
  }
  std::string path_, message_;
  std::unique_ptr<rt::runtime> rt_ = *rt::runtime::start({.reactors = 2});
};

INSTANTIATE_TEST_SUITE_P(places, file_store,
                         testing::Values(where{"/tmp", false}, where{"/tmp", true},
                                         where{"/dev/shm", false}),
                         [](const auto& i) {
                           const bool shm = std::string(i.param.folder) == "/dev/shm";
                           return std::string(shm ? "shm" : "tmp") +
                                  (i.param.direct ? "_direct" : "_cached");
                         });

TEST_P(file_store, random_requests_of_any_alignment_agree_with_a_model) {
  auto d = open(true);
  if (!d) GTEST_SKIP() << message_;
  std::vector<std::byte> model(size, std::byte{0});
  std::mt19937_64 random(7);
  for (int i = 0; i < 400; ++i) {
    const uint64_t at = random() % size;
    const uint64_t n = std::min<uint64_t>(1 + random() % 20'000, size - at);
    std::vector<std::byte> data(n, static_cast<std::byte>(random()));
    const iovec v{data.data(), n};
    switch (random() % 3) {
      case 0:
        ASSERT_TRUE(rt_->run_until(d->write(at, rt::segments(&v, 1), {})));
        std::copy(data.begin(), data.end(), model.begin() + static_cast<ptrdiff_t>(at));
        break;
      case 1:
        ASSERT_TRUE(rt_->run_until(d->write_zeroes(at, n, {})));
        std::fill_n(model.begin() + static_cast<ptrdiff_t>(at), n, std::byte{0});
        break;
      case 2:
        ASSERT_TRUE(rt_->run_until(d->read(at, rt::segments(&v, 1), {})));
        ASSERT_TRUE(
            std::equal(data.begin(), data.end(), model.begin() + static_cast<ptrdiff_t>(at)));
        break;
    }
  }
  ASSERT_TRUE(rt_->run_until(d->flush({})));
  d.reset();
  std::ifstream in(path_, std::ios::binary);
  std::vector<char> on_disk(size);
  in.read(on_disk.data(), size);
  EXPECT_EQ(std::memcmp(on_disk.data(), model.data(), size), 0);
}

TEST_P(file_store, discard_gives_space_back_and_extents_tell_holes) {
  auto d = open(true);
  if (!d) GTEST_SKIP() << message_;
  std::vector<std::byte> data(size, std::byte{1});
  void* aligned = std::aligned_alloc(4096, size);
  std::memcpy(aligned, data.data(), size);
  const iovec v{aligned, size};
  ASSERT_TRUE(rt_->run_until(d->write(0, rt::segments(&v, 1), {})));
  ASSERT_TRUE(rt_->run_until(d->flush({})));
  struct stat before {
  }, after{};
  ::stat(path_.c_str(), &before);
  ASSERT_TRUE(rt_->run_until(d->discard(65536, size / 2, {})));
  ::stat(path_.c_str(), &after);
  EXPECT_LT(after.st_blocks, before.st_blocks);
  block::extent_list out;
  ASSERT_TRUE(rt_->run_until(d->extents(0, size, out, {})));
  EXPECT_EQ(out.runs(),
            (std::vector<block::extent>{
                {65536, false, false}, {size / 2, true, true}, {size / 2 - 65536, false, false}}));
  std::free(aligned);
}

TEST_P(file_store, two_writers_are_refused_and_readers_share) {
  auto a = open(true);
  if (!a) GTEST_SKIP() << message_;
  EXPECT_EQ(open(true), nullptr);
  EXPECT_NE(message_.find(path_), std::string::npos);
  EXPECT_EQ(open(false), nullptr);
  a.reset();
  auto r1 = open(false), r2 = open(false);
  EXPECT_TRUE(r1 && r2);
  EXPECT_EQ(open(true), nullptr);
  EXPECT_TRUE(r1->limits().read_only);
  std::byte b{};
  const iovec v{&b, 1};
  EXPECT_EQ(base::code_of(rt_->run_until(r1->write(0, rt::segments(&v, 1), {}))), errc::perm);
}

TEST_P(file_store, lends_cached_pages_and_survives_truncation_by_others) {
  auto d = open(true);
  if (!d) GTEST_SKIP() << message_;
  std::vector<std::byte> data(8192, std::byte{5});
  const iovec v{data.data(), data.size()};
  ASSERT_TRUE(rt_->run_until(d->write(4096, rt::segments(&v, 1), {})));
  const auto lent = d->borrow(4096, 8192);
  if (!GetParam().direct) {
    ASSERT_TRUE(lent);
    EXPECT_EQ(lent.bytes[8191], std::byte{5});
  }
  ASSERT_EQ(::truncate(path_.c_str(), 0), 0);
  ASSERT_TRUE(rt_->run_until(d->read(4096, rt::segments(&v, 1), {})));
  EXPECT_TRUE(base::is_zero(data));
}

}  // namespace
}  // namespace lbd::store
