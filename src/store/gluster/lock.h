// SPDX-License-Identifier: MIT
// The lock of an image: one writer or several readers, of all hosts, on bytes that QEMU's file
// driver locks, too (block/image_lock.h), so that a QEMU that comes by way of a mounted volume is
// kept out.
#pragma once

#include <memory>
#include <string>

#include "base/result.h"
#include "rt/file.h"
#include "rt/task.h"
#include "store/gluster/volume.h"

namespace lbd::store {

// Locks `path` for what `info` says, and leaves the lock with `image`. What was locked: none, with
// a warning, where the servers have no locks. Errors: busy, after two seconds in which a program
// that ended just now may give up its lock; timed_out, and what else the servers say.
rt::task<base::outcome<rt::lock_kind>> lock_gluster_image(std::shared_ptr<gluster_volume> volume,
                                                          std::shared_ptr<gluster_fd> image,
                                                          rt::file_info info, std::string path,
                                                          uint64_t due_ns);
// A writer that only reads from now on. Blocks.
void downgrade_gluster_lock(gluster_fd& holder);

// Whether what is held says the same as a lock on these bytes.
bool gluster_lock_covers(rt::lock_kind held, uint64_t first, uint64_t count) noexcept;

}  // namespace lbd::store
