// SPDX-License-Identifier: MIT
#include "store/qcow2/repair.h"

#include <algorithm>

#include "base/log.h"
#include "block/image_lock.h"
#include "format/qcow2/refcount.h"
#include "store/qcow2/check.h"
#include "store/qcow2/layout.h"

namespace lbd::store {

using base::errc;
using base::failure;
using base::outcome;
using base::result;
using qcow2::geometry;
using rt::task;

namespace {

constexpr uint64_t fixed_bytes = qcow2::min_header_bytes_v3;
// An image of so many clusters (32 GiB in clusters of 64 KiB) is walked through in a moment.
constexpr uint64_t quickly_checked_clusters = uint64_t{512} << 10;

failure cannot(const char* what, base::io_error e) {
  return {e.code, std::string("cannot ") + what + ": " + base::to_string(e.code)};
}

task<result<void>> sync(rt::file& file) {
  auto synced = co_await file.sync_data();
  if (!synced) co_return synced.error();
  co_return result<void>{};
}

// The fixed fields lie in the first sector, so they change at once.
task<result<void>> write_fields(rt::file& file, const qcow2::header& h) {
  std::vector<std::byte> start(fixed_bytes);
  CO_CHECK(co_await file.read_all(0, start));
  qcow2::store_fixed_fields(h, start);
  CO_CHECK(co_await sync(file));
  CO_CHECK(co_await file.write_all(0, start));
  co_return co_await sync(file);
}

// A new set of refcounts behind everything else: blocks for `uses` and themselves, then their
// table. The old ones stay untouched until the header names the new ones, so that a crash changes
// nothing.
struct rebuilt {
  uint64_t first_cluster = 0;  // of the blocks
  uint64_t blocks = 0;
  uint64_t table_clusters = 0;
  uint64_t clusters() const noexcept { return first_cluster + blocks + table_clusters; }
};

rebuilt plan(const geometry& g, uint64_t used_clusters) {
  rebuilt r;
  r.first_cluster = used_clusters;
  r.blocks = 1;
  do {
    r.table_clusters = refcount_table_clusters(g, r.clusters());
    r.blocks = base::div_up(r.clusters(), g.refcounts_per_block());
  } while (r.clusters() > r.blocks * g.refcounts_per_block());
  return r;
}

// Writes behind the clusters of `uses`, the counted and the free ones.
task<result<void>> write_refcounts(rt::file& file, qcow2::header& h, std::vector<uint32_t> uses) {
  const geometry g = h.shape();
  const rebuilt r = plan(g, uses.size());
  std::vector<std::byte> table(r.table_clusters << g.cluster_bits);
  if (r.blocks * 8 > table.size()) co_return base::io_error{errc::fbig};
  const uint64_t end_bytes = r.clusters() << g.cluster_bits;
  if (file.info().size_bytes < end_bytes) CO_CHECK(co_await file.resize(end_bytes));
  for (uint64_t b = 0; b < r.blocks; ++b) {
    std::vector<std::byte> block(g.cluster_size());
    const uint64_t first = b * g.refcounts_per_block();
    const uint64_t end = std::min(r.clusters(), first + g.refcounts_per_block());
    for (uint64_t c = first; c < end; ++c) {
      const uint64_t count = c < uses.size() ? uses[c] : 1;
      if (count > g.max_refcount()) co_return base::io_error{errc::range};
      qcow2::store_refcount(block, g.refcount_order, c - first, count);
    }
    const uint64_t offset = (r.first_cluster + b) << g.cluster_bits;
    base::store_big<uint64_t>(table, b * 8, offset);
    CO_CHECK(co_await file.write_all(offset, block));
  }
  h.refcount_table_offset = (r.first_cluster + r.blocks) << g.cluster_bits;
  h.refcount_table_clusters = static_cast<uint32_t>(r.table_clusters);
  CO_CHECK(co_await file.write_all(h.refcount_table_offset, table));
  h.incompatible &= ~qcow2::feature_dirty;
  co_return co_await write_fields(file, h);
}

// The clusters of the present refcount structures will be free.
task<result<void>> forget_refcounts(rt::file& file, const qcow2::header& h,
                                    std::vector<uint32_t>& uses) {
  const geometry g = h.shape();
  std::vector<std::byte> table(uint64_t{h.refcount_table_clusters} << g.cluster_bits);
  CO_CHECK(co_await file.read_all(h.refcount_table_offset, table));
  const uint64_t first = g.cluster_index(h.refcount_table_offset);
  for (uint64_t c = first; c < first + h.refcount_table_clusters; ++c) --uses.at(c);
  for (uint64_t at = 0; at < table.size(); at += 8) {
    const uint64_t block = g.cluster_index(base::load_big<uint64_t>(table, at));
    if (block != 0) --uses.at(block);
  }
  co_return result<void>{};
}

task<outcome<void>> rebuild(rt::file& file, qcow2::header& h) {
  CO_TRY(image_check check, co_await check_image(file, file.info().size_bytes));
  if (check.damaged) {
    co_return failure{errc::io, "is damaged (" + check.messages.front() +
                                    "); repair it with 'qemu-img check -r all'"};
  }
  std::vector<uint32_t>& uses = check.uses;
  // The place of the new refcounts is behind the old ones too: until the header changes these live.
  while (!uses.empty() && uses.back() == 0) uses.pop_back();
  auto done = co_await forget_refcounts(file, h, uses);
  if (done) done = co_await write_refcounts(file, h, uses);
  if (!done) co_return cannot("rebuild the refcounts", done.error());
  co_return outcome<void>{};
}

// Counts 0 for clusters that nobody uses. A crash in the middle leaves some of them as they were.
task<result<void>> release(rt::file& file, const qcow2::header& h,
                           const std::vector<uint64_t>& unused) {
  const geometry g = h.shape();
  std::vector<std::byte> table(uint64_t{h.refcount_table_clusters} << g.cluster_bits);
  CO_CHECK(co_await file.read_all(h.refcount_table_offset, table));
  std::vector<std::byte> block(g.cluster_size());
  for (size_t i = 0; i < unused.size();) {
    const uint64_t index = g.refcount_table_index(unused[i]);
    const uint64_t offset = base::load_big<uint64_t>(table, index * 8);
    CO_CHECK(co_await file.read_all(offset, block));
    for (; i < unused.size() && g.refcount_table_index(unused[i]) == index; ++i)
      qcow2::store_refcount(block, g.refcount_order, g.refcount_block_index(unused[i]), 0);
    CO_CHECK(co_await file.write_all(offset, block));
  }
  co_return result<void>{};
}

// Gives back what a crash has leaked, where looking for it takes no time, the image is sound and
// nobody else can be writing it. A leak harms nobody, so only a failed sync is a failure: the
// kernel tells it once, and what it may have dropped is not only ours.
task<outcome<void>> give_back_leaks(rt::file& file, const qcow2::header& h) {
  const uint64_t bytes = file.info().size_bytes;
  if (h.bitmaps || h.shape().clusters_for(bytes) > quickly_checked_clusters ||
      !block::holds_write_lock(file))
    co_return outcome<void>{};
  const auto check = co_await check_image(file, bytes);
  if (!check || check->damaged || check->errors != 0 || check->unused.empty())
    co_return outcome<void>{};
  // The tables that do not name these clusters may be in the page cache only, and those on the disk
  // still name them.
  auto synced = co_await sync(file);
  if (!synced) co_return cannot("sync", synced.error());
  const auto released = co_await release(file, h, check->unused);
  synced = co_await sync(file);
  if (!synced) co_return cannot("sync", synced.error());
  const std::string what =
      file.info().path + ": " + std::to_string(check->unused.size()) + " leaked clusters ";
  if (released)
    base::log_info("qcow2", what + "are free again");
  else
    base::log_warn("qcow2", what + "stay: " + base::to_string(released.error().code));
  co_return outcome<void>{};
}

}  // namespace

task<outcome<void>> make_writable(rt::file& file, qcow2::header& h) {
  if (h.version < 3) {
    co_return failure{errc::notsup,
                      "is a version 2 image, which is only read; upgrade it with "
                      "'qemu-img amend -o compat=1.1', or put a new change file on top"};
  }
  const bool dirty = (h.incompatible & qcow2::feature_dirty) != 0;
  // A QEMU that keeps refcounts lazily marks the image for as long as it writes it.
  if (dirty && !block::holds_write_lock(file)) {
    co_return failure{errc::busy,
                      "is marked dirty: a program is writing it, or ended without closing it, and "
                      "no lock tells which here; when none does, repair it with 'qemu-img check -r "
                      "all', or put a new change file on top"};
  }
  if (h.autoclear != 0) {
    h.autoclear = 0;
    auto done = co_await write_fields(file, h);
    if (!done) co_return cannot("change the header", done.error());
  }
  const geometry g = h.shape();
  const uint64_t needed = refcount_table_clusters(g, g.clusters_for(file.info().size_bytes));
  // A table made by another program may be too short; it grows now, when nobody is waiting.
  const bool too_short = h.refcount_table_clusters < needed;
  if (!dirty && !too_short) co_return co_await give_back_leaks(file, h);
  if (dirty) base::log_info("qcow2", file.info().path + ": rebuilding the refcounts");
  co_return co_await rebuild(file, h);
}

}  // namespace lbd::store
