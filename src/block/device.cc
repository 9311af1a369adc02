// SPDX-License-Identifier: MIT
#include "block/device.h"

#include <algorithm>
#include <numeric>

#include "base/checked_math.h"
#include "block/segments.h"
#include "rt/buffer_pool.h"

namespace lbd::block {

void stack_io_sizes(limits& upper, const limits& lower) noexcept {
  upper.block_bytes = std::max(upper.block_bytes, lower.block_bytes);
  upper.io_min_bytes = std::max(upper.io_min_bytes, lower.io_min_bytes);
  const uint64_t a = upper.io_opt_bytes, b = lower.io_opt_bytes;
  const uint64_t best = a == 0 || b == 0 ? a + b : std::lcm(a, b);
  const bool fits = best <= UINT32_MAX && best % upper.block_bytes == 0;
  upper.io_opt_bytes = fits ? static_cast<uint32_t>(best) : 0;
  if (upper.io_min_bytes % upper.block_bytes != 0) upper.io_min_bytes = upper.block_bytes;
}

bool extent_list::append(extent e) {
  if (e.length_bytes == 0) return true;
  if (!runs_.empty() && runs_.back().hole == e.hole && runs_.back().zero == e.zero) {
    runs_.back().length_bytes += e.length_bytes;
  } else {
    if (full()) return false;
    runs_.push_back(e);
  }
  total_bytes_ += e.length_bytes;
  return true;
}

task<result<void>> block_device::discard(uint64_t, uint64_t, io_opts) { co_return result<void>{}; }

task<result<void>> block_device::write_zeroes(uint64_t offset, uint64_t length, io_opts io) {
  if ((io.flags & io_fast_only) != 0) co_return io_error{errc::notsup, 0};
  const size_t chunk = std::min<uint64_t>(length, bounds::copy_chunk_bytes);
  rt::buffer zeros(chunk);
  std::memset(zeros.data(), 0, chunk);
  while (length > 0) {
    const size_t n = std::min<uint64_t>(length, chunk);
    const iovec v{zeros.data(), n};
    CO_CHECK(co_await write(offset, segments(&v, 1), io));
    offset += n;
    length -= n;
  }
  co_return result<void>{};
}

task<result<void>> block_device::extents(uint64_t, uint64_t length, extent_list& out, io_opts) {
  out.append({length, false, false});
  co_return result<void>{};
}

task<result<void>> read(block_device& from, uint64_t offset, segments to, io_opts io) {
  for (;;) {
    path way;
    const place at = walk(from, op::read, offset, total_bytes(to), way);
    auto r = co_await at.device->read(at.offset, to, io);
    if (!way.leave_for_retry(base::code_of(r))) co_return r;
  }
}

task<result<void>> write(block_device& to, uint64_t offset, segments from, io_opts io) {
  if (io.fua()) co_return co_await to.write(offset, from, io);
  for (;;) {
    path way;
    const place at = walk(to, op::write, offset, total_bytes(from), way);
    auto r = co_await at.device->write(at.offset, from, io);
    if (!way.leave_for_retry(base::code_of(r))) co_return r;
  }
}

result<void> check_range(const limits& l, uint64_t offset, uint64_t length) noexcept {
  if (length == 0 || !base::range_fits(offset, length, l.size_bytes))
    return io_error{errc::inval, 0};
  return {};
}

}  // namespace lbd::block
