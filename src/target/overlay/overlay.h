// SPDX-License-Identifier: MIT
// The overlay: a stack of layers as one device, topmost first. Reads find the first layer that
// holds the bytes; writes go to the top, a change layer, or are refused when there is none.
//
// State: the merged map (block_map), the top layer's metadata. Both change on the home reactor
// only; reads and in-place writes are routed on every reactor by the map, inside an epoch.
// Invariants: a routed place stays valid until its path is left; a granule of the top is written by
// filling it from below first, under the range lock of its block.
// After a crash: every byte holds its last flushed value or one written later (the change layer's
// order of writes sees to it); discarded ranges read as zeros or as before.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "block/counters.h"
#include "block/device.h"
#include "block/layer.h"
#include "rt/gate.h"
#include "rt/runtime.h"
#include "target/overlay/block_map.h"

namespace lbd::overlay {

// One layer below or at the top. Exactly one of the two is set.
struct member {
  std::shared_ptr<block::layer> change;       // a change file (the top one, when writable, too)
  std::shared_ptr<block::block_device> flat;  // holds all its bytes: file, NBD server, memory
  std::string name;                           // for people
};

// Reads and writes of one layer, counted by the overlay. The latency of a request that is routed
// counts from its start at the top; of others only the layer's own part.
struct layer_totals {
  block::op_totals reads, writes;
};

// The largest device: the merged map's directory is 32 MiB then.
inline constexpr uint64_t largest_size_bytes = uint64_t{1} << 50;

class device final : public block::block_device, private block::crossing {
 public:
  // `top` is members[0].change when the stack is writable, else nullptr. The calling reactor
  // becomes the home; `top` must have been opened on it. REQUIRES: at least one member, size within
  // largest_size_bytes.
  device(rt::runtime& runtime, std::vector<member> members, block::change_layer* top,
         uint64_t size_bytes);
  // REQUIRES: close() has returned, or nothing was ever requested.
  ~device() override;

  const block::limits& limits() const noexcept override { return limits_; }
  rt::task<base::result<void>> read(uint64_t offset, rt::segments to, block::io_opts io) override;
  rt::task<base::result<void>> write(uint64_t offset, rt::segments from,
                                     block::io_opts io) override;
  rt::task<base::result<void>> flush(block::io_opts io) override;
  // Reads as zeros afterwards, all of it.
  rt::task<base::result<void>> discard(uint64_t offset, uint64_t length,
                                       block::io_opts io) override;
  rt::task<base::result<void>> write_zeroes(uint64_t offset, uint64_t length,
                                            block::io_opts io) override;
  rt::task<base::result<void>> extents(uint64_t offset, uint64_t length, block::extent_list& out,
                                       block::io_opts io) override;
  block::routed route(block::op what, uint64_t offset, uint64_t length,
                      block::path& way) noexcept override;

  // Home reactor, with no request in flight: waits for background work. With `seal_top` the top is
  // made durable and read-only for good first (a new layer goes on top of it).
  rt::task<base::result<void>> close(bool seal_top);

  const std::vector<member>& members() const noexcept { return members_; }
  bool writable() const noexcept { return top_ != nullptr; }
  layer_totals totals(size_t layer) const noexcept;

  // Which layer holds what, from the layers themselves, past the map; for `map`, extents and large
  // discards. `length` of the answer is at most the length asked for.
  struct holding {
    run_kind kind = run_kind::zero;
    uint64_t length_bytes = 0;
    size_t layer = 0;     // data, opaque, and zeros that a layer holds; members().size(): none does
    uint64_t offset = 0;  // data
  };
  rt::task<base::result<holding>> resolve(uint64_t offset, uint64_t length);

 private:
  struct alignas(64) slot;
  class epoch_visit;
  class layer_visit;
  using lock_guard = rt::range_lock::guard;

  void leave(uint64_t cookie, base::errc code) noexcept override;
  void leave_at(uint64_t cookie, base::errc code, block::moment& end) noexcept override;
  block::op_counters& counters_of(bool is_write, size_t layer) noexcept;
  block::block_device& data_device(size_t layer) noexcept;
  bool find_place(uint64_t offset, uint64_t length, run& out) const noexcept;
  bool find_long_place(uint64_t offset, uint64_t length, run& out) const noexcept;
  uint64_t find_longest(uint64_t offset, uint64_t length, run& out) const noexcept;

  rt::task<base::result<void>> learn(uint64_t offset, uint64_t length);
  rt::task<base::result<void>> fill_at_home(uint64_t block, uint64_t end);
  rt::task<base::result<void>> fill_locked(uint64_t block);
  rt::task<base::result<void>> read_run(const run r, uint64_t offset, rt::segments to,
                                        block::io_opts io);

  rt::task<base::result<void>> write_at_home(uint64_t offset, rt::segments from, block::io_opts io);
  rt::task<base::result<void>> write_span(uint64_t offset, rt::segments from);
  struct part {
    uint64_t length_bytes = 0;
    bool in_top = false;
    uint64_t place = 0;  // in the top: where
  };
  part next_part(uint64_t offset, uint64_t length) const noexcept;
  rt::task<base::result<void>> write_new(uint64_t offset, rt::segments from);
  rt::task<base::result<void>> store_granules(uint64_t offset, rt::segments from);
  rt::task<base::result<void>> zero_at_home(uint64_t offset, uint64_t length, bool keep_space,
                                            block::io_opts io);
  rt::task<base::result<void>> zero_granules(uint64_t offset, uint64_t length, bool keep_space);
  rt::task<base::result<void>> zero_by_writing(uint64_t offset, uint64_t length);
  void note(uint64_t offset, uint64_t length, run_kind kind, uint64_t place);
  void retire_some();
  rt::task<void> free_retired();
  rt::task<void> quiesce();

  rt::runtime& runtime_;
  rt::reactor& home_;
  std::vector<member> members_;
  std::vector<block::block_device*> data_devices_;
  block::change_layer* const top_;
  block::limits limits_;
  std::shared_ptr<block::block_device> zeros_;
  block_map map_;
  rt::epochs epochs_;
  std::vector<slot> slots_;
  uint64_t granule_bytes_ = 512;
  // What is locked at once: whole map blocks and whole clusters of the top.
  uint64_t lock_unit_bytes_ = map_block_bytes;

  // Home state.
  rt::range_lock locks_;
  rt::mutex quiesce_lock_;
  bool freeing_ = false;
  rt::event idle_;
};

}  // namespace lbd::overlay
