// SPDX-License-Identifier: MIT
#include "store/qcow2/check.h"

#include <algorithm>
#include <limits>
#include <map>

#include "format/qcow2/refcount.h"
#include "format/qcow2/snapshot.h"
#include "store/qcow2/read_header.h"

namespace lbd::store {

using base::failure;
using base::outcome;
using base::result;
using qcow2::geometry;
using rt::task;

namespace {

constexpr size_t most_messages = 20;

class checker {
 public:
  checker(rt::file& file, uint64_t file_bytes, qcow2::header h)
      : file_(file), file_bytes_(file_bytes), header_(std::move(h)), g_(header_.shape()) {
    out_.uses.resize(g_.clusters_for(file_bytes));
  }

  task<outcome<image_check>> run() {
    use(0, g_.cluster_size(), "header");
    CO_CHECK(co_await load_refcount_table());
    CO_CHECK(co_await walk_l1(header_.l1_offset, header_.l1_entries, true));
    CO_CHECK(co_await walk_snapshots());
    CO_CHECK(co_await walk_tables());
    if ((header_.autoclear & qcow2::feature_bitmaps) != 0 && header_.bitmaps) {
      error("dirty bitmaps are not counted");
      out_.damaged = true;
    }
    CO_CHECK(co_await compare());
    co_return std::move(out_);
  }

 private:
  void error(std::string text) {
    ++out_.errors;
    if (out_.messages.size() < most_messages) out_.messages.push_back(std::move(text));
  }
  void broken(std::string text) {
    out_.damaged = true;
    error(std::move(text));
  }
  failure read_failed(base::io_error e) const {
    return {e.code, "cannot read the image: " + base::to_string(e.code)};
  }
  task<outcome<std::vector<std::byte>>> load(uint64_t offset, uint64_t length) {
    std::vector<std::byte> bytes(length);
    auto r = co_await file_.read_all(offset, bytes);
    if (!r) co_return read_failed(r.error());
    co_return bytes;
  }

  void use(uint64_t offset, uint64_t length, const char* what, uint64_t times = 1) {
    if (length == 0) return;
    if (offset >= file_bytes_) return broken(std::string(what) + " beyond the end of the file");
    const uint64_t last = g_.cluster_index(offset + length - 1);
    for (uint64_t c = g_.cluster_index(offset); c <= last; ++c) {
      if (c >= out_.uses.size()) continue;
      const uint64_t most = std::numeric_limits<uint32_t>::max();
      out_.uses[c] = static_cast<uint32_t>(std::min(most, out_.uses[c] + times));
    }
  }

  task<outcome<void>> load_refcount_table() {
    const uint64_t bytes = uint64_t{header_.refcount_table_clusters} << g_.cluster_bits;
    use(header_.refcount_table_offset, bytes, "refcount table");
    CO_TRY(const auto table, co_await load(header_.refcount_table_offset, bytes));
    for (uint64_t i = 0; i < bytes / 8; ++i) {
      auto offset = qcow2::decode_refcount_table_entry(g_, base::load_big<uint64_t>(table, i * 8));
      if (!offset) broken("a refcount block at a bad offset");
      blocks_.push_back(offset ? *offset : 0);
      if (blocks_.back() != 0) use(blocks_.back(), g_.cluster_size(), "refcount block");
    }
    co_return outcome<void>{};
  }

  // L1 tables name L2 tables, which are read later and once, however often they are named.
  task<outcome<void>> walk_l1(uint64_t offset, uint64_t entries, bool active) {
    use(offset, entries * 8, "L1 table");
    // Tables do not overlap, so together they are no longer than the file.
    l1_bytes_ += entries * 8;
    if (l1_bytes_ > file_bytes_) {
      broken("L1 tables that overlap");
      co_return outcome<void>{};
    }
    CO_TRY(const auto l1, co_await load(offset, entries * 8));
    for (uint64_t i = 0; i < entries; ++i) {
      auto e = qcow2::decode_l1_entry(g_, base::load_big<uint64_t>(l1, i * 8));
      if (!e) {
        broken("a broken L1 entry");
        continue;
      }
      if (e->l2_offset == 0) continue;
      use(e->l2_offset, g_.cluster_size(), "L2 table");
      named& t = tables_[e->l2_offset];
      if (active && t.active) {
        broken("an L2 table named twice");
        continue;
      }
      ++t.times;
      t.active = t.active || active;
      if (active) flagged_.push_back({e->l2_offset, e->copied});
    }
    co_return outcome<void>{};
  }

