// SPDX-License-Identifier: MIT
// The stat family: devices and disk files are block devices.
#include <sys/sysmacros.h>

#include "preload/preload.h"

namespace lbd::preload {

namespace {

constexpr uint64_t devices_device = 5;  // where the nodes seem to lie

next<int(const char*, struct stat*)> next_stat("stat"), next_lstat("lstat");
next<int(int, struct stat*)> next_fstat("fstat");
next<int(int, const char*, struct stat*, int)> next_fstatat("fstatat");
next<int(int, const char*, struct stat*)> next_xstat("__xstat"), next_lxstat("__lxstat");
next<int(int, int, struct stat*)> next_fxstat("__fxstat");
next<int(int, const char*, int, unsigned, struct statx*)> next_statx("statx");

bool is_disk(const struct stat& st, uint32_t& major, uint32_t& minor) {
  const settings& s = current();
  for (unsigned i = 0; i < s.disk_count; ++i)
    if (s.disks[i].device == st.st_dev && s.disks[i].inode == st.st_ino) {
      major = s.disks[i].major;
      minor = s.disks[i].minor;
      return true;
    }
  return false;
}

void make_node(struct stat& st, mode_t type, uint32_t major, uint32_t minor) {
  st.st_mode = type | 0660;
  st.st_rdev = makedev(major, minor);
  st.st_size = 0;
  st.st_blocks = 0;
}

// A node that lies in no file system.
void fill_node(struct stat& st, const face::node& n) {
  memset(&st, 0, sizeof st);
  make_node(st, n.kind == face::node_control ? S_IFCHR : S_IFBLK, n.major, n.minor);
  st.st_dev = devices_device;
  st.st_ino = (uint64_t{n.major} << 20 | n.minor) + 1000;
  st.st_nlink = 1;
  st.st_uid = static_cast<uid_t>(syscall(SYS_geteuid));
  st.st_gid = static_cast<gid_t>(syscall(SYS_getegid));
  st.st_blksize = 4096;
}

void fill_link(struct stat& st, const char* target) {
  memset(&st, 0, sizeof st);
  st.st_mode = S_IFLNK | 0777;
  st.st_dev = devices_device;
  st.st_ino = 1;
  st.st_nlink = 1;
  st.st_size = static_cast<off_t>(strlen(target));
  st.st_blksize = 4096;
}

void fill(struct stat& st, const claim& c) {
  if (c.what.facts.kind == face::node_link) return fill_link(st, c.what.path);
  fill_node(st, c.what.facts);
}

// After the C library's answer about something that is open, or lies at a path of no interest.
void mend(struct stat& st, int fd) {
  uint32_t major = 0, minor = 0;
  if (S_ISREG(st.st_mode)) {
    if (is_disk(st, major, minor)) return make_node(st, S_IFBLK, major, minor);
    face::node n;
    if (block_device_of(st, n)) fill_node(st, n);
  } else if (S_ISSOCK(st.st_mode) && fd >= 0 && is_control(fd)) {
    face::node n{};
    n.kind = face::node_control;
    n.major = 10;
    n.minor = 236;
    fill_node(st, n);
  }
}

// How the C library does it; answers 0 or -1.
using do_stat = int (*)(int directory, const char* path, struct stat* to, int flags);

int by_stat(int, const char* path, struct stat* to, int) { return next_stat(path, to); }
int by_lstat(int, const char* path, struct stat* to, int) { return next_lstat(path, to); }
int by_fstatat(int directory, const char* path, struct stat* to, int flags) {
  return next_fstatat(directory, path, to, flags);
}
int by_xstat(int version, const char* path, struct stat* to, int) {
  return next_xstat(version, path, to);
}
int by_lxstat(int version, const char* path, struct stat* to, int) {
  return next_lxstat(version, path, to);
}

int stat_node(const claim& c, struct stat* to, int flags) {
  if (c.error != 0) {
    errno = c.error;
    return -1;
  }
  const face::node& n = c.what.facts;
  if (n.kind == face::node_file) return next_fstatat(AT_FDCWD, c.what.path, to, flags);
  if (n.kind == face::node_elsewhere) return next_fstatat(AT_FDCWD, c.path, to, flags);
  fill(*to, c);
  return 0;
}

// Where the kernel has found nothing.
bool is_behind(int directory, const char* path, int flags, room<claim>& c) {
  return (flags & AT_SYMLINK_NOFOLLOW) == 0 ? follow_to_claimed(directory, path, c)
                                            : names_ours(directory, path, c);
}

// `how_directory` is the directory, or what else `how` takes first.
int stat_path(int how_directory, int directory, const char* path, struct stat* to, int flags,
              do_stat how) {
  room<claim> c;
  if (claims(directory, path, c)) return stat_node(*c, to, flags);
  const int rc = how(how_directory, path, to, flags);
  if (rc == 0) {
    const errno_keeper keep;
    mend(*to, -1);
    return 0;
  }
  if (errno == ENOENT && is_behind(directory, path, flags, c)) return stat_node(*c, to, flags);
  return rc;
}

// What mend() looks at and changes.
void from_statx(const struct statx& from, struct stat& to) {
  memset(&to, 0, sizeof to);
  to.st_dev = makedev(from.stx_dev_major, from.stx_dev_minor);
  to.st_ino = from.stx_ino;
  to.st_mode = from.stx_mode;
  to.st_nlink = from.stx_nlink;
  to.st_uid = from.stx_uid;
  to.st_gid = from.stx_gid;
  to.st_rdev = makedev(from.stx_rdev_major, from.stx_rdev_minor);
  to.st_size = static_cast<off_t>(from.stx_size);
  to.st_blocks = static_cast<blkcnt_t>(from.stx_blocks);
}
void to_statx(const struct stat& from, struct statx& to) {
  to.stx_dev_major = major(from.st_dev);
  to.stx_dev_minor = minor(from.st_dev);
  to.stx_ino = from.st_ino;
  to.stx_mode = static_cast<uint16_t>(from.st_mode);
  to.stx_nlink = static_cast<uint32_t>(from.st_nlink);
  to.stx_uid = from.st_uid;
  to.stx_gid = from.st_gid;
  to.stx_rdev_major = major(from.st_rdev);
  to.stx_rdev_minor = minor(from.st_rdev);
  to.stx_size = static_cast<uint64_t>(from.st_size);
  to.stx_blocks = static_cast<uint64_t>(from.st_blocks);
}

int statx_node(const claim& c, int flags, unsigned mask, struct statx* to) {
  if (c.error != 0) {
    errno = c.error;
    return -1;
  }
  const face::node& n = c.what.facts;
  if (n.kind == face::node_file) return next_statx(AT_FDCWD, c.what.path, flags, mask, to);
  if (n.kind == face::node_elsewhere) return next_statx(AT_FDCWD, c.path, flags, mask, to);
  struct stat st;
  fill(st, c);
  memset(to, 0, sizeof *to);
  to->stx_mask = STATX_BASIC_STATS;
  to->stx_blksize = static_cast<uint32_t>(st.st_blksize);
  to_statx(st, *to);
  return 0;
}

int stat_fd(int fd, struct stat* to, int rc) {
  if (rc != 0) return rc;
  const errno_keeper keep;
  mend(*to, fd);
  return 0;
}

}  // namespace

bool block_device_of(const struct stat& st, face::node& out) {
  const settings& s = current();
  if (!s.enabled || !S_ISREG(st.st_mode)) return false;
  uint32_t major = 0, minor = 0;
  if (is_disk(st, major, minor)) return find_number(major, minor, out) == 0;
  return s.mount_device != 0 && st.st_dev == s.mount_device && find_file(st.st_ino, out) == 0;
}

bool is_disk_file(int directory, const char* path) {
  if (!current().enabled || current().disk_count == 0 || path == nullptr) return false;
  const errno_keeper keep;
  struct stat st;
  uint32_t major = 0, minor = 0;
  return sys::stat_at(directory, path, &st, 0) == 0 && is_disk(st, major, minor);
}

bool is_open_disk(int fd, uint64_t& size_bytes) {
  if (!current().enabled || current().disk_count == 0) return false;
  const errno_keeper keep;
  struct stat st;
  uint32_t major = 0, minor = 0;
  if (sys::stat_at(fd, "", &st, AT_EMPTY_PATH) != 0 || !S_ISREG(st.st_mode)) return false;
  size_bytes = static_cast<uint64_t>(st.st_size) / 512 * 512;
  return is_disk(st, major, minor);
}

extern "C" {

int lbd_stat(const char* path, struct stat* to) LBD_INTERPOSES("stat");
int lbd_stat(const char* path, struct stat* to) {
  return stat_path(0, AT_FDCWD, path, to, 0, by_stat);
}
int lbd_stat64(const char* path, struct stat* to) LBD_INTERPOSES("stat64");
int lbd_stat64(const char* path, struct stat* to) { return lbd_stat(path, to); }

int lbd_lstat(const char* path, struct stat* to) LBD_INTERPOSES("lstat");
int lbd_lstat(const char* path, struct stat* to) {
  return stat_path(0, AT_FDCWD, path, to, AT_SYMLINK_NOFOLLOW, by_lstat);
}
int lbd_lstat64(const char* path, struct stat* to) LBD_INTERPOSES("lstat64");
int lbd_lstat64(const char* path, struct stat* to) { return lbd_lstat(path, to); }

int lbd_fstat(int fd, struct stat* to) LBD_INTERPOSES("fstat");
int lbd_fstat(int fd, struct stat* to) { return stat_fd(fd, to, next_fstat(fd, to)); }
int lbd_fstat64(int fd, struct stat* to) LBD_INTERPOSES("fstat64");
int lbd_fstat64(int fd, struct stat* to) { return lbd_fstat(fd, to); }

int lbd_fstatat(int directory, const char* path, struct stat* to, int flags)
    LBD_INTERPOSES("fstatat");
int lbd_fstatat(int directory, const char* path, struct stat* to, int flags) {
  if (path != nullptr && path[0] == '\0' && (flags & AT_EMPTY_PATH) != 0)
    return stat_fd(directory, to, next_fstatat(directory, path, to, flags));
  return stat_path(directory, directory, path, to, flags, by_fstatat);
}
int lbd_fstatat64(int directory, const char* path, struct stat* to, int flags)
    LBD_INTERPOSES("fstatat64");
int lbd_fstatat64(int directory, const char* path, struct stat* to, int flags) {
  return lbd_fstatat(directory, path, to, flags);
}

// As programs call them that were built with older C libraries.
int lbd_xstat(int version, const char* path, struct stat* to) LBD_INTERPOSES("__xstat");
int lbd_xstat(int version, const char* path, struct stat* to) {
  return stat_path(version, AT_FDCWD, path, to, 0, by_xstat);
}
int lbd_xstat64(int version, const char* path, struct stat* to) LBD_INTERPOSES("__xstat64");
int lbd_xstat64(int version, const char* path, struct stat* to) {
  return lbd_xstat(version, path, to);
}
int lbd_lxstat(int version, const char* path, struct stat* to) LBD_INTERPOSES("__lxstat");
int lbd_lxstat(int version, const char* path, struct stat* to) {
  return stat_path(version, AT_FDCWD, path, to, AT_SYMLINK_NOFOLLOW, by_lxstat);
}
int lbd_lxstat64(int version, const char* path, struct stat* to) LBD_INTERPOSES("__lxstat64");
int lbd_lxstat64(int version, const char* path, struct stat* to) {
  return lbd_lxstat(version, path, to);
}
int lbd_fxstat(int version, int fd, struct stat* to) LBD_INTERPOSES("__fxstat");
int lbd_fxstat(int version, int fd, struct stat* to) {
  return stat_fd(fd, to, next_fxstat(version, fd, to));
}
int lbd_fxstat64(int version, int fd, struct stat* to) LBD_INTERPOSES("__fxstat64");
int lbd_fxstat64(int version, int fd, struct stat* to) { return lbd_fxstat(version, fd, to); }
int lbd_fxstatat(int version, int directory, const char* path, struct stat* to, int flags)
    LBD_INTERPOSES("__fxstatat");
int lbd_fxstatat(int version, int directory, const char* path, struct stat* to, int flags) {
  (void)version;
  return lbd_fstatat(directory, path, to, flags);
}
int lbd_fxstatat64(int version, int directory, const char* path, struct stat* to, int flags)
    LBD_INTERPOSES("__fxstatat64");
int lbd_fxstatat64(int version, int directory, const char* path, struct stat* to, int flags) {
  return lbd_fxstatat(version, directory, path, to, flags);
}

int lbd_statx(int directory, const char* path, int flags, unsigned mask, struct statx* to)
    LBD_INTERPOSES("statx");
int lbd_statx(int directory, const char* path, int flags, unsigned mask, struct statx* to) {
  room<claim> c;
  const bool empty = path != nullptr && path[0] == '\0' && (flags & AT_EMPTY_PATH) != 0;
  if (!empty && claims(directory, path, c)) return statx_node(*c, flags, mask, to);
  const int rc = next_statx(directory, path, flags, mask, to);
  if (rc == 0) {
    const errno_keeper keep;
    struct stat st;
    from_statx(*to, st);
    mend(st, empty ? directory : -1);
    to_statx(st, *to);
    return 0;
  }
  if (errno == ENOENT && is_behind(directory, path, flags, c))
    return statx_node(*c, flags, mask, to);
  return rc;
}

}  // extern "C"

}  // namespace lbd::preload
