// SPDX-License-Identifier: MIT
// One request to several places, and copying in the background: what mirrors, snapshots, merges and
// clones are made of.
//
// Everything of one copier happens on the reactor that uses it.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "block/device.h"
#include "rt/sync.h"

namespace lbd::block {

// A part of a device.
struct region {
  block_device* device = nullptr;
  uint64_t offset = 0;
  uint64_t length = 0;
};

// Which regions of a request failed: bit i is region i. 0: none.
using region_errors = uint64_t;
inline constexpr size_t regions_most = 64;

// The same bytes, or zeros, to all regions at once; returns when all have answered. REQUIRES: at
// most regions_most regions, all as long as the data; they and the segments are kept by the caller.
task<region_errors> write_regions(std::span<const region> to, segments from, io_opts io);
task<region_errors> zero_regions(std::span<const region> to, io_opts io);
// Flushes the regions' devices, each device once.
task<region_errors> flush_regions(std::span<const region> of, io_opts io);

// A destination gets the bytes [skip, skip + length) of what is copied.
struct copy_destination {
  block_device* device = nullptr;
  uint64_t offset = 0;
  uint64_t skip = 0;
  uint64_t length = 0;
};

struct copy_options {
  // Zeros are not written as data but by write_zeroes(), in blocks of zero_block_bytes.
  bool zeroes = false;
  // A destination that has failed does not end the copying to the others.
  bool keep_going = false;
  // Called with the bytes of the source that are through so far, in any order of places.
  std::function<void(uint64_t done_bytes)> progress;
};

struct copy_result {
  errc read_error = errc::ok;  // then the destinations may hold some of the bytes
  region_errors failed = 0;    // destinations
  bool ok() const noexcept { return read_error == errc::ok && failed == 0; }
};

// Copies pieces in parallel, bounded in memory and, if asked, in speed. Jobs share both, first come
// first served.
class copier {
 public:
  struct options {
    uint64_t piece_bytes = uint64_t{1} << 20;
    uint64_t memory_bytes = uint64_t{16} << 20;  // a multiple of piece_bytes
    unsigned pieces_of_a_job = 8;                // in flight
    uint64_t bytes_per_second = 0;               // 0: as fast as it goes
  };
  static constexpr uint64_t zero_block_bytes = 65536;

  copier() : copier(options{}) {}
  explicit copier(options how) : options_(how), memory_(how.memory_bytes) {}
  copier(const copier&) = delete;
  copier& operator=(const copier&) = delete;

  // Reads each part of the source once. REQUIRES: at most regions_most destinations; each part that
  // a destination takes lies within the source; the devices outlive the task.
  task<copy_result> copy(region from, std::vector<copy_destination> to, copy_options how = {});
  // Zeros instead of a source.
  task<region_errors> zero(std::vector<region> to);

  // For all jobs from now on. 0: as fast as it goes.
  void set_speed(uint64_t bytes_per_second) noexcept {
    options_.bytes_per_second = bytes_per_second;
  }
  uint64_t copied_bytes() const noexcept { return copied_bytes_; }

 private:
  struct job;
  task<bool> work_on(job& j);
  task<void> copy_piece(job& j, uint64_t at, uint64_t length);
  task<bool> write_part(job& j, size_t which, uint64_t at, base::bytes_view piece);
  task<void> wait_for_turn(uint64_t bytes);

  options options_;
  rt::semaphore memory_;
  uint64_t next_turn_ns_ = 0;
  uint64_t copied_bytes_ = 0;
};

}  // namespace lbd::block
