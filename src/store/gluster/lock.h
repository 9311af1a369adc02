// SPDX-License-Identifier: MIT
// The lock of an image: one writer or several readers, of all hosts, on bytes that QEMU's file
// driver locks, too (block/image_lock.h), so that a QEMU that comes by way of a mounted volume is
// kept out.
//
// It is held by an open file of its own. Servers forget locks when they are started anew, and the
// library may lose them when it changes its translators for new options of the volume: if it cannot
// move them, that file can do nothing more. So the lock is asked for again every few seconds
// (gluster_volumes), by another file where that has to be.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>

#include "base/result.h"
#include "rt/file.h"
#include "rt/task.h"
#include "store/gluster/volume.h"

namespace lbd::store {

// All calls block, one at a time. Dropping the object gives the lock back as well, sooner or later.
class gluster_image_lock {
 public:
  // `servers_lost` is the image's (gluster_fd).
  gluster_image_lock(std::shared_ptr<gluster_volume> volume, rt::file_info info, std::string path,
                     std::shared_ptr<std::atomic<bool>> servers_lost)
      : volume_(std::move(volume)),
        info_(std::move(info)),
        path_(std::move(path)),
        servers_lost_(std::move(servers_lost)) {}

  // For a writer or a reader as `info` said; 0 or errno.
  int take();
  // What is lost is taken again, if nobody else has it by now; the log tells when somebody has.
  // Servers that are away then are told to the image: between requests nobody else would notice.
  void renew();
  // A writer that only reads from now on.
  void become_reader();
  void give_back();

  gluster_volume& volume() const noexcept { return *volume_; }

 private:
  int take_by_new_file();
  int ask();
  void tell(int error);

  const std::shared_ptr<gluster_volume> volume_;
  rt::file_info info_;
  const std::string path_;
  const std::shared_ptr<std::atomic<bool>> servers_lost_;
  std::mutex calls_;  // and of what follows
  std::shared_ptr<gluster_fd> holder_;
  unsigned refused_ = 0;  // times in a row
};

// Locks `path`, which `image` is, for what `info` says, and leaves the lock with `image`. What was
// locked: none, with a warning, where the servers have no locks. Errors: busy, after two seconds in
// which a program that ended just now may give up its lock; timed_out, and what else the servers
// say.
rt::task<base::outcome<rt::lock_kind>> lock_gluster_image(std::shared_ptr<gluster_volume> volume,
                                                          std::shared_ptr<gluster_fd> image,
                                                          rt::file_info info, std::string path,
                                                          uint64_t due_ns);

// Whether what is held says the same as a lock on these bytes.
bool gluster_lock_covers(rt::lock_kind held, uint64_t first, uint64_t count) noexcept;

}  // namespace lbd::store
