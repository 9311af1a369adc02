// SPDX-License-Identifier: MIT
#include "store/qcow2/image_device.h"

#include <algorithm>

#include "base/checked_math.h"
#include "block/segments.h"

namespace lbd::store {

using base::errc;
using base::io_error;
using base::result;
using rt::task;

namespace {
task<result<void>> failed_read() { co_return io_error{errc::io}; }
}  // namespace

bool image_device::has_lost(uint64_t offset, uint64_t length) const noexcept {
  const lost_clusters* lost = lost_.load(std::memory_order_acquire);
  if (lost == nullptr) return false;
  const uint64_t first = base::round_down(offset, lost->cluster_bytes);
  const auto at = std::lower_bound(lost->offsets.begin(), lost->offsets.end(), first);
  return at != lost->offsets.end() && *at < offset + length;
}

task<result<void>> image_device::read(uint64_t offset, rt::segments to, block::io_opts io) {
  if (has_lost(offset, block::total_bytes(to))) return failed_read();
  return file_device::read(offset, to, io);
}

block::lease image_device::borrow(uint64_t offset, uint64_t length) noexcept {
  if (has_lost(offset, length)) return {};
  return file_device::borrow(offset, length);
}

void image_device::lose(std::vector<uint64_t> clusters, uint64_t cluster_bytes) {
  if (kept_) return;
  std::sort(clusters.begin(), clusters.end());
  auto lost = std::make_unique<lost_clusters>();
  lost->offsets = std::move(clusters);
  lost->cluster_bytes = cluster_bytes;
  kept_ = std::move(lost);
  lost_.store(kept_.get(), std::memory_order_release);
}

}  // namespace lbd::store
