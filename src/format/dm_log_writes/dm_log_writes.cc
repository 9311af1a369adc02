// SPDX-License-Identifier: MIT
#include "format/dm_log_writes/dm_log_writes.h"

#include <algorithm>

#include "base/checked_math.h"

namespace lbd::dm_log_writes {

super load_super(base::bytes_view sector) noexcept {
  super s;
  s.magic = base::load_little<uint64_t>(sector, 0);
  s.version = base::load_little<uint64_t>(sector, 8);
  s.entries = base::load_little<uint64_t>(sector, 16);
  s.sector_bytes = base::load_little<uint32_t>(sector, 24);
  return s;
}

void store_super(base::bytes_span sector, const super& s) noexcept {
  std::fill(sector.begin(), sector.end(), std::byte{0});
  base::store_little(sector, 0, s.magic);
  base::store_little(sector, 8, s.version);
  base::store_little(sector, 16, s.entries);
  base::store_little(sector, 24, s.sector_bytes);
}

const char* super_error(const super& s) noexcept {
  if (s.magic != super_magic) return "is no log of log-writes, or one that nothing was counted in";
  if (s.version != log_version) return "is a log of another version than 1";
  if (!base::is_power_of_two(s.sector_bytes) || s.sector_bytes < least_sector_bytes ||
      s.sector_bytes > most_sector_bytes)
    return "has sectors of a size that no log has";
  return nullptr;
}

entry load_entry(base::bytes_view sector) noexcept {
  entry e;
  e.sector = base::load_little<uint64_t>(sector, 0);
  e.sectors = base::load_little<uint64_t>(sector, 8);
  e.flags = base::load_little<uint64_t>(sector, 16);
  e.text_bytes = base::load_little<uint64_t>(sector, 24);
  return e;
}

void store_entry(base::bytes_span sector, const entry& e, std::string_view text) noexcept {
  std::fill(sector.begin(), sector.end(), std::byte{0});
  base::store_little(sector, 0, e.sector);
  base::store_little(sector, 8, e.sectors);
  base::store_little(sector, 16, e.flags);
  base::store_little(sector, 24, e.text_bytes);
  const base::bytes_view from = base::as_bytes(text);
  std::copy(from.begin(), from.end(), sector.subspan(entry_bytes).begin());
}

std::string_view text_of(base::bytes_view sector, const entry& e) noexcept {
  if (!e.is(entry::mark)) return {};
  const base::bytes_view rest = sector.subspan(entry_bytes);
  return base::as_text(rest.first(std::min<uint64_t>(e.text_bytes, rest.size())));
}

bool is_sound(const entry& e, uint32_t sector_bytes, uint64_t left_bytes) noexcept {
  const uint64_t most = UINT64_MAX / sector_bytes;
  if (e.sectors > most || e.sector > most - e.sectors) return false;
  if (e.is(entry::mark) && e.text_bytes > sector_bytes - entry_bytes) return false;
  return e.data_sectors() <= left_bytes / sector_bytes;
}

std::string kind_text(const entry& e) {
  std::string out = e.is(entry::mark)      ? "mark"
                    : e.is(entry::discard) ? "discard"
                    : e.sectors != 0       ? "write"
                                           : "";
  const auto add = [&out](const char* word) {
    out += (out.empty() ? "" : " ") + std::string(word);
  };
  if (e.is(entry::flush)) add("flush");
  if (e.is(entry::fua)) add("fua");
  if (e.is(entry::metadata)) add("metadata");
  return out.empty() ? "nothing" : out;
}

}  // namespace lbd::dm_log_writes
