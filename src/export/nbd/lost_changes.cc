// SPDX-License-Identifier: MIT
#include "export/nbd/lost_changes.h"

#include "export/nbd/connection.h"

namespace lbd::nbd_server {

using rt::task;

namespace {
constexpr uint64_t look_again_ns = 500'000;
}

task<void> lost_changes::lost(uint64_t connection_id, std::vector<byte_range> ranges) {
  lost_.fetch_add(1, std::memory_order_acq_rel);
  auto work = [this, connection_id, &ranges] { return put(connection_id, std::move(ranges)); };
  co_await rt::call_on(home_, work);
}

task<void> lost_changes::gone(uint64_t connection_id) {
  auto work = [this, connection_id] { return take(connection_id); };
  co_await rt::call_on(home_, work);
}

task<void> lost_changes::clear_of(byte_range r, connection& waiting) {
  auto work = [this, r, &waiting] { return wait_clear(r, waiting); };
  co_await rt::call_on(home_, work);
}

task<bool> lost_changes::put(uint64_t connection_id, std::vector<byte_range> ranges) {
  ranges_.emplace(connection_id, std::move(ranges));
  co_return true;
}

task<bool> lost_changes::take(uint64_t connection_id) {
  ranges_.erase(connection_id);
  lost_.fetch_sub(1, std::memory_order_acq_rel);
  co_return true;
}

task<bool> lost_changes::wait_clear(byte_range r, connection& waiting) {
  while (overlaps(r) && !waiting.aborted.load(std::memory_order_relaxed)) {
    if (hung_up(waiting.socket.fd())) waiting.abort();
    co_await rt::sleep_for(std::chrono::nanoseconds(look_again_ns));
  }
  co_return true;
}

bool lost_changes::overlaps(byte_range r) const noexcept {
  // One whose list has not arrived yet may overlap.
  if (ranges_.size() < lost_.load(std::memory_order_acquire)) return true;
  for (const auto& [id, ranges] : ranges_)
    for (const byte_range& old : ranges)
      if (old.begin < r.end && r.begin < old.end) return true;
  return false;
}

}  // namespace lbd::nbd_server
