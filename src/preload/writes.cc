// SPDX-License-Identifier: MIT
// A disk file does not grow: writes end where the disk does, as those to a block device.
#include <stdint.h>
#include <sys/sendfile.h>
#include <sys/uio.h>

#include "preload/preload.h"

namespace lbd::preload {

namespace {

next<ssize_t(int, const void*, size_t)> next_write("write");
next<ssize_t(int, const void*, size_t, off_t)> next_pwrite("pwrite");
next<ssize_t(int, const iovec*, int)> next_writev("writev");
next<ssize_t(int, const iovec*, int, off_t)> next_pwritev("pwritev");
next<ssize_t(int, const iovec*, int, off_t, int)> next_pwritev2("pwritev2");
next<ssize_t(int, int, off_t*, size_t)> next_sendfile("sendfile");
next<ssize_t(int, off_t*, int, off_t*, size_t, unsigned)> next_copy("copy_file_range");
next<ssize_t(int, off_t*, int, off_t*, size_t, unsigned)> next_splice("splice");
next<int(int, int, off_t, off_t)> next_fallocate("fallocate");
next<int(int, off_t, off_t)> next_posix_fallocate("posix_fallocate");

constexpr off_t where_it_stands = -1;

int fail(int error) {
  errno = error;
  return -1;
}

// How many of `count` bytes fit on the disk from `at` on. All of them if it is no disk, or there
// are none; -1 with ENOSPC: none.
ssize_t fitting(int fd, off_t at, size_t count) {
  uint64_t size_bytes = 0;
  if (count == 0 || !is_open_disk(fd, size_bytes)) return static_cast<ssize_t>(count);
  const errno_keeper keep;
  if (at == where_it_stands) at = syscall(SYS_lseek, fd, 0, SEEK_CUR);
  if (at < 0) return static_cast<ssize_t>(count);
  const uint64_t begin = static_cast<uint64_t>(at);
  if (begin >= size_bytes) return 0;
  const uint64_t left = size_bytes - begin;
  return static_cast<ssize_t>(count < left ? count : left);
}

size_t bytes_of(const iovec* parts, int count) {
  size_t all = 0;
  for (int i = 0; i < count; ++i) all += parts[i].iov_len;
  return all;
}

// Writes parts of memory: those that fit, or what fits of the first. `write_all` is given parts,
// `write_one` bytes.
template <class WriteAll, class WriteOne>
ssize_t write_parts(int fd, off_t at, const iovec* parts, int count, WriteAll write_all,
                    WriteOne write_one) {
  uint64_t size_bytes = 0;
  if (count <= 0 || !is_open_disk(fd, size_bytes)) return write_all(count);
  const size_t wanted = bytes_of(parts, count);
  const size_t fit = static_cast<size_t>(fitting(fd, at, wanted));
  if (fit == wanted) return write_all(count);
  if (fit == 0) return fail(ENOSPC);
  int whole = 0;
  size_t bytes = 0;
  while (bytes + parts[whole].iov_len <= fit) bytes += parts[whole++].iov_len;
  return bytes != 0 ? write_all(whole) : write_one(parts[whole].iov_base, fit);
}

// The kernel's rules for block devices, in its order.
int allocate_on_disk(int fd, int mode, off_t at, off_t length, uint64_t size_bytes) {
  constexpr int known = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE;
  if (at < 0 || length <= 0) return fail(EINVAL);
  if ((mode & ~known) != 0) return fail(EOPNOTSUPP);
  const uint64_t begin = static_cast<uint64_t>(at);
  if (begin >= size_bytes) return fail(EINVAL);
  if (static_cast<uint64_t>(length) > size_bytes - begin) {
    if ((mode & FALLOC_FL_KEEP_SIZE) == 0) return fail(EINVAL);
    length = static_cast<off_t>(size_bytes - begin);
  }
  if ((at | length) % 512 != 0) return fail(EINVAL);
  const bool zeroes = (mode & ~FALLOC_FL_KEEP_SIZE) == FALLOC_FL_ZERO_RANGE;
  if (!zeroes && mode != (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)) return fail(EOPNOTSUPP);
  return next_fallocate(fd, mode, at, length);
}

}  // namespace

extern "C" {

ssize_t lbd_write(int fd, const void* from, size_t count) LBD_INTERPOSES("write");
ssize_t lbd_write(int fd, const void* from, size_t count) {
  const ssize_t fit = fitting(fd, where_it_stands, count);
  return fit == 0 && count != 0 ? fail(ENOSPC) : next_write(fd, from, static_cast<size_t>(fit));
}
ssize_t lbd_pwrite(int fd, const void* from, size_t count, off_t at) LBD_INTERPOSES("pwrite");
ssize_t lbd_pwrite(int fd, const void* from, size_t count, off_t at) {
  if (at < 0) return next_pwrite(fd, from, count, at);
  const ssize_t fit = fitting(fd, at, count);
  return fit == 0 && count != 0 ? fail(ENOSPC)
                                : next_pwrite(fd, from, static_cast<size_t>(fit), at);
}
ssize_t lbd_pwrite64(int fd, const void* from, size_t count, off_t at) LBD_INTERPOSES("pwrite64");
ssize_t lbd_pwrite64(int fd, const void* from, size_t count, off_t at) {
  return lbd_pwrite(fd, from, count, at);
}

ssize_t lbd_writev(int fd, const iovec* parts, int count) LBD_INTERPOSES("writev");
ssize_t lbd_writev(int fd, const iovec* parts, int count) {
  return write_parts(
      fd, where_it_stands, parts, count, [&](int n) { return next_writev(fd, parts, n); },
      [&](const void* from, size_t n) { return next_write(fd, from, n); });
}
ssize_t lbd_pwritev(int fd, const iovec* parts, int count, off_t at) LBD_INTERPOSES("pwritev");
ssize_t lbd_pwritev(int fd, const iovec* parts, int count, off_t at) {
  if (at < 0) return next_pwritev(fd, parts, count, at);
  return write_parts(
      fd, at, parts, count, [&](int n) { return next_pwritev(fd, parts, n, at); },
      [&](const void* from, size_t n) { return next_pwrite(fd, from, n, at); });
}
ssize_t lbd_pwritev64(int fd, const iovec* parts, int count, off_t at) LBD_INTERPOSES("pwritev64");
ssize_t lbd_pwritev64(int fd, const iovec* parts, int count, off_t at) {
  return lbd_pwritev(fd, parts, count, at);
}
// The offset -1 is where the file stands.
ssize_t lbd_pwritev2(int fd, const iovec* parts, int count, off_t at, int flags)
    LBD_INTERPOSES("pwritev2");
ssize_t lbd_pwritev2(int fd, const iovec* parts, int count, off_t at, int flags) {
  if (at < where_it_stands) return next_pwritev2(fd, parts, count, at, flags);
  return write_parts(
      fd, at, parts, count, [&](int n) { return next_pwritev2(fd, parts, n, at, flags); },
      [&](void* from, size_t n) {
        const iovec one{from, n};
        return next_pwritev2(fd, &one, 1, at, flags);
      });
}
ssize_t lbd_pwritev64v2(int fd, const iovec* parts, int count, off_t at, int flags)
    LBD_INTERPOSES("pwritev64v2");
ssize_t lbd_pwritev64v2(int fd, const iovec* parts, int count, off_t at, int flags) {
  return lbd_pwritev2(fd, parts, count, at, flags);
}

ssize_t lbd_sendfile(int to, int from, off_t* at, size_t count) LBD_INTERPOSES("sendfile");
ssize_t lbd_sendfile(int to, int from, off_t* at, size_t count) {
  const ssize_t fit = fitting(to, where_it_stands, count);
  return fit == 0 && count != 0 ? fail(ENOSPC)
                                : next_sendfile(to, from, at, static_cast<size_t>(fit));
}
ssize_t lbd_sendfile64(int to, int from, off_t* at, size_t count) LBD_INTERPOSES("sendfile64");
ssize_t lbd_sendfile64(int to, int from, off_t* at, size_t count) {
  return lbd_sendfile(to, from, at, count);
}
ssize_t lbd_splice(int from, off_t* from_at, int to, off_t* to_at, size_t count, unsigned flags)
    LBD_INTERPOSES("splice");
ssize_t lbd_splice(int from, off_t* from_at, int to, off_t* to_at, size_t count, unsigned flags) {
  const ssize_t fit = fitting(to, to_at == nullptr ? where_it_stands : *to_at, count);
  if (fit == 0 && count != 0) return fail(ENOSPC);
  return next_splice(from, from_at, to, to_at, static_cast<size_t>(fit), flags);
}
// The kernel copies between regular files only.
ssize_t lbd_copy_file_range(int from, off_t* from_at, int to, off_t* to_at, size_t count,
                            unsigned flags) LBD_INTERPOSES("copy_file_range");
ssize_t lbd_copy_file_range(int from, off_t* from_at, int to, off_t* to_at, size_t count,
                            unsigned flags) {
  uint64_t size_bytes = 0;
  if (is_open_disk(from, size_bytes) || is_open_disk(to, size_bytes)) return fail(EINVAL);
  return next_copy(from, from_at, to, to_at, count, flags);
}

int lbd_fallocate(int fd, int mode, off_t at, off_t length) LBD_INTERPOSES("fallocate");
int lbd_fallocate(int fd, int mode, off_t at, off_t length) {
  uint64_t size_bytes = 0;
  if (is_open_disk(fd, size_bytes)) return allocate_on_disk(fd, mode, at, length, size_bytes);
  return next_fallocate(fd, mode, at, length);
}
int lbd_fallocate64(int fd, int mode, off_t at, off_t length) LBD_INTERPOSES("fallocate64");
int lbd_fallocate64(int fd, int mode, off_t at, off_t length) {
  return lbd_fallocate(fd, mode, at, length);
}
int lbd_posix_fallocate(int fd, off_t at, off_t length) LBD_INTERPOSES("posix_fallocate");
int lbd_posix_fallocate(int fd, off_t at, off_t length) {
  uint64_t size_bytes = 0;
  if (!is_open_disk(fd, size_bytes)) return next_posix_fallocate(fd, at, length);
  const errno_keeper keep;
  (void)allocate_on_disk(fd, 0, at, length, size_bytes);  // it always fails
  return errno == EOPNOTSUPP ? ENODEV : errno;
}
int lbd_posix_fallocate64(int fd, off_t at, off_t length) LBD_INTERPOSES("posix_fallocate64");
int lbd_posix_fallocate64(int fd, off_t at, off_t length) {
  return lbd_posix_fallocate(fd, at, length);
}

}  // extern "C"

}  // namespace lbd::preload
