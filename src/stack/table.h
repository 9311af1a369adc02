// SPDX-License-Identifier: MIT
// A table: which target serves which part of a device. Immutable once made.
#pragma once

#include <memory>
#include <vector>

#include "block/device.h"

namespace lbd::stack {

class table {
 public:
  struct segment {
    uint64_t start = 0;         // bytes
    uint64_t length_bytes = 0;  // > 0
    std::shared_ptr<block::block_device> target;
    uint64_t unit_bytes = 1;  // it serves multiples of this only; power of two

    uint64_t end() const noexcept { return start + length_bytes; }
  };

  // Segments must follow each other without gap or overlap from 0. Errors: inval, naming the gap.
  // `read_only`: refuses writes whatever the targets can do. Else each target decides: what it
  // stands on may change its mind while this table lives.
  // REQUIRES: they begin and end at multiples of the largest unit.
  static base::outcome<std::unique_ptr<table>> make(std::vector<segment> segments,
                                                    bool read_only = false);
  // No segments, size 0: a device before its first load.
  static std::unique_ptr<table> none();
  // One target for the whole device; read-only when the target is.
  static std::unique_ptr<table> whole(std::shared_ptr<block::block_device> target);

  // The segment that holds `offset`, or nullptr beyond the end.
  const segment* find(uint64_t offset) const noexcept {
    if (segments_.size() == 1) return offset < segments_[0].length_bytes ? &segments_[0] : nullptr;
    return search(offset);
  }
  const std::vector<segment>& segments() const noexcept { return segments_; }
  bool refuses_writes() const noexcept { return refuses_writes_; }
  // What all targets together could do when the table was made.
  const block::limits& limits() const noexcept { return limits_; }
  // The largest of the segments' units.
  uint64_t unit_bytes() const noexcept { return unit_bytes_; }
  // Whether the range is whole units.
  bool serves(uint64_t offset, uint64_t length) const noexcept {
    return ((offset | length) & (unit_bytes_ - 1)) == 0;
  }

 private:
  table(std::vector<segment> segments, bool read_only);
  const segment* search(uint64_t offset) const noexcept;

  std::vector<segment> segments_;
  uint64_t unit_bytes_ = 1;
  block::limits limits_;
  const bool refuses_writes_;
};

}  // namespace lbd::stack
