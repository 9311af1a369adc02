// SPDX-License-Identifier: MIT
// The merged map of an overlay: for each 64 KiB block of the device which layer holds its bytes,
// and where. Filled lazily, so that a read is one look-up however deep the stack is.
//
// Written by the home reactor only; every reactor reads it without locks. A reader must be inside
// the overlay's epoch while it uses what a look-up returned: entries that describe a mixed block
// are freed only after a grace period.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

namespace lbd::overlay {

inline constexpr uint64_t map_block_bytes = 65536;

enum class run_kind : uint8_t { zero, data, opaque };

// A part of a block: [begin, end) bytes inside the block.
struct run {
  uint32_t begin = 0;
  uint32_t end = 0;
  run_kind kind = run_kind::zero;
  uint16_t layer = 0;   // index, 0 is the top (data, opaque)
  uint64_t offset = 0;  // data: of `begin` in the layer's data device, bytes

  // Whether `next` goes on where this one ends, so that the two are one.
  bool continues_with(const run& next) const noexcept {
    if (end != next.begin || kind != next.kind) return false;
    if (kind == run_kind::zero) return true;
    if (layer != next.layer) return false;
    return kind == run_kind::opaque || offset + (end - begin) == next.offset;
  }
};
// Runs in order, without gaps, from 0 to the block's end.
using runs = std::vector<run>;

// Appends `r`, joined to its predecessor where possible; empty ones are dropped.
void append_run(runs& to, run r);
// Replaces [r.begin, r.end) of `in` by `r`.
runs splice_run(const runs& in, const run& r);

class block_map {
 public:
  explicit block_map(uint64_t size_bytes);
  ~block_map();
  block_map(const block_map&) = delete;
  block_map& operator=(const block_map&) = delete;

  // What is known of a block.
  struct known {
    enum class kind : uint8_t { unknown, uniform, mixed } what = kind::unknown;
    run whole;                    // uniform: one run over the whole block
    const runs* parts = nullptr;  // mixed
  };
  known find(uint64_t block) const noexcept;

  // The run from `begin` on, cut off before it; false if the block is unknown.
  bool find_from(uint64_t block, uint32_t begin, run& out) const noexcept;
  // The run that holds all of [begin, end) of the block; false if there is none or it is unknown.
  bool find_run(uint64_t block, uint32_t begin, uint32_t end, run& out) const noexcept;

  // Home reactor only. set() takes over a block's runs; what it replaces is kept until
  // free_retired().
  void set(uint64_t block, runs r);
  bool is_known(uint64_t block) const noexcept;
  size_t retired_count() const noexcept { return retired_.size(); }
  // What has been retired up to now; the caller frees it after a grace period.
  std::vector<std::unique_ptr<const runs>> take_retired() noexcept { return std::move(retired_); }

 private:
  static constexpr uint64_t entries_per_page = 4096;
  struct page {
    std::atomic<uint64_t> entries[entries_per_page] = {};
  };
  std::atomic<uint64_t>* entry(uint64_t block) const noexcept;

  std::vector<std::atomic<page*>> pages_;
  std::vector<std::unique_ptr<const runs>> retired_;
};

}  // namespace lbd::overlay
