// SPDX-License-Identifier: MIT
// DEPS: lbd_format_dm_log_writes
// A small log as input. Nothing may crash, what is sound must lie in the log, and what was read
// must survive being written and read again.
#include <cstdlib>
#include <vector>

#include "format/dm_log_writes/dm_log_writes.h"

namespace {

using namespace lbd;

void require(bool ok) {
  if (!ok) std::abort();
}

void fuzz_entry(base::bytes_view sector, const dm_log_writes::entry& e) {
  require(!dm_log_writes::kind_text(e).empty());
  const std::string_view text = dm_log_writes::text_of(sector, e);
  require(text.size() <= sector.size() - dm_log_writes::entry_bytes);
  std::vector<std::byte> copy(sector.size(), std::byte{1});
  dm_log_writes::store_entry(copy, e, text);
  require(dm_log_writes::load_entry(copy) == e);
  require(dm_log_writes::text_of(copy, e) == text);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const base::bytes_view log(reinterpret_cast<const std::byte*>(data), size);
  if (size < dm_log_writes::super_bytes) return 0;
  const dm_log_writes::super s = dm_log_writes::load_super(log);
  std::vector<std::byte> again(dm_log_writes::least_sector_bytes);
  dm_log_writes::store_super(again, s);
  require(dm_log_writes::load_super(again) == s);
  if (dm_log_writes::super_error(s) != nullptr) return 0;
  uint64_t at = s.sector_bytes;
  for (uint64_t i = 0; i < s.entries && at < size && size - at >= s.sector_bytes; ++i) {
    const base::bytes_view sector = log.subspan(at, s.sector_bytes);
    const dm_log_writes::entry e = dm_log_writes::load_entry(sector);
    fuzz_entry(sector, e);
    at += s.sector_bytes;
    if (!dm_log_writes::is_sound(e, s.sector_bytes, size - at)) break;
    const uint64_t bytes = e.data_sectors() * s.sector_bytes;
    require(bytes <= size - at);
    at += bytes;
  }
  return 0;
}
