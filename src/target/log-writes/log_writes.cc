// SPDX-License-Identifier: MIT
// log-writes: passes everything on and writes down, on another device, what was written in which
// order between flushes, `log-writes <device> <log device>`. Requests keep the sector that they
// have in the mapped device. State, on the home reactor: the writes that completed since the last
// flush, the flushes under way, and the log. After a crash: as the device below; the log holds
// every flush that was answered, with what came before it, as durable as its device makes that
// (marks and FUA writes always).
#include <strings.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <deque>
#include <set>

#include "base/log.h"
#include "block/segments.h"
#include "block/target.h"
#include "rt/sync.h"
#include "target/log-writes/log_file.h"

namespace lbd::target {
namespace {

using base::failure;
using base::outcome;
using base::result;
using block::errc;
using block::io_error;
using block::io_opts;
using block::sector_bytes;
using rt::segments;
using rt::task;

// The log's sectors are the device's logical blocks.
uint32_t sector_bytes_of(const block::limits& l) noexcept {
  return std::clamp(l.block_bytes, dm_log_writes::least_sector_bytes,
                    dm_log_writes::most_sector_bytes);
}

// What waits for a flush, or for the log's device, with its copies of data; beyond that it goes to
// the log without a flush, which changes nothing for a reader: no flush comes between.
constexpr uint64_t kept_most_bytes = uint64_t{64} << 20;
constexpr size_t kept_most_items = size_t{16} << 10;

// In memory.
uint64_t kept_bytes_of(const log_item& e) noexcept {
  const size_t data = e.data ? std::max(rt::buffer::align_bytes, std::bit_ceil(e.data.size())) : 0;
  return sizeof e + e.text.size() + data;
}

class log_writes final : public block::target {
 public:
  log_writes(block::opened_device child, block::opened_device log, uint64_t begin_sector,
             uint64_t length_sectors)
      : child_(std::move(child)),
        log_device_(std::move(log)),
        begin_sector_(begin_sector),
        limits_(child_.device->limits()),
        home_(rt::reactor::current()),
        log_(log_device_.device, sector_bytes_of(limits_)) {
    limits_.size_bytes = length_sectors * sector_bytes;
    limits_.io_min_bytes = limits_.block_bytes;
    // Zeros are logged as what they are: data.
    limits_.can_write_zeroes = false;
    limits_.fast_zero = false;
  }
  const block::limits& limits() const noexcept override { return limits_; }
  uint64_t unit_bytes() const noexcept override { return log_.sector_bytes(); }
  bool refuses_writes() const override { return child_.device->limits().read_only; }

  block::routed route(block::op what, uint64_t offset, uint64_t, block::path&) noexcept override {
    if (what != block::op::read && logging_.load(std::memory_order_relaxed)) return {};
    return {child_.device.get(), at(offset)};
  }

  task<result<void>> read(uint64_t offset, segments to, io_opts io) override {
    return block::read(*child_.device, at(offset), to, io);
  }

  task<result<void>> write(uint64_t offset, segments from, io_opts io) override {
    log_item e = entry_for(offset, block::total_bytes(from), io);
    if (logging_.load(std::memory_order_relaxed)) {
      e.data = rt::buffer(block::total_bytes(from));
      block::copy_from(from, e.data.span());
    }
    const auto r = co_await block::write(*child_.device, at(offset), from, io);
    // A failed write may have reached the disk all the same.
    if (e.data) co_await log_completed(e);
    co_return r;
  }

  task<result<void>> discard(uint64_t offset, uint64_t length, io_opts io) override {
    log_item e = entry_for(offset, length, io);
    e.flags |= log_item::discard;
    auto r = co_await child_.device->discard(at(offset), length, io);
    // The log is to show discards also where the device has none.
    if (!r && r.error().code == errc::notsup) r = result<void>{};
    if (logging_.load(std::memory_order_relaxed)) co_await log_completed(e);
    co_return r;
  }

