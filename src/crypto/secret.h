// SPDX-License-Identifier: MIT
// Memory for keys: not swapped, not in core dumps, wiped when it goes. A process that ever had one
// makes no core dumps at all, and no other process of the same user can look into it.
#pragma once

#include <cstddef>
#include <utility>

#include "base/bytes.h"

namespace lbd::crypto {

class secret {
 public:
  secret() = default;
  // A copy of `bytes` in locked memory. Where locking is refused (a small RLIMIT_MEMLOCK) the
  // memory is still kept out of core dumps and wiped.
  explicit secret(base::bytes_view bytes);
  secret(secret&& o) noexcept
      : data_(std::exchange(o.data_, nullptr)), bytes_(std::exchange(o.bytes_, 0)) {}
  secret& operator=(secret&& o) noexcept {
    std::swap(data_, o.data_);
    std::swap(bytes_, o.bytes_);
    return *this;
  }
  ~secret() { wipe(); }

  base::bytes_view view() const noexcept { return {data_, bytes_}; }
  size_t size() const noexcept { return bytes_; }
  void wipe() noexcept;

 private:
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
};

// Whether there ever was one.
bool process_has_secrets() noexcept;

// Clears memory in a way that the compiler keeps.
void wipe_bytes(base::bytes_span bytes) noexcept;

}  // namespace lbd::crypto
