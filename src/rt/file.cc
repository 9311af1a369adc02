// SPDX-License-Identifier: MIT
#include "rt/file.h"

#include <limits.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "rt/write_patience.h"

namespace lbd::rt {
namespace {

using base::errc;
using base::failure;

// Copying more is left to a worker thread, beside which this one goes on.
constexpr uint64_t most_inline_write_bytes = uint64_t{64} << 10;

uint64_t page_bytes() noexcept {
  static const uint64_t bytes = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  return bytes;
}

// Of the file systems for which it matters, those on hardware: behind a virtual device (loop, nbd)
// may be this very process, and a write that waits for it would wait for ever.
bool is_local(int fd) noexcept {
  struct statfs fs {};
  struct stat st {};
  if (::fstatfs(fd, &fs) != 0 || fs.f_type != EXT4_SUPER_MAGIC || ::fstat(fd, &st) != 0)
    return false;
  char link[64], device[PATH_MAX];
  std::snprintf(link, sizeof link, "/sys/dev/block/%u:%u", major(st.st_dev), minor(st.st_dev));
  return ::realpath(link, device) != nullptr && std::strstr(device, "/virtual/") == nullptr;
}

uint64_t monotonic_ns() noexcept {
  timespec t{};
  ::clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<uint64_t>(t.tv_sec) * 1'000'000'000u + static_cast<uint64_t>(t.tv_nsec);
}

class os_file final : public file {
 public:
  os_file(int fd, file_info info)
      : fd_(fd),
        buffered_(!info.is_block_device && info.direct_align_bytes == 1),
        local_(is_local(fd)) {
    info_ = std::move(info);
  }
  ~os_file() override {
    if (map_ != MAP_FAILED) ::munmap(map_, map_bytes_);
    ::close(fd_);
  }

  file_extent extent_at(uint64_t offset) noexcept override {
    constexpr uint64_t far = INT64_MAX;
    if (info_.is_block_device) return {far - offset, false};
    const off_t at = static_cast<off_t>(offset);
    const off_t data = ::lseek(fd_, at, SEEK_DATA);
    if (data < 0) return {far - offset, errno == ENXIO};
    if (data > at) return {static_cast<uint64_t>(data - at), true};
    const off_t hole = ::lseek(fd_, at, SEEK_HOLE);
    return {hole <= at ? far - offset : static_cast<uint64_t>(hole - at), false};
  }

  uint64_t allocated_bytes() const noexcept override {
    struct stat st {};
    if (info_.is_block_device || ::fstat(fd_, &st) != 0) return info_.size_bytes;
    return static_cast<uint64_t>(st.st_blocks) * 512;
  }

  base::bytes_view mapping() noexcept override {
    return {static_cast<const std::byte*>(map_), map_bytes_};
  }

  bool resident(uint64_t offset, uint64_t length) noexcept override {
    // Also in tmpfs, where touching a hole through a mapping would allocate it.
    const uint64_t page = page_bytes();
    unsigned char pages[256];
    const uint64_t begin = offset / page * page;
    if (offset + length - begin > sizeof pages * page) return false;
    auto* at = static_cast<std::byte*>(map_) + begin;
    const size_t bytes = offset + length - begin;
    if (::mincore(at, bytes, pages) != 0) return false;
    const size_t n = (bytes + page - 1) / page;
    return std::all_of(pages, pages + n, [](unsigned char p) { return (p & 1) != 0; });
  }

  base::result<void> lock(lock_kind kind, uint64_t first, uint64_t count) noexcept override {
    struct flock l = range(kind, first, count);
    if (::fcntl(fd_, F_OFD_SETLK, &l) == 0) return {};
    return base::error_from_errno(errno == EACCES ? EAGAIN : errno);
  }

  bool would_block(lock_kind kind, uint64_t first, uint64_t count) noexcept override {
    struct flock l = range(kind, first, count);
    return ::fcntl(fd_, F_OFD_GETLK, &l) == 0 && l.l_type != F_UNLCK;
  }

  bool try_now(io_request& r) noexcept override {
    r.fd = fd_;
    if (r.op == io_op::resize) {
      r.result = ::ftruncate(fd_, static_cast<off_t>(r.length)) == 0 ? 0 : -errno;
      if (r.result == 0) info_.size_bytes = r.length;
      return true;
    }
    if (r.op == io_op::fallocate && info_.is_block_device &&
        (r.flags & FALLOC_FL_PUNCH_HOLE) != 0) {
      r.result = block_device_discard(r);
      return true;
    }
    if (r.op == io_op::read) return try_read(r);
    return r.op == io_op::write && try_write(r);
  }

  void start(io_request& r) override { reactor::current().submit(r); }

