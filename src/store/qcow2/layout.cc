// SPDX-License-Identifier: MIT
#include "store/qcow2/layout.h"

#include <algorithm>

#include "format/qcow2/refcount.h"
#include "store/qcow2/change_file.h"

namespace lbd::store {

using base::errc;
using base::failure;
using base::outcome;
using base::result;
using qcow2::geometry;
using rt::task;

namespace {

// Clusters that wait to be given back while their successors are in use already.
constexpr uint64_t spare_clusters = 65536;

failure unfit(std::string text) { return {errc::inval, std::move(text)}; }

outcome<void> check_request(const new_change_file& what) {
  if (what.cluster_bits < qcow2::min_cluster_bits || what.cluster_bits > qcow2::max_cluster_bits) {
    return unfit("clusters are between 512 bytes and 2 MiB");
  }
  if (what.extended_l2 && what.cluster_bits < qcow2::min_extended_cluster_bits) {
    return unfit("subclusters need clusters of at least 16 KiB");
  }
  if (what.refcount_order > qcow2::max_refcount_order) return unfit("refcounts have 1 to 64 bits");
  if (what.size_bytes % 512 != 0) return unfit("the size is not a multiple of 512 bytes");
  const geometry g{what.cluster_bits, what.refcount_order, what.extended_l2, what.size_bytes};
  if (what.size_bytes > g.max_size()) {
    return unfit("the size needs larger clusters than " + std::to_string(g.cluster_size()) +
                 " bytes");
  }
  return {};
}

}  // namespace

uint64_t refcount_table_clusters(const geometry& g, uint64_t clusters) {
  const uint64_t data = g.clusters_for(g.size_bytes);
  const uint64_t tables = base::div_up(data, g.l2_entries());
  uint64_t total = clusters + data + tables + spare_clusters;
  total += base::div_up(total, g.refcounts_per_block()) * 2;
  const uint64_t bytes = base::div_up(total, g.refcounts_per_block()) * 8;
  return g.clusters_for(std::min(bytes, qcow2::max_refcount_table_bytes));
}

outcome<new_image> lay_out(const new_change_file& what) {
  CHECK(check_request(what));
  new_image image;
  qcow2::header& h = image.header;
  h.cluster_bits = what.cluster_bits;
  h.size_bytes = what.size_bytes;
  h.refcount_order = what.refcount_order;
  h.incompatible = what.extended_l2 ? qcow2::feature_extended_l2 : 0;
  h.extra_fields.resize(h.header_length - 105);
  h.backing_name = what.backing_name;
  if (what.backing_name) h.backing_format = what.backing_format;
  h.feature_names = qcow2::known_feature_names();
  const geometry g = h.shape();
  // A small cluster has no room for the names beside the backing name.
  if (!qcow2::serialize_header(h)) h.feature_names.clear();
  auto fits = qcow2::serialize_header(h);
  if (!fits) return fits.error();

  // QEMU's tools expect an L1 table even where there is nothing to map.
  h.l1_entries = static_cast<uint32_t>(std::max<uint64_t>(1, g.l1_entries_for(h.size_bytes)));
  const uint64_t l1 = g.clusters_for(uint64_t{h.l1_entries} * 8);
  h.refcount_table_clusters = static_cast<uint32_t>(refcount_table_clusters(g, l1 + 2));
  uint64_t blocks = 1;
  while (blocks * g.refcounts_per_block() < 1 + h.refcount_table_clusters + blocks + l1) ++blocks;
  h.refcount_table_offset = g.cluster_size();
  image.blocks_offset = uint64_t{1 + h.refcount_table_clusters} << g.cluster_bits;
  h.l1_offset = image.blocks_offset + (blocks << g.cluster_bits);
  image.clusters = 1 + h.refcount_table_clusters + blocks + l1;
  return image;
}

task<result<void>> write_image(rt::file& file, const new_image& image) {
  const qcow2::header& h = image.header;
  const geometry g = h.shape();
  CO_CHECK(co_await file.resize(image.clusters << g.cluster_bits));
  const uint64_t blocks = (h.l1_offset - image.blocks_offset) >> g.cluster_bits;
  std::vector<std::byte> table(blocks * 8);
  for (uint64_t b = 0; b < blocks; ++b) {
    const uint64_t offset = image.blocks_offset + (b << g.cluster_bits);
    base::store_big<uint64_t>(table, b * 8, offset);
    std::vector<std::byte> block(g.cluster_size());
    const uint64_t first = b * g.refcounts_per_block();
    const uint64_t end = std::min(image.clusters, first + g.refcounts_per_block());
    for (uint64_t c = first; c < end; ++c) {
      qcow2::store_refcount(block, g.refcount_order, c - first, 1);
    }
    CO_CHECK(co_await file.write_all(offset, block));
  }
  CO_CHECK(co_await file.write_all(h.refcount_table_offset, table));
  auto synced = co_await file.sync_data();
  if (!synced) co_return synced.error();
  auto header = qcow2::serialize_header(h);
  if (!header) co_return base::io_error{errc::inval};
  CO_CHECK(co_await file.write_all(0, *header));
  synced = co_await file.sync_data();
  if (!synced) co_return synced.error();
  co_return result<void>{};
}

}  // namespace lbd::store
