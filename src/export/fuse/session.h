// SPDX-License-Identifier: MIT
// One mounted folder: the kernel's side of it (libfuse's session), its open files, and the readers
// that take requests from it.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "export/fuse/catalog.h"
#include "export/fuse/mount.h"
#include "export/fuse/reader.h"
#include "rt/blocking.h"
#include "rt/sync.h"

struct fuse_session;
struct fuse_lowlevel_ops;

namespace lbd::fuse {

// An open file, counted: the kernel's, and one for each request under way. The last one to let go
// closes the device, on the home reactor.
class open_file {
 public:
  open_file(session& owner, uint64_t id, block::opened_device opened, bool writable)
      : owner_(owner), id_(id), opened_(std::move(opened)), writable_(writable) {}
  block::block_device& device() const noexcept { return *opened_.device; }
  uint64_t id() const noexcept { return id_; }
  bool writable() const noexcept { return writable_; }
  void hold() noexcept { users_.fetch_add(1, std::memory_order_relaxed); }
  void let_go();

 private:
  ~open_file() = default;
  session& owner_;
  const uint64_t id_;
  block::opened_device opened_;
  const bool writable_;
  std::atomic<unsigned> users_{1};
};

// A folder being read: as it was when it was opened.
struct listing {
  std::vector<entry> entries;
};

class session {
 public:
  session(rt::runtime& runtime, catalog& devices, std::string folder, mount_options options);
  ~session();
  session(const session&) = delete;
  session& operator=(const session&) = delete;

  const std::string& folder() const noexcept { return folder_; }
  mount_info info() const;
  catalog& devices() noexcept { return devices_; }
  ::fuse_session* handle() noexcept { return handle_; }
  int descriptor() const noexcept { return descriptor_; }
  // When the folder was changed last: the files' time as well.
  int64_t made_seconds() const noexcept { return made_seconds_; }

  // The reader of the calling reactor.
  reader& reader_here() noexcept { return *readers_[rt::reactor::current().index()]; }
  // Runs `work` on the home reactor: at once when that is this one.
  template <class F>
  void at_home(F work) {
    if (&rt::reactor::current() == &home()) return work();
    rt::tell(home(), std::move(work));
  }

  // Everything below on the home reactor.

  rt::task<base::outcome<void>> start();
  rt::task<base::outcome<void>> stop(bool in_use);
  rt::task<void> settle();
  void changed(uint64_t id);
  void on_end(std::function<void()> told) { told_end_ = std::move(told); }
  // A reader has found that the folder is no longer mounted.
  void ended();

  base::result<open_file*> open(uint64_t id, bool writable);
  bool is_open(uint64_t id) const { return open_files_.contains(id); }
  // It is about to go.
  void closed(const open_file& f);
  listing& open_listing();
  void close_listing(const listing& l);

 private:
  rt::reactor& home() noexcept { return runtime_.at(0); }
  base::outcome<void> mount_now();
  void drop_left_over();
  rt::task<void> forget_cached(uint64_t id);

  rt::runtime& runtime_;
  catalog& devices_;
  std::string folder_;
  const mount_options options_;
  int64_t made_seconds_ = 0;
  ::fuse_session* handle_ = nullptr;
  int descriptor_ = -1;
  std::vector<std::unique_ptr<reader>> readers_;    // by reactor; some have none
  std::multimap<uint64_t, open_file*> open_files_;  // by device
  std::vector<std::unique_ptr<listing>> listings_;
  // Unmounted by whomever; this side is about to end, has ended.
  bool ended_ = false, stopping_ = false, stopped_ = false;
  std::set<uint64_t> missed_;  // devices that have changed while it was stopping
  rt::mutex stop_lock_;
  std::function<void()> told_end_;
  // Mounts, unmounts, and tells the kernel what to forget: that waits for pages which are being
  // read, and so for the readers.
  rt::blocking_threads worker_{1};
};

// What the kernel may ask for (files.cc, data.cc).
const ::fuse_lowlevel_ops& operations() noexcept;

}  // namespace lbd::fuse
