// SPDX-License-Identifier: MIT
// The library that `lbd run` loads into programs: /dev/mapper/control is LBD there, its devices and
// the named disk files are block devices, and the kernel's files about block devices tell of them.
// Whatever is no business of LBD's goes to the C library as it came.
//
// Rules of this folder: no state but what init finds in the environment, so that fork, exec, dup
// and threads need no care; the C library's allocator is not used, and paths do not lie on the
// stack, of which threads may have little (room); own needs are met by system calls (sys::),
// because the C library's names are this library's here; errno stays as it was after success.
#pragma once

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "wire/dm/face.h"

// Gives a function the C library's name. Its own name stays clear of the library's declaration.
#define LBD_INTERPOSES(name) __asm__(name) __attribute__((visibility("default")))

namespace lbd::preload {

namespace face = dm::face;

constexpr size_t path_bytes = 4096;
using path_buffer = char[path_bytes];

// The next function of that name: the C library's.
template <class F>
class next;
template <class R, class... A>
class next<R(A...)> {
 public:
  constexpr explicit next(const char* name) : name_(name), found_(nullptr) {}
  R operator()(A... args) {
    void* f = __atomic_load_n(&found_, __ATOMIC_RELAXED);
    if (f == nullptr) {
      f = dlsym(RTLD_NEXT, name_);
      __atomic_store_n(&found_, f, __ATOMIC_RELAXED);
    }
    return reinterpret_cast<R (*)(A...)>(f)(args...);
  }

 private:
  const char* name_;
  void* found_;
};

// Keeps errno over a look that the program did not ask for.
class errno_keeper {
 public:
  errno_keeper() : kept_(errno) {}
  ~errno_keeper() { errno = kept_; }

 private:
  const int kept_;
};

namespace sys {
int open(const char* path, int flags);
int close(int fd);
int stat_at(int directory, const char* path, struct stat* to, int flags);
ssize_t read_link(const char* path, char* to, size_t bytes);
}  // namespace sys

// A plain T of this call alone, in memory of its own from the first get() on. Its bytes are zero.
template <class T>
class room {
 public:
  room() = default;
  ~room() {
    const errno_keeper keep;
    if (at_ != nullptr) syscall(SYS_munmap, at_, sizeof(T));
  }
  room(const room&) = delete;
  room& operator=(const room&) = delete;

  // nullptr: there is no memory.
  T* get() {
    if (at_ != nullptr) return at_;
    const errno_keeper keep;
    const long made = syscall(SYS_mmap, nullptr, sizeof(T), PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS, -1, 0L);
    if (made != -1) at_ = reinterpret_cast<T*>(made);
    return at_;
  }
  // REQUIRES: get() was not nullptr.
  T& operator*() const { return *at_; }
  T* operator->() const { return at_; }

 private:
  T* at_ = nullptr;
};

struct disk {
  uint64_t device, inode;  // of the file
  uint32_t major, minor;
};

// What `lbd run` has left in the environment.
struct settings {
  bool enabled;
  char socket[108];
  path_buffer view;   // the daemon's folder of files that stand for the kernel's
  path_buffer mount;  // where devices are files; may be empty
  uint64_t mount_device;
  disk disks[64];
  unsigned disk_count;
};
const settings& current();

struct found {
  face::node facts;
  path_buffer path;
};
// A path that is LBD's affair.
struct claim {
  path_buffer path;  // absolute, without "." and ".."
  int error;         // of looking it up, an errno value; 0: `what` is it
  found what;
};

// --- paths.cc

// Whether LBD's affair lies there; `to` then has a claim. A path below the daemon's folder is the
// path it stands for.
bool claims(int directory, const char* path, room<claim>& to);
// For when nothing is found at `path`: it may be a name in /dev that only LBD has.
bool names_ours(int directory, const char* path, room<claim>& to);
// The same, and it may be a link to something of LBD's: follows it to that.
bool follow_to_claimed(int directory, const char* path, room<claim>& to);
// The path of an open file. False when it has none.
bool path_of_fd(int fd, path_buffer& out);
// The rest of `path` if `folder` is above it or the same, else nullptr.
const char* below(const char* path, const char* folder);
bool is_device_path(const char* absolute);

// --- daemon.cc

// All answer 0, or an errno value.
int look_up(const char* absolute, found& out);
int find_number(uint32_t major, uint32_t minor, face::node& out);
int find_file(uint64_t inode, face::node& out);
int set_read_ahead(uint32_t major, uint32_t minor, uint32_t sectors);
// A connection that stands for the control node; -1 with errno.
int open_control(int flags);
bool is_control(int fd);
int control_ioctl(int fd, unsigned command, void* buffer);
void complain(const char* path, const char* text);

// --- status.cc

// Whether this is a block device here: a disk file, or a file of the mount. `out` is filled.
bool block_device_of(const struct stat& st, face::node& out);
bool is_disk_file(int directory, const char* path);
// Whether a disk file is open there, and how much of it is the disk.
bool is_open_disk(int fd, uint64_t& size_bytes);

// --- block.cc

// True when it was a request to a block device of ours; `result` is -1 with errno, or not.
bool block_ioctl(int fd, unsigned long request, void* argument, int& result);

}  // namespace lbd::preload
