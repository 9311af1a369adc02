// SPDX-License-Identifier: MIT
#include "sim/canary.h"

#include <algorithm>
#include <cstring>
#include <set>

#include "base/checked_math.h"
#include "block/segments.h"
#include "rt/sync.h"

namespace lbd::sim {
namespace {

using base::result;
using rt::task;

constexpr uint64_t block_bytes = 4096;

class mapped_device final : public block::block_device {
 public:
  mapped_device(std::unique_ptr<rt::file> file, uint64_t size_bytes, bug b)
      : file_(std::move(file)), bug_(b) {
    limits_.size_bytes = size_bytes;
    table_.resize(base::div_up(size_bytes, block_bytes));
    data_start_ = base::round_up(table_.size() * 8, block_bytes);
    next_ = data_start_;
  }

  task<result<void>> load() {
    CO_CHECK(co_await file_->read_all(0, table_bytes()));
    for (const uint64_t at : table_) next_ = std::max(next_, at + block_bytes);
    co_return result<void>{};
  }

  const block::limits& limits() const noexcept override { return limits_; }

  task<result<void>> read(uint64_t offset, rt::segments to, block::io_opts) override {
    std::vector<std::byte> all(block::total_bytes(to));
    for (uint64_t done = 0; done < all.size();) {
      const uint64_t at = offset + done, in_block = at % block_bytes;
      const uint64_t n = std::min(block_bytes - in_block, all.size() - done);
      const uint64_t place = table_[at / block_bytes];
      if (place != 0)
        CO_CHECK(
            co_await file_->read_all(place + in_block, base::bytes_span(all).subspan(done, n)));
      done += n;
    }
    block::copy_to(to, all);
    co_return result<void>{};
  }

  task<result<void>> write(uint64_t offset, rt::segments from, block::io_opts io) override {
    std::vector<std::byte> all(block::total_bytes(from));
    block::copy_from(from, all);
    for (uint64_t done = 0; done < all.size();) {
      const uint64_t at = offset + done;
      const uint64_t n = std::min(block_bytes - at % block_bytes, all.size() - done);
      const auto r = co_await change(at, base::bytes_view(all).subspan(done, n));
      if (!r && bug_ != bug::swallows_errors) co_return r;
      done += n;
    }
    if (io.fua() && bug_ != bug::ignores_fua) co_return co_await flush({});
    co_return result<void>{};
  }

  task<result<void>> discard(uint64_t offset, uint64_t length, block::io_opts io) override {
    return write_zeroes(offset, length, io);
  }

  task<result<void>> flush(block::io_opts) override {
    if (bug_ == bug::flush_without_sync) co_return result<void>{};
    const auto held = co_await flushing_.lock();
    if (failed_) co_return base::io_error{};
    const auto r = co_await write_table();
    if (!r && bug_ != bug::forgets_failed_sync) failed_ = true;
    co_return r;
  }

 private:
  base::bytes_span table_bytes() noexcept { return std::as_writable_bytes(std::span(table_)); }

  task<result<void>> write_table() {
    std::vector<uint64_t> before = table_;
    CO_CHECK(co_await file_->sync_data());
    if (bug_ == bug::torn_table) before = table_;
    CO_CHECK(co_await file_->write_all(0, std::as_bytes(std::span(before))));
    CO_CHECK(co_await file_->sync_data());
    co_return result<void>{};
  }

  // A part of one block; always written as a whole one.
  task<result<void>> change(uint64_t offset, base::bytes_view content) {
    const uint64_t index = offset / block_bytes;
    std::optional<rt::range_lock::guard> held;
    if (bug_ != bug::no_lock) held.emplace(co_await locks_.lock(index, 1));
    std::vector<std::byte> whole(block_bytes);
    uint64_t place = table_[index];
    if (place != 0) CO_CHECK(co_await file_->read_all(place, whole));
    std::copy(content.begin(), content.end(),
              whole.begin() + static_cast<ptrdiff_t>(offset % block_bytes));
    const bool fresh = place == 0;
    if (fresh) {
      place = next_;
      next_ += block_bytes;
    }
    if (fresh && bug_ == bug::pointers_first) {
      table_[index] = place;
      CO_CHECK(co_await file_->write_all(0, table_bytes()));
    }
    CO_CHECK(co_await file_->write_all(place, whole));
    table_[index] = place;
    co_return result<void>{};
  }

  std::unique_ptr<rt::file> file_;
  const bug bug_;
  block::limits limits_;
  std::vector<uint64_t> table_;
  uint64_t data_start_ = 0, next_ = 0;
  rt::range_lock locks_;
  rt::mutex flushing_;
  bool failed_ = false;
};

class canary final : public subject {
 public:
  canary(bug b, uint64_t size_bytes) : bug_(b), size_bytes_(size_bytes) {}

  std::string describe() const override { return "mapped blocks"; }
  uint64_t size_bytes() const override { return size_bytes_; }
  std::vector<std::byte> prepare(sim_disk& disk) override {
    disk.put("/canary", std::vector<std::byte>(base::div_up(size_bytes_, block_bytes) * 8));
    return std::vector<std::byte>(size_bytes_);
  }
  task<base::outcome<void>> open(world&, sim_disk& disk) override {
    rt::open_options options;
    options.writable = true;
    auto file = disk.open("/canary", options);
    if (!file) co_return file.error();
    device_ = std::make_unique<mapped_device>(*std::move(file), size_bytes_, bug_);
    const auto loaded = co_await device_->load();
    if (!loaded) co_return base::failure{loaded.error().code, "cannot read the table"};
    co_return base::outcome<void>{};
  }
  block::block_device& device() override { return *device_; }
  task<result<void>> close() override {
    const auto r = co_await device_->flush({});
    device_.reset();
    co_return r;
  }

 private:
  const bug bug_;
  const uint64_t size_bytes_;
  std::unique_ptr<mapped_device> device_;
};

}  // namespace

std::unique_ptr<subject> make_canary(bug b, uint64_t size_bytes) {
  return std::make_unique<canary>(b, size_bytes);
}

}  // namespace lbd::sim
