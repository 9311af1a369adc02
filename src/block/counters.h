// SPDX-License-Identifier: MIT
// What is counted of one kind of operation: requests, bytes, errors and a latency histogram.
// Written by one reactor, without atomics that cost, and added up by whoever asks.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace lbd::block {

// Latencies in powers of two of nanoseconds: bucket i holds [2^i, 2^(i+1)) ns.
inline constexpr size_t latency_buckets = 40;

struct op_totals {
  uint64_t requests = 0;
  uint64_t bytes = 0;
  uint64_t errors = 0;
  std::array<uint64_t, latency_buckets> latency{};

  op_totals& operator+=(const op_totals& o) noexcept {
    requests += o.requests;
    bytes += o.bytes;
    errors += o.errors;
    for (size_t i = 0; i < latency_buckets; ++i) latency[i] += o.latency[i];
    return *this;
  }
  // Upper bound of the bucket in which the given part (0..1) of the requests lies, in ns; 0 if
  // none.
  uint64_t percentile_ns(double part) const noexcept;
};

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

class op_counters {
 public:
  void started(uint64_t bytes) noexcept {
    requests_.add(1);
    bytes_.add(bytes);
  }
  void finished(uint64_t took_ns, bool failed) noexcept {
    const auto bucket = static_cast<size_t>(std::bit_width(took_ns | 1) - 1);
    latency_[std::min(bucket, latency_buckets - 1)].add(1);
    if (failed) errors_.add(1);
  }
  void add_to(op_totals& sum) const noexcept;

 private:
  counter requests_, bytes_, errors_;
  std::array<counter, latency_buckets> latency_;
};

}  // namespace lbd::block
