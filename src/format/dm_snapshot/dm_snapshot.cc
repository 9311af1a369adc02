// SPDX-License-Identifier: MIT
#include "format/dm_snapshot/dm_snapshot.h"

#include <algorithm>

namespace lbd::dm_snapshot {

header load_header(base::bytes_view chunk) noexcept {
  header h;
  h.magic = base::load_little<uint32_t>(chunk, 0);
  h.valid = base::load_little<uint32_t>(chunk, 4);
  h.version = base::load_little<uint32_t>(chunk, 8);
  h.chunk_sectors = base::load_little<uint32_t>(chunk, 12);
  return h;
}

void store_header(base::bytes_span chunk, const header& h) noexcept {
  std::fill(chunk.begin(), chunk.end(), std::byte{0});
  base::store_little<uint32_t>(chunk, 0, h.magic);
  base::store_little<uint32_t>(chunk, 4, h.valid);
  base::store_little<uint32_t>(chunk, 8, h.version);
  base::store_little<uint32_t>(chunk, 12, h.chunk_sectors);
}

const char* chunk_size_error(uint64_t sectors, uint32_t store_block_bytes,
                             uint32_t origin_block_bytes) noexcept {
  if (!base::is_power_of_two(sectors)) return "Chunk size is not a power of 2";
  const uint64_t bytes = sectors > UINT64_MAX / sector_bytes ? 0 : sectors * sector_bytes;
  if (bytes % std::max<uint64_t>(store_block_bytes, 1) != 0 ||
      bytes % std::max<uint64_t>(origin_block_bytes, 1) != 0)
    return "Chunk size is not a multiple of device blocksize";
  if (sectors > most_chunk_sectors) return "Chunk size is too high";
  return nullptr;
}

std::optional<store_type> parse_store_type(std::string_view word, std::string& error) {
  const char first = word.empty() ? '\0' : word[0];
  if (first == 'N' || first == 'n') return store_type{};
  if (first != 'P' && first != 'p') {
    error = "Exception store type is not P or N";
    return std::nullopt;
  }
  if (word.size() == 1) return store_type{true, false};
  if (word[1] == 'O' || word[1] == 'o') return store_type{true, true};
  error = "Unsupported persistent store option: " + std::string(word.substr(1));
  return std::nullopt;
}

entry load_entry(base::bytes_view area, uint64_t index) noexcept {
  const size_t at = index * entry_bytes;
  return {base::load_little<uint64_t>(area, at), base::load_little<uint64_t>(area, at + 8)};
}

void store_entry(base::bytes_span area, uint64_t index, entry e) noexcept {
  const size_t at = index * entry_bytes;
  base::store_little<uint64_t>(area, at, e.old_chunk);
  base::store_little<uint64_t>(area, at + 8, e.new_chunk);
}

bool is_sound(const geometry& g, entry e, uint64_t chunks) noexcept {
  return e.new_chunk < chunks && !g.is_metadata(e.new_chunk) &&
         e.old_chunk < (uint64_t{1} << 63) / g.chunk_bytes();
}

uint64_t count_entries(const geometry& g, base::bytes_view area) noexcept {
  uint64_t n = 0;
  while (n < g.entries_per_area() && load_entry(area, n).new_chunk != 0) ++n;
  return n;
}

uint64_t run_at_end(base::bytes_view area, uint64_t count) noexcept {
  const entry last = load_entry(area, count - 1);
  uint64_t n = 1;
  for (; n < count; ++n) {
    const entry e = load_entry(area, count - 1 - n);
    if (e.old_chunk + n != last.old_chunk || e.new_chunk + n != last.new_chunk) break;
  }
  return n;
}

}  // namespace lbd::dm_snapshot
