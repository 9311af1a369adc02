// SPDX-License-Identifier: MIT
// Small pieces private to the overlay.
#pragma once

#include <atomic>

#include "block/segments.h"
#include "block/zero_pages.h"
#include "target/overlay/overlay.h"

namespace lbd::overlay {

struct layer_counters {
  block::op_counters reads, writes;
};

// Of one layer and one reactor, made when first needed: most of thousands of layers never are.
class lazy_counters {
 public:
  lazy_counters() = default;
  lazy_counters(const lazy_counters&) = delete;
  lazy_counters& operator=(const lazy_counters&) = delete;
  ~lazy_counters() { delete made_.load(std::memory_order_relaxed); }

  // Its reactor only.
  layer_counters& get() {
    layer_counters* c = made_.load(std::memory_order_relaxed);
    if (c == nullptr) {
      c = new layer_counters;
      made_.store(c, std::memory_order_release);
    }
    return *c;
  }
  // Anyone; nullptr: nothing was counted.
  const layer_counters* look() const noexcept { return made_.load(std::memory_order_acquire); }

 private:
  std::atomic<layer_counters*> made_{nullptr};
};

struct alignas(64) device::slot {
  std::vector<lazy_counters> layers;
};

// A request to a layer that the overlay itself makes.
class device::layer_visit {
 public:
  layer_visit(device& d, bool is_write, size_t layer, uint64_t bytes) noexcept
      : counters_(d.counters_of(is_write, layer)), begin_ns_(rt::reactor::current().now_ns()) {
    counters_.started(bytes);
  }
  layer_visit(const layer_visit&) = delete;
  layer_visit& operator=(const layer_visit&) = delete;
  base::result<void> ended(base::result<void> r) noexcept {
    counters_.finished(rt::reactor::current().now_ns() - begin_ns_, !r);
    return r;
  }

 private:
  block::op_counters& counters_;
  const uint64_t begin_ns_;
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
