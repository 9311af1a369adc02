// SPDX-License-Identifier: MIT
// A folder that shows devices as files, by FUSE: for every program, without root.
//
// A file has its device's name and size. Programs that open it with O_DIRECT reach the device with
// each request; the others, and memory mappings, go through the page cache: writes pass it at once,
// what was read stays there until the file is closed by all, or the device's table or size changes.
// Files cannot be made, removed, renamed or resized; opening one counts as opening the device.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "base/result.h"
#include "export/fuse/catalog.h"
#include "rt/runtime.h"

namespace lbd::fuse {

struct mount_options {
  // Users other than the one who mounts get in, as the files' modes say (as fuse.conf allows).
  bool others = false;
  // Served on so many reactors; 0: one.
  unsigned reactors = 0;
};

struct mount_info {
  std::string folder;
  uint64_t requests = 0;  // since the beginning
  unsigned in_flight = 0;
  unsigned open_files = 0;
};

class session;

// Everything on reactor 0.
class mount {
 public:
  // Mounts on an existing folder. What a dead process left mounted there is taken away first.
  // Errors: noent, ENOTDIR, busy (another living mount), access, and what the kernel says.
  static rt::task<base::outcome<std::unique_ptr<mount>>> start(rt::runtime& runtime,
                                                               catalog& devices, std::string folder,
                                                               mount_options options);
  // REQUIRES: stop() has succeeded.
  ~mount();
  mount(const mount&) = delete;
  mount& operator=(const mount&) = delete;

  // Absolute.
  const std::string& folder() const noexcept;
  mount_info info() const;

  // Unmounts. Errors: busy, when files are open or somebody stands in the folder, unless `in_use`:
  // then what is under way is answered with an error, and open files are dead. Returns when the
  // devices have done what they had begun; one that is suspended has to be resumed for that.
  rt::task<base::outcome<void>> stop(bool in_use);
  // Called when somebody else has unmounted the folder; stop() is still to be called, later.
  void on_end(std::function<void()> told);

  // Afterwards files that programs closed before the call are closed here as well: the kernel tells
  // of that a moment later.
  rt::task<void> settle();
  // The device has another table or size: what the page cache holds of it is forgotten.
  void changed(uint64_t id);

 private:
  explicit mount(std::unique_ptr<session> s);
  std::unique_ptr<session> session_;
};

}  // namespace lbd::fuse
