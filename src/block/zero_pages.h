// SPDX-License-Identifier: MIT
// Zeros to lend: address space as long as the longest request, every page of it the kernel's one
// page of zeros.
#pragma once

#include <sys/mman.h>

#include "base/bytes.h"
#include "block/bounds.h"
#include "block/device.h"

namespace lbd::block {

// An empty lease when `length` is longer than a request may be, or address space was refused.
inline lease lend_zeros(uint64_t length) noexcept {
  static const base::bytes_view pages = [] {
    void* p = ::mmap(nullptr, bounds::request_bytes, PROT_READ,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return base::bytes_view{};
    return base::bytes_view{static_cast<const std::byte*>(p), bounds::request_bytes};
  }();
  return length <= pages.size() ? lease{pages.first(length)} : lease{};
}

}  // namespace lbd::block
