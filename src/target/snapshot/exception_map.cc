// SPDX-License-Identifier: MIT
#include "target/snapshot/exception_map.h"

#include <algorithm>

namespace lbd::snapshot {
namespace {

constexpr uint64_t smallest_table = 32;
// Neighbours lie beside each other: large requests ask for many in a row.
constexpr unsigned group_bits = 3;

uint64_t mix(uint64_t x) noexcept {
  x ^= x >> 32;
  x *= 0x9e3779b97f4a7c15u;
  x ^= x >> 29;
  x *= 0xbf58476d1ce4e5b9u;
  return x ^ x >> 32;
}

}  // namespace

exception_map::~exception_map() {
  for (auto& s : shards_) delete s.load(std::memory_order_relaxed);
}

exception_map::place exception_map::place_of(uint64_t chunk) noexcept {
  const uint64_t h = mix(chunk >> group_bits);
  const uint64_t in_group = chunk & ((1u << group_bits) - 1);
  return {h % shard_count, (h / shard_count) << group_bits | in_group};
}

// The chunk's slot, or the free one where it belongs.
exception_map::slot& exception_map::probe(const table& t, uint64_t index, uint64_t chunk) noexcept {
  for (;; ++index) {
    slot& s = t.all[index & t.mask];
    const uint64_t key = s.key.load(std::memory_order_acquire);
    if (key == chunk || key == free_key) return s;
  }
}

exception_map::slot* exception_map::existing(uint64_t chunk) const noexcept {
  const place p = place_of(chunk);
  const table* t = shards_[p.shard].load(std::memory_order_acquire);
  if (t == nullptr) return nullptr;
  slot& s = probe(*t, p.index, chunk);
  return s.key.load(std::memory_order_relaxed) == chunk ? &s : nullptr;
}

exception_map::answer exception_map::find(uint64_t old_chunk) const noexcept {
  const slot* s = existing(old_chunk);
  return s == nullptr ? answer{} : answer{s->value.load(std::memory_order_acquire)};
}

void exception_map::grow(size_t shard) {
  table* old = shards_[shard].load(std::memory_order_relaxed);
  uint64_t living = 0;
  if (old != nullptr)
    for (uint64_t i = 0; i <= old->mask; ++i)
      living += old->all[i].value.load(std::memory_order_relaxed) != none;
  uint64_t slots = smallest_table;
  while (slots < living * 2 + 2) slots *= 2;
  auto next = std::make_unique<table>(slots);
  for (uint64_t i = 0; old != nullptr && i <= old->mask; ++i) {
    const uint64_t value = old->all[i].value.load(std::memory_order_relaxed);
    if (value == none) continue;
    const uint64_t key = old->all[i].key.load(std::memory_order_relaxed);
    slot& s = probe(*next, place_of(key).index, key);
    s.value.store(value, std::memory_order_relaxed);
    s.key.store(key, std::memory_order_relaxed);
    ++next->used;
  }
  shards_[shard].store(next.release(), std::memory_order_release);
  if (old != nullptr) retired_.emplace_back(old);
}

void exception_map::insert(uint64_t old_chunk, uint64_t new_chunk, bool settling) {
  const place p = place_of(old_chunk);
  table* t = shards_[p.shard].load(std::memory_order_relaxed);
  // A quarter of the slots stays free, so that every search ends soon.
  if (t == nullptr || (t->used + 1) * 4 > (t->mask + 1) * 3) {
    grow(p.shard);
    t = shards_[p.shard].load(std::memory_order_relaxed);
  }
  slot& s = probe(*t, p.index, old_chunk);
  if (s.value.load(std::memory_order_relaxed) == none) ++size_;
  s.value.store(new_chunk | (settling ? settling_bit : 0), std::memory_order_release);
  if (s.key.load(std::memory_order_relaxed) == old_chunk) return;
  ++t->used;
  s.key.store(old_chunk, std::memory_order_release);
}

void exception_map::settle(uint64_t old_chunk) noexcept {
  slot* s = existing(old_chunk);
  if (s == nullptr) return;
  const uint64_t value = s->value.load(std::memory_order_relaxed);
  if (value != none) s->value.store(value & ~settling_bit, std::memory_order_release);
}

void exception_map::erase(uint64_t old_chunk) noexcept {
  slot* s = existing(old_chunk);
  if (s == nullptr || s->value.load(std::memory_order_relaxed) == none) return;
  s->value.store(none, std::memory_order_release);
  --size_;
}

uint64_t exception_map::largest_new_chunk() const noexcept {
  uint64_t most = 0;
  for (const auto& shard : shards_) {
    const table* t = shard.load(std::memory_order_relaxed);
    for (uint64_t i = 0; t != nullptr && i <= t->mask; ++i) {
      const answer a{t->all[i].value.load(std::memory_order_relaxed)};
      if (a.found()) most = std::max(most, a.new_chunk());
    }
  }
  return most;
}

}  // namespace lbd::snapshot
