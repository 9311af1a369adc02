// SPDX-License-Identifier: MIT
// What lost connections are still changing on a device. A client whose connection broke sends its
// requests again, on another connection that is open already (the kernel's client with several
// connections does): a change that overlaps such an old one waits until that has completed, so that
// it is not overwritten by it.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <vector>

#include "rt/reactor.h"

namespace lbd::nbd_server {

struct connection;

struct byte_range {
  uint64_t begin = 0, end = 0;
};

// One per device; any reactor may call.
class lost_changes {
 public:
  // The list is kept on `home`.
  explicit lost_changes(rt::reactor& home) noexcept : home_(home) {}

  bool any() const noexcept { return lost_.load(std::memory_order_acquire) != 0; }

  // A connection is lost while these ranges are being changed; gone() when that has ended.
  rt::task<void> lost(uint64_t connection_id, std::vector<byte_range> ranges);
  rt::task<void> gone(uint64_t connection_id);

  // Waits until nothing that was lost overlaps `r`. The waiting connection is aborted when its own
  // client goes away meanwhile: what it has not begun must not happen later.
  rt::task<void> clear_of(byte_range r, connection& waiting);

 private:
  rt::task<bool> put(uint64_t connection_id, std::vector<byte_range> ranges);
  rt::task<bool> take(uint64_t connection_id);
  rt::task<bool> wait_clear(byte_range r, connection& waiting);
  bool overlaps(byte_range r) const noexcept;

  rt::reactor& home_;
  std::atomic<unsigned> lost_{0};  // counted at once; the list follows
  std::map<uint64_t, std::vector<byte_range>> ranges_;
};

}  // namespace lbd::nbd_server
