// SPDX-License-Identifier: MIT
#include "store/qcow2/image_io.h"

#include "base/checked_math.h"
#include "block/segments.h"
#include "format/qcow2/geometry.h"

namespace lbd::store {

using base::errc;
using base::io_error;
using base::result;
using rt::segments;
using rt::task;

namespace {

// The next request of a transfer of which `done` bytes are through.
segments next_part(const block::segment_list& rest) {
  segments s = rest.view();
  return s.first(std::min(s.size(), block::bounds::segments_per_request));
}

}  // namespace

image_io::image_io(rt::file& file, bool read_only) : file_(file) {
  limits_.size_bytes = qcow2::max_host_offset;
  limits_.read_only = read_only;
}

task<result<void>> image_io::read(uint64_t offset, segments to, block::io_opts) {
  uint64_t left = block::total_bytes(to);
  if (to.size() <= block::bounds::segments_per_request) {
    CO_TRY(const size_t n, co_await file_.read(offset, to));
    if (n == left) co_return result<void>{};
  }
  // Many segments, a short read, or the end of the file.
  uint64_t done = 0;
  while (left > 0) {
    block::segment_list rest(to, done, left);
    segments part = next_part(rest);
    CO_TRY(const size_t n, co_await file_.read(offset + done, part));
    if (n == 0) {
      block::fill_zero(rest.view());
      break;
    }
    done += n;
    left -= n;
  }
  co_return result<void>{};
}

task<result<void>> image_io::write(uint64_t offset, segments from, block::io_opts) {
  if (limits_.read_only) co_return io_error{errc::rofs};
  uint64_t left = block::total_bytes(from);
  uint64_t done = 0;
  if (from.size() <= block::bounds::segments_per_request) {
    CO_TRY(const size_t n, co_await file_.write(offset, from));
    if (n == left) co_return result<void>{};
    done = n;
    left -= n;
  }
  while (left > 0) {
    block::segment_list rest(from, done, left);
    segments part = next_part(rest);
    CO_TRY(const size_t n, co_await file_.write(offset + done, part));
    if (n == 0) co_return io_error{errc::io};
    done += n;
    left -= n;
  }
  co_return result<void>{};
}

task<result<void>> image_io::flush(block::io_opts) {
  auto synced = co_await file_.sync_data();
  if (!synced) co_return synced.error();
  co_return result<void>{};
}

block::lease image_io::borrow(uint64_t offset, uint64_t length) noexcept {
  base::bytes_view pages = file_.mapping();
  if (!base::range_fits(offset, length, pages.size()) || !file_.resident(offset, length)) return {};
  return {pages.subspan(offset, length)};
}

}  // namespace lbd::store
