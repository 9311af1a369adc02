// SPDX-License-Identifier: MIT
#include "store/gluster/unsynced.h"

#include <algorithm>
#include <map>

namespace lbd::store {
namespace {

uint64_t held_by(const unsynced_change& c) noexcept {
  return c.bytes.size() + sizeof(unsynced_change);
}

}  // namespace

void unsynced_log::add(unsynced_change c) {
  trim();
  c.order = next_.fetch_add(1, std::memory_order_acq_rel);
  held_bytes_.fetch_add(held_by(c), std::memory_order_relaxed);
  slots_[rt::reactor::current().index()].changes.push_back(std::move(c));
}

void unsynced_log::trim() noexcept {
  auto& changes = slots_[rt::reactor::current().index()].changes;
  const uint64_t covered = covered_.load(std::memory_order_acquire);
  while (!changes.empty() && changes.front().order < covered) {
    held_bytes_.fetch_sub(held_by(changes.front()), std::memory_order_relaxed);
    changes.pop_front();
  }
}

std::vector<const unsynced_change*> unsynced_log::newest_first() const {
  const uint64_t covered = covered_.load(std::memory_order_acquire);
  std::vector<const unsynced_change*> out;
  for (const slot& s : slots_)
    for (const unsynced_change& c : s.changes)
      if (c.order >= covered) out.push_back(&c);
  std::sort(out.begin(), out.end(),
            [](const auto* a, const auto* b) { return a->order > b->order; });
  return out;
}

std::vector<unsynced_piece> unsynced_log::newest() const {
  std::map<uint64_t, uint64_t> told;  // begin -> end of what newer changes say
  std::vector<unsynced_piece> out;
  for (const unsynced_change* c : newest_first()) {
    const uint64_t end = c->offset + c->length;
    for (uint64_t begin = c->offset; begin < end;) {
      const auto next = told.upper_bound(begin);
      if (next != told.begin() && std::prev(next)->second > begin) {
        begin = std::prev(next)->second;
        continue;
      }
      const uint64_t until = next == told.end() ? end : std::min(end, next->first);
      out.push_back({c, begin, until - begin});
      told[begin] = until;
      begin = until;
    }
  }
  return out;
}

}  // namespace lbd::store
