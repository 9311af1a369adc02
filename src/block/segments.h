// SPDX-License-Identifier: MIT
// Lists of memory segments: measuring, cutting, copying.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <vector>

#include "base/bytes.h"
#include "rt/io.h"

namespace lbd::block {

using rt::segments;

inline uint64_t total_bytes(segments s) noexcept {
  uint64_t n = 0;
  for (const iovec& v : s) n += v.iov_len;
  return n;
}

// A list of its own, cut from another one or made of one span; short ones need no allocation. Not
// movable: its view points inside.
class segment_list {
 public:
  segment_list() = default;
  explicit segment_list(base::bytes_view one) {
    add(iovec{const_cast<std::byte*>(one.data()), one.size()});
  }
  // The bytes [offset, offset + length) of `s`. REQUIRES: they exist.
  segment_list(segments s, uint64_t offset, uint64_t length) {
    for (const iovec& v : s) {
      if (length == 0) break;
      if (offset >= v.iov_len) {
        offset -= v.iov_len;
        continue;
      }
      const size_t n = std::min<uint64_t>(v.iov_len - offset, length);
      add(iovec{static_cast<std::byte*>(v.iov_base) + offset, n});
      length -= n;
      offset = 0;
    }
  }
  segment_list(const segment_list&) = delete;
  segment_list& operator=(const segment_list&) = delete;

  void add(iovec v) {
    if (v.iov_len == 0) return;
    if (count_ < inline_.size() && more_.empty()) {
      inline_[count_++] = v;
      return;
    }
    if (more_.empty()) more_.assign(inline_.begin(), inline_.end());
    more_.push_back(v);
    ++count_;
  }
  segments view() const noexcept {
    return more_.empty() ? segments(inline_.data(), count_) : segments(more_);
  }

 private:
  std::array<iovec, 8> inline_;
  size_t count_ = 0;
  std::vector<iovec> more_;
};

// Copies min(size of both) bytes.
inline void copy_from(segments from, base::bytes_span to) noexcept {
  for (const iovec& v : from) {
    const size_t n = std::min(v.iov_len, to.size());
    if (n == 0) continue;
    std::memcpy(to.data(), v.iov_base, n);
    to = to.subspan(n);
  }
}
inline void copy_to(segments to, base::bytes_view from) noexcept {
  for (const iovec& v : to) {
    const size_t n = std::min(v.iov_len, from.size());
    if (n == 0) continue;
    std::memcpy(v.iov_base, from.data(), n);
    from = from.subspan(n);
  }
}
inline void fill_zero(segments to) noexcept {
  for (const iovec& v : to)
    if (v.iov_len != 0) std::memset(v.iov_base, 0, v.iov_len);
}

}  // namespace lbd::block
