// SPDX-License-Identifier: MIT
// What a device counts, per operation and per reactor.
#pragma once

#include <array>
#include <vector>

#include "block/counters.h"
#include "block/device.h"

namespace lbd::stack {

using device_totals = std::array<block::op_totals, block::op_count>;

class device_counters {
 public:
  explicit device_counters(unsigned reactors) : slots_(reactors) {}

  void started(unsigned reactor, block::op what, uint64_t bytes) noexcept {
    slots_[reactor].ops[static_cast<size_t>(what)].started(bytes);
  }
  void finished(unsigned reactor, block::op what, uint64_t took_ns, bool failed) noexcept {
    slots_[reactor].ops[static_cast<size_t>(what)].finished(took_ns, failed);
  }
  device_totals totals() const noexcept {
    device_totals sum{};
    for (const slot& s : slots_)
      for (size_t op = 0; op < block::op_count; ++op) s.ops[op].add_to(sum[op]);
    return sum;
  }

 private:
  struct alignas(64) slot {
    std::array<block::op_counters, block::op_count> ops;
  };
  std::vector<slot> slots_;
};

}  // namespace lbd::stack
