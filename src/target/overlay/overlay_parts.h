// SPDX-License-Identifier: MIT
// Small pieces private to the overlay.
#pragma once

#include <atomic>

#include "block/segments.h"
#include "block/zero_pages.h"
#include "target/overlay/overlay.h"

namespace lbd::overlay {

// Written by its reactor only, read by anyone.
class layer_counter {
 public:
  layer_counter() = default;
  layer_counter(const layer_counter& o) : value_(o.get()) {}
  void add(uint64_t n) noexcept {
    value_.store(value_.load(std::memory_order_relaxed) + n, std::memory_order_relaxed);
  }
  uint64_t get() const noexcept { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t> value_{0};
};

struct layer_counters {
  layer_counter reads, read_bytes, writes, written_bytes;
};

struct alignas(64) device::slot {
  std::vector<layer_counters> layers;
};

// Inside an epoch from construction on.
class device::epoch_visit {
 public:
  explicit epoch_visit(device& d) noexcept : device_(d), token_(d.epochs_.enter()) {}
  epoch_visit(const epoch_visit&) = delete;
  epoch_visit& operator=(const epoch_visit&) = delete;
  ~epoch_visit() { device_.epochs_.leave(token_); }

 private:
  device& device_;
  uint32_t token_;
};

// What lies below all layers: zeros, which it lends.
class zero_device final : public block::block_device {
 public:
  explicit zero_device(uint64_t size_bytes) {
    limits_.size_bytes = size_bytes;
    limits_.read_only = true;
  }
  const block::limits& limits() const noexcept override { return limits_; }
  rt::task<base::result<void>> read(uint64_t, rt::segments to, block::io_opts) override {
    block::fill_zero(to);
    co_return base::result<void>{};
  }
  rt::task<base::result<void>> write(uint64_t, rt::segments, block::io_opts) override {
    co_return base::io_error{base::errc::perm, 0};
  }
  rt::task<base::result<void>> flush(block::io_opts) override { co_return base::result<void>{}; }
  block::lease borrow(uint64_t, uint64_t length) noexcept override {
    return block::lend_zeros(length);
  }

 private:
  block::limits limits_;
};

}  // namespace lbd::overlay
