// SPDX-License-Identifier: MIT
// Writing a change file's metadata: the order that makes it survive a crash at any moment.
#include <fcntl.h>

#include <algorithm>
#include <cerrno>

#include "base/log.h"
#include "block/image_lock.h"
#include "store/qcow2/change_file.h"

namespace lbd::store {

using base::errc;
using base::io_error;
using base::result;
using rt::task;

namespace {
// Clusters waiting to be given back before a commit is started for them.
constexpr size_t many_dropped = 1024;
// Clusters of one hole.
constexpr size_t punched_at_once = 256;
// Metadata writes in flight.
constexpr size_t writes_at_once = 16;

// Missing space, of the file system or of a quota: it may come back.
bool is_space_error(io_error e) {
  return e.code == errc::nospc || e.code == base::error_from_errno(EDQUOT).code;
}
}  // namespace

bool change_file::metadata_dirty() const noexcept {
  return l2_.dirty() || refcounts_.dirty() || !dirty_l1_.empty() || !dropped_.empty();
}

// One moment's state, without awaiting anything: what is published later waits for the next commit,
// because its data may not be durable yet.
change_file::commit_list change_file::take_changes() {
  commit_list c;
  c.refcount_blocks = refcounts_.take_block_changes();
  c.refcount_table = refcounts_.take_table_changes();
  c.l2 = l2_.take_changes();
  std::set<uint64_t> sectors;
  for (uint64_t i : dirty_l1_) sectors.insert(i * 8 / sector_bytes);
  dirty_l1_.clear();
  for (uint64_t s : sectors) {
    const uint64_t first = s * sector_bytes / 8;
    const uint64_t count = std::min<uint64_t>(sector_bytes / 8, l1_.size() - first);
    file_change change{header_.l1_offset + first * 8, std::vector<std::byte>(count * 8)};
    for (uint64_t i = 0; i < count; ++i) base::store_big(change.bytes, i * 8, l1_[first + i]);
    c.l1.push_back(std::move(change));
  }
  c.dropped = std::exchange(dropped_, {});
  committing_fresh_ = std::exchange(fresh_, {});
  return c;
}

task<result<void>> change_file::write_changes(const std::vector<file_change>& changes) {
  for (size_t done = 0; done < changes.size();) {
    const size_t end = std::min(changes.size(), done + writes_at_once);
    std::vector<iovec> parts;
    std::vector<task<result<void>>> writes;
    parts.reserve(writes_at_once);
    for (; done < end; ++done) {
      const file_change& c = changes[done];
      parts.push_back({const_cast<std::byte*>(c.bytes.data()), c.bytes.size()});
      writes.push_back(io_.write(c.offset, rt::segments(&parts.back(), 1), {}));
    }
    const std::vector<result<void>> results = co_await rt::when_all(std::move(writes));
    result<void> worst;
    for (const result<void>& r : results) {
      if (r) continue;
      worst = r;
      if (!is_space_error(r.error()) && !file_.info().syncs_again) failed_ = r.error();
    }
    if (!worst) co_return failed_ ? result<void>(*failed_) : worst;
  }
  co_return result<void>{};
}

// Nothing written since the last one: no sync.
task<result<void>> change_file::sync() {
  auto synced = co_await io_.flush({});
  // The kernel may have dropped what it could not write: no later success means anything. A file
  // that keeps it may be asked again.
  if (!synced && !failed_ && !file_.info().syncs_again) {
    failed_ = synced.error();
    fresh_.insert(fresh_.end(), committing_fresh_.begin(), committing_fresh_.end());
    io_.lose(std::move(fresh_), g_.cluster_size());
  }
  co_return synced;
}

task<result<void>> change_file::write_commit(commit_list& c) {
  if (c.refcounts()) {
    CO_CHECK(co_await write_changes(c.refcount_blocks));
    if (!c.refcount_table.empty()) {
      CO_CHECK(co_await sync());
      CO_CHECK(co_await write_changes(c.refcount_table));
    }
  }
  if (c.tables()) {
    CO_CHECK(co_await sync());
    CO_CHECK(co_await write_changes(c.l2));
    if (!c.l1.empty()) {
      CO_CHECK(co_await sync());
      CO_CHECK(co_await write_changes(c.l1));
    }
  }
  co_return co_await sync();
}

// The tables on disk no longer name these clusters. Whoever was routed to one of them earlier must
// have left before it can become something else. Runs beside flushes, which must not wait for
// readers.
task<void> change_file::give_back_in_background() {
  while (!returning_.empty()) {
    std::vector<uint64_t> clusters = std::exchange(returning_, {});
    // A copy: the hook may be replaced or taken away meanwhile.
    auto quiesce = quiesce_;
    if (quiesce) co_await quiesce();
    co_await reads_.have_left();
    std::sort(clusters.begin(), clusters.end());
    co_await punch(clusters);
    auto held = co_await map_lock_.lock();
    for (uint64_t cluster : clusters) {
      auto left = co_await refcounts_.release(cluster);
      if (left && *left == 0) used_bytes_ -= std::min(used_bytes_.load(), g_.cluster_size());
      // What was still being read when the table was copied is in memory now.
      if (old_tables_.erase(cluster) != 0 && left && *left == 0)
        l2_.forget(cluster << g_.cluster_bits);
      if (!left) base::log_warn("qcow2", path() + ": a cluster could not be given back");
    }
  }
  giving_back_ = false;
  gave_back_.set();
}

// Gives the space of clusters with one reference back to the file system, best effort: one without
// holes keeps it, and some take milliseconds for each extent, so a file that is about to close
// leaves it. REQUIRES: sorted.
task<void> change_file::punch(const std::vector<uint64_t>& clusters) {
  for (size_t i = 0; i < clusters.size() && !closing_;) {
    size_t end = i;
    const size_t most = std::min(clusters.size(), i + punched_at_once);
    while (end < most && clusters[end] == clusters[i] + (end - i)) {
      auto count = co_await refcounts_.get(clusters[end]);
      if (!count || *count != 1) break;
      ++end;
    }
    if (end > i) {
      auto done =
          co_await file_.allocate(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                  clusters[i] << g_.cluster_bits, (end - i) << g_.cluster_bits);
      (void)done;
    }
    i = std::max(end, i + 1);
  }
}

task<result<void>> change_file::run_commit() {
  committing_ = true;
  commit_done_.reset();
  ++begun_;
  commit_list c = take_changes();
  result<void> r = failed_ ? result<void>(*failed_) : result<void>{};
  if (r) r = co_await write_commit(c);
  refcounts_.commit_ended(c.refcount_blocks, c.refcount_table, r.has_value());
  l2_.commit_ended(c.l2, r.has_value());
  if (r) {
    returning_.insert(returning_.end(), c.dropped.begin(), c.dropped.end());
    if (!returning_.empty() && !std::exchange(giving_back_, true)) {
      gave_back_.reset();
      rt::spawn(give_back_in_background());
    }
  } else {
    fresh_.insert(fresh_.end(), committing_fresh_.begin(), committing_fresh_.end());
    for (const file_change& change : c.l1) {
      dirty_l1_.insert((change.offset - header_.l1_offset) / 8);
    }
    dropped_.insert(dropped_.end(), c.dropped.begin(), c.dropped.end());
  }
  last_commit_ = r;
  ++ended_;
  committing_ = false;
  commit_done_.set();
  co_return r;
}

task<result<void>> change_file::flush_home() {
  if (failed_) co_return *failed_;
  if (!writable_) co_return result<void>{};
  const uint64_t needed = begun_ + 1;
  while (ended_ < needed) {
    if (committing_) {
      co_await commit_done_.wait();
    } else {
      co_return co_await run_commit();
    }
  }
  co_return failed_ ? result<void>(*failed_) : last_commit_;
}

task<result<void>> change_file::flush(block::io_opts) {
  auto work = [this] { return flush_home(); };
  co_return co_await rt::call_on(home_, work);
}

task<void> change_file::commit_in_background() {
  auto r = co_await flush_home();
  if (!r) base::log_warn("qcow2", path() + ": commit failed: " + base::to_string(r.error().code));
  background_ = false;
}

void change_file::commit_if_much() {
  const uint64_t dirty = l2_.dirty_bytes() + refcounts_.dirty_bytes();
  if (background_ || failed_) return;
  if (dirty < l2_.most_bytes() / 4 && dropped_.size() < many_dropped) return;
  background_ = true;
  rt::spawn(commit_in_background());
}

task<result<void>> change_file::close() {
  closing_ = true;
  // Bytes written in place need a sync even where no metadata is dirty.
  result<void> r = co_await flush_home();
  // Giving clusters back makes refcounts dirty again: a few rounds.
  for (;;) {
    while (giving_back_) co_await gave_back_.wait();
    if (!r || !writable_ || failed_ || !metadata_dirty()) break;
    r = co_await flush_home();
  }
  while (committing_) co_await commit_done_.wait();
  while (giving_back_) co_await gave_back_.wait();
  while (background_) co_await rt::yield_now{};
  if (failed_) co_return *failed_;
  co_return r;
}

task<result<void>> change_file::seal() {
  sealed_ = true;
  auto closed = co_await close();
  if (!closed) {
    // Still the top, for as long as it works.
    sealed_ = false;
    closing_ = false;
    co_return closed;
  }
  block::downgrade_image_lock(file_);
  co_return result<void>{};
}

}  // namespace lbd::store
