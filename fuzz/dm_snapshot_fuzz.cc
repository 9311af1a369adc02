// SPDX-License-Identifier: MIT
// DEPS: lbd_format_dm_snapshot
// A small exception store as input: a header and areas. Nothing may crash, and what was read must
// survive being written and read again.
#include <cstdlib>
#include <vector>

#include "format/dm_snapshot/dm_snapshot.h"

namespace {

using namespace lbd;

void require(bool ok) {
  if (!ok) std::abort();
}

void fuzz_area(const dm_snapshot::geometry& g, base::bytes_view area) {
  const uint64_t count = dm_snapshot::count_entries(g, area);
  require(count <= g.entries_per_area());
  std::vector<std::byte> copy(area.size());
  for (uint64_t i = 0; i < count; ++i) {
    const dm_snapshot::entry e = dm_snapshot::load_entry(area, i);
    dm_snapshot::store_entry(copy, i, e);
    require(dm_snapshot::load_entry(copy, i) == e);
    if (dm_snapshot::is_sound(g, e, 1000)) require(e.new_chunk >= 2 && e.new_chunk < 1000);
    const uint64_t free = g.skip_area(e.new_chunk);
    require(free - e.new_chunk <= 1 && free % g.stride() != 1);
  }
  require(dm_snapshot::count_entries(g, copy) == count);
  for (uint64_t n = 1; n <= count; ++n) {
    const uint64_t run = dm_snapshot::run_at_end(area, n);
    require(run >= 1 && run <= n);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const base::bytes_view image(reinterpret_cast<const std::byte*>(data), size);
  std::string error;
  (void)dm_snapshot::parse_store_type(base::as_text(image.first(size < 8 ? size : 8)), error);
  if (size < dm_snapshot::header_bytes) return 0;
  const dm_snapshot::header h = dm_snapshot::load_header(image);
  std::vector<std::byte> again(dm_snapshot::header_bytes);
  dm_snapshot::store_header(again, h);
  require(dm_snapshot::load_header(again) == h);
  if (dm_snapshot::chunk_size_error(h.chunk_sectors, 512, 512) != nullptr) return 0;
  const dm_snapshot::geometry g{h.chunk_sectors};
  for (uint64_t k = 0; k < 4; ++k) {
    const uint64_t chunk = g.area_chunk(k);
    require(g.is_metadata(chunk));
    if (!base::range_fits(chunk * g.chunk_bytes(), g.chunk_bytes(), size)) break;
    fuzz_area(g, image.subspan(chunk * g.chunk_bytes(), g.chunk_bytes()));
  }
  return 0;
}
