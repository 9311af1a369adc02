// SPDX-License-Identifier: MIT
// What a file was told and no sync has covered yet, so that it can be told again: after servers
// have been away nobody else knows whether it is on their disks.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <vector>

#include "rt/buffer_pool.h"
#include "rt/reactor.h"

namespace lbd::store {

struct unsynced_change {
  enum class kind : uint8_t { write, zero, discard };
  kind what = kind::write;
  uint64_t order = 0;  // by the moment in which the change was done
  uint64_t offset = 0, length = 0;
  rt::buffer bytes;  // of a write
};

// A part of a change.
struct unsynced_piece {
  const unsynced_change* of = nullptr;
  uint64_t offset = 0, length = 0;
};

// Changes are added on any reactor, without locks: each has a list of its own.
class unsynced_log {
 public:
  explicit unsynced_log(unsigned reactors) : slots_(reactors) {}

  // Of the calling reactor. Forgets what a sync has covered since.
  void add(unsynced_change c);
  // Everything that was added before the call (and told to whoever waits after it was) has a
  // smaller order.
  uint64_t now() const noexcept { return next_.load(std::memory_order_acquire); }
  // A sync has covered everything below `order`.
  void covered(uint64_t order) noexcept { covered_.store(order, std::memory_order_release); }
  // Bytes of memory, of what is covered and not yet forgotten too.
  uint64_t held_bytes() const noexcept { return held_bytes_.load(std::memory_order_relaxed); }
  // Forgets what is covered on the calling reactor.
  void trim() noexcept;

  // Of everything not covered the newest content of each byte: pieces that do not overlap, so that
  // writing them never shows anything older. REQUIRES: nobody adds or trims meanwhile.
  std::vector<unsynced_piece> newest() const;

 private:
  std::vector<const unsynced_change*> newest_first() const;

  struct alignas(64) slot {
    std::deque<unsynced_change> changes;
  };
  std::vector<slot> slots_;
  std::atomic<uint64_t> next_{1}, covered_{0}, held_bytes_{0};
};

}  // namespace lbd::store
