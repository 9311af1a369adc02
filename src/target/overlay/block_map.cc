// SPDX-License-Identifier: MIT
#include "target/overlay/block_map.h"

#include <algorithm>

#include "base/checked_math.h"

namespace lbd::overlay {
namespace {

// An entry: the low two bits tell what it is.
//   0 unknown
//   1 uniform data: layer in bits 2..13, sector of its place in bits 14..63
//   2 uniform zero
//   3 mixed: a pointer to runs (its two low bits are free)
constexpr uint64_t tag_mask = 3, tag_data = 1, tag_zero = 2, tag_mixed = 3;
constexpr unsigned layer_shift = 2, layer_bits = 12, place_shift = layer_shift + layer_bits;
constexpr uint64_t sector_bytes = 512;

const runs* mixed_of(uint64_t entry) noexcept {
  return reinterpret_cast<const runs*>(entry & ~tag_mask);
}

// The entry for runs that need no list, or 0.
uint64_t compact(const runs& r) noexcept {
  if (r.size() != 1) return 0;
  const run& one = r[0];
  if (one.kind == run_kind::zero) return tag_zero;
  if (one.kind != run_kind::data || one.offset % sector_bytes != 0) return 0;
  if (one.layer >> layer_bits != 0 || one.offset / sector_bytes >> (64 - place_shift) != 0)
    return 0;
  return tag_data | uint64_t{one.layer} << layer_shift | one.offset / sector_bytes << place_shift;
}

run expand(uint64_t entry) noexcept {
  run r;
  r.end = map_block_bytes;
  if ((entry & tag_mask) == tag_zero) return r;
  r.kind = run_kind::data;
  r.layer = static_cast<uint16_t>(entry >> layer_shift & ((1u << layer_bits) - 1));
  r.offset = (entry >> place_shift) * sector_bytes;
  return r;
}

}  // namespace

void append_run(runs& to, run r) {
  if (r.begin == r.end) return;
  if (!to.empty() && to.back().continues_with(r))
    to.back().end = r.end;
  else
    to.push_back(r);
}

runs splice_run(const runs& in, const run& r) {
  runs out;
  out.reserve(in.size() + 2);
  bool placed = false;
  for (const run& old : in) {
    run left = old;
    left.end = std::min(old.end, r.begin);
    if (left.begin < left.end) append_run(out, left);
    if (!placed && old.end > r.begin) {
      append_run(out, r);
      placed = true;
    }
    run right = old;
    right.begin = std::max(old.begin, r.end);
    if (right.begin >= right.end) continue;
    if (right.kind == run_kind::data) right.offset += right.begin - old.begin;
    append_run(out, right);
  }
  return out;
}

block_map::block_map(uint64_t size_bytes)
    : pages_(base::div_up(base::div_up(size_bytes, map_block_bytes), entries_per_page)) {}

block_map::~block_map() {
  for (auto& p : pages_) {
    page* one = p.load(std::memory_order_relaxed);
    if (one == nullptr) continue;
    for (auto& e : one->entries) {
      const uint64_t value = e.load(std::memory_order_relaxed);
      if ((value & tag_mask) == tag_mixed) delete mixed_of(value);
    }
    delete one;
  }
}

std::atomic<uint64_t>* block_map::entry(uint64_t block) const noexcept {
  page* p = pages_[block / entries_per_page].load(std::memory_order_acquire);
  return p == nullptr ? nullptr : &p->entries[block % entries_per_page];
}

block_map::known block_map::find(uint64_t block) const noexcept {
  known k;
  const auto* e = entry(block);
  if (e == nullptr) return k;
  const uint64_t value = e->load(std::memory_order_acquire);
  if (value == 0) return k;
  if ((value & tag_mask) == tag_mixed) {
    k.what = known::kind::mixed;
    k.parts = mixed_of(value);
  } else {
    k.what = known::kind::uniform;
    k.whole = expand(value);
  }
  return k;
}

bool block_map::find_from(uint64_t block, uint32_t begin, run& out) const noexcept {
  const known k = find(block);
  if (k.what == known::kind::unknown) return false;
  if (k.what == known::kind::uniform) {
    out = k.whole;
  } else {
    const auto after = std::upper_bound(k.parts->begin(), k.parts->end(), begin,
                                        [](uint32_t at, const run& r) { return at < r.begin; });
    out = *std::prev(after);
  }
  if (out.kind == run_kind::data) out.offset += begin - out.begin;
  out.begin = begin;
  return true;
}

bool block_map::find_run(uint64_t block, uint32_t begin, uint32_t end, run& out) const noexcept {
  if (!find_from(block, begin, out) || end > out.end) return false;
  out.end = end;
  return true;
}

void block_map::set(uint64_t block, runs r) {
  auto& slot = pages_[block / entries_per_page];
  page* p = slot.load(std::memory_order_relaxed);
  if (p == nullptr) {
    p = new page;
    slot.store(p, std::memory_order_release);
  }
  uint64_t value = compact(r);
  if (value == 0) value = reinterpret_cast<uint64_t>(new runs(std::move(r))) | tag_mixed;
  const uint64_t old =
      p->entries[block % entries_per_page].exchange(value, std::memory_order_acq_rel);
  if ((old & tag_mask) == tag_mixed) retired_.emplace_back(mixed_of(old));
}

bool block_map::is_known(uint64_t block) const noexcept {
  const auto* e = entry(block);
  return e != nullptr && e->load(std::memory_order_acquire) != 0;
}

}  // namespace lbd::overlay
