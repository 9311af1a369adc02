// SPDX-License-Identifier: MIT
// Aligned buffers, kept per thread in size classes so that the data path does not call malloc.
// Their number is bounded by their users (each connection and each copy job has a budget).
#pragma once

#include <sys/mman.h>

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <utility>
#include <vector>

#include "base/bytes.h"

namespace lbd::rt {

// Page-aligned, not cleared, at least 4096 bytes. May be freed on another thread than it was made
// on.
class buffer {
 public:
  static constexpr size_t align_bytes = 4096;

  buffer() = default;
  explicit buffer(size_t bytes);
  buffer(buffer&& o) noexcept
      : data_(std::exchange(o.data_, nullptr)), bytes_(std::exchange(o.bytes_, 0)) {}
  buffer& operator=(buffer&& o) noexcept {
    std::swap(data_, o.data_);
    std::swap(bytes_, o.bytes_);
    return *this;
  }
  ~buffer();

  std::byte* data() noexcept { return data_; }
  const std::byte* data() const noexcept { return data_; }
  size_t size() const noexcept { return bytes_; }
  base::bytes_span span() noexcept { return {data_, bytes_}; }
  base::bytes_span first(size_t n) noexcept { return span().first(n); }
  explicit operator bool() const noexcept { return data_ != nullptr; }

 private:
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
};

namespace detail {
class buffer_cache {
 public:
  static constexpr unsigned smallest_log2 = 12, largest_log2 = 21;
  static constexpr size_t kept_bytes_per_class = size_t{8} << 20;
  static buffer_cache& here() noexcept {
    static thread_local buffer_cache cache;
    return cache;
  }
  ~buffer_cache() {
    for (auto& list : free_)
      for (auto* p : list) std::free(p);
  }
  static unsigned log2_class(size_t bytes) noexcept {
    const unsigned up = static_cast<unsigned>(std::bit_width(bytes == 0 ? 0 : bytes - 1));
    return up < smallest_log2 ? smallest_log2 : up;
  }
  std::byte* get(size_t bytes) noexcept {
    const unsigned k = log2_class(bytes);
    if (k <= largest_log2 && !free_[k].empty()) {
      auto* p = free_[k].back();
      free_[k].pop_back();
      return p;
    }
    void* p = std::aligned_alloc(buffer::align_bytes, size_t{1} << k);
    if (p == nullptr) std::abort();
    return static_cast<std::byte*>(p);
  }
  void put(std::byte* p, size_t bytes) noexcept {
    const unsigned k = log2_class(bytes);
    if (k > largest_log2 || (free_[k].size() << k) >= kept_bytes_per_class) return std::free(p);
    free_[k].push_back(p);
  }

 private:
  std::array<std::vector<std::byte*>, largest_log2 + 1> free_;
};
}  // namespace detail

inline buffer::buffer(size_t bytes)
    : data_(detail::buffer_cache::here().get(bytes)), bytes_(bytes) {}
inline buffer::~buffer() {
  if (data_ != nullptr) detail::buffer_cache::here().put(data_, bytes_);
}

}  // namespace lbd::rt
