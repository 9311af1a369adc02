// SPDX-License-Identifier: MIT
#include "format/qcow2/l2_entry.h"

namespace lbd::qcow2 {

using base::load_big;
using base::result;
using base::store_big;

namespace {

constexpr uint64_t flag_copied = uint64_t{1} << 63;
constexpr uint64_t flag_compressed = uint64_t{1} << 62;
constexpr uint64_t flag_zero = 1;
constexpr uint64_t offset_mask = 0x00fffffffffffe00;

uint32_t compressed_shift(const geometry& g) { return 62 - (g.cluster_bits - 8); }

result<cluster_mapping> decode_compressed(const geometry& g, raw_l2_entry entry) noexcept {
  if ((entry.descriptor & flag_copied) != 0) return corrupt(corruption::reserved_bits);
  uint32_t shift = compressed_shift(g);
  uint64_t offset = entry.descriptor & ((uint64_t{1} << shift) - 1);
  if (offset >= max_host_offset) return corrupt(corruption::reserved_bits);
  uint64_t more = (entry.descriptor & (flag_compressed - 1)) >> shift;
  cluster_mapping m;
  m.host_offset = offset;
  m.compressed_bytes = static_cast<uint32_t>((more + 1) * 512 - offset % 512);
  return m;
}

}  // namespace

raw_l2_entry load_l2_entry(const geometry& g, base::bytes_view table, uint32_t index) noexcept {
  size_t at = size_t{index} * g.l2_entry_size();
  raw_l2_entry entry;
  entry.descriptor = load_big<uint64_t>(table, at);
  if (g.extended_l2) entry.bitmap = load_big<uint64_t>(table, at + 8);
  return entry;
}

void store_l2_entry(const geometry& g, base::bytes_span table, uint32_t index,
                    raw_l2_entry entry) noexcept {
  size_t at = size_t{index} * g.l2_entry_size();
  store_big<uint64_t>(table, at, entry.descriptor);
  if (g.extended_l2) store_big<uint64_t>(table, at + 8, entry.bitmap);
}

result<cluster_mapping> decode_l2_entry(const geometry& g, uint32_t version,
                                        raw_l2_entry entry) noexcept {
  if ((entry.descriptor & flag_compressed) != 0) return decode_compressed(g, entry);
  cluster_mapping m;
  m.host_offset = entry.descriptor & offset_mask;
  m.copied = (entry.descriptor & flag_copied) != 0;
  bool zero_flag = (entry.descriptor & flag_zero) != 0;
  uint64_t known = offset_mask | flag_copied | (g.extended_l2 ? 0 : flag_zero);
  if ((entry.descriptor & ~known) != 0) return corrupt(corruption::reserved_bits);
  if (zero_flag && version < 3) return corrupt(corruption::zero_flag_in_version_2);
  if (!g.aligned(m.host_offset)) return corrupt(corruption::unaligned);
  if (g.extended_l2) {
    m.allocated = static_cast<uint32_t>(entry.bitmap);
    m.zero = static_cast<uint32_t>(entry.bitmap >> 32);
    if ((m.allocated & m.zero) != 0) return corrupt(corruption::subcluster_conflict);
  } else {
    m.zero = zero_flag ? 1 : 0;
    m.allocated = m.host_offset != 0 && !zero_flag ? 1 : 0;
  }
  if (m.host_offset == 0 && (m.allocated != 0 || m.copied)) {
    return corrupt(corruption::allocated_without_offset);
  }
  return m;
}

raw_l2_entry encode_l2_entry(const geometry& g, const cluster_mapping& m) noexcept {
  raw_l2_entry entry;
  if (m.is_compressed()) {
    uint64_t sectors = (m.host_offset % 512 + m.compressed_bytes + 511) / 512;
    entry.descriptor = flag_compressed | (sectors - 1) << compressed_shift(g) | m.host_offset;
    return entry;
  }
  entry.descriptor = m.host_offset | (m.copied ? flag_copied : 0);
  if (g.extended_l2) {
    entry.bitmap = uint64_t{m.zero} << 32 | m.allocated;
  } else if (m.zero != 0) {
    entry.descriptor |= flag_zero;
  }
  return entry;
}

result<l1_entry> decode_l1_entry(const geometry& g, uint64_t word) noexcept {
  if ((word & ~(offset_mask | flag_copied)) != 0) return corrupt(corruption::reserved_bits);
  l1_entry e{word & offset_mask, (word & flag_copied) != 0};
  if (!g.aligned(e.l2_offset)) return corrupt(corruption::unaligned);
  if (e.l2_offset == 0 && e.copied) return corrupt(corruption::allocated_without_offset);
  return e;
}

uint64_t encode_l1_entry(l1_entry e) noexcept { return e.l2_offset | (e.copied ? flag_copied : 0); }

result<uint64_t> decode_refcount_table_entry(const geometry& g, uint64_t word) noexcept {
  if ((word & 511) != 0) return corrupt(corruption::reserved_bits);
  if (!g.aligned(word)) return corrupt(corruption::unaligned);
  return word;
}

}  // namespace lbd::qcow2
