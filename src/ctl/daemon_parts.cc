// SPDX-License-Identifier: MIT
// The parts of the daemon, each in files of its own.
#include "ctl/daemon.h"

namespace lbd::ctl {

void add_parts(daemon& to) {
  add_device_methods(to);
  add_export_service(to);
  mounts& folders = add_mounts(to);
  add_dm_service(to, folders);
}

}  // namespace lbd::ctl
