// SPDX-License-Identifier: MIT
#include "stack/table.h"

#include <algorithm>

namespace lbd::stack {
namespace {

// Limits that hold for every segment.
block::limits combine(const std::vector<table::segment>& segments) {
  if (segments.empty()) return {};
  block::limits all = segments.front().target->limits();
  for (const auto& s : segments) {
    const block::limits& l = s.target->limits();
    block::stack_io_sizes(all, l);
    all.preferred_bytes = std::max(all.preferred_bytes, l.preferred_bytes);
    all.max_transfer_bytes = std::min(all.max_transfer_bytes, l.max_transfer_bytes);
    all.discard_granularity_bytes =
        std::max(all.discard_granularity_bytes, l.discard_granularity_bytes);
    all.read_only |= l.read_only;
    all.can_discard |= l.can_discard;
    all.can_write_zeroes &= l.can_write_zeroes;
    all.fast_zero &= l.fast_zero;
    all.rotational |= l.rotational;
  }
  all.size_bytes = segments.back().end();
  return all;
}

}  // namespace

table::table(std::vector<segment> segments, bool read_only)
    : segments_(std::move(segments)), limits_(combine(segments_)), refuses_writes_(read_only) {
  limits_.read_only |= read_only;
  for (const segment& s : segments_) unit_bytes_ = std::max(unit_bytes_, s.unit_bytes);
}

base::outcome<std::unique_ptr<table>> table::make(std::vector<segment> segments, bool read_only) {
  uint64_t at = 0;
  for (const segment& s : segments) {
    if (s.start != at || s.length_bytes == 0 || s.start + s.length_bytes < s.start)
      return base::failure{base::errc::inval, "the table has a gap or an overlap at sector " +
                                                  std::to_string(s.start / 512) +
                                                  ", expected sector " + std::to_string(at / 512) +
                                                  " (lines must follow each other)"};
    at = s.end();
  }
  if (segments.empty())
    return base::failure{base::errc::inval, "the table is empty (give at least one line)"};
  return std::unique_ptr<table>(new table(std::move(segments), read_only));
}

std::unique_ptr<table> table::none() { return std::unique_ptr<table>(new table({}, false)); }

std::unique_ptr<table> table::whole(std::shared_ptr<block::block_device> target) {
  std::vector<segment> one;
  const uint64_t size = target->limits().size_bytes;
  const bool read_only = target->limits().read_only;
  one.push_back(segment{0, size, std::move(target)});
  return std::unique_ptr<table>(new table(std::move(one), read_only));
}

const table::segment* table::search(uint64_t offset) const noexcept {
  const auto after = std::upper_bound(segments_.begin(), segments_.end(), offset,
                                      [](uint64_t o, const segment& s) { return o < s.start; });
  if (after == segments_.begin()) return nullptr;
  const segment& s = *std::prev(after);
  return offset < s.end() ? &s : nullptr;
}

}  // namespace lbd::stack
