// SPDX-License-Identifier: MIT
// An origin and the snapshots of it: who has to keep a chunk before it is changed. Shared by all
// targets on one origin device, as long as there are any.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "target/snapshot/snapshot_core.h"

namespace lbd::snapshot {

class store_user;

class origin_group {
 public:
  // The calling reactor becomes the home.
  explicit origin_group(rt::runtime& runtime);
  // REQUIRES: no snapshots.
  ~origin_group();
  origin_group(const origin_group&) = delete;
  origin_group& operator=(const origin_group&) = delete;

  // --- any reactor ---

  // A write to the origin happens inside: a new snapshot waits for those that do not know it.
  uint32_t enter_write() noexcept { return writes_.enter(); }
  void leave_write(uint32_t token) noexcept { writes_.leave(token); }
  // Whether some snapshot other than `except` has to keep the old content first. REQUIRES: inside.
  bool needs_exception(uint64_t offset, uint64_t length,
                       const snapshot_core* except) const noexcept;
  // Enters when the range may be written. The token goes to leave_write().
  task<uint32_t> enter_when_kept(uint64_t offset, uint64_t length, const snapshot_core* except);

  rt::reactor& home() noexcept { return home_; }

  // --- home reactor ---

  // Returns when every write to the origin knows the snapshot, or knows it no more.
  task<void> add(std::shared_ptr<snapshot_core> c);
  task<void> remove(const snapshot_core* c);
  bool has(const snapshot_core* c) const noexcept;

  block::copier& copies() noexcept { return copies_; }
  rt::runtime& runtime() noexcept { return runtime_; }

  // Tables with a store, in the order of their making.
  std::vector<store_user*>& users() noexcept { return users_; }

 private:
  using list = std::vector<std::shared_ptr<snapshot_core>>;
  struct keeping {
    snapshot_core* core = nullptr;
    pending_ref p;
    uint64_t begin = 0, end = 0;  // in the origin, bytes
  };
  // What is kept at once of one request.
  static constexpr uint64_t round_bytes = uint64_t{8} << 20;

  task<bool> keep(uint64_t offset, uint64_t length, const snapshot_core* except);
  task<void> copy_all(std::vector<keeping> all);
  task<bool> copy_together(std::vector<keeping> part);
  task<void> publish(std::unique_ptr<const list> next);

  rt::runtime& runtime_;
  rt::reactor& home_;
  std::atomic<const list*> active_;
  rt::epochs writes_;  // to the origin
  rt::epochs rounds_;  // of keeping, home only
  rt::mutex publishing_;
  block::copier copies_;
  std::vector<store_user*> users_;
};

}  // namespace lbd::snapshot
