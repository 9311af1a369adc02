// SPDX-License-Identifier: MIT
// For the tests of every export: a device in memory that can be made to wait, fail and lend.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstring>
#include <vector>

#include "block/device.h"
#include "block/segments.h"

namespace lbd::export_tests {

using base::errc;
using base::result;
using rt::task;

// Memory with switches. They may be turned from any thread.
class test_device final : public block::block_device, private block::crossing {
 public:
  explicit test_device(size_t bytes) : memory_(bytes) {
    limits_.size_bytes = bytes;
    limits_.can_discard = true;
  }

  // The bytes, for a thread that knows that no request is under way: it sees what requests before
  // have done, and requests after see what it does.
  class access {
   public:
    explicit access(test_device& d) noexcept : device_(d) { ++d.order_; }
    access(const access&) = delete;
    access& operator=(const access&) = delete;
    ~access() { ++device_.order_; }
    std::vector<std::byte>& operator*() const noexcept { return device_.memory_; }
    std::vector<std::byte>* operator->() const noexcept { return &device_.memory_; }

   private:
    test_device& device_;
  };
  access memory() noexcept { return access(*this); }
  block::limits limits_;           // before requests
  std::atomic<bool> hold{false};   // operations wait
  std::atomic<int> hold_first{0};  // ... or only so many of the first ones
  std::atomic<errc> error{errc::ok};
  std::atomic<bool> lend{false};
  base::bytes_view foreign;        // lent instead of the memory; reads find zeros there
  std::vector<block::extent> map;  // what extents() says; empty: data
  std::atomic<int> started{0}, finished{0}, reads{0}, flushes{0}, borrowed{0}, canceled{0};
  std::atomic<int> opens{0};  // counted by those who open it
  std::atomic<uint32_t> last_flags{0};
  std::atomic<uint64_t> longest{0};

  const block::limits& limits() const noexcept override {
    return refuses_writes_ ? refusing_ : limits_;
  }
  void become_read_only() {
    refusing_ = limits_;
    refusing_.read_only = true;
    refuses_writes_ = true;
  }

  task<result<void>> read(uint64_t offset, rt::segments to, block::io_opts io) override {
    ++reads;
    CO_CHECK(co_await begin(block::total_bytes(to), io));
    if (foreign.empty())
      block::copy_to(to, base::bytes_view(memory_).subspan(offset));
    else
      block::fill_zero(to);
    co_return end();
  }
  task<result<void>> write(uint64_t offset, rt::segments from, block::io_opts io) override {
    CO_CHECK(co_await begin(block::total_bytes(from), io));
    block::copy_from(from, std::span(memory_).subspan(offset));
    co_return end();
  }
  task<result<void>> flush(block::io_opts io) override {
    CO_CHECK(co_await begin(0, io));
    ++flushes;
    co_return end();
  }
  task<result<void>> discard(uint64_t offset, uint64_t length, block::io_opts io) override {
    CO_CHECK(co_await begin(0, io));
    std::memset(memory_.data() + offset, 0xdd, length);  // anything but zeros
    co_return end();
  }
  task<result<void>> write_zeroes(uint64_t offset, uint64_t length, block::io_opts io) override {
    CO_CHECK(co_await begin(0, io));
    std::memset(memory_.data() + offset, 0, length);
    co_return end();
  }
  task<result<void>> extents(uint64_t offset, uint64_t length, block::extent_list& out,
                             block::io_opts io) override {
    CO_CHECK(co_await begin(0, io));
    uint64_t at = 0;
    for (const block::extent& e : map) {
      const uint64_t first = std::max(at, offset);
      const uint64_t last = std::min(at + e.length_bytes, offset + length);
      if (first < last && !out.append({last - first, e.hole, e.zero})) break;
      at += e.length_bytes;
    }
    if (map.empty()) out.append({length, false, false});
    co_return end();
  }
  block::routed route(block::op what, uint64_t, uint64_t, block::path& way) noexcept override {
    if (what == block::op::read && lend && way.count() == 0) {
      way.push(*this, 0);
      ++borrowed;
    }
    return {};
  }
  block::lease borrow(uint64_t offset, uint64_t length) noexcept override {
    if (!lend) return {};
    return {(foreign.empty() ? base::bytes_view(memory_) : foreign).subspan(offset, length)};
  }

 private:
  void leave(uint64_t, errc) noexcept override { --borrowed; }
  task<result<void>> begin(uint64_t length, block::io_opts io) {
    const int number = ++started;
    last_flags = io.flags;
    longest = std::max<uint64_t>(longest, length);
    // Thousands that wait do not keep the thread busy.
    while (hold || number <= hold_first)
      co_await rt::sleep_for(std::chrono::milliseconds(1 + (started - finished) / 64));
    if (io.cancel != nullptr && io.cancel->canceled()) ++canceled;
    ++order_;
    const errc code = error;
    if (code == errc::ok) co_return result<void>{};
    ++finished;
    co_return base::io_error{code, 0};
  }
  result<void> end() {
    ++order_;
    ++finished;
    return {};
  }

  std::vector<std::byte> memory_;
  block::limits refusing_;
  std::atomic<bool> refuses_writes_{false};
  std::atomic<uint64_t> order_{0};
};

}  // namespace lbd::export_tests
