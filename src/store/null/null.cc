// SPDX-License-Identifier: MIT
#include "store/null/null.h"

#include <sys/mman.h>

#include "block/segments.h"

namespace lbd::store {
namespace {

using base::result;
using rt::task;

// Address space of the longest request, every page of it the kernel's page of zeros.
base::bytes_view zero_pages() noexcept {
  static const base::bytes_view pages = [] {
    const size_t bytes = block::bounds::request_bytes;
    void* p = ::mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return base::bytes_view{};
    return base::bytes_view{static_cast<const std::byte*>(p), bytes};
  }();
  return pages;
}

}  // namespace

null_device::null_device(uint64_t size_bytes) {
  limits_.size_bytes = size_bytes;
  limits_.can_discard = true;
  limits_.can_write_zeroes = true;
  limits_.fast_zero = true;
}

task<result<void>> null_device::read(uint64_t, rt::segments to, block::io_opts) {
  block::fill_zero(to);
  co_return result<void>{};
}
task<result<void>> null_device::write(uint64_t, rt::segments, block::io_opts) {
  co_return result<void>{};
}
task<result<void>> null_device::flush(block::io_opts) { co_return result<void>{}; }
task<result<void>> null_device::write_zeroes(uint64_t, uint64_t, block::io_opts) {
  co_return result<void>{};
}
task<result<void>> null_device::extents(uint64_t, uint64_t length, block::extent_list& out,
                                        block::io_opts) {
  out.append({length, true, true});
  co_return result<void>{};
}
block::lease null_device::borrow(uint64_t, uint64_t length) noexcept {
  const base::bytes_view pages = zero_pages();
  return length <= pages.size() ? block::lease{pages.first(length)} : block::lease{};
}

}  // namespace lbd::store
