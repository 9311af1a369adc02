// SPDX-License-Identifier: MIT
// DEPS: lbd_format_qcow2
// A whole small image as input: header, tables, entries, snapshots, compressed data. Nothing may
// crash, and what the codec accepts must survive being written and read again.
#include <algorithm>
#include <cstdlib>
#include <vector>

#include "format/qcow2/decompress.h"
#include "format/qcow2/header.h"
#include "format/qcow2/l2_entry.h"
#include "format/qcow2/refcount.h"
#include "format/qcow2/snapshot.h"

namespace {

using namespace lbd;
using base::bytes_view;

void require(bool ok) {
  if (!ok) std::abort();
}

void fuzz_header(const qcow2::header& h) {
  auto bytes = qcow2::serialize_header(h);
  if (!bytes) return;
  auto again = qcow2::parse_header(*bytes);
  require(again.has_value());
  // An empty backing name at offset 0 means none; everything else must be equal.
  require(*again == h);
}

void fuzz_entries(const qcow2::header& h, bytes_view image) {
  qcow2::geometry g = h.shape();
  qcow2::fixed_areas areas(h, image.size());
  for (size_t at = 0; at + 16 <= image.size(); at += 8) {
    uint64_t word = base::load_big<uint64_t>(image, at);
    qcow2::raw_l2_entry raw{word, g.extended_l2 ? base::load_big<uint64_t>(image, at + 8) : 0};
    auto m = qcow2::decode_l2_entry(g, h.version, raw);
    if (m) {
      auto back = qcow2::decode_l2_entry(g, h.version, qcow2::encode_l2_entry(g, *m));
      require(back && *back == *m);
      if (m->is_compressed()) {
        (void)areas.check_bytes(m->host_offset, m->compressed_bytes);
      } else {
        (void)areas.check_cluster(m->host_offset);
      }
    }
    auto l1 = qcow2::decode_l1_entry(g, word);
    if (l1) require(qcow2::encode_l1_entry(*l1) == word);
    (void)qcow2::decode_refcount_table_entry(g, word);
  }
}

void fuzz_refcounts(bytes_view image, uint32_t order) {
  std::vector<std::byte> block(
      image.begin(),
      image.begin() + std::min<ptrdiff_t>(64, static_cast<ptrdiff_t>(image.size() & ~7u)));
  uint64_t count = block.size() * 8 >> order;
  std::vector<std::byte> copy(block.size());
  for (uint64_t i = 0; i < count; ++i) {
    qcow2::store_refcount(copy, order, i, qcow2::load_refcount(block, order, i));
  }
  require(copy == block);
}

void fuzz_compressed(bytes_view data) {
  std::vector<std::byte> cluster(4096);
  (void)qcow2::decompress_cluster(qcow2::compression_type::deflate, data, cluster);
  (void)qcow2::decompress_cluster(qcow2::compression_type::zstd, data, cluster);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  bytes_view image(reinterpret_cast<const std::byte*>(data), size);
  if (size > 0 && data[0] == 'C') fuzz_compressed(image.subspan(1));
  fuzz_refcounts(image, static_cast<uint32_t>(size % 7));
  auto h = qcow2::parse_header(image);
  if (!h) return 0;
  fuzz_header(*h);
  (void)qcow2::check_supported(*h);
  if (h->snapshots_offset < size) {
    (void)qcow2::parse_snapshot_table(*h, image.subspan(h->snapshots_offset), size);
  }
  if (qcow2::check_layout(*h, size)) fuzz_entries(*h, image);
  return 0;
}
