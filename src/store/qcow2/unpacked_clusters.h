// SPDX-License-Identifier: MIT
// The last few clusters that were decompressed, so that small reads of one do not unpack it again
// and again. One reactor's; of an image that nobody writes.
#pragma once

#include <array>
#include <cstdint>

#include "rt/buffer_pool.h"

namespace lbd::store {

class unpacked_clusters {
 public:
  // Empty: not there. Valid until keep().
  base::bytes_view find(uint64_t host_offset) noexcept {
    for (entry& e : entries_) {
      if (!e.bytes || e.host_offset != host_offset) continue;
      e.last_use = ++clock_;
      return e.bytes.span();
    }
    return {};
  }
  // In place of the one that was not used for longest.
  void keep(uint64_t host_offset, rt::buffer bytes) noexcept {
    entry* oldest = entries_.data();
    for (entry& e : entries_)
      if (e.last_use < oldest->last_use) oldest = &e;
    oldest->host_offset = host_offset;
    oldest->last_use = ++clock_;
    oldest->bytes = std::move(bytes);
  }

 private:
  struct entry {
    uint64_t host_offset = 0, last_use = 0;
    rt::buffer bytes;
  };
  std::array<entry, 4> entries_;
  uint64_t clock_ = 0;
};

}  // namespace lbd::store
