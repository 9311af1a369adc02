// SPDX-License-Identifier: MIT
// The folders in which a daemon shows its devices as files (export/fuse): those that users ask for,
// and one of its own for programs under `lbd run`. Reactor 0 only.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "ctl/daemon.h"
#include "export/fuse/mount.h"

namespace lbd::ctl {

// The daemon's devices, as mounted folders see them.
class device_catalog final : public fuse::catalog {
 public:
  explicit device_catalog(stack::device_manager& devices) : devices_(devices) {}

  std::vector<fuse::entry> list() const override;
  std::optional<fuse::entry> find(const std::string& name) const override;
  std::optional<fuse::entry> find(uint64_t id) const override;
  base::outcome<block::opened_device> open(uint64_t id, bool writable) override;

  uint64_t id_of(block::device_number number) const;
  std::optional<block::device_number> number_of(uint64_t id) const;
  // The number may be given to another device.
  void forget(block::device_number number) { ids_.erase(number); }

 private:
  fuse::entry entry_of(const stack::device_state& s) const;

  stack::device_manager& devices_;
  mutable std::map<block::device_number, uint64_t> ids_;
  mutable uint64_t last_id_ = 0;
};

class mounts final : public service {
 public:
  explicit mounts(daemon& d);
  // REQUIRES: close() has completed.
  ~mounts() override;

  // The folder exists and is absolute. Returns its true path. Errors: as of fuse::mount::start().
  rt::task<base::outcome<std::string>> add(std::string folder, fuse::mount_options how);
  // Errors: noent (not mounted by this daemon), busy (in use, unless that is allowed).
  rt::task<base::outcome<void>> remove(std::string folder, bool in_use);
  std::vector<fuse::mount_info> list() const;

  // The daemon's own folder, where each device has its name: made by the first call, in the runtime
  // folder. Errors: why there can be none.
  rt::task<base::outcome<std::string>> private_folder();
  // Empty before that.
  const std::string& private_path() const noexcept { return private_; }

  // Whose file has this inode number there.
  std::optional<block::device_number> device_of_inode(uint64_t inode) const {
    return catalog_.number_of(fuse::id_of(inode));
  }

  // Afterwards files that programs have closed before the call no longer keep a device open.
  rt::task<void> settle();
  // Whether a path leads into one of the folders. This process must not follow it there: the kernel
  // would ask this very process what lies there, and wait. Asks nothing of the folders.
  bool leads_inside(const std::string& path) const;

  rt::task<base::outcome<void>> close() override;

 private:
  void hear(const stack::device_event& e);
  void ended(const fuse::mount* which);
  rt::task<void> drop(const fuse::mount* which);
  rt::task<base::outcome<void>> stop(std::shared_ptr<fuse::mount> m, bool in_use);
  void remove_leftovers();

  daemon& daemon_;
  device_catalog catalog_;
  std::vector<std::shared_ptr<fuse::mount>> mounts_;
  std::multiset<std::string> coming_;  // folders that are being mounted
  std::string private_;
  rt::mutex making_private_;
  bool closing_ = false;
};

}  // namespace lbd::ctl