  task<outcome<void>> walk_tables() {
    for (const auto& [offset, t] : tables_) {
      CO_CHECK(co_await walk_l2(offset, t.active, t.times));
      co_await rt::yield_now{};  // reads from the page cache do not wait
    }
    co_return outcome<void>{};
  }

  task<outcome<void>> walk_l2(uint64_t offset, bool active, uint64_t times) {
    CO_TRY(const auto table, co_await load(offset, g_.cluster_size()));
    for (uint32_t i = 0; i < g_.l2_entries(); ++i) {
      auto m = qcow2::decode_l2_entry(g_, header_.version, qcow2::load_l2_entry(g_, table, i));
      if (!m) {
        broken("a broken L2 entry: " + std::string(describe(qcow2::corruption_of(m.error()))));
        continue;
      }
      if (m->host_offset == 0) continue;
      use(m->host_offset, m->is_compressed() ? m->compressed_bytes : g_.cluster_size(),
          "data cluster", times);
      if (active && !m->is_compressed()) flagged_.push_back({m->host_offset, m->copied});
    }
    co_return outcome<void>{};
  }

  task<outcome<void>> walk_snapshots() {
    if (header_.snapshot_count == 0) co_return outcome<void>{};
    const uint64_t most =
        std::min(file_bytes_ - header_.snapshots_offset, qcow2::max_snapshot_table_bytes);
    uint64_t length = std::min<uint64_t>(most, 1u << 16);
    for (;;) {
      CO_TRY(const auto bytes, co_await load(header_.snapshots_offset, length));
      auto table = qcow2::parse_snapshot_table(header_, bytes, file_bytes_);
      if (!table && table.error().code == base::errc::overflow && length < most) {
        length = std::min(most, length * 4);
        continue;
      }
      if (!table) co_return table.error();
      use(header_.snapshots_offset, table->bytes, "snapshot table");
      for (const auto& s : table->snapshots) {
        CO_CHECK(co_await walk_l1(s.l1_offset, s.l1_entries, false));
      }
      co_return outcome<void>{};
    }
  }

  task<outcome<void>> compare() {
    const uint64_t per_block = g_.refcounts_per_block();
    stored_.assign(out_.uses.size(), 0);
    for (uint64_t b = 0; b < blocks_.size() && b * per_block < stored_.size(); ++b) {
      if (blocks_[b] == 0) continue;
      CO_TRY(const auto block, co_await load(blocks_[b], g_.cluster_size()));
      const uint64_t end = std::min<uint64_t>(stored_.size(), (b + 1) * per_block);
      for (uint64_t c = b * per_block; c < end; ++c) {
        stored_[c] = qcow2::load_refcount(block, g_.refcount_order, c % per_block);
      }
    }
    for (uint64_t c = 0; c < stored_.size(); ++c) {
      if (stored_[c] < out_.uses[c]) {
        error("cluster " + std::to_string(c) + " has refcount " + std::to_string(stored_[c]) +
              " and " + std::to_string(out_.uses[c]) + " references");
      }
      if (stored_[c] > out_.uses[c]) ++out_.leaks;
      if (stored_[c] != 0 && out_.uses[c] == 0) out_.unused.push_back(c);
    }
    for (const auto& [offset, copied] : flagged_) {
      const uint64_t c = g_.cluster_index(offset);
      if (c < stored_.size() && copied != (stored_[c] == 1)) {
        error("cluster " + std::to_string(c) + " has a wrong COPIED flag");
      }
    }
    co_return outcome<void>{};
  }

  struct named {
    uint64_t times = 0;
    bool active = false;
  };
  struct flagged {
    uint64_t offset;
    bool copied;
  };
  rt::file& file_;
  const uint64_t file_bytes_;
  const qcow2::header header_;
  const geometry g_;
  image_check out_;
  std::map<uint64_t, named> tables_;  // L2 tables by offset
  uint64_t l1_bytes_ = 0;
  std::vector<uint64_t> blocks_;
  std::vector<uint64_t> stored_;
  std::vector<flagged> flagged_;
};

}  // namespace

task<outcome<image_check>> check_image(rt::file& file, uint64_t file_bytes) {
  CO_TRY(qcow2::header h, co_await read_header(file, file_bytes));
  checker c(file, file_bytes, std::move(h));
  co_return co_await c.run();
}

}  // namespace lbd::store
