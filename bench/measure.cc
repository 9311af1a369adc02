// SPDX-License-Identifier: MIT
#include "measure.h"

#include <dirent.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <vector>

namespace lbd::bench {
namespace {

std::uint64_t read_clock(clockid_t clock) {
  timespec t{};
  if (clock_gettime(clock, &t) != 0) return 0;
  return static_cast<std::uint64_t>(t.tv_sec) * 1'000'000'000U +
         static_cast<std::uint64_t>(t.tv_nsec);
}

// The parent of a process, or 0 when there is none to tell.
pid_t parent_of(pid_t pid) {
  std::array<char, 64> path{};
  std::snprintf(path.data(), path.size(), "/proc/%d/status", static_cast<int>(pid));
  FILE* file = std::fopen(path.data(), "re");
  if (file == nullptr) return 0;
  std::array<char, 256> line{};
  int parent = 0;
  while (std::fgets(line.data(), static_cast<int>(line.size()), file) != nullptr) {
    if (std::sscanf(line.data(), "PPid: %d", &parent) == 1) break;
  }
  std::fclose(file);
  return static_cast<pid_t>(parent);
}

std::map<pid_t, pid_t> all_parents() {
  std::map<pid_t, pid_t> parents;
  DIR* proc = opendir("/proc");
  if (proc == nullptr) return parents;
  while (const dirent* entry = readdir(proc)) {
    const auto pid = static_cast<pid_t>(std::strtol(entry->d_name, nullptr, 10));
    if (pid > 0) parents[pid] = parent_of(pid);
  }
  closedir(proc);
  return parents;
}

}  // namespace

std::uint64_t now_ns() { return read_clock(CLOCK_MONOTONIC); }

std::uint64_t own_cpu_ns() { return read_clock(CLOCK_PROCESS_CPUTIME_ID); }

double histogram::mean_ns() const {
  return count_ == 0 ? 0.0 : static_cast<double>(sum_) / static_cast<double>(count_);
}

std::uint64_t histogram::upper_edge(std::size_t index) {
  if (index < (1U << sub_bits)) return index;
  const auto shift = (index >> sub_bits) - 1;
  const std::uint64_t low = (index & ((1U << sub_bits) - 1)) | (1U << sub_bits);
  return ((low + 1) << shift) - 1;
}

std::uint64_t histogram::percentile_ns(double share) const {
  const auto wanted = static_cast<std::uint64_t>(std::ceil(share * static_cast<double>(count_)));
  std::uint64_t seen = 0;
  for (std::size_t i = 0; i < buckets_.size(); i++) {
    seen += buckets_[i];
    if (seen >= wanted && seen > 0) return upper_edge(i) < max_ ? upper_edge(i) : max_;
  }
  return max_;
}

process_tree_cpu::times process_tree_cpu::sample() const {
  const auto parents = all_parents();
  times result;
  for (const auto& [pid, parent] : parents) {
    pid_t ancestor = pid;
    while (ancestor != root_ && ancestor > 1) {
      const auto up = parents.find(ancestor);
      ancestor = up == parents.end() ? 0 : up->second;
    }
    clockid_t clock{};
    if (ancestor == root_ && clock_getcpuclockid(pid, &clock) == 0) {
      result[pid] = read_clock(clock);
    }
  }
  return result;
}

std::uint64_t process_tree_cpu::elapsed_ns() const {
  std::uint64_t sum = 0;
  for (const auto& [pid, used] : sample()) {
    const auto before = at_start_.find(pid);
    sum += used - (before == at_start_.end() ? 0 : before->second);
  }
  return sum;
}

}  // namespace lbd::bench
