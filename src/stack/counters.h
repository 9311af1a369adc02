// SPDX-License-Identifier: MIT
// What a device counts: per operation requests, bytes, errors and a latency histogram. Kept per
// reactor, without atomics that cost, and added up by whoever asks.
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cstdint>
#include <vector>

#include "block/device.h"

namespace lbd::stack {

// Latencies in powers of two of nanoseconds: bucket i holds [2^i, 2^(i+1)) ns.
inline constexpr size_t latency_buckets = 40;

struct op_totals {
  uint64_t requests = 0;
  uint64_t bytes = 0;
  uint64_t errors = 0;
  std::array<uint64_t, latency_buckets> latency{};

  // Upper bound of the bucket in which the given part (0..1) of the requests lies, in ns; 0 if
  // none.
  uint64_t percentile_ns(double part) const noexcept;
};
using device_totals = std::array<op_totals, block::op_count>;

// Written by its reactor only (plain loads and relaxed stores), read by anyone.
class counter {
 public:
  void add(uint64_t n) noexcept {
    value_.store(value_.load(std::memory_order_relaxed) + n, std::memory_order_relaxed);
  }
  uint64_t get() const noexcept { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t> value_{0};
};

class device_counters {
 public:
  explicit device_counters(unsigned reactors) : slots_(reactors) {}

  void started(unsigned reactor, block::op what, uint64_t bytes) noexcept {
    per_op& p = slots_[reactor].ops[static_cast<size_t>(what)];
    p.requests.add(1);
    p.bytes.add(bytes);
  }
  void finished(unsigned reactor, block::op what, uint64_t took_ns, bool failed) noexcept {
    per_op& p = slots_[reactor].ops[static_cast<size_t>(what)];
    const auto bucket = static_cast<size_t>(std::bit_width(took_ns | 1) - 1);
    p.latency[std::min(bucket, latency_buckets - 1)].add(1);
    if (failed) p.errors.add(1);
  }
  device_totals totals() const noexcept;

 private:
  struct per_op {
    counter requests, bytes, errors;
    std::array<counter, latency_buckets> latency;
  };
  struct alignas(64) slot {
    std::array<per_op, block::op_count> ops;
  };
  std::vector<slot> slots_;
};

}  // namespace lbd::stack
