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
  settings& s = the_settings;
  s.enabled = take(s.socket, sizeof s.socket, environment("LBD_RUN_SOCKET")) && s.socket[0] != 0;
  take(s.view, sizeof s.view, environment("LBD_RUN_VIEW"));
  take(s.mount, sizeof s.mount, environment("LBD_RUN_MOUNT"));
  take_disks(s, environment("LBD_RUN_DISKS"));
  struct stat st;
  if (s.mount[0] != 0 && sys::stat_at(AT_FDCWD, s.mount, &st, 0) == 0) s.mount_device = st.st_dev;
}

__attribute__((constructor)) void load_settings() { (void)current(); }

// The next part of a path: what lies between slashes. False at the end.
bool next_part(const char*& path, const char*& part, size_t& length) {
  while (*path == '/') ++path;
  part = path;
  while (*path != '\0' && *path != '/') ++path;
  length = static_cast<size_t>(path - part);
  return length != 0;
}
bool is_up(const char* part, size_t length) {
  return length == 2 && part[0] == '.' && part[1] == '.';
}
bool is_here(const char* part, size_t length) { return length == 1 && part[0] == '.'; }

// Whether the words of an absolute path are in their simplest form.
bool is_simple(const char* path) {
  for (const char* at = path; *at != '\0'; ++at)
    if (at[0] == '/' && (at[1] == '/' || at[1] == '.')) return false;
  return true;
}