  void map_for_reading() noexcept {
    if (info_.is_block_device || !lends_pages()) return;
    if (info_.size_bytes == 0 && !info_.writable) return;
    // A file that may grow gets room to do so: address space costs nothing.
    const size_t bytes = info_.size_bytes + (info_.writable ? size_t{1} << 40 : 0);
    map_ = ::mmap(nullptr, bytes, PROT_READ, MAP_SHARED, fd_, 0);
    if (map_ != MAP_FAILED) map_bytes_ = bytes;
  }

 private:
  static off_t at(const io_request& r) noexcept { return static_cast<off_t>(r.offset); }

  static struct flock range(lock_kind kind, uint64_t first, uint64_t count) noexcept {
    struct flock l {};
    l.l_type = kind == lock_kind::none ? F_UNLCK : kind == lock_kind::shared ? F_RDLCK : F_WRLCK;
    l.l_whence = SEEK_SET;
    l.l_start = static_cast<off_t>(first);
    l.l_len = static_cast<off_t>(count);
    return l;
  }

  // mincore() tells the truth only to somebody who may write the file; without it a cold page would
  // block the reactor inside a send.
  bool lends_pages() const noexcept {
    return info_.writable || ::access(info_.path.c_str(), W_OK) == 0;
  }

  bool try_read(io_request& r) noexcept {
    const int flags = info_.in_memory ? 0 : RWF_NOWAIT;
    if (!info_.in_memory && no_nowait_.load(std::memory_order_relaxed)) return false;
    const ssize_t n = ::preadv2(fd_, r.iov, static_cast<int>(r.iov_count), at(r), flags);
    if (n >= 0) {
      // A short read from the cache is not the end of the file: let the ring read the rest.
      if (static_cast<uint64_t>(n) < bytes_of(r) && flags != 0) return false;
      r.result = n;
      return true;
    }
    if (errno == EOPNOTSUPP) no_nowait_.store(true, std::memory_order_relaxed);
    if (flags != 0) return false;
    r.result = -errno;
    return true;
  }

  static uint64_t bytes_of(const io_request& r) noexcept {
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < r.iov_count; ++i) bytes += r.iov[i].iov_len;
    return bytes;
  }

  bool try_write(io_request& r) noexcept {
    if (info_.in_memory) {
      write_now(r);
      return true;
    }
    // RWF_NOWAIT is the ring's business: a write with it waits all the same while its file system
    // is frozen.
    if (!buffered_ || !local_) return false;
    const uint64_t bytes = bytes_of(r);
    return bytes <= most_inline_write_bytes && write_into_cache(r, bytes);
  }

  // Copies into the page cache where nothing hints at having to wait.
  bool write_into_cache(io_request& r, uint64_t bytes) noexcept {
    const uint64_t begin_ns = monotonic_ns();
    if (!patience_.allows(begin_ns) || !dirty_pages::here().far_from_limit(begin_ns) ||
        !has_edges(r.offset, bytes))
      return false;
    write_now(r);
    const uint64_t end_ns = monotonic_ns();
    patience_.took(end_ns - begin_ns, end_ns);
    return true;
  }

  // A page of which only a part is written has to be read first if it is not there.
  bool has_edges(uint64_t offset, uint64_t bytes) noexcept {
    const uint64_t end = offset + bytes;
    const auto there = [this](uint64_t at) {
      return at % page_bytes() == 0 || (at < map_bytes_ && resident(at, 1));
    };
    return there(offset) && there(end);
  }

  void write_now(io_request& r) noexcept {
    const ssize_t n = ::pwritev(fd_, r.iov, static_cast<int>(r.iov_count), at(r));
    r.result = n < 0 ? -errno : n;
  }

  // Discarding on a block device has no ring operation; it is rare and short.
  int64_t block_device_discard(const io_request& r) const noexcept {
    uint64_t args[2] = {r.offset, r.length};
    return ::ioctl(fd_, BLKDISCARD, args) == 0 ? 0 : -errno;
  }

