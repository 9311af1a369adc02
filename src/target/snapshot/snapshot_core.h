// SPDX-License-Identifier: MIT
// One snapshot: the exceptions of an origin in a store. It outlives the table that made it when
// another table takes the store over.
//
// State: the exception map (looked up by every reactor), pending exceptions and the store (home
// reactor). Invariants: a chunk of the origin is changed only when each live snapshot has a durable
// exception for it and no read that was sent to the origin is still under way; a chunk of the store
// is read and written in place only after its exception is durable.
#pragma once

#include <map>
#include <memory>

#include "block/copy.h"
#include "block/target.h"
#include "rt/gate.h"
#include "target/snapshot/chunk_tracker.h"
#include "target/snapshot/exception_map.h"
#include "target/snapshot/exception_store.h"

namespace lbd::snapshot {

using block::io_opts;
using rt::segments;

class snapshot_core final : private block::crossing {
 public:
  // The calling reactor becomes the home.
  snapshot_core(rt::runtime& runtime, block::opened_device origin,
                std::unique_ptr<exception_store> store, block::copier& copies);
  // REQUIRES: close() has returned.
  ~snapshot_core();
  snapshot_core(const snapshot_core&) = delete;
  snapshot_core& operator=(const snapshot_core&) = delete;

  // Reads or makes the store. False: it is invalid for ever. Failures have been logged.
  task<result<bool>> load();
  // Waits for everything that is under way. REQUIRES: no requests any more.
  task<void> close();

  uint64_t chunk_bytes() const noexcept { return store_->chunk_bytes(); }
  exception_store& store() noexcept { return *store_; }
  const exception_store& store() const noexcept { return *store_; }
  const block::opened_device& origin() const noexcept { return origin_; }

  // Any reactor; only the home changes them.
  bool valid() const noexcept { return (flags() & invalid_flag) == 0; }
  bool overflowed() const noexcept { return (flags() & overflow_flag) != 0; }
  bool merging() const noexcept { return (flags() & merging_flag) != 0; }
  bool merge_failed() const noexcept { return (flags() & merge_failed_flag) != 0; }

  // --- requests, on any reactor; offsets count from the origin's first byte ---

  block::routed route_read(uint64_t offset, uint64_t length, block::path& way) noexcept;
  block::routed route_write(uint64_t offset, uint64_t length) noexcept;
  task<result<void>> read(uint64_t offset, segments to, io_opts io);
  task<result<void>> write(uint64_t offset, segments from, io_opts io);
  // Chunks that are covered wholly and have an exception become zero; nothing else happens.
  task<result<void>> zero_exceptions(uint64_t offset, uint64_t length, io_opts io);
  task<result<void>> extents(uint64_t offset, uint64_t length, block::extent_list& out, io_opts io);

  // Chunks that lie together.
  struct span {
    bool in_store = false;
    uint64_t length = 0;  // bytes from the offset asked for
    uint64_t place = 0;   // in the store's device
  };
  // The longest span at `offset`, at most `length`.
  span find_span(uint64_t offset, uint64_t length) const noexcept;
  // Whether the origin may not be written there yet.
  bool needs_exception(uint64_t offset, uint64_t length) const noexcept;

  // --- home reactor ---

  // What the table that has it tells: where its device ends, and whom to tell of events.
  void set_owner(uint64_t end_bytes, std::function<void(std::vector<std::string>)> event);
  // Makes pending exceptions where there are none, in [offset, offset + length): `made` are to be
  // copied by the caller, `others` are under way already. A full store invalidates the snapshot.
  task<void> begin_exceptions(uint64_t offset, uint64_t length, std::vector<pending_ref>& made,
                              std::vector<pending_ref>& others);
  // The data of a pending exception is in its place, or not.
  void complete(pending_ref p, bool copied);
  // A run's bytes in the origin, cut at its end.
  uint64_t origin_bytes_of(const chunk_run& run) const noexcept;

  task<void> invalidate(errc why);
  // Handed to a table that merges, or back. REQUIRES: no origin write can ask for exceptions.
  task<void> set_merging(bool merging);
  void set_merge_failed() noexcept { set_flag(merge_failed_flag); }
  chunk_tracker& tracker() noexcept { return tracker_; }
  exception_map& exceptions() noexcept { return exceptions_; }
  rt::reactor& home() noexcept { return home_; }

 private:
  enum : unsigned {
    invalid_flag = 1u << 0,
    overflow_flag = 1u << 1,
    merging_flag = 1u << 2,
    merge_failed_flag = 1u << 3,
    dropped_flag = 1u << 4,  // the store says that it is invalid, as far as it can be written
  };
  // Copies of one snapshot that are under way at most.
  static constexpr uint64_t chunks_in_flight_most = 2048;
  // New exceptions of one request are made in groups of this size.
  static constexpr uint64_t batch_bytes = uint64_t{4} << 20;

  class look_up;
  unsigned flags() const noexcept { return flags_.load(std::memory_order_acquire); }
  void set_flag(unsigned f) noexcept { flags_.store(flags() | f, std::memory_order_release); }
  void leave(uint64_t cookie, errc code) noexcept override;

  task<result<uint64_t>> write_new(uint64_t offset, segments from, io_opts io);
  struct piece;
  result<uint64_t> allocate_pieces(uint64_t offset, uint64_t length, std::vector<piece>& out);
  task<bool> fill_piece(const piece& p, segments from, uint64_t offset, io_opts io);
  task<void> store_full();

  pending_ref find_pending(uint64_t chunk) const noexcept;
  pending_ref add_pending(uint64_t old_chunk, exception_store::space at);
  void exception_done(pending_ref p, bool ok);
  task<void> settle_later(pending_ref p);
  task<void> fail_later(pending_ref p);
  void finish(pending_ref p);
  task<void> throttle();
  task<void> free_retired();
  task<void> until_no_pending();

  rt::reactor& home_;
  const block::opened_device origin_;
  const std::unique_ptr<exception_store> store_;
  block::copier& copies_;
  std::atomic<unsigned> flags_{0};
  exception_map exceptions_;
  mutable rt::epochs epochs_;  // of look-ups
  chunk_tracker tracker_;      // reads that were sent to the origin; writes of a merging snapshot

  std::atomic<uint64_t> end_bytes_{0};

  // Home.
  std::function<void(std::vector<std::string>)> event_;
  std::map<uint64_t, pending_ref> pending_;                    // by first old chunk
  std::map<uint64_t, std::pair<pending_ref, bool>> complete_;  // by ticket, out of order
  uint64_t next_ticket_ = 0, next_commit_ = 0;
  uint64_t chunks_in_flight_ = 0;
  unsigned background_ = 0;
  bool freeing_ = false;
  rt::mutex dropping_;
  rt::event fewer_;  // something has ended
};

}  // namespace lbd::snapshot
