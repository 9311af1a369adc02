// SPDX-License-Identifier: MIT
#include "format/qcow2/snapshot.h"

#include <algorithm>

namespace lbd::qcow2 {

using base::bytes_view;
using base::errc;
using base::failure;
using base::load_big;
using base::outcome;

namespace {

constexpr size_t fixed_bytes = 40;

failure damaged(std::string what) {
  return {errc::io, "damaged snapshot table: " + what + "; try 'qemu-img check -r all'"};
}
failure too_short() { return {errc::overflow, "the snapshot table is cut off"}; }

// The bytes of the entry, with its padding.
outcome<uint64_t> parse_entry(const header& h, bytes_view at, snapshot& s) {
  if (at.size() < fixed_bytes) return too_short();
  s.l1_offset = load_big<uint64_t>(at, 0);
  s.l1_entries = load_big<uint32_t>(at, 8);
  uint64_t id_bytes = load_big<uint16_t>(at, 12);
  uint64_t name_bytes = load_big<uint16_t>(at, 14);
  s.time_s = load_big<uint32_t>(at, 16);
  s.time_ns = load_big<uint32_t>(at, 20);
  s.vm_state_bytes = load_big<uint32_t>(at, 32);
  uint64_t extra_bytes = load_big<uint32_t>(at, 36);
  s.size_bytes = h.size_bytes;
  uint64_t total = fixed_bytes + extra_bytes + id_bytes + name_bytes;
  if (total > max_snapshot_table_bytes) return damaged("an entry is too long");
  if (total > at.size()) return too_short();
  if (extra_bytes >= 8) s.vm_state_bytes = load_big<uint64_t>(at, fixed_bytes);
  if (extra_bytes >= 16) s.size_bytes = load_big<uint64_t>(at, fixed_bytes + 8);
  s.id = std::string(base::as_text(at.subspan(fixed_bytes + extra_bytes, id_bytes)));
  s.name = std::string(base::as_text(at.subspan(fixed_bytes + extra_bytes + id_bytes, name_bytes)));
  return base::round_up(total, 8);
}

}  // namespace

outcome<snapshot_table> parse_snapshot_table(const header& h, bytes_view table,
                                             uint64_t file_bytes) {
  snapshot_table out;
  for (uint32_t i = 0; i < h.snapshot_count; ++i) {
    snapshot s;
    TRY(uint64_t bytes, parse_entry(h, table, s));
    uint64_t l1_bytes = uint64_t{s.l1_entries} * 8;
    if (l1_bytes > max_l1_bytes || !h.shape().aligned(s.l1_offset) ||
        !base::range_fits(s.l1_offset, l1_bytes, file_bytes)) {
      return damaged("the L1 table of snapshot '" + s.name + "' is out of place");
    }
    out.bytes += bytes;
    if (out.bytes > max_snapshot_table_bytes) return damaged("it is larger than 64 MiB");
    table = table.subspan(std::min<uint64_t>(bytes, table.size()));
    out.snapshots.push_back(std::move(s));
  }
  return out;
}

}  // namespace lbd::qcow2
