// SPDX-License-Identifier: MIT
// Where a snapshot keeps the chunks that differ from its origin. Two kinds: persistent (header and
// areas of entries, format/dm_snapshot) and transient (data only). Home reactor only.
#pragma once

#include <functional>
#include <memory>

#include "block/target.h"
#include "format/dm_snapshot/dm_snapshot.h"
#include "rt/sync.h"
#include "target/snapshot/exception_map.h"

namespace lbd::snapshot {

using base::errc;
using base::io_error;
using base::result;
using rt::task;

// Chunks that follow each other both in the origin and in the store.
struct chunk_run {
  uint64_t old_chunk = 0;
  uint64_t new_chunk = 0;
  uint64_t count = 0;
};

// An exception that is being made: its place has been allocated, the data is on its way.
struct pending {
  chunk_run run;
  uint64_t ticket = 0;   // order of allocation
  uint64_t entered = 0;  // entries that are in the area so far (the store's)
  bool failed = false;   // once `done`
  rt::event done;
};
using pending_ref = std::shared_ptr<pending>;

struct store_usage {
  uint64_t allocated_sectors = 0;
  uint64_t total_sectors = 0;
  uint64_t metadata_sectors = 0;
};

class exception_store {
 public:
  using done_call = std::function<void(pending_ref p, bool ok)>;
  virtual ~exception_store() = default;

  // 0 until load().
  uint32_t chunk_sectors() const noexcept { return chunk_sectors_; }
  uint64_t chunk_bytes() const noexcept { return chunk_sectors_ * block::sector_bytes; }
  dm_snapshot::store_type type() const noexcept { return type_; }
  block::block_device& device() const noexcept { return *device_.device; }
  const block::opened_device& opened() const noexcept { return device_; }
  // What is wrong with the store on the device, when load() has failed for that.
  const std::string& trouble() const noexcept { return trouble_; }
  // Of chunk `new_chunk`, in bytes on the device.
  virtual uint64_t place_of(uint64_t new_chunk) const noexcept = 0;
  virtual store_usage usage() const noexcept = 0;

  // Reads what there is, or makes a new store. `valid` false: the store is invalid for ever.
  // Failures have been logged.
  struct loaded {
    bool valid = true;
  };
  virtual task<result<loaded>> load(exception_map& into) = 0;

  // Space for up to `most` chunks that follow each other: the first one and how many. Errors:
  // nospc.
  struct space {
    uint64_t first = 0;
    uint64_t count = 0;
  };
  virtual result<space> allocate(uint64_t most) = 0;
  // The data of an allocation is in place (not yet durable), or could not be copied. Called in the
  // order of the allocations, once for each; `done` is called when the exceptions are durable, or
  // when they cannot be.
  virtual void commit(pending_ref p, bool copied) = 0;
  void on_done(done_call done) { done_ = std::move(done); }
  // Invalid for ever, on disk too.
  virtual task<void> drop() = 0;
  // Waits until nothing is being written.
  virtual task<void> idle() = 0;

  // Merging: the newest exceptions that continue each other backwards, count 0 when there is none
  // left; and forgetting them for good.
  virtual bool can_merge() const noexcept { return false; }
  virtual task<result<chunk_run>> newest_run() { co_return io_error{errc::notsup, 0}; }
  virtual task<result<void>> forget_newest(uint64_t /*count*/) {
    co_return io_error{errc::notsup, 0};
  }
  // What a forgetting that failed was about, count 0: nothing. The device has these exceptions or
  // some of them or none, until they are forgotten in earnest, or remember() has made sure of them.
  virtual chunk_run in_doubt() const noexcept { return {}; }
  virtual task<result<void>> remember() { co_return result<void>{}; }
  // Exceptions are made again after merging; no chunk from here on is in use.
  virtual void allocate_from(uint64_t /*new_chunk*/) {}

 protected:
  exception_store(block::opened_device device, dm_snapshot::store_type type)
      : device_(std::move(device)), type_(type) {}
  // Inside the device, or io: it may have shrunk.
  task<result<void>> read_bytes(uint64_t offset, base::bytes_span to);
  task<result<void>> write_bytes(uint64_t offset, base::bytes_view from, uint32_t flags);
  uint64_t device_bytes() const noexcept { return device_.device->limits().size_bytes; }

  const block::opened_device device_;
  const dm_snapshot::store_type type_;
  uint32_t chunk_sectors_ = 0;
  std::string trouble_;
  done_call done_;
};

// `chunk_sectors` 0: what the device says, else the default.
std::unique_ptr<exception_store> make_persistent_store(block::opened_device device,
                                                       dm_snapshot::store_type type,
                                                       uint32_t chunk_sectors,
                                                       uint32_t origin_block_bytes);
std::unique_ptr<exception_store> make_transient_store(block::opened_device device,
                                                      uint32_t chunk_sectors);

}  // namespace lbd::snapshot
