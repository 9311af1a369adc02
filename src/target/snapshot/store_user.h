// SPDX-License-Identifier: MIT
// What snapshot and snapshot-merge have in common: a store, its status, and taking it over from
// another table ("handover"): a table with a store that a live table has already does not read it.
// When the old table is suspended and the new one resumes, everything goes over as it is.
#pragma once

#include "block/target.h"
#include "target/snapshot/origin_group.h"
#include "target/snapshot/params.h"

namespace lbd::snapshot {

class store_user : public block::target {
 public:
  // A target of either kind, or why not in the kernel's words.
  static task<base::outcome<std::shared_ptr<block::target>>> create(block::target_context& context,
                                                                    std::vector<std::string> args,
                                                                    bool merges);
  ~store_user() override;

  const block::limits& limits() const noexcept override { return limits_; }
  bool refuses_writes() const override {
    return store_device().limits().read_only || (made_.merges && origin().limits().read_only);
  }
  task<std::string> status(block::status_request q) override;
  std::string measured() const override;
  void for_each_child(const std::function<void(const block::opened_device&)>& visit) const override;
  task<void> postsuspend() override;
  task<result<void>> preresume() override;
  task<void> resumed() override;
  task<void> closed() override;

 protected:
  struct making {
    params words;
    dm_snapshot::store_type type;
    block::opened_device origin, store;
    std::shared_ptr<origin_group> group;
    std::function<void(std::vector<std::string>)> event;
    uint64_t begin_bytes = 0, length_bytes = 0;
    bool merges = false;
  };
  explicit store_user(making m);

  // Merging begins, and has ended when stopped() returns.
  virtual void started() {}
  virtual task<void> stopped() { co_return; }

  // Requests keep their place in the mapped device.
  uint64_t at(uint64_t offset) const noexcept { return made_.begin_bytes + offset; }
  block::block_device& origin() const noexcept { return *made_.origin.device; }
  block::block_device& store_device() const noexcept { return *made_.store.device; }
  // Changes only while no request can be here. nullptr: waiting for a handover, or after one.
  snapshot_core* core() const noexcept { return core_.get(); }

  const making made_;

 private:
  struct sharing {
    store_user* source = nullptr;  // has been live
    store_user* heir = nullptr;
    unsigned count = 0;
    bool merging = false;  // some table of this origin merges
  };
  sharing find_sharing() const noexcept;
  // Whether the store will be handed over. Errors in the kernel's words.
  base::outcome<bool> join();
  void take_over_from(store_user& source);
  task<base::outcome<void>> open_store(const store_words& words);

  block::limits limits_;
  std::shared_ptr<snapshot_core> core_;
  bool joined_ = false;
  bool waiting_ = false;  // for a handover
  bool active_ = false;   // has been live
  bool suspended_ = false;
};

// The two kinds.
class snapshot_target final : public store_user {
 public:
  explicit snapshot_target(making m) : store_user(std::move(m)) {}
  block::routed route(block::op what, uint64_t offset, uint64_t length,
                      block::path& way) noexcept override;
  task<result<void>> read(uint64_t offset, segments to, io_opts io) override;
  task<result<void>> write(uint64_t offset, segments from, io_opts io) override;
  task<result<void>> flush(io_opts io) override;
  task<result<void>> discard(uint64_t offset, uint64_t length, io_opts io) override;
  task<result<void>> extents(uint64_t offset, uint64_t length, block::extent_list& out,
                             io_opts io) override;
};

class merge_target final : public store_user {
 public:
  explicit merge_target(making m);
  block::routed route(block::op what, uint64_t offset, uint64_t length,
                      block::path& way) noexcept override;
  task<result<void>> read(uint64_t offset, segments to, io_opts io) override;
  task<result<void>> write(uint64_t offset, segments from, io_opts io) override;
  task<result<void>> flush(io_opts io) override;
  task<result<void>> discard(uint64_t offset, uint64_t length, io_opts io) override;
  task<result<void>> extents(uint64_t offset, uint64_t length, block::extent_list& out,
                             io_opts io) override;
  task<void> presuspend(bool no_flush) override;
  task<void> presuspend_undone() override;

 protected:
  void started() override;
  task<void> stopped() override;

 private:
  // Chunks that are being merged: who writes there waits.
  struct step {
    chunk_run run;
    bool failed = false;
    rt::event over;
  };
  // What is merged at once.
  static constexpr uint64_t step_bytes = uint64_t{4} << 20;

  bool usable() const noexcept { return core() != nullptr && core()->valid(); }
  task<result<void>> write_at_home(uint64_t offset, segments from, io_opts io);
  task<result<uint64_t>> write_some(uint64_t offset, segments from, io_opts io);
  task<result<uint64_t>> write_twice(uint64_t offset, uint64_t place, segments from, io_opts io);
  task<result<void>> write_origin(uint64_t offset, segments from, io_opts io);
  task<void> merge_all();
  task<bool> merge_run(chunk_run run);
  task<const char*> move_run(const chunk_run& run);

  rt::reactor& home_;
  std::shared_ptr<step> step_;
  rt::mutex writing_twice_;
  bool stopping_ = false;
  rt::event idle_;
};

}  // namespace lbd::snapshot
