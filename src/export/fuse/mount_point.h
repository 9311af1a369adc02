// SPDX-License-Identifier: MIT
// The folder that is mounted on: what is there before, and taking it away. All of it blocks.
#pragma once

#include <string>

#include "base/result.h"

namespace lbd::fuse {

struct mount_point {
  std::string folder;  // absolute, without symbolic links
  int64_t changed_seconds = 0;
};

// Takes away what a dead process has left mounted there. Errors: noent, ENOTDIR, busy (a living
// process of LBD has mounted there).
base::outcome<mount_point> prepare_mount_point(const std::string& folder);

// Takes away what a process that is known to be dead has left mounted there, if it is there.
base::outcome<void> drop_dead_mount(const std::string& folder);

// Takes the topmost mount of a folder away, directly or by fusermount3. With `in_use` also when
// programs use it: they keep what they have open, but nobody finds it any more. Errors: busy.
base::outcome<void> unmount(const std::string& folder, bool in_use);

// Whether this process may mount at all; the reason, if not. Errors: those of opening /dev/fuse.
base::outcome<void> check_fuse();

}  // namespace lbd::fuse
