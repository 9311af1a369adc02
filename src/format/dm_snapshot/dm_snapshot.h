// SPDX-License-Identifier: MIT
// The persistent exception store of the kernel's snapshot target: which chunk of an origin lies in
// which chunk of the store.
//
// The device is cut into chunks. Chunk 0 holds the header. Area k is the chunk 1 + k * (E + 1) and
// holds E entries of 16 bytes; the first entry without a new chunk ends the list, in all areas. All
// other chunks hold data; any entry may refer to any of them. Everything is little-endian; a chunk
// size counts sectors of 512 bytes.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/bytes.h"
#include "base/checked_math.h"

namespace lbd::dm_snapshot {

inline constexpr uint32_t header_magic = 0x70416e53;  // "SnAp"
inline constexpr uint32_t disk_version = 1;
inline constexpr size_t header_bytes = 16;
inline constexpr size_t entry_bytes = 16;
inline constexpr uint64_t sector_bytes = 512;
inline constexpr uint32_t default_chunk_sectors = 32;
inline constexpr uint32_t most_chunk_sectors = INT32_MAX >> 9;

struct header {
  uint32_t magic = header_magic;
  uint32_t valid = 1;  // 0: its snapshot can never be used again
  uint32_t version = disk_version;
  uint32_t chunk_sectors = 0;
  friend bool operator==(const header&, const header&) = default;

  // A device that has never been a store.
  bool is_none() const noexcept { return magic == 0; }
};

// REQUIRES: at least header_bytes.
header load_header(base::bytes_view chunk) noexcept;
// Fills the whole span; what is not used is zero.
void store_header(base::bytes_span chunk, const header& h) noexcept;

// Why a chunk size cannot be used with devices of these block sizes, in the kernel's words, or
// nullptr.
const char* chunk_size_error(uint64_t sectors, uint32_t store_block_bytes,
                             uint32_t origin_block_bytes) noexcept;

// The words of a table: "P", "PO" and "N".
struct store_type {
  bool persistent = false;
  bool overflow = false;  // "O": being full stops writes to the snapshot, and is no damage
  friend bool operator==(const store_type&, const store_type&) = default;
  const char* text() const noexcept { return !persistent ? "N" : overflow ? "PO" : "P"; }
};
// nullopt: the text is in `error`.
std::optional<store_type> parse_store_type(std::string_view word, std::string& error);

// `new_chunk` 0: no entry.
struct entry {
  uint64_t old_chunk = 0;  // of the origin
  uint64_t new_chunk = 0;  // of the store
  friend bool operator==(const entry&, const entry&) = default;
};
// REQUIRES: the area holds entry `index`.
entry load_entry(base::bytes_view area, uint64_t index) noexcept;
void store_entry(base::bytes_span area, uint64_t index, entry e) noexcept;

// REQUIRES: chunk_sectors is a power of two, at most most_chunk_sectors.
struct geometry {
  uint32_t chunk_sectors = default_chunk_sectors;

  uint64_t chunk_bytes() const noexcept { return chunk_sectors * sector_bytes; }
  uint64_t entries_per_area() const noexcept { return chunk_bytes() / entry_bytes; }
  // Chunks from one area to the next.
  uint64_t stride() const noexcept { return entries_per_area() + 1; }
  uint64_t area_chunk(uint64_t area) const noexcept { return 1 + area * stride(); }
  bool is_metadata(uint64_t chunk) const noexcept { return chunk == 0 || chunk % stride() == 1; }
  // The chunk itself, or the next one when it is an area.
  uint64_t skip_area(uint64_t chunk) const noexcept {
    return chunk % stride() == 1 ? chunk + 1 : chunk;
  }
  // Whole chunks on a device.
  uint64_t chunks_on(uint64_t size_bytes) const noexcept { return size_bytes / chunk_bytes(); }
};

inline constexpr uint64_t first_data_chunk = 2;

// Whether a store of `chunks` chunks can hold this entry's data.
bool is_sound(const geometry& g, entry e, uint64_t chunks) noexcept;

// Entries of an area up to the end of the list. REQUIRES: a whole area.
uint64_t count_entries(const geometry& g, base::bytes_view area) noexcept;

// How many of the first `count` entries, seen from the last one backwards, continue each other: old
// and new chunk are one less each. REQUIRES: 0 < count <= entries in the area.
uint64_t run_at_end(base::bytes_view area, uint64_t count) noexcept;

}  // namespace lbd::dm_snapshot
