// SPDX-License-Identifier: MIT
#include "store/null/null.h"

#include "block/segments.h"
#include "block/zero_pages.h"

namespace lbd::store {

using base::result;
using rt::task;

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
  return block::lend_zeros(length);
}

}  // namespace lbd::store
