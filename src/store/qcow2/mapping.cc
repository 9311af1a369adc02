// SPDX-License-Identifier: MIT
// Looking things up in a change file: from guest addresses to host clusters.
#include <algorithm>
#include <bit>

#include "base/log.h"
#include "block/segments.h"
#include "format/qcow2/decompress.h"
#include "rt/buffer_pool.h"
#include "store/qcow2/change_file.h"

namespace lbd::store {

using base::errc;
using base::result;
using block::placement;
using block::placement_kind;
using qcow2::cluster_mapping;
using rt::segments;
using rt::task;

task<result<table_block*>> change_file::l2_for_reading(uint64_t l1_index) {
  if (l1_index >= l1_.size()) co_return static_cast<table_block*>(nullptr);
  CO_TRY(const qcow2::l1_entry e, tell(qcow2::decode_l1_entry(g_, l1_[l1_index])));
  if (e.l2_offset == 0) co_return static_cast<table_block*>(nullptr);
  CO_CHECK(tell(areas_.check_cluster(e.l2_offset)));
  co_return co_await l2_.get(e.l2_offset);
}

result<cluster_mapping> change_file::entry_at(const table_block& l2, uint64_t offset) {
  const auto raw = qcow2::load_l2_entry(g_, l2.bytes, g_.l2_index(offset));
  TRY(cluster_mapping m, tell(qcow2::decode_l2_entry(g_, header_.version, raw)));
  if (m.is_compressed()) {
    CHECK(tell(areas_.check_bytes(m.host_offset, m.compressed_bytes)));
  } else if (m.host_offset != 0) {
    CHECK(tell(areas_.check_cluster(m.host_offset)));
  }
  return m;
}

void change_file::tell_corruption(base::io_error e) {
  const qcow2::corruption reason = qcow2::corruption_of(e);
  if (reason == qcow2::corruption::none || corruption_told_.exchange(true)) return;
  base::log_error("qcow2", path() + " is damaged: " + std::string(qcow2::describe(reason)) +
                               "; the parts concerned give errors (see 'qemu-img check')");
}

// The part of a cluster's mapping from `offset` on that is of one kind, inside the cluster.
placement change_file::piece_of(const cluster_mapping& m, uint64_t offset, uint64_t length) {
  const uint64_t inside = g_.offset_in_cluster(offset);
  placement p;
  p.length_bytes = std::min(length, g_.cluster_size() - inside);
  if (m.is_compressed()) {
    p.kind = placement_kind::opaque;
    return p;
  }
  const uint32_t sub = g_.subcluster_index(offset);
  uint32_t same = m.allocated >> sub;  // the run of bits like bit `sub`
  if ((m.allocated >> sub & 1) != 0) {
    p.kind = writable_ && !m.copied ? placement_kind::opaque : placement_kind::data;
    p.offset = m.host_offset + inside;
  } else if ((m.zero >> sub & 1) != 0) {
    p.kind = placement_kind::zero;
    same = m.zero >> sub;
  } else {
    same = ~(m.allocated | m.zero) >> sub;
  }
  const auto run = static_cast<uint64_t>(std::countr_one(same));
  const uint64_t end = std::min<uint64_t>(sub + run, g_.subclusters()) << g_.subcluster_bits();
  p.length_bytes = std::min(p.length_bytes, end - inside);
  return p;
}

// The longest run from `offset` that this table tells of.
placement change_file::run_at(const table_block& l2, const cluster_mapping& first, uint64_t offset,
                              uint64_t length) {
  const uint64_t table_end = (g_.l1_index(offset) + 1) * g_.l2_coverage();
  length = std::min(length, table_end - offset);
  placement run = piece_of(first, offset, length);
  while (run.length_bytes < length) {
    const uint64_t at = offset + run.length_bytes;
    // A run that ended inside a cluster has ended.
    if (!g_.aligned(at)) break;
    auto m = entry_at(l2, at);
    if (!m) break;  // told when somebody asks for it
    const placement next = piece_of(*m, at, length - run.length_bytes);
    if (next.kind != run.kind) break;
    if (run.kind == placement_kind::data && next.offset != run.offset + run.length_bytes) break;
    run.length_bytes += next.length_bytes;
  }
  return run;
}

task<result<placement>> change_file::locate_home(uint64_t offset, uint64_t length) {
  length = std::min(length, limits_.size_bytes - offset);
  CO_TRY(const table_block* l2, co_await l2_for_reading(g_.l1_index(offset)));
  if (l2 == nullptr) {
    const uint64_t end = (g_.l1_index(offset) + 1) * g_.l2_coverage();
    placement nothing;
    nothing.length_bytes = std::min(length, end - offset);
    co_return nothing;
  }
  CO_TRY(const cluster_mapping m, entry_at(*l2, offset));
  co_return run_at(*l2, m, offset, length);
}

task<result<placement>> change_file::locate(uint64_t offset, uint64_t length) {
  if (offset >= limits_.size_bytes || length == 0) co_return base::io_error{errc::inval};
  auto work = [this, offset, length] { return locate_home(offset, length); };
  co_return co_await rt::call_on(home_, work);
}

task<result<cluster_mapping>> change_file::mapping_of(uint64_t offset) {
  CO_TRY(const table_block* l2, co_await l2_for_reading(g_.l1_index(offset)));
  if (l2 == nullptr) co_return cluster_mapping{};
  co_return entry_at(*l2, offset);
}

// The whole cluster's content; what it does not hold is left as it is in `to`.
task<result<void>> change_file::read_cluster(cluster_mapping m, base::bytes_span to) {
  if (!m.is_compressed()) {
    for (uint32_t sub = 0; sub < g_.subclusters(); ++sub) {
      const uint64_t at = uint64_t{sub} << g_.subcluster_bits();
      base::bytes_span part = to.subspan(at, g_.subcluster_size());
      if ((m.zero >> sub & 1) != 0) std::fill(part.begin(), part.end(), std::byte{0});
      if ((m.allocated >> sub & 1) != 0) {
        CO_CHECK(co_await file_.read_all(m.host_offset + at, part));
      }
    }
    co_return result<void>{};
  }
  rt::buffer packed(m.compressed_bytes);
  CO_CHECK(co_await file_.read_all(m.host_offset, packed.span()));
  const auto type = static_cast<qcow2::compression_type>(header_.compression);
  co_return tell(qcow2::decompress_cluster(type, packed.span(), to));
}

// Where an image may be written, a place may come to hold something else.
unpacked_clusters* change_file::unpacked_here() {
  const unsigned index = rt::reactor::current().index();
  if (writable_ || index >= unpacked_.size() || g_.cluster_size() > most_kept_cluster_bytes)
    return nullptr;
  if (!unpacked_[index]) unpacked_[index] = std::make_unique<unpacked_clusters>();
  return unpacked_[index].get();
}

task<result<void>> change_file::read_opaque(uint64_t offset, segments to) {
  uint64_t left = block::total_bytes(to);
  uint64_t done = 0;
  while (left > 0) {
    const uint64_t at = offset + done;
    const uint64_t inside = g_.offset_in_cluster(at);
    const uint64_t n = std::min(left, g_.cluster_size() - inside);
    auto work = [this, at] { return mapping_of(at); };
    CO_TRY(const cluster_mapping m, co_await rt::call_on(home_, work));
    block::segment_list part(to, done, n);
    unpacked_clusters* kept = m.is_compressed() ? unpacked_here() : nullptr;
    base::bytes_view found;
    if (kept != nullptr) found = kept->find(m.host_offset);
    if (!found.empty()) {
      block::copy_to(part.view(), found.subspan(inside, n));
    } else {
      rt::buffer cluster(g_.cluster_size());
      std::fill(cluster.span().begin(), cluster.span().end(), std::byte{0});
      CO_CHECK(co_await read_cluster(m, cluster.span()));
      block::copy_to(part.view(), cluster.span().subspan(inside, n));
      if (kept != nullptr) kept->keep(m.host_offset, std::move(cluster));
    }
    done += n;
    left -= n;
  }
  co_return result<void>{};
}

task<result<void>> change_file::read(uint64_t offset, segments to, block::io_opts io) {
  uint64_t left = block::total_bytes(to);
  if (!base::range_fits(offset, left, limits_.size_bytes)) co_return base::io_error{errc::inval};
  uint64_t done = 0;
  std::optional<visits::guard> here;
  if (&rt::reactor::current() == &home_) here.emplace(reads_);
  while (left > 0) {
    CO_TRY(const placement p, co_await locate(offset + done, left));
    block::segment_list part(to, done, p.length_bytes);
    switch (p.kind) {
      case placement_kind::data:
        CO_CHECK(co_await io_.read(p.offset, part.view(), io));
        break;
      case placement_kind::opaque:
        CO_CHECK(co_await read_opaque(offset + done, part.view()));
        break;
      case placement_kind::absent:
      case placement_kind::zero:
        block::fill_zero(part.view());
        break;
    }
    done += p.length_bytes;
    left -= p.length_bytes;
  }
  co_return result<void>{};
}

task<result<void>> change_file::extents(uint64_t offset, uint64_t length, block::extent_list& out,
                                        block::io_opts) {
  if (!base::range_fits(offset, length, limits_.size_bytes)) co_return base::io_error{errc::inval};
  while (length > 0) {
    CO_TRY(const placement p, co_await locate(offset, length));
    const bool zero = p.kind == placement_kind::absent || p.kind == placement_kind::zero;
    if (!out.append({p.length_bytes, zero, zero})) break;
    offset += p.length_bytes;
    length -= p.length_bytes;
  }
  co_return result<void>{};
}

}  // namespace lbd::store
