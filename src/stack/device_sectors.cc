// SPDX-License-Identifier: MIT
// Requests that are not whole units of the targets.
#include <algorithm>

#include "base/checked_math.h"
#include "block/segments.h"
#include "rt/buffer_pool.h"
#include "stack/device_visit.h"

namespace lbd::stack {

using base::errc;
using base::io_error;
using base::result;
using block::io_opts;
using block::op;
using rt::segments;
using rt::task;

namespace {

// The first part of [offset, offset + length) that is either whole units or within one unit.
uint64_t first_part(uint64_t offset, uint64_t length, uint64_t unit) noexcept {
  const uint64_t inside = offset % unit;
  if (inside != 0) return std::min(length, unit - inside);
  return length < unit ? length : base::round_down(length, unit);
}

}  // namespace

task<result<void>> device::read_partial(uint64_t offset, segments to, io_opts io) {
  const uint64_t length = block::total_bytes(to);
  const uint64_t unit = live_->unit_bytes();
  for (uint64_t done = 0; done < length;) {
    const uint64_t at = offset + done, n = first_part(at, length - done, unit);
    const block::segment_list part(to, done, n);
    if (n % unit == 0) {
      CO_CHECK(co_await read_inside(at, part.view(), io));
    } else {
      rt::buffer around(unit);
      const iovec v{around.data(), unit};
      const segments whole(&v, 1);
      CO_CHECK(co_await read_inside(base::round_down(at, unit), whole, io));
      block::copy_to(part.view(), around.span().subspan(at % unit, n));
    }
    done += n;
  }
  co_return result<void>{};
}

task<result<void>> device::extents_partial(uint64_t offset, uint64_t length,
                                           block::extent_list& out, io_opts io) {
  const uint64_t unit = live_->unit_bytes();
  const uint64_t begin = base::round_down(offset, unit);
  const uint64_t end = base::round_up(offset + length, unit);
  block::extent_list wide;
  CO_CHECK(co_await extents_inside(begin, end - begin, wide, io));
  uint64_t skip = offset - begin, left = length;
  for (block::extent e : wide.runs()) {
    const uint64_t skipped = std::min(skip, e.length_bytes);
    skip -= skipped;
    e.length_bytes = std::min(e.length_bytes - skipped, left);
    if (!out.append(e)) break;
    left -= e.length_bytes;
  }
  co_return result<void>{};
}

// Runs `w` on reactor 0 while no other request is in flight, as soon as the device is not
// suspended.
task<result<void>> device::alone(op what, uint64_t offset, uint64_t bytes, const work& w) {
  for (;;) {
    auto held = co_await control_.lock();
    if (suspended_) {
      held.unlock();
      co_await gate_.enter();
      gate_.leave();
      continue;
    }
    (void)co_await gate_.close();
    block::moment begin, end;
    const uint64_t cookie = count_start(what, bytes, begin);
    const auto counted = regions_.begin(what, offset, bytes, begin.ns());
    const auto r = co_await w();
    region_stats::end(counted, end.ns());
    count_end(cookie, base::code_of(r), end);
    co_await gate_.open();
    co_return r;
  }
}

// A part of one unit.
task<result<void>> device::write_edge(uint64_t offset, segments from, io_opts io) {
  const uint64_t unit = live_->unit_bytes();
  const uint64_t begin = base::round_down(offset, unit);
  rt::buffer around(unit);
  const iovec v{around.data(), unit};
  const segments whole(&v, 1);
  CO_CHECK(co_await read_inside(begin, whole, io));
  block::copy_from(from, around.span().subspan(offset - begin, block::total_bytes(from)));
  co_return co_await write_inside(begin, whole, io);
}

task<result<void>> device::write_parts(uint64_t offset, segments from, io_opts io) {
  const uint64_t length = block::total_bytes(from);
  const uint64_t unit = live_->unit_bytes();
  for (uint64_t done = 0; done < length;) {
    const uint64_t at = offset + done, n = first_part(at, length - done, unit);
    const block::segment_list part(from, done, n);
    if (n % unit == 0)
      CO_CHECK(co_await write_inside(at, part.view(), io));
    else
      CO_CHECK(co_await write_edge(at, part.view(), io));
    done += n;
  }
  co_return result<void>{};
}

task<result<void>> device::zero_parts(uint64_t offset, uint64_t length, io_opts io) {
  const uint64_t unit = live_->unit_bytes();
  for (uint64_t done = 0; done < length;) {
    const uint64_t at = offset + done, n = first_part(at, length - done, unit);
    if (n % unit == 0) {
      CO_CHECK(co_await zero_inside(at, n, io));
    } else {
      const std::vector<std::byte> zeros(n);
      const block::segment_list part{base::bytes_view(zeros)};
      CO_CHECK(co_await write_edge(at, part.view(), io));
    }
    done += n;
  }
  co_return result<void>{};
}

task<result<void>> device::write_partial(uint64_t offset, segments from, io_opts io) {
  const work parts = [this, offset, from, io] { return write_parts(offset, from, io); };
  auto there = [this, offset, from, &parts] {
    return alone(op::write, offset, block::total_bytes(from), parts);
  };
  co_return co_await rt::call_on(runtime_.at(0), there);
}

task<result<void>> device::zero_partial(uint64_t offset, uint64_t length, io_opts io) {
  const work parts = [this, offset, length, io] { return zero_parts(offset, length, io); };
  auto there = [this, offset, length, &parts] {
    return alone(op::write_zeroes, offset, length, parts);
  };
  co_return co_await rt::call_on(runtime_.at(0), there);
}

}  // namespace lbd::stack
