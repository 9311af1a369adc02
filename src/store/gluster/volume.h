// SPDX-License-Identifier: MIT
// One connection to a Gluster volume, shared by everything of this process that lies on the volume.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "rt/blocking.h"
#include "rt/call_thread.h"
#include "rt/runtime.h"
#include "rt/sync.h"
#include "store/gluster/gfapi.h"
#include "wire/uri/gluster_uri.h"

namespace lbd::store {

class gluster_image_lock;

// A connection that is up. Any thread. Its end is left to a thread that nobody waits for: the
// library needs ten seconds.
class gluster_volume : public std::enable_shared_from_this<gluster_volume> {
 public:
  gluster_volume(const gfapi& api, glfs* fs, std::shared_ptr<rt::blocking_threads> threads)
      : api_(api), fs_(fs), threads_(std::move(threads)) {}
  ~gluster_volume();
  gluster_volume(const gluster_volume&) = delete;
  gluster_volume& operator=(const gluster_volume&) = delete;

  const gfapi& api() const noexcept { return api_; }
  glfs* fs() const noexcept { return fs_; }
  // For the calls that block.
  rt::blocking_threads& threads() const noexcept { return *threads_; }
  // Where requests begin: beginning one may block, too, and holds up this volume only.
  rt::call_thread& calls() noexcept { return calls_; }

  // Set while a thread renews locks.
  std::atomic<bool> renews_locks{false};

 private:
  const gfapi& api_;
  glfs* const fs_;
  const std::shared_ptr<rt::blocking_threads> threads_;
  rt::call_thread calls_;
};

// An open file or folder. The last owner may be any thread: closing is left to one that may block.
class gluster_fd {
 public:
  gluster_fd(std::shared_ptr<gluster_volume> volume, glfs_fd* fd)
      : late(std::make_shared<std::atomic<uint64_t>>(0)),
        late_reads(std::make_shared<std::atomic<uint64_t>>(0)),
        servers_lost(std::make_shared<std::atomic<bool>>(false)),
        volume_(std::move(volume)),
        fd_(fd) {}
  ~gluster_fd();
  gluster_fd(const gluster_fd&) = delete;
  gluster_fd& operator=(const gluster_fd&) = delete;

  const gfapi& api() const noexcept { return volume_->api(); }
  glfs_fd* get() const noexcept { return fd_.load(std::memory_order_relaxed); }
  gluster_volume& volume() const noexcept { return *volume_; }
  // The caller closes it now; nothing else is asked of it from here on.
  glfs_fd* release() noexcept { return fd_.exchange(nullptr); }

  // Calls that were given up and have not ended: those that change the file, and reads.
  const std::shared_ptr<std::atomic<uint64_t>> late, late_reads;
  // Servers were away since the last sync began, perhaps without power: what they answered before
  // may be gone, and no sync of theirs would tell. Set before anybody hears of it.
  const std::shared_ptr<std::atomic<bool>> servers_lost;
  // Held while calls may reach this file. Not by this file itself: the library moves locks when it
  // changes its translators, and a file whose locks it cannot move is lost.
  std::shared_ptr<gluster_image_lock> lock;

 private:
  const std::shared_ptr<gluster_volume> volume_;
  std::atomic<glfs_fd*> fd_;
};

// The process's connections: one per volume and servers, as long as somebody uses it. The one used
// last is kept a moment longer: looking at an image and opening it then is one connection. Reactor
// 0 only.
class gluster_volumes {
 public:
  gluster_volumes();
  ~gluster_volumes();
  gluster_volumes(const gluster_volumes&) = delete;
  gluster_volumes& operator=(const gluster_volumes&) = delete;

  // Connects, or shares the connection that there is. On any reactor. Errors name the volume and
  // the servers; timed_out when the servers say nothing for `timeout=`, a minute without one.
  static rt::task<base::outcome<std::shared_ptr<gluster_volume>>> get(rt::runtime& runtime,
                                                                      uri::gluster_source from);
  // Renews the lock from time to time as long as it is there. On any reactor.
  static rt::task<void> keep_locked(rt::runtime& runtime, std::shared_ptr<gluster_image_lock> lock);
  // All of them now; waits for nothing.
  void renew_locks();

 private:
  struct entry {
    std::weak_ptr<gluster_volume> volume;
    rt::mutex connecting;
  };
  rt::task<base::outcome<std::shared_ptr<gluster_volume>>> get_here(uri::gluster_source from);

  void keep_a_while(std::shared_ptr<gluster_volume> volume);

  struct alarm : rt::timer {
    gluster_volumes* owner = nullptr;
  };
  static constexpr uint64_t keep_ns = 2'000'000'000, renew_ns = 5'000'000'000;

  rt::reactor& home_ = rt::reactor::current();
  std::map<std::string, entry> entries_;
  std::shared_ptr<gluster_volume> last_used_;
  std::vector<std::weak_ptr<gluster_image_lock>> locks_;
  alarm forget_, renew_;
};

// "10.0.0.1:24007, 10.0.0.2:24007" or the socket's path: for people.
std::string servers_text(const uri::gluster_source& from);

}  // namespace lbd::store
