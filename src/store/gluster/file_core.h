// SPDX-License-Identifier: MIT
// The inside of a Gluster file: its requests, their bounds, its syncs.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "rt/file.h"
#include "rt/gate.h"
#include "rt/runtime.h"
#include "rt/sync.h"
#include "store/gluster/unsynced.h"
#include "store/gluster/volume.h"

namespace lbd::store {

// What one request asks of the library.
struct gluster_request {
  enum class kind : uint8_t { read, write, sync, resize, zero, discard };
  kind what = kind::read;
  uint64_t offset = 0, length = 0;  // bytes; resize: the new size is `length`
  rt::segments to = {};             // read
  rt::buffer bytes = {};            // write: the first `length` bytes; given back by the answer
};
// Bytes done, or -errno.
struct gluster_answer {
  int64_t result = 0;
  rt::buffer bytes = {};
};

class gluster_file_core : public std::enable_shared_from_this<gluster_file_core> {
 public:
  gluster_file_core(rt::runtime& runtime, std::shared_ptr<gluster_fd> fd, std::string name,
                    uint64_t limit_ns);

  // One request of a file; any reactor. Bytes done (may be short) or -errno.
  rt::task<int64_t> perform(const rt::io_request& r);
  rt::task<base::result<rt::file_extent>> find_extent(uint64_t offset);
  // A sync that nobody asked for is under way.
  bool syncs_by_itself() const noexcept { return background_.load(std::memory_order_acquire); }
  // Calls that were given up are still with the library.
  bool has_late_calls() const noexcept { return *fd_->late != 0 || *fd_->late_reads != 0; }
  const std::shared_ptr<gluster_fd>& fd() const noexcept { return fd_; }

 private:
  struct alignas(64) slot {
    rt::semaphore requests;
    slot();
  };

  rt::task<int64_t> read(const rt::io_request& r);
  rt::task<int64_t> change(const rt::io_request& r);
  rt::task<int64_t> change_inside_gate(gluster_request what);
  rt::task<int64_t> do_change(gluster_request what);
  rt::task<int64_t> sync();
  rt::task<int64_t> sync_here();
  rt::task<int64_t> write_again();
  rt::task<int64_t> write_again(const unsynced_piece& p);
  rt::task<base::result<rt::file_extent>> find_extent_here(uint64_t offset);
  rt::task<int64_t> keep_bounded();
  static rt::task<void> sync_in_background(std::shared_ptr<gluster_file_core> core);
  rt::task<bool> trim_here();
  // Calls the library and waits, at most the time that requests have.
  rt::task<gluster_answer> call(gluster_request what);
  bool too_much_late(bool reads) const noexcept;
  void note(bool reads, const char* what, int64_t result) noexcept;
  uint64_t due_ns() const noexcept;

  rt::runtime& runtime_;
  const std::shared_ptr<gluster_fd> fd_;
  const std::string name_;
  const uint64_t limit_ns_;  // 0: none
  std::vector<slot> slots_;
  rt::gate changes_;  // closed while changes are written again
  unsynced_log log_;
  rt::reactor& home_;  // of what follows
  rt::mutex syncing_, seeking_;
  bool must_write_again_ = false;
  std::atomic<bool> background_{false};
  // What the log says of reads [1] and of everything else.
  struct run_of_failures {
    std::atomic<bool> told{false};
    std::atomic<uint64_t> told_ns{0};
  };
  run_of_failures failures_[2];
};

}  // namespace lbd::store