  const int fd_;
  void* map_ = MAP_FAILED;
  size_t map_bytes_ = 0;
  const bool buffered_;  // a regular file, through the page cache
  const bool local_;     // no server or daemon that may be gone stands behind it
  std::atomic<bool> no_nowait_{false};
  write_patience patience_;
};

failure file_failure(const std::string& path, const char* what, int error,
                     const std::string& remedy = "") {
  return failure{static_cast<errc>(error), std::string("cannot ") + what + " '" + path + "': " +
                                               base::to_string(static_cast<errc>(error)) + remedy};
}

const char* remedy_for_new(int error) noexcept {
  switch (error) {
    case EEXIST:
      return " (choose a name that is free, or remove it)";
    case ENOENT:
    case ENOTDIR:
      return " (make its folder first)";
    case EACCES:
    case EPERM:
    case EROFS:
      return " (choose a folder that can be written)";
    default:
      return "";
  }
}

const char* remedy_for_existing(int error, bool writable) noexcept {
  switch (error) {
    case ENOENT:
    case ENOTDIR:
      return " (check the path, or create the file first)";
    case EACCES:
    case EPERM:
      return writable ? " (check its permissions, or open it read-only)"
                      : " (check its permissions, and those of its folder)";
    case EROFS:
      return " (mount its file system writable, or open it read-only)";
    case EISDIR:
    case ENXIO:
      return " (name a file or a block device)";
    default:
      return "";
  }
}

failure open_failure(const std::string& path, const open_options& options, int error) {
  if (options.create) return file_failure(path, "make", error, remedy_for_new(error));
  return file_failure(path, "open", error, remedy_for_existing(error, options.writable));
}

base::outcome<file_info> inspect(int fd, const std::string& path, open_options options) {
  struct stat st {};
  if (::fstat(fd, &st) != 0) return file_failure(path, "inspect", errno);
  file_info info;
  info.path = path;
  info.writable = options.writable;
  info.device_id = st.st_dev;
  info.inode = st.st_ino;
  if (S_ISBLK(st.st_mode)) {
    info.is_block_device = true;
    info.device_id = st.st_rdev;
    info.inode = 0;
    if (::ioctl(fd, BLKGETSIZE64, &info.size_bytes) != 0)
      return file_failure(path, "find the size of", errno);
    int sector = 512;
    if (::ioctl(fd, BLKSSZGET, &sector) == 0 && options.direct)
      info.direct_align_bytes = static_cast<uint32_t>(sector);
  } else if (S_ISREG(st.st_mode)) {
    info.size_bytes = static_cast<uint64_t>(st.st_size);
    struct statfs fs {};
    info.in_memory = ::fstatfs(fd, &fs) == 0 && !options.direct &&
                     (fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC);
    // The kernel tells no alignment for regular files before 6.1's statx; 4096 suits every disk.
    if (options.direct) info.direct_align_bytes = 4096;
  } else {
    return failure{errc::inval, "'" + path + "' is neither a regular file nor a block device"};
  }
  return info;
}

class os_file_system final : public file_system {
 public:
  base::outcome<std::unique_ptr<file>> open(const std::string& path,
                                            open_options options) override {
    return open_file(path, options);
  }
  void remove(const std::string& path) noexcept override { ::unlink(path.c_str()); }
};

}  // namespace

base::outcome<std::unique_ptr<file>> open_file(const std::string& path, open_options options) {
  if (path.find('\0') != std::string::npos)
    return failure{errc::inval, "'" + std::string(path.c_str()) +
                                    "' goes on after a zero byte, which no path may contain"};
  int flags = O_CLOEXEC | (options.writable ? O_RDWR : O_RDONLY);
  if (options.create) flags |= O_CREAT | (options.exclusive ? O_EXCL : 0);
  if (options.direct) flags |= O_DIRECT;
  const int fd = ::open(path.c_str(), flags, 0644);
  if (fd < 0) {
    if (options.direct && errno == EINVAL)
      return failure{errc::inval, "cannot open '" + path +
                                      "' with direct=1: its file system has no O_DIRECT "
                                      "(leave direct out)"};
    return open_failure(path, options, errno);
  }
  auto info = inspect(fd, path, options);
  if (!info) {
    ::close(fd);
    return info.error();
  }
  auto f = std::make_unique<os_file>(fd, *std::move(info));
  if (!options.direct) f->map_for_reading();
  return std::unique_ptr<file>(std::move(f));
}

file_system& os_files() noexcept {
  static os_file_system files;
  return files;
}

task<base::result<void>> file::resize(uint64_t size_bytes) {
  file_op op(*this, plain_request(io_op::resize, 0, 0, size_bytes));
  CO_CHECK(co_await op);
  info_.size_bytes = size_bytes;
  co_return base::result<void>{};
}

task<base::result<void>> file::read_all(uint64_t offset, base::bytes_span to) {
  while (!to.empty()) {
    const iovec v{to.data(), to.size()};
    CO_TRY(const size_t n, co_await read(offset, segments(&v, 1)));
    if (n == 0) {
      std::memset(to.data(), 0, to.size());
      break;
    }
    offset += n;
    to = to.subspan(n);
  }
  co_return base::result<void>{};
}

task<base::result<void>> file::write_all(uint64_t offset, base::bytes_view from) {
  while (!from.empty()) {
    const iovec v{const_cast<std::byte*>(from.data()), from.size()};
    CO_TRY(const size_t n, co_await write(offset, segments(&v, 1)));
    if (n == 0) co_return base::io_error{errc::io, 0};
    offset += n;
    from = from.subspan(n);
  }
  co_return base::result<void>{};
}

}  // namespace lbd::rt
