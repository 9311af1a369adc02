// SPDX-License-Identifier: MIT
// What the load client measures: a latency histogram, and the CPU time of a server's processes.
#pragma once

#include <sys/types.h>

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <map>

namespace lbd::bench {

// Nanoseconds of CLOCK_MONOTONIC.
std::uint64_t now_ns();

// Nanoseconds of CPU that this process has used, in user and kernel mode.
std::uint64_t own_cpu_ns();

// Latencies in nanoseconds. Each power of two has 32 buckets, so a percentile is at most 3 % above
// the true value.
class histogram {
 public:
  void add(std::uint64_t ns) {
    buckets_[index_of(ns)]++;
    count_++;
    sum_ += ns;
    if (ns > max_) max_ = ns;
  }
  void clear() { *this = histogram{}; }

  std::uint64_t count() const { return count_; }
  std::uint64_t max_ns() const { return max_; }
  double mean_ns() const;
  // The upper edge of the bucket that holds the given share (0..1) of all samples.
  std::uint64_t percentile_ns(double share) const;

 private:
  static constexpr unsigned sub_bits = 5;

  static std::size_t index_of(std::uint64_t ns) {
    if (ns < (1U << sub_bits)) return ns;
    const auto shift = static_cast<unsigned>(std::bit_width(ns)) - 1 - sub_bits;
    return ((shift + 1) << sub_bits) + ((ns >> shift) & ((1U << sub_bits) - 1));
  }
  static std::uint64_t upper_edge(std::size_t index);

  std::array<std::uint64_t, (64 - sub_bits + 1) << sub_bits> buckets_{};
  std::uint64_t count_ = 0;
  std::uint64_t sum_ = 0;
  std::uint64_t max_ = 0;
};

// CPU time of a process and all its descendants. The kernel's per-process CPU clock counts every
// thread to the nanosecond, those that have ended too; a process that ends between two samples is
// missing from the later one.
class process_tree_cpu {
 public:
  explicit process_tree_cpu(pid_t root) : root_(root) {}

  void start() { at_start_ = sample(); }
  // Nanoseconds used since start(), by processes alive now.
  std::uint64_t elapsed_ns() const;
  std::size_t processes() const { return at_start_.size(); }

 private:
  using times = std::map<pid_t, std::uint64_t>;
  times sample() const;

  pid_t root_;
  times at_start_;
};

}  // namespace lbd::bench
