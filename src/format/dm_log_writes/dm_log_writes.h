// SPDX-License-Identifier: MIT
// The log of the kernel's log-writes target, version 1: what was written to a device, in which
// order between flushes. Everything is little-endian and counted in sectors of the log, which are
// as large as a logical block of the logged device:
//   sector 0   u64 magic, u64 version, u64 entries, u32 bytes of a sector; brought up to date by
//              entries that are marks or FUA only
//   sector 1.. the entries, one after the other: a sector with u64 sector of the device, u64
//              sectors, u64 flags, u64 length of a mark's text, and that text; then the data
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/bytes.h"

namespace lbd::dm_log_writes {

inline constexpr uint64_t super_magic = 0x6a736677736872;
inline constexpr uint64_t log_version = 1;
inline constexpr size_t super_bytes = 28;
inline constexpr size_t entry_bytes = 32;
inline constexpr uint32_t least_sector_bytes = 512, most_sector_bytes = 65536;

struct super {
  uint64_t magic = super_magic;
  uint64_t version = log_version;
  uint64_t entries = 0;
  uint32_t sector_bytes = least_sector_bytes;
  friend bool operator==(const super&, const super&) = default;
};
// REQUIRES: at least super_bytes.
super load_super(base::bytes_view sector) noexcept;
// Fills the whole span; what is not used is zero.
void store_super(base::bytes_span sector, const super& s) noexcept;
// Why such a log cannot be read ("is no log of log-writes"), or nullptr.
const char* super_error(const super& s) noexcept;

struct entry {
  static constexpr uint64_t flush = 1, fua = 2, discard = 4, mark = 8, metadata = 16;
  uint64_t sector = 0, sectors = 0;  // of the device
  uint64_t flags = 0;
  uint64_t text_bytes = 0;
  friend bool operator==(const entry&, const entry&) = default;

  bool is(uint64_t flag) const noexcept { return (flags & flag) != 0; }
  // Data that follows in the log.
  uint64_t data_sectors() const noexcept { return is(discard) ? 0 : sectors; }
  // The super block counts it at once.
  bool tells_super() const noexcept { return is(fua | mark); }
};
// REQUIRES: at least entry_bytes.
entry load_entry(base::bytes_view sector) noexcept;
// Fills the whole span; REQUIRES: there is room for the text, e.text_bytes long.
void store_entry(base::bytes_span sector, const entry& e, std::string_view text) noexcept;
// A mark's text, as much of it as the sector has.
std::string_view text_of(base::bytes_view sector, const entry& e) noexcept;
// The longest text of a mark.
inline constexpr size_t text_most(uint32_t sector_bytes) noexcept {
  return sector_bytes - entry_bytes - 1;
}

// Whether the entry's data lies in the `left_bytes` of the log after its first sector, its text in
// that sector, and its place on a device in 64 bits of bytes. REQUIRES: super_error() has none.
bool is_sound(const entry& e, uint32_t sector_bytes, uint64_t left_bytes) noexcept;

// "write", "write fua", "flush", "discard", "mark": for people.
std::string kind_text(const entry& e);

}  // namespace lbd::dm_log_writes
