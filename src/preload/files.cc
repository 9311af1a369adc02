// SPDX-License-Identifier: MIT
// Opening, and what else is done to a path.
#include <stdarg.h>
#include <stdio.h>

#include "preload/preload.h"

namespace lbd::preload {

namespace {

next<int(const char*, int, mode_t)> next_open("open"), next_open64("open64");
next<int(int, const char*, int, mode_t)> next_openat("openat"), next_openat64("openat64");
next<FILE*(const char*, const char*)> next_fopen("fopen"), next_fopen64("fopen64");
next<FILE*(int, const char*)> next_fdopen("fdopen");
next<FILE*(const char*, const char*, FILE*)> next_freopen("freopen"), next_freopen64("freopen64");
next<int(const char*, int)> next_access("access"), next_eaccess("eaccess");
next<int(int, const char*, int, int)> next_faccessat("faccessat");
next<ssize_t(const char*, char*, size_t)> next_readlink("readlink");
next<ssize_t(int, const char*, char*, size_t)> next_readlinkat("readlinkat");
next<char*(const char*, char*)> next_realpath("realpath");
next<int(int, off_t)> next_ftruncate("ftruncate");
next<int(const char*, off_t)> next_truncate("truncate");

int fail(int error) {
  errno = error;
  return -1;
}

// What open() must not do to a device: make it, empty it, write behind its end.
constexpr int not_for_devices = O_CREAT | O_EXCL | O_TRUNC | O_APPEND;

// O_EXCL asks for a device alone: nobody gets that while a table uses it.
bool asks_for_it_alone(int flags) { return (flags & O_EXCL) != 0 && (flags & O_CREAT) == 0; }

int open_device(const claim& c, int flags) {
  if (c.what.facts.readable == 0) return fail(ENXIO);
  if (asks_for_it_alone(flags) && c.what.facts.claimed != 0) return fail(EBUSY);
  if (c.what.path[0] == '\0') {
    complain(c.path, "its content cannot be reached: the daemon has no FUSE to show it by");
    return fail(ENXIO);
  }
  return next_openat64(AT_FDCWD, c.what.path, flags & ~not_for_devices, 0);
}

bool wants_mode(int flags) { return (flags & O_CREAT) != 0 || (flags & O_TMPFILE) == O_TMPFILE; }

int open_claim(const claim& c, int flags, mode_t mode) {
  if (c.error != 0) return fail(c.error);
  switch (c.what.facts.kind) {
    case face::node_control:
      return open_control(flags);
    case face::node_device:
    case face::node_disk:
      return open_device(c, flags);
    case face::node_file:
      // They cannot be written; a device's own settings go by its ioctls.
      if ((flags & O_ACCMODE) != O_RDONLY) return fail(EACCES);
      return next_openat64(AT_FDCWD, c.what.path, flags & ~O_CREAT, 0);
    default:
      return next_openat64(AT_FDCWD, c.path, flags, mode);
  }
}

int open_disk(int directory, const char* path, int flags) {
  if (asks_for_it_alone(flags)) {
    const int fd = next_openat64(directory, path, O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0) return -1;
    struct stat st;
    face::node n;
    const bool claimed =
        sys::stat_at(fd, "", &st, AT_EMPTY_PATH) == 0 && block_device_of(st, n) && n.claimed != 0;
    sys::close(fd);
    if (claimed) return fail(EBUSY);
  }
  return next_openat64(directory, path, flags & ~not_for_devices, 0);
}

// Whether open() would make a file in /dev where LBD has something.
bool hides_ours(int directory, const char* path, int flags, room<claim>& c) {
  if ((flags & O_CREAT) == 0 || !names_ours(directory, path, c)) return false;
  const errno_keeper keep;
  struct stat st;
  return sys::stat_at(directory, path, &st, 0) != 0 && follow_to_claimed(directory, path, c);
}

// What open() does for a claimed path or a disk file; `handled` is false if it is neither.
int open_ours(int directory, const char* path, int flags, mode_t mode, room<claim>& c,
              bool& handled) {
  handled = claims(directory, path, c) || hides_ours(directory, path, flags, c);
  if (handled) return open_claim(*c, flags, mode);
  handled = (flags & (O_TRUNC | O_EXCL | O_APPEND)) != 0 && is_disk_file(directory, path);
  return handled ? open_disk(directory, path, flags) : -1;
}

// Opens as the C library does, or what lies behind a link to something of ours.
template <class Open>
int open_any(int directory, const char* path, int flags, mode_t mode, Open open) {
  room<claim> c;
  bool handled = false;
  const int fd = open_ours(directory, path, flags, mode, c, handled);
  if (handled) return fd;
  const int made = open();
  if (made < 0 && (errno == ENOENT || errno == EACCES) && (flags & O_NOFOLLOW) == 0 &&
      follow_to_claimed(directory, path, c))
    return open_claim(*c, flags, mode);
  return made;
}

// "r", "w+e" as flags of open(); -1: it is none.
int flags_of(const char* mode) {
  int flags = 0;
  switch (mode[0]) {
    case 'r':
      flags = O_RDONLY;
      break;
    case 'w':
      flags = O_WRONLY | O_CREAT | O_TRUNC;
      break;
    case 'a':
      flags = O_WRONLY | O_CREAT | O_APPEND;
      break;
    default:
      return -1;
  }
  for (const char* m = mode + 1; *m != '\0' && *m != ','; ++m) {
    if (*m == '+') flags = (flags & ~O_ACCMODE) | O_RDWR;
    if (*m == 'e') flags |= O_CLOEXEC;
    if (*m == 'x') flags |= O_EXCL;
  }
  return flags;
}

bool is_block_fd(int fd) {
  if (!current().enabled) return false;
  const errno_keeper keep;
  struct stat st;
  face::node n;
  return sys::stat_at(fd, "", &st, AT_EMPTY_PATH) == 0 && block_device_of(st, n);
}

FILE* open_stream(const char* path, const char* mode, next<FILE*(const char*, const char*)>& how) {
  const int flags = mode == nullptr ? -1 : flags_of(mode);
  if (flags < 0) return how(path, mode);
  constexpr mode_t usual_mode = 0666;
  room<claim> c;
  bool handled = false;
  int fd = open_ours(AT_FDCWD, path, flags, usual_mode, c, handled);
  if (!handled) {
    FILE* const made = how(path, mode);
    if (made != nullptr || errno != ENOENT || !follow_to_claimed(AT_FDCWD, path, c)) return made;
    fd = open_claim(*c, flags, usual_mode);
  }
  if (fd < 0) return nullptr;
  // A stream that appends begins at the end, where a device has no room.
  if ((flags & O_APPEND) != 0 && is_block_fd(fd)) {
    sys::close(fd);
    errno = ENOSPC;
    return nullptr;
  }
  FILE* const stream = next_fdopen(fd, mode);
  if (stream == nullptr) sys::close(fd);
  return stream;
}

// The stream keeps its descriptor: the C library opens the file itself.
FILE* reopen_stream(const char* path, const char* mode, FILE* stream,
                    next<FILE*(const char*, const char*, FILE*)>& how) {
  const int flags = path == nullptr || mode == nullptr ? -1 : flags_of(mode);
  if (flags < 0) return how(path, mode, stream);
  room<claim> c;
  bool handled = false;
  int fd = open_ours(AT_FDCWD, path, flags, 0666, c, handled);
  if (!handled) {
    if (!follow_to_claimed(AT_FDCWD, path, c)) return how(path, mode, stream);
    fd = open_claim(*c, flags, 0666);
  }
  room<path_buffer> place;
  const bool known = fd >= 0 && place.get() != nullptr && path_of_fd(fd, *place);
  if (fd >= 0) sys::close(fd);
  // Neither made nor emptied.
  const bool writes = (flags & O_ACCMODE) != O_RDONLY;
  return known ? how(*place, writes ? "r+" : "r", stream) : nullptr;
}

// 0 or -1 for a claimed path.
int access_claim(const claim& c, int mode) {
  if (c.error != 0) return fail(c.error);
  const uint32_t kind = c.what.facts.kind;
  if (kind == face::node_file) return next_access(c.what.path, mode);
  if (kind == face::node_elsewhere) return next_access(c.path, mode);
  return (mode & X_OK) != 0 ? fail(EACCES) : 0;
}

template <class Access>
int access_any(int directory, const char* path, int mode, Access access) {
  room<claim> c;
  if (claims(directory, path, c)) return access_claim(*c, mode);
  const int rc = access();
  if (rc != 0 && errno == ENOENT && follow_to_claimed(directory, path, c))
    return access_claim(*c, mode);
  return rc;
}

ssize_t readlink_claim(const claim& c, char* to, size_t bytes) {
  if (c.error != 0) return fail(c.error);
  const uint32_t kind = c.what.facts.kind;
  if (kind == face::node_file) return next_readlink(c.what.path, to, bytes);
  if (kind == face::node_elsewhere) return next_readlink(c.path, to, bytes);
  if (kind != face::node_link) return fail(EINVAL);
  const size_t length = strlen(c.what.path);
  const size_t count = length < bytes ? length : bytes;
  memcpy(to, c.what.path, count);
  return static_cast<ssize_t>(count);
}

template <class Readlink>
ssize_t readlink_any(int directory, const char* path, char* to, size_t bytes, Readlink readlink) {
  room<claim> c;
  if (claims(directory, path, c)) return readlink_claim(*c, to, bytes);
  const ssize_t length = readlink();
  if (length < 0 && errno == ENOENT && names_ours(directory, path, c))
    return readlink_claim(*c, to, bytes);
  return length;
}

char* give_path(const char* path, char* to) {
  const size_t bytes = strlen(path) + 1;
  if (to == nullptr)
    to = strdup(path);
  else
    memcpy(to, path, bytes);
  return to;
}

char* real_path_of(const claim& c, char* to) {
  if (c.error != 0) {
    errno = c.error;
    return nullptr;
  }
  if (c.what.facts.kind == face::node_elsewhere) return next_realpath(c.path, to);
  if (c.what.facts.kind != face::node_file) return give_path(c.path, to);
  room<path_buffer> real;
  if (real.get() == nullptr || next_realpath(c.what.path, *real) == nullptr) return nullptr;
  const char* rest = below(*real, current().view);
  return give_path(rest != nullptr && *rest != '\0' ? rest : *real, to);
}

// Nodes come and go with their devices: what a program does to them itself has no effect.
bool is_node(int directory, const char* path) {
  room<claim> c;
  return claims(directory, path, c) && is_device_path(c->path);
}
// The same of names that the kernel was just asked for.
bool was_node(int directory, const char* path) {
  room<claim> c;
  return errno == ENOENT && names_ours(directory, path, c);
}

#define LBD_MODE_ARGUMENT(flags, mode)             \
  mode_t mode = 0;                                 \
  if (wants_mode(flags)) {                         \
    va_list rest;                                  \
    va_start(rest, flags);                         \
    mode = static_cast<mode_t>(va_arg(rest, int)); \
    va_end(rest);                                  \
  }

}  // namespace

extern "C" {

int lbd_open(const char* path, int flags, ...) LBD_INTERPOSES("open");
int lbd_open(const char* path, int flags, ...) {
  LBD_MODE_ARGUMENT(flags, mode)
  return open_any(AT_FDCWD, path, flags, mode, [&] { return next_open(path, flags, mode); });
}
int lbd_open64(const char* path, int flags, ...) LBD_INTERPOSES("open64");
int lbd_open64(const char* path, int flags, ...) {
  LBD_MODE_ARGUMENT(flags, mode)
  return open_any(AT_FDCWD, path, flags, mode, [&] { return next_open64(path, flags, mode); });
}
int lbd_openat(int directory, const char* path, int flags, ...) LBD_INTERPOSES("openat");
int lbd_openat(int directory, const char* path, int flags, ...) {
  LBD_MODE_ARGUMENT(flags, mode)
  return open_any(directory, path, flags, mode,
                  [&] { return next_openat(directory, path, flags, mode); });
}
int lbd_openat64(int directory, const char* path, int flags, ...) LBD_INTERPOSES("openat64");
int lbd_openat64(int directory, const char* path, int flags, ...) {
  LBD_MODE_ARGUMENT(flags, mode)
  return open_any(directory, path, flags, mode,
                  [&] { return next_openat64(directory, path, flags, mode); });
}
// As programs call them that were built with _FORTIFY_SOURCE.
int lbd_open_2(const char* path, int flags) LBD_INTERPOSES("__open_2");
int lbd_open_2(const char* path, int flags) { return lbd_open(path, flags); }
int lbd_open64_2(const char* path, int flags) LBD_INTERPOSES("__open64_2");
int lbd_open64_2(const char* path, int flags) { return lbd_open64(path, flags); }
int lbd_openat_2(int directory, const char* path, int flags) LBD_INTERPOSES("__openat_2");
int lbd_openat_2(int directory, const char* path, int flags) {
  return lbd_openat(directory, path, flags);
}
int lbd_openat64_2(int directory, const char* path, int flags) LBD_INTERPOSES("__openat64_2");
int lbd_openat64_2(int directory, const char* path, int flags) {
  return lbd_openat64(directory, path, flags);
}
int lbd_creat(const char* path, mode_t mode) LBD_INTERPOSES("creat");
int lbd_creat(const char* path, mode_t mode) {
  return lbd_open(path, O_CREAT | O_WRONLY | O_TRUNC, mode);
}
int lbd_creat64(const char* path, mode_t mode) LBD_INTERPOSES("creat64");
int lbd_creat64(const char* path, mode_t mode) {
  return lbd_open64(path, O_CREAT | O_WRONLY | O_TRUNC, mode);
}

FILE* lbd_fopen(const char* path, const char* mode) LBD_INTERPOSES("fopen");
FILE* lbd_fopen(const char* path, const char* mode) { return open_stream(path, mode, next_fopen); }
FILE* lbd_fopen64(const char* path, const char* mode) LBD_INTERPOSES("fopen64");
FILE* lbd_fopen64(const char* path, const char* mode) {
  return open_stream(path, mode, next_fopen64);
}

FILE* lbd_freopen(const char* path, const char* mode, FILE* stream) LBD_INTERPOSES("freopen");
FILE* lbd_freopen(const char* path, const char* mode, FILE* stream) {
  return reopen_stream(path, mode, stream, next_freopen);
}
FILE* lbd_freopen64(const char* path, const char* mode, FILE* stream) LBD_INTERPOSES("freopen64");
FILE* lbd_freopen64(const char* path, const char* mode, FILE* stream) {
  return reopen_stream(path, mode, stream, next_freopen64);
}

int lbd_access(const char* path, int mode) LBD_INTERPOSES("access");
int lbd_access(const char* path, int mode) {
  return access_any(AT_FDCWD, path, mode, [&] { return next_access(path, mode); });
}
int lbd_eaccess(const char* path, int mode) LBD_INTERPOSES("eaccess");
int lbd_eaccess(const char* path, int mode) {
  return access_any(AT_FDCWD, path, mode, [&] { return next_eaccess(path, mode); });
}
int lbd_euidaccess(const char* path, int mode) LBD_INTERPOSES("euidaccess");
int lbd_euidaccess(const char* path, int mode) { return lbd_eaccess(path, mode); }
int lbd_faccessat(int directory, const char* path, int mode, int flags) LBD_INTERPOSES("faccessat");
int lbd_faccessat(int directory, const char* path, int mode, int flags) {
  return access_any(directory, path, mode,
                    [&] { return next_faccessat(directory, path, mode, flags); });
}

ssize_t lbd_readlink(const char* path, char* to, size_t bytes) LBD_INTERPOSES("readlink");
ssize_t lbd_readlink(const char* path, char* to, size_t bytes) {
  return readlink_any(AT_FDCWD, path, to, bytes, [&] { return next_readlink(path, to, bytes); });
}
ssize_t lbd_readlink_chk(const char* path, char* to, size_t bytes, size_t room)
    LBD_INTERPOSES("__readlink_chk");
ssize_t lbd_readlink_chk(const char* path, char* to, size_t bytes, size_t room) {
  return lbd_readlink(path, to, bytes < room ? bytes : room);
}
ssize_t lbd_readlinkat(int directory, const char* path, char* to, size_t bytes)
    LBD_INTERPOSES("readlinkat");
ssize_t lbd_readlinkat(int directory, const char* path, char* to, size_t bytes) {
  return readlink_any(directory, path, to, bytes,
                      [&] { return next_readlinkat(directory, path, to, bytes); });
}
ssize_t lbd_readlinkat_chk(int directory, const char* path, char* to, size_t bytes, size_t room)
    LBD_INTERPOSES("__readlinkat_chk");
ssize_t lbd_readlinkat_chk(int directory, const char* path, char* to, size_t bytes, size_t room) {
  return lbd_readlinkat(directory, path, to, bytes < room ? bytes : room);
}

char* lbd_realpath(const char* path, char* to) LBD_INTERPOSES("realpath");
char* lbd_realpath(const char* path, char* to) {
  room<claim> c;
  if (claims(AT_FDCWD, path, c)) return real_path_of(*c, to);
  char* const real = next_realpath(path, to);
  if (real == nullptr && errno == ENOENT && follow_to_claimed(AT_FDCWD, path, c))
    return real_path_of(*c, to);
  return real;
}
char* lbd_realpath_chk(const char* path, char* to, size_t room) LBD_INTERPOSES("__realpath_chk");
char* lbd_realpath_chk(const char* path, char* to, size_t) { return lbd_realpath(path, to); }
char* lbd_canonicalize(const char* path) LBD_INTERPOSES("canonicalize_file_name");
char* lbd_canonicalize(const char* path) { return lbd_realpath(path, nullptr); }

int lbd_ftruncate(int fd, off_t length) LBD_INTERPOSES("ftruncate");
int lbd_ftruncate(int fd, off_t length) {
  return is_block_fd(fd) ? fail(EINVAL) : next_ftruncate(fd, length);
}
int lbd_ftruncate64(int fd, off_t length) LBD_INTERPOSES("ftruncate64");
int lbd_ftruncate64(int fd, off_t length) { return lbd_ftruncate(fd, length); }
int lbd_truncate(const char* path, off_t length) LBD_INTERPOSES("truncate");
int lbd_truncate(const char* path, off_t length) {
  if (is_node(AT_FDCWD, path) || is_disk_file(AT_FDCWD, path)) return fail(EINVAL);
  return next_truncate(path, length);
}
int lbd_truncate64(const char* path, off_t length) LBD_INTERPOSES("truncate64");
int lbd_truncate64(const char* path, off_t length) { return lbd_truncate(path, length); }

}  // extern "C"

// What has no effect on nodes.
#define LBD_IGNORED(name, parameters, directory, path, arguments) \
  extern "C" int lbd_##name parameters LBD_INTERPOSES(#name);     \
  extern "C" int lbd_##name parameters {                          \
    static next<int parameters> real(#name);                      \
    if (is_node(directory, path)) return 0;                       \
    const int rc = real arguments;                                \
    return rc != 0 && was_node(directory, path) ? 0 : rc;         \
  }

LBD_IGNORED(unlink, (const char* path), AT_FDCWD, path, (path))
LBD_IGNORED(unlinkat, (int at, const char* path, int flags), at, path, (at, path, flags))
LBD_IGNORED(remove, (const char* path), AT_FDCWD, path, (path))
LBD_IGNORED(rename, (const char* from, const char* to), AT_FDCWD, to, (from, to))
LBD_IGNORED(renameat, (int at, const char* from, int at_to, const char* to), at_to, to,
            (at, from, at_to, to))
LBD_IGNORED(symlink, (const char* target, const char* path), AT_FDCWD, path, (target, path))
LBD_IGNORED(symlinkat, (const char* target, int at, const char* path), at, path, (target, at, path))
LBD_IGNORED(mknod, (const char* path, mode_t mode, dev_t number), AT_FDCWD, path,
            (path, mode, number))
LBD_IGNORED(mknodat, (int at, const char* path, mode_t mode, dev_t number), at, path,
            (at, path, mode, number))
LBD_IGNORED(chown, (const char* path, uid_t user, gid_t group), AT_FDCWD, path, (path, user, group))
LBD_IGNORED(lchown, (const char* path, uid_t user, gid_t group), AT_FDCWD, path,
            (path, user, group))
LBD_IGNORED(fchownat, (int at, const char* path, uid_t user, gid_t group, int flags), at, path,
            (at, path, user, group, flags))
LBD_IGNORED(chmod, (const char* path, mode_t mode), AT_FDCWD, path, (path, mode))
LBD_IGNORED(fchmodat, (int at, const char* path, mode_t mode, int flags), at, path,
            (at, path, mode, flags))

// Nodes have no extended attributes.
#define LBD_NO_ATTRIBUTES(name, parameters, error, arguments)     \
  extern "C" ssize_t lbd_##name parameters LBD_INTERPOSES(#name); \
  extern "C" ssize_t lbd_##name parameters {                      \
    static next<ssize_t parameters> real(#name);                  \
    if (!is_node(AT_FDCWD, path)) return real arguments;          \
    errno = error;                                                \
    return error == 0 ? 0 : -1;                                   \
  }

LBD_NO_ATTRIBUTES(getxattr, (const char* path, const char* name, void* to, size_t bytes), ENODATA,
                  (path, name, to, bytes))
LBD_NO_ATTRIBUTES(lgetxattr, (const char* path, const char* name, void* to, size_t bytes), ENODATA,
                  (path, name, to, bytes))
LBD_NO_ATTRIBUTES(listxattr, (const char* path, char* to, size_t bytes), 0, (path, to, bytes))
LBD_NO_ATTRIBUTES(llistxattr, (const char* path, char* to, size_t bytes), 0, (path, to, bytes))

// A program built with an older C library makes nodes so.
extern "C" int lbd_xmknod(int version, const char* path, mode_t mode, const dev_t* number)
    LBD_INTERPOSES("__xmknod");
extern "C" int lbd_xmknod(int version, const char* path, mode_t mode, const dev_t* number) {
  (void)version;
  return lbd_mknod(path, mode, *number);
}

// The folder of the nodes is there.
extern "C" int lbd_mkdir(const char* path, mode_t mode) LBD_INTERPOSES("mkdir");
extern "C" int lbd_mkdir(const char* path, mode_t mode) {
  static next<int(const char*, mode_t)> real("mkdir");
  room<claim> c;
  if (claims(AT_FDCWD, path, c) && strcmp(c->path, "/dev/mapper") == 0) return fail(EEXIST);
  if (names_ours(AT_FDCWD, path, c)) return fail(EEXIST);
  return real(path, mode);
}

}  // namespace lbd::preload