// The path of an open folder, or of the current one.
bool path_of_folder(int directory, path_buffer& out) {
  const errno_keeper keep;
  if (directory != AT_FDCWD) return path_of_fd(directory, out) && out[0] == '/';
  return syscall(SYS_getcwd, out, sizeof out) > 0 && out[0] == '/';
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

// Goes through a path from left to right.
class walker {
 public:
  explicit walker(path_buffer& out) : out_(out) {}

  // The absolute path that `path` means.
  bool walk(int directory, const char* path) {
    used_ = 0;
    if (path[0] != '/') {
      if (!path_of_folder(directory, out_)) return false;
      used_ = out_[1] == '\0' ? 0 : strlen(out_);
    }
    const char* part = nullptr;
    for (size_t length = 0; next_part(path, part, length);) {
      if (is_here(part, length)) continue;
      if (is_up(part, length)) {
        go_up();
        continue;
      }
      if (used_ + length + 2 > sizeof out_) return false;
      out_[used_++] = '/';
      memcpy(out_ + used_, part, length);
      used_ += length;
      out_[used_] = '\0';
      may_be_link_ = true;
    }
    leave_view();
    if (used_ == 0) memcpy(out_, "/", 2);
    return true;
  }
  // It led through the daemon's folder, of which the kernel must not see anything.
  bool was_in_view() const { return was_in_view_; }

 private:
  // A file of the daemon's folder stands for one of the kernel's.
  void leave_view() {
    if (used_ == 0) return;
    out_[used_] = '\0';
    const char* rest = below(out_, current().view);
    if (rest == nullptr || *rest == '\0') return;
    used_ = strlen(rest);
    memmove(out_, rest, used_ + 1);
    was_in_view_ = true;
  }

  // Links are followed before "..", where there are some of LBD's.
  void go_up() {
    leave_view();
    if (may_be_link_ && below(out_, "/sys") != nullptr) follow();
    while (used_ != 0 && out_[--used_] != '/') {
    }
    out_[used_] = '\0';
  }

  void follow() {
    const errno_keeper keep;
    room<found> n;
    if (n.get() == nullptr) return;
    const char* place = out_;
    if (is_claimed(out_) && look_up(out_, *n) == 0 && n->facts.kind == face::node_file)
      place = n->path;
    const int fd = sys::open(place, O_PATH | O_CLOEXEC);
    if (fd < 0) return;
    const bool known = path_of_fd(fd, n->path);
    sys::close(fd);
    if (!known) return;
    used_ = strlen(n->path);
    memcpy(out_, n->path, used_ + 1);
    may_be_link_ = false;
    leave_view();
  }

  path_buffer& out_;
  size_t used_ = 0;
  bool may_be_link_ = false;  // below what is known to be without links
  bool was_in_view_ = false;
};

// Whether it needs no closer look to see that LBD has no part in a path.
bool is_surely_not_claimed(const char* path) {
  return path[0] == '/' && is_simple(path) && !is_claimed(path) &&
         below(path, current().view) == nullptr;
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
  if (length == 0 || strncmp(path, folder, length) != 0) return nullptr;
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

namespace {

// Disks of others, in other programs of the same daemon, are just files here.
bool is_own_disk(const face::node& n) {
  const settings& s = current();
  for (unsigned i = 0; i < s.disk_count; ++i)
    if (s.disks[i].major == n.major && s.disks[i].minor == n.minor) return true;
  return false;
}

// From a link of LBD's own to what it leads to.
bool go_through(claim& c) {
  if (c.what.facts.kind != face::node_link) return true;
  memcpy(c.path, c.what.path, sizeof c.path);
  c.error = look_up(c.path, c.what);
  return true;
}

}  // namespace

bool claims(int directory, const char* path, room<claim>& to) {
  if (path == nullptr || path[0] == '\0' || !current().enabled) return false;
  if (is_surely_not_claimed(path)) return false;
  claim* const c = to.get();
  if (c == nullptr) return false;
  walker w(c->path);
  if (!w.walk(directory, path)) return false;
  c->error = 0;
  c->what.facts = face::node{};
  if (!is_claimed(c->path)) {
    const errno_keeper keep;
    struct stat st;
    const bool missing =
        w.was_in_view() && sys::stat_at(AT_FDCWD, c->path, &st, AT_SYMLINK_NOFOLLOW) != 0;
    if (missing) c->error = look_up(c->path, c->what);
    return w.was_in_view() && go_through(*c);
  }
  c->error = look_up(c->path, c->what);
  // Nothing of LBD's lies there: then the kernel has to see the path as it came, for it follows
  // links before it goes up by "..".
  const bool elsewhere = c->error == 0 && c->what.facts.kind == face::node_elsewhere;
  return !elsewhere || w.was_in_view() || is_device_path(c->path);
}

bool names_ours(int directory, const char* path, room<claim>& to) {
  if (path == nullptr || path[0] == '\0' || !current().enabled) return false;
  if (path[0] == '/' && is_simple(path) && strncmp(path, "/dev/", 5) != 0) return false;
  claim* const c = to.get();
  if (c == nullptr || !walker(c->path).walk(directory, path)) return false;
  if (strncmp(c->path, "/dev/", 5) != 0) return false;
  c->error = look_up(c->path, c->what);
  const uint32_t kind = c->what.facts.kind;
  if (c->error != 0 || kind == face::node_elsewhere) return false;
  return kind != face::node_disk || is_own_disk(c->what.facts);
}

bool follow_to_claimed(int directory, const char* path, room<claim>& to) {
  if (path == nullptr || !current().enabled) return false;
  const errno_keeper keep;
  if (names_ours(directory, path, to)) return go_through(*to);
  char first = '\0';
  if (syscall(SYS_readlinkat, directory, path, &first, 1) != 1) return false;
  room<path_buffer> place, target;
  if (place.get() == nullptr || target.get() == nullptr) return false;
  path_buffer &here = *place, &next_one = *target;
  if (!walker(here).walk(directory, path)) return false;
  for (int links = 0; links < 8; ++links) {
    const ssize_t length = sys::read_link(here, next_one, sizeof next_one - 1);
    if (length <= 0) return false;
    next_one[length] = '\0';
    // A relative link begins in its own folder.
    const size_t kept = next_one[0] == '/' ? 0 : static_cast<size_t>(strrchr(here, '/') - here) + 1;
    if (kept + static_cast<size_t>(length) >= sizeof here) return false;
    memcpy(here + kept, next_one, static_cast<size_t>(length) + 1);
    if (claims(AT_FDCWD, here, to)) return true;
    if (names_ours(AT_FDCWD, here, to)) return go_through(*to);
  }
  return false;
}

}  // namespace lbd::preload
