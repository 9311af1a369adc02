// SPDX-License-Identifier: MIT
// The persistent store. What is durable when:
//   - the next area is zero before this one is full, so that the list always has an end;
//   - a flush makes the data of exceptions durable before their entries are written, and these are
//     written through; only then is anybody told;
//   - entries stand in the order in which their chunks were allocated, so that a crash leaves the
//     oldest ones.
#include <algorithm>
#include <deque>

#include "base/log.h"
#include "block/segments.h"
#include "rt/buffer_pool.h"
#include "target/snapshot/exception_store.h"

namespace lbd::snapshot {
namespace {

using dm_snapshot::entry;
using dm_snapshot::entry_bytes;
using dm_snapshot::geometry;

constexpr const char* scope = "device-mapper";
// The unit in which an area's changes are written.
constexpr uint64_t page_bytes = 4096;

void warn(const std::string& text) { base::log_warn(scope, "persistent snapshot: " + text); }

class persistent_store final : public exception_store {
 public:
  persistent_store(block::opened_device device, dm_snapshot::store_type type,
                   uint32_t chunk_sectors, uint32_t origin_block_bytes)
      : exception_store(std::move(device), type),
        supplied_sectors_(chunk_sectors),
        origin_block_bytes_(origin_block_bytes) {
    idle_.set();
  }

  uint64_t place_of(uint64_t new_chunk) const noexcept override {
    return new_chunk * chunk_bytes();
  }
  store_usage usage() const noexcept override {
    return {next_free_ * chunk_sectors_, device_bytes() / block::sector_bytes,
            (area_ + 2) * chunk_sectors_};
  }

  task<result<loaded>> load(exception_map& into) override;
  result<space> allocate(uint64_t most) override;
  void commit(pending_ref p, bool copied) override;
  task<void> drop() override;
  task<void> idle() override { co_await idle_.wait(); }

  bool can_merge() const noexcept override { return true; }
  task<result<chunk_run>> newest_run() override;
  task<result<void>> forget_newest(uint64_t count) override;
  chunk_run in_doubt() const noexcept override { return doubt_; }
  task<result<void>> remember() override;
  void allocate_from(uint64_t new_chunk) override {
    next_free_ = shape().skip_area(std::max(new_chunk, dm_snapshot::first_data_chunk));
  }

 private:
  io_error refused(errc code, std::string text) {
    warn(text);
    trouble_ = std::move(text);
    return io_error{code, 0};
  }
  geometry shape() const noexcept { return geometry{chunk_sectors_}; }
  uint64_t area_place(uint64_t area) const noexcept {
    return shape().area_chunk(area) * chunk_bytes();
  }
  // What is written at once at least.
  uint64_t write_unit() const noexcept {
    return std::max<uint64_t>(page_bytes, device().limits().block_bytes);
  }
  base::bytes_span area_bytes() noexcept { return entries_.first(chunk_bytes()); }

  task<result<dm_snapshot::header>> read_header();
  task<result<void>> write_header(bool valid);
  task<result<void>> make_new();
  task<result<void>> read_areas(exception_map& into);
  task<result<void>> clear_rest();
  task<result<void>> zero_chunk(uint64_t chunk);
  // Entries [first, last) of the area have changed.
  task<result<void>> write_entries(uint64_t first, uint64_t last);
  task<void> commit_all();
  task<void> write_out();
  void enter_some();

  struct completed {
    pending_ref p;
    bool copied;
  };

