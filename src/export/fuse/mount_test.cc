// SPDX-License-Identifier: MIT
// Folders mounted by this process on itself: the kernel's own calls are the judge.
#include <linux/falloc.h>
#include <linux/fs.h>
#include <signal.h>
#include <sys/statvfs.h>
#include <sys/wait.h>

#include <dirent.h>

#include <algorithm>
#include <fstream>
#include <random>
#include <set>

#include "export/fuse/errors.h"
#include "export/fuse/mount_fixture_test.h"
#include "export/fuse/mount_point.h"
#include "wire/dm/face.h"

#if defined(LBD_SANITIZED)
// What the tests and their devices do with the same bytes is ordered by the kernel, since it passes
// through it: the thread sanitizer cannot know that.
extern "C" const char* __tsan_default_suppressions() {
  return "race:device_test.h\nrace:mount_fixture_test.h\nrace:TestBody\n";
}
#endif

namespace lbd::fuse {
namespace {

constexpr size_t mebi = size_t{1} << 20;

struct manner {
  rt::backend how;
  unsigned reactors;
  unsigned readers;
};

class mounts : public testing::TestWithParam<manner> {
 protected:
  void SetUp() override {
    if (const auto usable = check_fuse(); !usable) GTEST_SKIP() << usable.error().message;
    rt::runtime_options how;
    how.how = GetParam().how;
    how.reactors = GetParam().reactors;
    m.emplace(how, GetParam().readers);
    ASSERT_EQ(m->failure, "");
  }
  std::optional<served> m;
};

std::string name_of(const testing::TestParamInfo<manner>& p) {
  return std::string(p.param.how == rt::backend::threads ? "threads" : "fastest") +
         std::to_string(p.param.readers);
}

INSTANTIATE_TEST_SUITE_P(all, mounts,
                         testing::Values(manner{rt::backend::automatic, 2, 1},
                                         manner{rt::backend::threads, 2, 1},
                                         manner{rt::backend::automatic, 3, 3}),
                         name_of);

std::set<std::string> names_in(const std::string& folder) {
  std::set<std::string> names;
  DIR* d = ::opendir(folder.c_str());
  while (const dirent* e = ::readdir(d)) names.insert(e->d_name);
  ::closedir(d);
  return names;
}

TEST_P(mounts, devices_are_files_with_their_sizes) {
  m->add(1, "one", 5 * mebi + 512);
  auto two = m->add(2, "two", mebi);
  two->limits_.read_only = true;
  EXPECT_EQ(names_in(m->folder()), (std::set<std::string>{".", "..", "one", "two"}));
  struct stat st {};
  ASSERT_EQ(::stat(m->path("one").c_str(), &st), 0);
  EXPECT_EQ(st.st_size, off_t(5 * mebi + 512));
  EXPECT_EQ(st.st_mode, mode_t(S_IFREG | 0600));
  EXPECT_EQ(st.st_blocks, blkcnt_t((5 * mebi + 512) / 512));
  EXPECT_EQ(st.st_blksize, 4096);
  EXPECT_EQ(st.st_uid, ::geteuid());
  ASSERT_EQ(::stat(m->path("two").c_str(), &st), 0);
  EXPECT_EQ(st.st_mode, mode_t(S_IFREG | 0400));
  struct statvfs v {};
  ASSERT_EQ(::statvfs(m->folder().c_str(), &v), 0);
  EXPECT_EQ(v.f_blocks * v.f_frsize, 6 * mebi);
  EXPECT_EQ(v.f_files, 2u);
  EXPECT_EQ(::stat(m->path("three").c_str(), &st), -1);
  EXPECT_EQ(errno, ENOENT);
}

TEST_P(mounts, many_devices_are_all_listed) {
  for (uint64_t i = 1; i <= 700; ++i) m->add(i, "device-" + std::to_string(i), 512);
  EXPECT_EQ(names_in(m->folder()).size(), 702u);
}

TEST_P(mounts, bytes_pass_with_and_without_the_page_cache) {
  auto d = m->add(1, "disk", 8 * mebi);
  for (const int flags : {0, O_DIRECT}) {
    for (const bool lend : {false, true}) {
      d->lend = lend;
      const auto sent = pattern(3 * mebi, static_cast<unsigned>(flags) + lend);
      std::byte* aligned = static_cast<std::byte*>(::aligned_alloc(4096, 3 * mebi));
      std::memcpy(aligned, sent.data(), sent.size());
      opened f(m->path("disk"), O_RDWR | flags);
      ASSERT_GE(f, 0);
      ASSERT_EQ(::pwrite(f, aligned, 3 * mebi, 1 * mebi), ssize_t(3 * mebi));
      EXPECT_TRUE(std::equal(sent.begin(), sent.end(), d->memory()->begin() + mebi));
      std::memset(aligned, 0, 3 * mebi);
      ASSERT_EQ(::pread(f, aligned, 3 * mebi, 1 * mebi), ssize_t(3 * mebi));
      EXPECT_EQ(std::memcmp(aligned, sent.data(), sent.size()), 0);
      ::free(aligned);
    }
  }
  EXPECT_EQ(d->longest, mebi);  // whole requests of the largest size
}

TEST_P(mounts, the_second_of_two_readers_has_the_cache_and_a_new_opening_has_not) {
  auto d = m->add(1, "disk", mebi);
  std::byte b[4096];
  {
    opened first(m->path("disk"), O_RDONLY);
    ASSERT_EQ(::pread(first, b, sizeof b, 0), 4096);
    const int reads = d->reads;
    opened second(m->path("disk"), O_RDONLY);
    ASSERT_EQ(::pread(second, b, sizeof b, 0), 4096);
    EXPECT_EQ(d->reads, reads);
    EXPECT_EQ(d->opens, 2);
  }
  m->settle();
  EXPECT_EQ(d->opens, 0);
  d->memory()->at(7) = std::byte{42};
  opened third(m->path("disk"), O_RDONLY);
  ASSERT_EQ(::pread(third, b, sizeof b, 0), 4096);
  EXPECT_EQ(b[7], std::byte{42});
}

TEST_P(mounts, what_is_cached_is_forgotten_when_the_device_changes) {
  auto d = m->add(1, "disk", mebi);
  opened f(m->path("disk"), O_RDONLY);
  std::byte b[4096];
  ASSERT_EQ(::pread(f, b, sizeof b, 0), 4096);
  d->memory()->at(9) = std::byte{43};
  ASSERT_EQ(::pread(f, b, sizeof b, 0), 4096);
  EXPECT_EQ(b[9], std::byte{0});
  m->changed(1);
  EXPECT_TRUE(wait_until([&] {
    EXPECT_EQ(::pread(f, b, sizeof b, 0), 4096);
    return b[9] == std::byte{43};
  }));
}

TEST_P(mounts, files_come_go_grow_and_change_their_names) {
  auto d = m->add(1, "disk", mebi);
  opened f(m->path("disk"), O_RDONLY);
  struct stat st {};
  m->edit([&](test_catalog& c) {
    c.devices[1].first = "renamed";
    d->memory()->resize(2 * mebi);
    d->limits_.size_bytes = 2 * mebi;
  });
  EXPECT_EQ(::stat(m->path("disk").c_str(), &st), -1);
  ASSERT_EQ(::stat(m->path("renamed").c_str(), &st), 0);
  EXPECT_EQ(st.st_size, off_t(2 * mebi));
  const ino_t inode = st.st_ino;
  ASSERT_EQ(::fstat(f, &st), 0);
  EXPECT_EQ(st.st_ino, inode);
  EXPECT_EQ(st.st_size, off_t(2 * mebi));
  std::byte b[512];
  EXPECT_EQ(::pread(f, b, sizeof b, 2 * mebi - 512), 512);
  m->edit([&](test_catalog& c) { c.devices.erase(1); });
  EXPECT_EQ(::stat(m->path("renamed").c_str(), &st), -1);
  EXPECT_EQ(names_in(m->folder()), (std::set<std::string>{".", ".."}));
}

TEST_P(mounts, mappings_share_the_device) {
  auto d = m->add(1, "disk", mebi);
  opened f(m->path("disk"), O_RDWR);
  void* p = ::mmap(nullptr, mebi, PROT_READ | PROT_WRITE, MAP_SHARED, f, 0);
  ASSERT_NE(p, MAP_FAILED);
  std::memset(static_cast<char*>(p) + 5000, 'x', 10'000);
  EXPECT_EQ(::msync(p, mebi, MS_SYNC), 0);
  EXPECT_EQ(d->memory()->at(5000), std::byte{'x'});
  EXPECT_EQ(d->memory()->at(14'999), std::byte{'x'});
  EXPECT_EQ(d->memory()->at(15'000), std::byte{0});
  EXPECT_GE(d->flushes, 1);
  ::munmap(p, mebi);
}

TEST_P(mounts, syncs_flush_and_their_errors_arrive) {
  auto d = m->add(1, "disk", mebi);
  opened f(m->path("disk"), O_RDWR);
  EXPECT_EQ(::fsync(f), 0);
  EXPECT_EQ(::fdatasync(f), 0);
  EXPECT_EQ(d->flushes, 2);
  d->error = errc::io;
  EXPECT_EQ(::fsync(f), -1);
  EXPECT_EQ(errno, EIO);
  d->error = errc::nospc;
  EXPECT_EQ(::pwrite(f, "x", 1, 0), -1);
  EXPECT_EQ(errno, ENOSPC);
  d->error = errc::not_connected;
  opened direct(m->path("disk"), O_RDWR | O_DIRECT);
  alignas(4096) std::byte b[4096];
  EXPECT_EQ(::pread(direct, b, sizeof b, 0), -1);
  EXPECT_EQ(errno, EIO);
}

TEST_P(mounts, holes_are_punched_and_found) {
  auto d = m->add(1, "disk", mebi);
  std::ranges::fill(*d->memory(), std::byte{1});
  opened f(m->path("disk"), O_RDWR);
  ASSERT_EQ(::fallocate(f, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 8192), 0);
  EXPECT_EQ(d->last_flags, 0u);
  EXPECT_EQ(d->memory()->at(4095), std::byte{1});
  EXPECT_EQ(d->memory()->at(4096), std::byte{0});
  EXPECT_EQ(d->memory()->at(12'287), std::byte{0});
  EXPECT_EQ(d->memory()->at(12'288), std::byte{1});
  ASSERT_EQ(::fallocate(f, FALLOC_FL_ZERO_RANGE, 65536, 4096), 0);
  EXPECT_EQ(d->last_flags, block::io_no_unmap);
  EXPECT_EQ(d->memory()->at(65536), std::byte{0});
  // The rest of a range that goes beyond the end is no error only when the size is to be kept.
  EXPECT_EQ(::fallocate(f, FALLOC_FL_ZERO_RANGE, mebi - 512, 4096), -1);
  EXPECT_EQ(errno, EINVAL);
  EXPECT_EQ(::fallocate(f, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, mebi - 512, 4096), 0);
  EXPECT_EQ(d->memory()->at(mebi - 1), std::byte{0});
  EXPECT_EQ(::fallocate(f, 0, 0, 4096), -1);
  EXPECT_EQ(errno, EOPNOTSUPP);

  d->map = {{8192, false, false},
            {8192, true, true},
            {4096, false, true},
            {4096, true, false},
            {mebi - 24'576, false, false}};
  EXPECT_EQ(::lseek(f, 0, SEEK_HOLE), 8192);
  EXPECT_EQ(::lseek(f, 9000, SEEK_HOLE), 9000);
  EXPECT_EQ(::lseek(f, 8192, SEEK_DATA), 20'480);
  EXPECT_EQ(::lseek(f, 20'480, SEEK_HOLE), off_t(mebi));
  EXPECT_EQ(::lseek(f, mebi, SEEK_DATA), -1);
  EXPECT_EQ(errno, ENXIO);
  d->map = {{mebi, true, true}};
  EXPECT_EQ(::lseek(f, 100, SEEK_DATA), -1);
  EXPECT_EQ(errno, ENXIO);
}

TEST_P(mounts, discards_are_not_zeros) {
  auto d = m->add(1, "disk", mebi);
  d->limits_.can_discard = false;
  uint64_t range[] = {4096, 8192};
  opened f(m->path("disk"), O_RDWR), reading(m->path("disk"), O_RDONLY);
  EXPECT_EQ(::ioctl(f, dm::face::discard_of_file, range), -1);
  EXPECT_EQ(errno, EOPNOTSUPP);
  d->limits_.can_discard = true;
  EXPECT_EQ(::ioctl(reading, dm::face::discard_of_file, range), -1);
  EXPECT_EQ(errno, EBADF);
  EXPECT_EQ(::ioctl(f, dm::face::discard_of_file, range), 0);
  EXPECT_EQ(d->memory()->at(4095), std::byte{0});
  EXPECT_EQ(d->memory()->at(4096), std::byte{0xdd});
  EXPECT_EQ(d->memory()->at(12'287), std::byte{0xdd});
  EXPECT_EQ(d->memory()->at(12'288), std::byte{0});
  d->error = errc::io;
  EXPECT_EQ(::ioctl(f, dm::face::discard_of_file, range), -1);
  EXPECT_EQ(errno, EIO);
  range[1] = mebi;
  EXPECT_EQ(::ioctl(f, dm::face::discard_of_file, range), -1);
  EXPECT_EQ(errno, EINVAL);
  EXPECT_EQ(::ioctl(f, BLKGETSIZE64, range), -1);
  EXPECT_EQ(errno, ENOTTY);
}

TEST_P(mounts, the_folder_is_not_changed_by_programs) {
  m->add(1, "disk", mebi);
  const std::string disk = m->path("disk"), other = m->path("other");
  EXPECT_EQ(::open(other.c_str(), O_CREAT | O_RDWR, 0600), -1);
  EXPECT_EQ(errno, EPERM);
  EXPECT_EQ(::rename(disk.c_str(), other.c_str()), -1);
  EXPECT_EQ(errno, EPERM);
  EXPECT_EQ(::unlink(disk.c_str()), -1);
  EXPECT_EQ(errno, EPERM);
  EXPECT_EQ(::mkdir(other.c_str(), 0700), -1);
  EXPECT_EQ(errno, EPERM);
  EXPECT_EQ(::symlink("disk", other.c_str()), -1);
  EXPECT_EQ(errno, EPERM);
  EXPECT_EQ(::link(disk.c_str(), other.c_str()), -1);
  EXPECT_EQ(errno, EPERM);
  EXPECT_EQ(::chmod(disk.c_str(), 0666), -1);
  EXPECT_EQ(errno, EPERM);
  EXPECT_EQ(::utimensat(AT_FDCWD, disk.c_str(), nullptr, 0), 0);
}

TEST_P(mounts, sizes_stay_and_truncating_at_opening_means_nothing) {
  auto d = m->add(1, "disk", mebi);
  d->memory()->at(100) = std::byte{5};
  opened f(m->path("disk"), O_RDWR | O_TRUNC);
  ASSERT_GE(f, 0);
  struct stat st {};
  ASSERT_EQ(::fstat(f, &st), 0);
  EXPECT_EQ(st.st_size, off_t(mebi));
  EXPECT_EQ(::lseek(f, 0, SEEK_END), off_t(mebi));
  char c = 0;
  EXPECT_EQ(::pread(f, &c, 1, 100), 1);
  EXPECT_EQ(c, 5);
  EXPECT_EQ(::ftruncate(f, 0), -1);
  EXPECT_EQ(errno, EPERM);
  EXPECT_EQ(::ftruncate(f, 2 * mebi), -1);
  EXPECT_EQ(errno, EPERM);
  EXPECT_EQ(::ftruncate(f, mebi), 0);
  EXPECT_EQ(::truncate(m->path("disk").c_str(), 4096), -1);
  EXPECT_EQ(errno, EPERM);
  EXPECT_EQ(d->memory()->at(100), std::byte{5});
}

TEST_P(mounts, the_end_of_the_device_is_the_end_of_space) {
  auto d = m->add(1, "disk", 10'240);
  for (const int flags : {0, O_DIRECT}) {
    opened f(m->path("disk"), O_RDWR | flags);
    alignas(4096) std::byte b[8192]{};
    d->memory()->at(10'239) = std::byte{1};
    // The kernel has no short counts for direct writes: what fits is written all the same.
    EXPECT_EQ(::pwrite(f, b, 8192, 8192), flags == 0 ? 2048 : -1);
    EXPECT_TRUE(flags == 0 || errno == ENOSPC);
    EXPECT_EQ(d->memory()->at(10'239), std::byte{0});
    EXPECT_EQ(::pwrite(f, b, 512, 10'240), -1);
    EXPECT_EQ(errno, ENOSPC);
    EXPECT_EQ(::pread(f, b, 8192, 8192), 2048);
    EXPECT_EQ(::pread(f, b, 8192, 10'240), 0);
  }
}

// As the kernel's block devices: it is the device that refuses.
TEST_P(mounts, read_only_devices_are_opened_for_writing_all_the_same) {
  auto d = m->add(1, "disk", mebi);
  d->limits_.read_only = true;
  {
    opened both(m->path("disk"), O_RDWR);
    EXPECT_GE(both, 0);
    char byte = 1;
    EXPECT_EQ(::pread(both, &byte, 1, 0), 1);
  }
  opened f(m->path("disk"), O_RDONLY);
  EXPECT_GE(f, 0);
}

TEST_P(mounts, a_device_that_waits_does_not_hold_up_another) {
  auto slow = m->add(1, "slow", 64 * mebi);
  m->add(2, "fast", mebi);
  slow->hold = true;
  std::vector<std::thread> waiting;
  for (unsigned i = 0; i < 48; ++i)
    waiting.emplace_back([this, i] {
      opened f(m->path("slow"), O_RDWR);
      const auto b = pattern(mebi, i);
      if (i % 2 == 0)
        EXPECT_EQ(::pwrite(f, b.data(), b.size(), i * mebi), ssize_t(mebi));
      else
        EXPECT_EQ(::pread(f, const_cast<std::byte*>(b.data()), 4096, i * mebi), 4096);
    });
  EXPECT_TRUE(wait_until([&] { return slow->started >= 24; }));
  for (int i = 0; i < 20; ++i) {
    opened f(m->path("fast"), O_RDWR);
    EXPECT_EQ(::pwrite(f, "hello", 5, 512 * i), 5);
    EXPECT_EQ(::fsync(f), 0);
  }
  slow->hold = false;
  for (auto& t : waiting) t.join();
  EXPECT_EQ(m->info().in_flight, 0u);
}

// More than any queue on the way is long, and more bytes than there is memory for.
TEST_P(mounts, a_device_with_very_many_requests_does_not_hold_up_another) {
  unsigned most_in_kernel = 0;
  std::ifstream("/sys/module/fuse/parameters/max_user_bgreq") >> most_in_kernel;
  if (::geteuid() != 0 && most_in_kernel < 10'000) GTEST_SKIP() << "the kernel takes fewer";
  auto slow = m->add(1, "slow", 8 * mebi);
  m->add(2, "fast", mebi);
  slow->hold = true;
  auto* memory = static_cast<std::byte*>(::aligned_alloc(4096, 2 * mebi));
  std::memset(memory, 7, 2 * mebi);
  {
    opened f(m->path("slow"), O_RDWR | O_DIRECT);
    many_requests waiting(10'000);
    waiting.begin(5000, f, false, memory, 4096, mebi);
    waiting.begin(400, f, false, memory, mebi, 2 * mebi);
    waiting.begin(4000, f, true, memory + mebi, 4096, 4 * mebi);
    waiting.begin(100, f, true, memory + mebi, 65536, 5 * mebi);
    EXPECT_TRUE(wait_until([&] { return m->info().in_flight == 9500; }));
    for (const int flags : {0, O_DIRECT}) {
      opened fast(m->path("fast"), O_RDWR | flags);
      EXPECT_EQ(::pwrite(fast, memory, 4096, 4096), 4096);
      EXPECT_EQ(::pread(fast, memory, 4096, 65536), 4096);
      EXPECT_EQ(::fsync(fast), 0);
    }
    slow->hold = false;
    EXPECT_EQ(waiting.finish(), 9500u);
  }
  EXPECT_EQ(slow->memory()->at(5 * mebi + 65535), std::byte{7});
  EXPECT_EQ(m->info().in_flight, 0u);
  ::free(memory);
}

// A process that syncs a device; its end tells the result.
pid_t start_sync(const std::string& path, unsigned alarm_us) {
  const pid_t child = ::fork();
  if (child != 0) return child;
  struct sigaction ignore {};
  ignore.sa_handler = [](int) {};
  ::sigaction(SIGALRM, &ignore, nullptr);
  if (alarm_us != 0) ::ualarm(alarm_us, alarm_us);
  const int fd = ::open(path.c_str(), O_RDWR);
  ::_exit(::fsync(fd) == 0 ? 0 : 1);
}

TEST_P(mounts, who_is_killed_while_syncing_a_device_that_waits_goes_and_others_wait_on) {
  auto slow = m->add(1, "slow", mebi), other = m->add(2, "other", mebi);
  slow->hold = other->hold = true;
  const pid_t killed = start_sync(m->path("slow"), 0);
  const pid_t interrupted = start_sync(m->path("other"), 90'000);
  EXPECT_TRUE(wait_until([&] { return slow->started == 1 && other->started == 1; }));
  ::kill(killed, SIGTERM);
  int status = 0;
  ASSERT_EQ(::waitpid(killed, &status, 0), killed);
  EXPECT_TRUE(WIFSIGNALED(status));
  ::usleep(400'000);
  EXPECT_EQ(::waitpid(interrupted, &status, WNOHANG), 0);
  slow->hold = other->hold = false;
  ASSERT_EQ(::waitpid(interrupted, &status, 0), interrupted);
  EXPECT_EQ(status, 0);
  EXPECT_TRUE(wait_until([&] { return m->info().in_flight == 0; }));
  EXPECT_EQ(slow->canceled, 1);
  EXPECT_EQ(other->canceled, 0);
}

TEST_P(mounts, a_mount_in_use_is_taken_away_only_when_asked_to) {
  auto d = m->add(1, "disk", mebi);
  opened f(m->path("disk"), O_RDWR);
  ASSERT_EQ(::pwrite(f, "x", 1, 0), 1);
  EXPECT_EQ(m->stop(false), errc::busy);
  EXPECT_FALSE(m->ended);
  ASSERT_EQ(::pwrite(f, "y", 1, 0), 1);
  EXPECT_EQ(m->stop(true), errc::ok);
  EXPECT_EQ(::pwrite(f, "z", 1, 0), -1);
  EXPECT_EQ(d->memory()->at(0), std::byte{'y'});
  EXPECT_EQ(d->opens, 0);
  struct stat st {};
  EXPECT_EQ(::stat(m->path("disk").c_str(), &st), -1);
  EXPECT_EQ(errno, ENOENT);
}

TEST_P(mounts, what_is_under_way_when_a_mount_is_taken_away_fails) {
  auto d = m->add(1, "disk", mebi);
  d->hold = true;
  std::thread t([this] {
    opened f(m->path("disk"), O_RDWR);
    EXPECT_EQ(::pwrite(f, "x", 1, 0), -1);
    EXPECT_EQ(errno, EIO);
    // The answer comes before the device is done; the mount waits for that.
  });
  EXPECT_TRUE(wait_until([&] { return d->started == 1; }));
  std::thread release([&] {
    t.join();
    EXPECT_EQ(d->finished, 0);
    d->hold = false;
  });
  EXPECT_EQ(m->stop(true), errc::ok);
  EXPECT_EQ(d->finished, 1);
  release.join();
}

TEST_P(mounts, somebody_else_may_unmount) {
  auto d = m->add(1, "disk", mebi);
  ASSERT_TRUE(unmount(m->folder(), false));
  EXPECT_TRUE(wait_until([&] { return m->ended.load(); }));
  EXPECT_EQ(m->stop(false), errc::ok);
}

TEST_P(mounts, a_folder_is_mounted_once) {
  rt::runtime_options how;
  how.how = GetParam().how;
  auto rt = rt::runtime::start(how);
  test_catalog c;
  auto started = (*rt)->run_until(mount::start(**rt, c, m->folder(), {}));
  ASSERT_FALSE(started);
  EXPECT_EQ(started.error().code, errc::busy);
  auto nowhere = (*rt)->run_until(mount::start(**rt, c, m->folder() + "/none", {}));
  ASSERT_FALSE(nowhere);
  EXPECT_EQ(nowhere.error().code, errc::noent);
  auto file = (*rt)->run_until(mount::start(**rt, c, "/proc/self/status", {}));
  ASSERT_FALSE(file);
  EXPECT_EQ(int(file.error().code), ENOTDIR);
}

// Random operations by several ways into one file, against a plain buffer.
TEST_P(mounts, random_operations_agree_with_a_plain_buffer) {
  constexpr size_t size = 512 << 10;
  auto d = m->add(1, "disk", size);
  opened cached(m->path("disk"), O_RDWR), direct(m->path("disk"), O_RDWR | O_DIRECT);
  auto* map =
      static_cast<std::byte*>(::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, cached, 0));
  ASSERT_NE(map, MAP_FAILED);
  std::vector<std::byte> model(size), got(size);
  auto* aligned = static_cast<std::byte*>(::aligned_alloc(4096, size));
  std::mt19937 random(GetParam().readers);
  for (int i = 0; i < 3000; ++i) {
    const bool whole = random() % 2 == 0;
    size_t at = random() % size, n = 1 + random() % std::min<size_t>(size - at, 70'000);
    if (whole) at &= ~size_t{511}, n = std::min(size - at, (n + 511) & ~size_t{511});
    const int fd = whole ? direct : cached;
    const auto fresh = pattern(n, static_cast<unsigned>(random()));
    switch (random() % 6) {
      case 0:
      case 1:
        std::memcpy(aligned, fresh.data(), n);
        ASSERT_EQ(::pwrite(fd, aligned, n, off_t(at)), ssize_t(n));
        std::copy(fresh.begin(), fresh.end(), model.begin() + long(at));
        break;
      case 2:
        std::memcpy(map + at, fresh.data(), n);
        std::copy(fresh.begin(), fresh.end(), model.begin() + long(at));
        break;
      case 3: {
        const int mode = random() % 2 == 0 ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE;
        ASSERT_EQ(::fallocate(cached, mode | FALLOC_FL_KEEP_SIZE, off_t(at), off_t(n)), 0);
        std::fill_n(model.begin() + long(at), n, std::byte{0});
        break;
      }
      case 4:
        ASSERT_EQ(::pread(fd, aligned, n, off_t(at)), ssize_t(n));
        ASSERT_EQ(std::memcmp(aligned, model.data() + at, n), 0) << i << " " << whole;
        break;
      default:
        ASSERT_EQ(std::memcmp(map + at, model.data() + at, n), 0) << i;
    }
  }
  ASSERT_EQ(::msync(map, size, MS_SYNC), 0);
  EXPECT_EQ(*d->memory(), model);
  ::munmap(map, size);
  ::free(aligned);
}

TEST(mount_points, what_a_dead_process_has_left_is_taken_away) {
  if (const auto usable = check_fuse(); !usable) GTEST_SKIP() << usable.error().message;
  char name[] = "/tmp/lbd-mount-XXXXXX";
  const std::string folder = ::mkdtemp(name);
  const pid_t child = ::fork();
  if (child == 0) {
    rt::runtime_options how;
    how.reactors = 1;
    auto rt = rt::runtime::start(how);
    test_catalog c;
    auto started = (*rt)->run_until(mount::start(**rt, c, folder, {}));
    ::_exit(started ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_EQ(status, 0);
  struct stat st {};
  ASSERT_EQ(::stat(folder.c_str(), &st), -1);
  ASSERT_EQ(errno, ENOTCONN);
  const auto prepared = prepare_mount_point(folder);
  ASSERT_TRUE(prepared) << prepared.error().message;
  EXPECT_EQ(prepared->folder, folder);
  EXPECT_EQ(::stat(folder.c_str(), &st), 0);
  ::rmdir(folder.c_str());
}

TEST(errors, every_code_is_something_that_files_return) {
  EXPECT_EQ(errno_of(errc::ok), 0);
  EXPECT_EQ(errno_of(errc::nospc), ENOSPC);
  EXPECT_EQ(errno_of(errc::shutdown), EIO);
  EXPECT_EQ(errno_of(errc::again), EIO);
  EXPECT_EQ(errno_of(errc::canceled), EINTR);
  EXPECT_EQ(errno_of(static_cast<errc>(EBADMSG)), EBADMSG);
  EXPECT_EQ(errno_of(static_cast<errc>(9999)), EIO);
}

}  // namespace
}  // namespace lbd::fuse