  task<result<void>> flush(io_opts io) override {
    auto work = [this, io] { return flush_home(io); };
    co_return co_await rt::call_on(home_, work);
  }

  task<result<void>> extents(uint64_t offset, uint64_t length, block::extent_list& out,
                             io_opts io) override {
    return child_.device->extents(at(offset), length, out, io);
  }

  task<std::string> status(block::status_request q) override {
    if (q.kind == block::status_kind::table)
      co_return child_.number.text() + " " + log_device_.number.text();
    co_return std::to_string(log_.entries()) + " " +
        std::to_string(log_.next_bytes() / sector_bytes - 1) +
        (logging_ ? "" : " logging_disabled");
  }

  task<outcome<std::string>> message(std::vector<std::string> words) override {
    if (words.size() != 2)
      co_return refused("Invalid log-writes message arguments, expect 2 arguments, got " +
                        std::to_string(words.size()));
    if (::strcasecmp(words[0].c_str(), "mark") != 0)
      co_return refused("Unrecognised log writes target message received: " + words[0]);
    co_await mark(std::move(words[1]));
    co_return std::string();
  }

  task<void> closed() override {
    log_until(UINT64_MAX);
    co_await mark("dm-log-writes-end");
  }

  void for_each_child(
      const std::function<void(const block::opened_device&)>& visit) const override {
    visit(child_);
    visit(log_device_);
  }

 private:
  static failure refused(std::string text) {
    base::log_warn("device-mapper", "log-writes: " + text);
    return failure{errc::inval, std::move(text)};
  }
  uint64_t at(uint64_t offset) const noexcept { return begin_sector_ * sector_bytes + offset; }
  log_item entry_for(uint64_t offset, uint64_t length, const io_opts& io) const {
    log_item e;
    e.sector = at(offset) / log_.sector_bytes();
    e.sectors = length / log_.sector_bytes();
    e.flags = io.fua() ? log_item::fua : 0;
    return e;
  }

  // A write is in the log's order before anybody learns that it has completed.
  task<void> log_completed(log_item& e) {
    auto work = [this, &e] { return completed_home(e); };
    (void)co_await rt::call_on(home_, work);
  }

  // From here on: home reactor.

  task<bool> completed_home(log_item& e) {
    if (!logging_) co_return false;
    const bool fua = e.is(log_item::fua);
    if (fua) {
      const uint64_t behind = end_of_overwritten(e);
      if (behind <= first_flush_end()) {
        log_until(behind);
        queue(std::move(e));
        co_await write_log();
        co_return true;
      }
    }
    const uint64_t number = first_unflushed_ + unflushed_.size();
    kept_bytes_ += kept_bytes_of(e);
    unflushed_.push_back(std::move(e));
    const auto waits = [&] {
      return logging_ && number >= first_unflushed_ && (fua || keeps_too_much());
    };
    while (waits()) {
      log_until(std::min(keeps_too_much() ? UINT64_MAX : number + 1, first_flush_end()));
      co_await write_log();
      if (waits() && number >= first_flush_end()) co_await flush_ended_.wait();
    }
    // It may be another who has put it in the queue.
    if (fua) co_await write_log();
    co_return true;
  }

  task<result<void>> flush_home(io_opts io) {
    // What has completed when the flush begins is what it makes durable.
    const uint64_t end = first_unflushed_ + unflushed_.size();
    const auto counted = flush_ends_.insert(end);
    const auto r = co_await child_.device->flush(io);
    if (r) log_until(end);
    flush_ends_.erase(counted);
    wake_waiting();
    if (!r || !logging_) co_return r;
    log_item flushed;
    flushed.flags = log_item::flush;
    queue(std::move(flushed));
    co_await write_log();
    co_return r;
  }