  const uint32_t supplied_sectors_;
  const uint32_t origin_block_bytes_;
  bool valid_ = true;
  uint64_t next_free_ = 0;
  uint64_t area_ = 0;       // the last one
  uint64_t committed_ = 0;  // entries in it
  uint64_t written_ = 0;    // of these are surely on the device
  chunk_run doubt_;         // those that are not, after a forgetting that failed
  rt::buffer entries_;      // the last area
  uint64_t allocated_ = 0;  // chunks whose entries are not in the area yet
  std::deque<completed> queue_;
  std::vector<pending_ref> unwritten_;  // all entries are in the area
  bool committing_ = false;
  rt::event idle_;
};

task<result<dm_snapshot::header>> persistent_store::read_header() {
  rt::buffer block(write_unit());
  const uint64_t n = std::min<uint64_t>(block.size(), device_bytes());
  if (n < dm_snapshot::header_bytes) co_return io_error{errc::io, 0};
  CO_CHECK(co_await read_bytes(0, block.first(n)));
  co_return dm_snapshot::load_header(block.first(n));
}

// Only the block that holds it; durable before anybody relies on it.
task<result<void>> persistent_store::write_header(bool valid) {
  const uint64_t n = std::min(chunk_bytes(), write_unit());
  rt::buffer block(n);
  dm_snapshot::header h;
  h.valid = valid ? 1 : 0;
  h.chunk_sectors = chunk_sectors_;
  dm_snapshot::store_header(block.first(n), h);
  const auto r = co_await write_bytes(0, block.first(n), block::io_fua);
  if (!r) warn("write_header failed");
  co_return r;
}

task<result<void>> persistent_store::zero_chunk(uint64_t chunk) {
  if (!base::range_fits(chunk * chunk_bytes(), chunk_bytes(), device_bytes()))
    co_return io_error{errc::io, 0};
  co_return co_await device().write_zeroes(chunk * chunk_bytes(), chunk_bytes(), {});
}

// The list of entries is empty on the device before there is a header that says that it is one.
task<result<void>> persistent_store::make_new() {
  next_free_ = dm_snapshot::first_data_chunk;
  auto r = co_await zero_chunk(shape().area_chunk(0));
  if (r) r = co_await zero_chunk(0);
  if (r) r = co_await device().flush({});
  if (!r) {
    warn("zero_disk_area(0) failed");
    co_return r;
  }
  co_return co_await write_header(true);
}

task<result<void>> persistent_store::read_areas(exception_map& into) {
  const uint64_t chunks = shape().chunks_on(device_bytes());
  uint64_t largest = dm_snapshot::first_data_chunk - 1;
  for (area_ = 0;; ++area_) {
    CO_CHECK(co_await read_bytes(area_place(area_), area_bytes()));
    committed_ = dm_snapshot::count_entries(shape(), area_bytes());
    for (uint64_t i = 0; i < committed_; ++i) {
      const entry e = dm_snapshot::load_entry(area_bytes(), i);
      if (!dm_snapshot::is_sound(shape(), e, chunks)) {
        co_return refused(static_cast<errc>(ENXIO),
                          "Invalid or corrupt snapshot: an exception lies outside of the device");
      }
      largest = std::max(largest, e.new_chunk);
      into.insert(e.old_chunk, e.new_chunk, false);
    }
    if (committed_ < shape().entries_per_area()) break;
  }
  written_ = committed_;
  next_free_ = shape().skip_area(largest + 1);
  co_return co_await clear_rest();
}

// What comes after the end of the list counts no more. A write that was torn by a crash may have
// left entries there: a longer list must not reach them.
task<result<void>> persistent_store::clear_rest() {
  const uint64_t used = committed_ * entry_bytes;
  const auto rest = area_bytes().subspan(used);
  if (base::is_zero(rest)) co_return result<void>{};
  std::fill(rest.begin(), rest.end(), std::byte{0});
  if (device().limits().read_only) co_return result<void>{};
  const uint64_t from = base::round_down(used, std::min(chunk_bytes(), write_unit()));
  co_return co_await write_bytes(area_place(area_) + from, area_bytes().subspan(from),
                                 block::io_fua);
}

task<result<exception_store::loaded>> persistent_store::load(exception_map& into) {
  CO_TRY(const dm_snapshot::header h, co_await read_header());
  const uint32_t block_bytes = device().limits().block_bytes;
  chunk_sectors_ = supplied_sectors_;
  if (h.is_none()) {
    if (chunk_sectors_ == 0)
      chunk_sectors_ = std::max<uint32_t>(dm_snapshot::default_chunk_sectors, block_bytes / 512);
    entries_ = rt::buffer(chunk_bytes());
    std::fill(area_bytes().begin(), area_bytes().end(), std::byte{0});
    CO_CHECK(co_await make_new());
    co_return loaded{};
  }
  if (h.magic != dm_snapshot::header_magic) {
    co_return refused(static_cast<errc>(ENXIO), "Invalid or corrupt snapshot");
  }
  if (h.chunk_sectors != supplied_sectors_) {
    if (supplied_sectors_ != 0)
      warn("chunk size " + std::to_string(h.chunk_sectors) +
           " in device metadata overrides table chunk size of " +
           std::to_string(supplied_sectors_) + ".");
    if (const char* wrong =
            dm_snapshot::chunk_size_error(h.chunk_sectors, block_bytes, origin_block_bytes_)) {
      co_return refused(errc::inval, "invalid on-disk chunk size " +
                                         std::to_string(h.chunk_sectors) + ": " + wrong + ".");
    }
    chunk_sectors_ = h.chunk_sectors;
  }
  if (h.version != dm_snapshot::disk_version) {
    co_return refused(errc::inval,
                      "unable to handle snapshot disk version " + std::to_string(h.version));
  }
  valid_ = h.valid != 0;
  entries_ = rt::buffer(chunk_bytes());
  if (valid_) CO_CHECK(co_await read_areas(into));
  co_return loaded{valid_};
}

result<exception_store::space> persistent_store::allocate(uint64_t most) {
  const uint64_t chunks = shape().chunks_on(device_bytes());
  if (next_free_ >= chunks) return io_error{errc::nospc, 0};
  const uint64_t next_area = base::round_up(next_free_ - 1, shape().stride()) + 1;
  const space s{next_free_, std::min({most, chunks - next_free_, next_area - next_free_})};
  next_free_ = shape().skip_area(next_free_ + s.count);
  allocated_ += s.count;
  return s;
}

void persistent_store::commit(pending_ref p, bool copied) {
  queue_.push_back({std::move(p), copied});
  if (committing_) return;
  committing_ = true;
  idle_.reset();
  rt::spawn(commit_all());
}

// Entries of what is complete, until the area is full.
void persistent_store::enter_some() {
  while (!queue_.empty() && committed_ < shape().entries_per_area()) {
    const completed& c = queue_.front();
    if (!c.copied) valid_ = false;
    chunk_run& run = c.p->run;
    while (c.p->entered < run.count && committed_ < shape().entries_per_area()) {
      const uint64_t i = c.p->entered++;
      dm_snapshot::store_entry(area_bytes(), committed_++, {run.old_chunk + i, run.new_chunk + i});
      --allocated_;
    }
    if (c.p->entered < run.count) break;
    unwritten_.push_back(c.p);
    queue_.pop_front();
  }
}

// While others are still being copied the area waits for them: one write for many.
task<void> persistent_store::commit_all() {
  for (;;) {
    enter_some();
    const bool full = committed_ == shape().entries_per_area();
    if (!full && (allocated_ != 0 || unwritten_.empty())) break;
    co_await write_out();
  }
  committing_ = false;
  if (unwritten_.empty()) idle_.set();
}

task<void> persistent_store::write_out() {
  const std::vector<pending_ref> told = std::exchange(unwritten_, {});
  const bool full = committed_ == shape().entries_per_area();
  if (full && valid_) {
    const auto zeroed = co_await zero_chunk(shape().area_chunk(area_ + 1));
    if (!zeroed) valid_ = false;
  }
  if (valid_) {
    const auto written = co_await write_entries(written_, committed_);
    if (!written) valid_ = false;
  }
  written_ = committed_;
  if (full) {
    ++area_;
    written_ = committed_ = 0;
    std::fill(area_bytes().begin(), area_bytes().end(), std::byte{0});
  }
  for (const pending_ref& p : told) done_(p, valid_);
}

task<result<void>> persistent_store::write_entries(uint64_t first, uint64_t last) {
  CO_CHECK(co_await device().flush({}));
  const uint64_t unit = std::min(chunk_bytes(), write_unit());
  const uint64_t begin = base::round_down(first * entry_bytes, unit);
  const uint64_t end = base::round_up(last * entry_bytes, unit);
  if (begin == end) co_return result<void>{};
  co_return co_await write_bytes(area_place(area_) + begin,
                                 area_bytes().subspan(begin, end - begin), block::io_fua);
}

task<void> persistent_store::drop() {
  valid_ = false;
  (void)co_await write_header(false);
}

task<result<chunk_run>> persistent_store::newest_run() {
  if (committed_ == 0) {
    if (area_ == 0) co_return chunk_run{};
    const auto r = co_await read_bytes(area_place(area_ - 1), area_bytes());
    if (!r) {
      // The area of the buffer is still the last one, and empty.
      std::fill(area_bytes().begin(), area_bytes().end(), std::byte{0});
      co_return r.error();
    }
    --area_;
    written_ = committed_ = shape().entries_per_area();
  }
  const uint64_t n = dm_snapshot::run_at_end(area_bytes(), committed_);
  const entry first = dm_snapshot::load_entry(area_bytes(), committed_ - n);
  // Metadata must never get into the origin.
  if (!dm_snapshot::is_sound(shape(), first, shape().chunks_on(device_bytes())))
    co_return io_error{errc::io, 0};
  co_return chunk_run{first.old_chunk, first.new_chunk, n};
}

task<result<void>> persistent_store::forget_newest(uint64_t count) {
  const uint64_t first = committed_ - count;
  const entry oldest = dm_snapshot::load_entry(area_bytes(), first);
  const auto gone = area_bytes().subspan(first * entry_bytes, count * entry_bytes);
  const std::vector<std::byte> before(gone.begin(), gone.end());
  std::fill(gone.begin(), gone.end(), std::byte{0});
  const auto written = co_await write_entries(first, committed_);
  if (!written) {
    // They are still the newest ones, and merged again when somebody asks. But what was written may
    // have reached the device all the same.
    std::copy(before.begin(), before.end(), gone.begin());
    doubt_ = {oldest.old_chunk, oldest.new_chunk, count};
    written_ = first;
    co_return written;
  }
  doubt_ = {};
  written_ = committed_ = first;
  // Only an estimate, as far as anybody looks at it: nothing is allocated while merging.
  next_free_ = shape().area_chunk(area_) + committed_ + 1;
  co_return result<void>{};
}

task<result<void>> persistent_store::remember() {
  if (doubt_.count == 0) co_return result<void>{};
  CO_CHECK(co_await write_entries(written_, committed_));
  written_ = committed_;
  doubt_ = {};
  co_return result<void>{};
}

}  // namespace

std::unique_ptr<exception_store> make_persistent_store(block::opened_device device,
                                                       dm_snapshot::store_type type,
                                                       uint32_t chunk_sectors,
                                                       uint32_t origin_block_bytes) {
  return std::make_unique<persistent_store>(std::move(device), type, chunk_sectors,
                                            origin_block_bytes);
}

}  // namespace lbd::snapshot
