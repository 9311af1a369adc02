// SPDX-License-Identifier: MIT
// Gluster's client library, libgfapi, as far as LBD uses it: our own declarations of its C
// interface (version 6 and later), loaded at first use, so that LBD neither needs it to be built
// nor to run where there is no Gluster.
#pragma once

#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "base/result.h"

struct dirent;
struct flock;

// The library's own objects.
struct glfs;
struct glfs_fd;
struct glfs_stat;

namespace lbd::store {

// Called on a thread of the library, or inside the call that asked for it. `ret` is bytes or -1
// with errno set in that thread.
using glfs_callback = void (*)(glfs_fd*, ssize_t ret, glfs_stat* before, glfs_stat* after,
                               void* data);

// The functions, named as in the library without their "glfs_".
struct gfapi {
  glfs* (*make)(const char* volume);  // glfs_new
  int (*set_volfile_server)(glfs*, const char* transport, const char* host, int port);
  int (*set_logging)(glfs*, const char* file, int level);
  int (*set_xlator_option)(glfs*, const char* translator, const char* key, const char* value);
  int (*init)(glfs*);
  int (*fini)(glfs*);  // takes ten seconds in versions 10 and 11

  glfs_fd* (*open)(glfs*, const char* path, int flags);
  glfs_fd* (*creat)(glfs*, const char* path, int flags, mode_t mode);
  int (*close)(glfs_fd*);
  int (*stat)(glfs*, const char* path, struct stat*);
  int (*fstat)(glfs_fd*, struct stat*);
  int (*unlink)(glfs*, const char* path);
  off_t (*lseek)(glfs_fd*, off_t offset, int whence);
  // Locks of one owner do not get into each other's way; they vanish with the open file.
  int (*fd_set_lkowner)(glfs_fd*, void* owner, int length);
  int (*posix_lock)(glfs_fd*, int command, struct flock*);
  glfs_fd* (*opendir)(glfs*, const char* path);
  struct dirent* (*readdirplus)(glfs_fd*, struct stat*);
  int (*closedir)(glfs_fd*);

  // The vectors are copied before these return, the bytes of reads are written until the callback.
  int (*preadv_async)(glfs_fd*, const iovec*, int count, off_t offset, int flags, glfs_callback,
                      void* data);
  int (*pwritev_async)(glfs_fd*, const iovec*, int count, off_t offset, int flags, glfs_callback,
                       void* data);
  int (*fdatasync_async)(glfs_fd*, glfs_callback, void* data);
  int (*ftruncate_async)(glfs_fd*, off_t length, glfs_callback, void* data);
  int (*discard_async)(glfs_fd*, off_t offset, size_t length, glfs_callback, void* data);
  int (*zerofill_async)(glfs_fd*, off_t offset, off_t length, glfs_callback, void* data);
};

// Loads the library, once; blocks. LBD_GFAPI names another file to load in its place (tests).
// Errors: notsup; the message says what to install.
base::outcome<const gfapi*> load_gfapi();

}  // namespace lbd::store
