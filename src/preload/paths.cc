// SPDX-License-Identifier: MIT
#include <stdlib.h>

#include "preload/preload.h"

extern "C" char** environ;

namespace lbd::preload {

namespace {

settings the_settings;
int ready;  // 0: not looked yet, 1: done

const char* environment(const char* name) {
  const size_t length = strlen(name);
  for (char** e = environ; e != nullptr && *e != nullptr; ++e)
    if (strncmp(*e, name, length) == 0 && (*e)[length] == '=') return *e + length + 1;
  return "";
}

bool take(char* to, size_t bytes, const char* text) {
  const size_t length = strlen(text);
  if (length >= bytes) return false;
  memcpy(to, text, length + 1);
  return true;
}

// "DEVICE:INODE:MAJOR:MINOR", separated by commas.
void take_disks(settings& s, const char* text) {
  while (*text != '\0' && s.disk_count < sizeof s.disks / sizeof s.disks[0]) {
    uint64_t part[4];
    for (uint64_t& p : part) {
      char* end = nullptr;
      p = strtoull(text, &end, 10);
      text = *end == ':' ? end + 1 : end;
    }
    s.disks[s.disk_count++] = {part[0], part[1], static_cast<uint32_t>(part[2]),
                               static_cast<uint32_t>(part[3])};
    if (*text != ',') return;
    ++text;
  }
}

void prepare() {
  settings s{};
  s.enabled = take(s.socket, sizeof s.socket, environment("LBD_RUN_SOCKET")) && s.socket[0] != 0;
  take(s.view, sizeof s.view, environment("LBD_RUN_VIEW"));
  take(s.mount, sizeof s.mount, environment("LBD_RUN_MOUNT"));
  take_disks(s, environment("LBD_RUN_DISKS"));
  struct stat st;
  if (s.mount[0] != 0 && sys::stat_at(AT_FDCWD, s.mount, &st, 0) == 0) s.mount_device = st.st_dev;
  the_settings = s;
}

__attribute__((constructor)) void load_settings() { (void)current(); }

// Removes "//", "." and ".." from an absolute path.
void normalize(char* path) {
  char* out = path;
  const char* in = path;
  while (*in != '\0') {
    while (*in == '/') ++in;
    const char* end = in;
    while (*end != '\0' && *end != '/') ++end;
    const size_t length = static_cast<size_t>(end - in);
    if (length == 2 && in[0] == '.' && in[1] == '.') {
      while (out > path && *--out != '/') {
      }
    } else if (length != 0 && !(length == 1 && in[0] == '.')) {
      *out++ = '/';
      memmove(out, in, length);
      out += length;
    }
    in = end;
  }
  if (out == path) *out++ = '/';
  *out = '\0';
}

// The path of an open folder, or of the current one.
bool path_of_folder(int directory, path_buffer& out) {
  const errno_keeper keep;
  if (directory != AT_FDCWD) return path_of_fd(directory, out) && out[0] == '/';
  return syscall(SYS_getcwd, out, sizeof out) > 0 && out[0] == '/';
}

bool make_absolute(int directory, const char* path, path_buffer& out) {
  size_t used = 0;
  if (path[0] != '/') {
    if (!path_of_folder(directory, out)) return false;
    used = strlen(out);
    if (used + 1 >= sizeof out) return false;
    out[used++] = '/';
  }
  const size_t length = strlen(path);
  if (used + length >= sizeof out) return false;
  memcpy(out + used, path, length + 1);
  normalize(out);
  // A file of the daemon's folder stands for one of the kernel's.
  const char* view = current().view;
  if (view[0] == '\0') return true;
  const char* rest = below(out, view);
  if (rest != nullptr && *rest != '\0') memmove(out, rest, strlen(rest) + 1);
  return true;
}

bool is_claimed(const char* absolute) {
  if (strncmp(absolute, "/dev/", 5) == 0)
    return below(absolute, "/dev/mapper") != nullptr || is_device_path(absolute);
  if (strncmp(absolute, "/sys/", 5) == 0)
    return below(absolute, "/sys/dev/block") != nullptr ||
           below(absolute, "/sys/block") != nullptr ||
           below(absolute, "/sys/class/block") != nullptr ||
           below(absolute, "/sys/devices/virtual/block") != nullptr;
  if (strncmp(absolute, "/proc/", 6) == 0)
    return strcmp(absolute, "/proc/devices") == 0 || strcmp(absolute, "/proc/misc") == 0 ||
           strcmp(absolute, "/proc/partitions") == 0;
  return strcmp(absolute, "/run/udev/control") == 0 ||
         strncmp(absolute, "/run/udev/data/b", 16) == 0;
}

// Nothing of LBD's lies there: then the kernel has to see the path as it came, for it follows links
// before it goes up by "..". But a file of the daemon's folder has to be the kernel's.
bool is_elsewhere(int directory, const char* path, const char* absolute) {
  if (is_device_path(absolute)) return false;
  const errno_keeper keep;
  found n;
  if (look_up(absolute, n) != 0 || n.facts.kind != face::node_elsewhere) return false;
  const char* view = current().view;
  if (view[0] == '\0') return true;
  if (path[0] == '/') return below(path, view) == nullptr;
  path_buffer folder;
  return path_of_folder(directory, folder) && below(folder, view) == nullptr;
}

}  // namespace

namespace sys {

int open(const char* path, int flags) {
  return static_cast<int>(syscall(SYS_openat, AT_FDCWD, path, flags, 0));
}
int close(int fd) { return static_cast<int>(syscall(SYS_close, fd)); }
int stat_at(int directory, const char* path, struct stat* to, int flags) {
#ifdef SYS_newfstatat
  return static_cast<int>(syscall(SYS_newfstatat, directory, path, to, flags));
#else
  return static_cast<int>(syscall(SYS_fstatat, directory, path, to, flags));
#endif
}
ssize_t read_link(const char* path, char* to, size_t bytes) {
  return syscall(SYS_readlinkat, AT_FDCWD, path, to, bytes);
}

}  // namespace sys

// The first caller is the constructor, or another library's that came before it: one thread.
const settings& current() {
  if (__atomic_load_n(&ready, __ATOMIC_ACQUIRE) == 0) {
    const errno_keeper keep;
    prepare();
    __atomic_store_n(&ready, 1, __ATOMIC_RELEASE);
  }
  return the_settings;
}

const char* below(const char* path, const char* folder) {
  const size_t length = strlen(folder);
  if (strncmp(path, folder, length) != 0) return nullptr;
  return path[length] == '\0' || path[length] == '/' ? path + length : nullptr;
}

bool is_device_path(const char* absolute) {
  if (strncmp(absolute, "/dev/mapper/", 12) == 0) return true;
  return strncmp(absolute, "/dev/dm-", 8) == 0;
}

bool path_of_fd(int fd, path_buffer& out) {
  char link[32] = "/proc/self/fd/";
  char digits[12];
  size_t count = 0, at = strlen(link);
  for (unsigned n = static_cast<unsigned>(fd); count == 0 || n != 0; n /= 10)
    digits[count++] = static_cast<char>('0' + n % 10);
  while (count != 0) link[at++] = digits[--count];
  link[at] = '\0';
  const ssize_t length = sys::read_link(link, out, sizeof out - 1);
  if (length < 0) return false;
  out[length] = '\0';
  return true;
}

bool claims(int directory, const char* path, path_buffer& absolute) {
  if (path == nullptr || !current().enabled) return false;
  // Most paths are told apart by their first letters.
  if (path[0] == '/' && path[1] != '/' && path[1] != '.' && path[1] != 'd' && path[1] != 's' &&
      path[1] != 'p' && path[1] != 'r' && below(path, current().view) == nullptr)
    return false;
  return make_absolute(directory, path, absolute) && is_claimed(absolute) &&
         !is_elsewhere(directory, path, absolute);
}

bool follow_to_claimed(int directory, const char* path, path_buffer& absolute) {
  if (path == nullptr || !current().enabled) return false;
  const errno_keeper keep;
  path_buffer here, target;
  if (!make_absolute(directory, path, here)) return false;
  for (int links = 0; links < 8; ++links) {
    const ssize_t length = sys::read_link(here, target, sizeof target - 1);
    if (length <= 0) return false;
    target[length] = '\0';
    // A relative link begins in its own folder.
    path_buffer joined;
    size_t used = 0;
    if (target[0] != '/') {
      used = static_cast<size_t>(strrchr(here, '/') - here) + 1;
      if (used + static_cast<size_t>(length) >= sizeof joined) return false;
      memcpy(joined, here, used);
    }
    memcpy(joined + used, target, static_cast<size_t>(length) + 1);
    if (claims(AT_FDCWD, joined, absolute)) return true;
    memcpy(here, joined, sizeof here);
  }
  return false;
}

}  // namespace lbd::preload