  // What completes while a flush is under way must not come before it in the log, which would say
  // that the flush has made it durable; unless another flush, begun later and ended first, has.
  uint64_t first_flush_end() const {
    return flush_ends_.empty() ? UINT64_MAX : *flush_ends_.begin();
  }
  void wake_waiting() {
    flush_ended_.set();
    flush_ended_.reset();
  }
  bool keeps_too_much() const {
    return kept_bytes_ > kept_most_bytes || unflushed_.size() + to_log_.size() > kept_most_items;
  }

  void queue(log_item e) {
    kept_bytes_ += kept_bytes_of(e);
    to_log_.push_back(std::move(e));
  }
  // Writes before this number go to the log, in their order.
  void log_until(uint64_t end) {
    while (!unflushed_.empty() && first_unflushed_ < end) {
      to_log_.push_back(std::move(unflushed_.front()));
      unflushed_.pop_front();
      ++first_unflushed_;
    }
  }

  // What a FUA write has overwritten must not come behind it when the log is replayed: the number
  // before which all that is.
  uint64_t end_of_overwritten(const log_item& by) const {
    for (size_t i = unflushed_.size(); i > 0; --i) {
      const log_item& old = unflushed_[i - 1];
      if (old.sector < by.sector + by.sectors && by.sector < old.sector + old.sectors)
        return first_unflushed_ + i;
    }
    return 0;
  }

  task<void> mark(std::string text) {
    log_item e;
    e.flags = log_item::mark;
    e.text = text.substr(0, dm_log_writes::text_most(log_.sector_bytes()));
    e.text_bytes = e.text.size();
    queue(std::move(e));
    co_await write_log();
  }

  // Returns when everything in the queue at the call is in the log, or logging has been given up.
  task<void> write_log() {
    const auto held = co_await log_lock_.lock();
    while (!to_log_.empty() && logging_) {
      const log_item e = std::move(to_log_.front());
      to_log_.pop_front();
      const auto r = co_await log_.append(e);
      kept_bytes_ -= kept_bytes_of(e);
      if (r) continue;
      base::log_error("device-mapper", r.error().code == errc::nospc
                                           ? "log-writes: Ran out of space on the logdev"
                                           : "log-writes: Error writing to the log: " +
                                                 base::to_string(r.error().code));
      logging_ = false;
    }
    if (logging_) co_return;
    first_unflushed_ += unflushed_.size();
    unflushed_.clear();
    to_log_.clear();
    kept_bytes_ = 0;
    wake_waiting();
  }

  const block::opened_device child_, log_device_;
  const uint64_t begin_sector_;
  block::limits limits_;
  rt::reactor& home_;
  // Ends with the first failure to log; requests go on.
  std::atomic<bool> logging_{true};

  log_file log_;
  rt::mutex log_lock_;
  std::deque<log_item> unflushed_, to_log_;
  uint64_t first_unflushed_ = 0;  // its number: writes are counted as they complete
  uint64_t kept_bytes_ = 0;       // of both
  // Of each flush under way: the number before which it makes everything durable.
  std::multiset<uint64_t> flush_ends_;
  rt::event flush_ended_;  // set for those who wait, and reset at once
};

task<outcome<std::shared_ptr<block::target>>> create_log_writes(block::target_context& context,
                                                                std::vector<std::string> args) {
  if (args.size() < 2) co_return failure{errc::inval, "Invalid argument count"};
  auto child = co_await context.open(args[0]);
  if (!child) co_return failure{child.error().code, "Device lookup failed"};
  auto log = co_await context.open(args[1]);
  if (!log) co_return failure{log.error().code, "Log device lookup failed"};
  const uint64_t begin = context.begin_sector(), length = context.length_sectors();
  CO_CHECK(context.check_area(*child, begin, length));
  co_return std::shared_ptr<block::target>(
      std::make_shared<log_writes>(*std::move(child), *std::move(log), begin, length));
}

}  // namespace

extern const block::target_type log_writes_type;
const block::target_type log_writes_type = {"log-writes", {1, 1, 0}, 0, &create_log_writes};

}  // namespace lbd::target
