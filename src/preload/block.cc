// SPDX-License-Identifier: MIT
// The ioctls of the control node and of block devices.
#include <linux/fs.h>
#include <linux/hdreg.h>
#include <stdarg.h>
#include <sys/ioctl.h>

#include "preload/preload.h"

namespace lbd::preload {

namespace {

constexpr unsigned dm_type = 0xfd, block_type = 0x12, block_size_type = BLKPBSZGET >> 8 & 0xff;
constexpr unsigned largest_request_sectors = 2560;
constexpr size_t page_bytes = 4096;

next<int(int, unsigned long, void*)> next_ioctl("ioctl");
next<int(int, int, off_t, off_t)> next_fallocate("fallocate");
next<int(int)> next_fsync("fsync");
next<ssize_t(int, const void*, size_t, off_t)> next_pwrite("pwrite");

int fail(int error) {
  errno = error;
  return -1;
}

template <class T>
int give(void* to, uint64_t value) {
  const T v = static_cast<T>(value);
  memcpy(to, &v, sizeof v);
  return 0;
}

int write_zeros(int fd, uint64_t at, uint64_t length) {
  static const char zeros[page_bytes] = {};
  while (length != 0) {
    const size_t n = length < page_bytes ? static_cast<size_t>(length) : page_bytes;
    const ssize_t done = next_pwrite(fd, zeros, n, static_cast<off_t>(at));
    if (done <= 0) return -1;
    at += static_cast<uint64_t>(done);
    length -= static_cast<uint64_t>(done);
  }
  return 0;
}

// BLKDISCARD, BLKSECDISCARD and BLKZEROOUT.
int clear_range(int fd, unsigned long request, const void* argument, const face::node& n) {
  uint64_t range[2];
  memcpy(range, argument, sizeof range);
  const auto [at, length] = range;
  if ((at | length) % 512 != 0 || at > n.size_bytes || length > n.size_bytes - at)
    return fail(EINVAL);
  const int flags = static_cast<int>(syscall(SYS_fcntl, fd, F_GETFL));
  if ((flags & O_ACCMODE) == O_RDONLY) return fail(EBADF);
  if (length == 0) return fail(EINVAL);
  if (n.read_only != 0) return fail(EPERM);
  const off_t from = static_cast<off_t>(at), count = static_cast<off_t>(length);
  if (request != BLKZEROOUT) {
    if (n.discard_bytes == 0) return fail(EOPNOTSUPP);
    if (n.kind == face::node_device) return next_ioctl(fd, face::discard_of_file, range);
    return next_fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, from, count);
  }
  if (next_fallocate(fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, from, count) == 0) return 0;
  if (errno != EOPNOTSUPP) return -1;
  return write_zeros(fd, at, length);
}

int give_geometry(void* to, const face::node& n) {
  if (n.geometry[0] == 0) return fail(ENOTTY);
  hd_geometry g{};
  g.cylinders = static_cast<unsigned short>(n.geometry[0]);
  g.heads = static_cast<unsigned char>(n.geometry[1]);
  g.sectors = static_cast<unsigned char>(n.geometry[2]);
  g.start = n.geometry[3];
  memcpy(to, &g, sizeof g);
  return 0;
}

int of_device(int fd, unsigned long request, void* argument, const face::node& n) {
  switch (request) {
    case BLKGETSIZE64:
      return give<uint64_t>(argument, n.size_bytes);
    case BLKGETSIZE:
      return give<unsigned long>(argument, n.size_bytes / 512);
    case BLKSSZGET:
      return give<int>(argument, n.block_bytes);
    case BLKPBSZGET:
      return give<unsigned>(argument, n.physical_block_bytes);
    case BLKBSZGET:
      return give<int>(argument, page_bytes);
    case BLKIOMIN:
      return give<unsigned>(argument, n.io_min_bytes);
    case BLKIOOPT:
      return give<unsigned>(argument, n.io_optimal_bytes);
    case BLKALIGNOFF:
    case BLKDISCARDZEROES:
      return give<int>(argument, 0);
    case BLKROTATIONAL:
      return give<unsigned short>(argument, 0);
    case BLKSECTGET:
      return give<unsigned short>(argument, largest_request_sectors);
    case BLKROGET:
      return give<int>(argument, n.read_only);
    case BLKRAGET:
    case BLKFRAGET:
      return give<long>(argument, n.read_ahead_sectors);
    case BLKRASET:
    case BLKFRASET: {
      const int error = set_read_ahead(
          n.major, n.minor, static_cast<uint32_t>(reinterpret_cast<uintptr_t>(argument)));
      return error == 0 ? 0 : fail(error);
    }
    case BLKBSZSET:
      return 0;
    case BLKFLSBUF:
      return next_fsync(fd);
    case BLKDISCARD:
    case BLKSECDISCARD:
    case BLKZEROOUT:
      return clear_range(fd, request, argument, n);
    case BLKRRPART:
      return fail(EINVAL);
    case HDIO_GETGEO:
      return give_geometry(argument, n);
    default:
      return fail(ENOTTY);
  }
}

}  // namespace

bool block_ioctl(int fd, unsigned long request, void* argument, int& result) {
  const unsigned type = request >> 8 & 0xff;
  if (type != block_type && type != block_size_type && request != HDIO_GETGEO) return false;
  if (!current().enabled) return false;
  const int before = errno;
  struct stat st;
  face::node n;
  const bool ours = sys::stat_at(fd, "", &st, AT_EMPTY_PATH) == 0 && block_device_of(st, n);
  errno = before;
  if (!ours) return false;
  result = of_device(fd, request, argument, n);
  if (result == 0) errno = before;
  return true;
}

extern "C" int lbd_ioctl(int fd, unsigned long request, ...) LBD_INTERPOSES("ioctl");
extern "C" int lbd_ioctl(int fd, unsigned long request, ...) {
  va_list rest;
  va_start(rest, request);
  void* const argument = va_arg(rest, void*);
  va_end(rest);
  if ((request >> 8 & 0xff) == dm_type && is_control(fd))
    return control_ioctl(fd, static_cast<unsigned>(request & 0xff), argument);
  int result = 0;
  if (block_ioctl(fd, request, argument, result)) return result;
  return next_ioctl(fd, request, argument);
}

}  // namespace lbd::preload
