// SPDX-License-Identifier: MIT
#include "store/file/file.h"

#include <algorithm>

#include "base/checked_math.h"
#include "base/size_text.h"
#include "block/file_device.h"
#include "block/image_lock.h"
#include "block/segments.h"
#include "rt/buffer_pool.h"
#include "rt/sync.h"

namespace lbd::store {
namespace {

using base::result;
using block::file_device;
using block::io_opts;
using rt::segments;
using rt::task;

bool is_aligned(uint64_t offset, segments s, uint64_t unit) noexcept {
  uint64_t bits = offset;
  for (const iovec& v : s) bits |= reinterpret_cast<uint64_t>(v.iov_base) | v.iov_len;
  return bits % unit == 0;
}

// A file opened with O_DIRECT. Writes run on the home reactor, under a range lock in whole units,
// so that the read-modify-write of one request never brings back what another has just replaced.
class direct_device final : public file_device {
 public:
  explicit direct_device(std::unique_ptr<rt::file> file)
      : file_device(std::move(file), size_rule::fixed),
        home_(rt::reactor::current()),
        unit_(file_device::file().info().direct_align_bytes) {}

  task<result<void>> read(uint64_t offset, segments to, io_opts io) override {
    if (is_aligned(offset, to, unit_)) co_return co_await file_device::read(offset, to, io);
    const uint64_t length = block::total_bytes(to);
    const uint64_t begin = base::round_down(offset, unit_);
    const uint64_t end = base::round_up(offset + length, unit_);
    rt::buffer whole(end - begin);
    CO_CHECK(co_await read_whole(begin, whole.span(), io));
    block::copy_to(to, whole.span().subspan(offset - begin, length));
    co_return result<void>{};
  }

  task<result<void>> write(uint64_t offset, segments from, io_opts io) override {
    auto work = [this, offset, from, io] { return write_at_home(offset, from, io); };
    co_return co_await rt::call_on(home_, work);
  }

  task<result<void>> discard(uint64_t offset, uint64_t length, io_opts io) override {
    const uint64_t begin = base::round_up(offset, unit_);
    const uint64_t end = base::round_down(offset + length, unit_);
    if (begin >= end) co_return result<void>{};
    co_return co_await file_device::discard(begin, end - begin, io);
  }

  task<result<void>> write_zeroes(uint64_t offset, uint64_t length, io_opts io) override {
    const bool whole = (offset | length) % unit_ == 0;
    // Partial units, and file systems without hole punching, go through write() and its lock.
    if (!whole) co_return co_await block_device::write_zeroes(offset, length, io);
    co_return co_await file_device::write_zeroes(offset, length, io);
  }

  // Past the page cache there are no pages to lend.
  block::lease borrow(uint64_t /*offset*/, uint64_t /*length*/) noexcept override { return {}; }

 private:
  task<result<void>> read_whole(uint64_t begin, base::bytes_span whole, io_opts io) {
    const block::segment_list to{base::bytes_view(whole)};
    co_return co_await file_device::read(begin, to.view(), io);
  }

  task<result<void>> write_at_home(uint64_t offset, segments from, io_opts io) {
    const uint64_t length = block::total_bytes(from);
    const uint64_t begin = base::round_down(offset, unit_);
    const uint64_t end = base::round_up(offset + length, unit_);
    const auto held = co_await locks_.lock(begin, end - begin);
    if (is_aligned(offset, from, unit_)) co_return co_await file_device::write(offset, from, io);
    rt::buffer whole(end - begin);
    const auto first = whole.first(unit_), last = whole.span().last(unit_);
    if (begin != offset) CO_CHECK(co_await read_whole(begin, first, io));
    const bool same_unit = end - begin == unit_ && begin != offset;
    if (end != offset + length && !same_unit) CO_CHECK(co_await read_whole(end - unit_, last, io));
    block::copy_from(from, whole.span().subspan(offset - begin, length));
    const block::segment_list all{base::bytes_view(whole.span())};
    co_return co_await file_device::write(begin, all.view(), io);
  }

  rt::reactor& home_;
  const uint64_t unit_;
  rt::range_lock locks_;
};

}  // namespace

base::outcome<std::unique_ptr<block::file_device>> open_file_store(rt::file_system& files,
                                                                   const std::string& path,
                                                                   file_options options) {
  rt::open_options how;
  how.writable = options.writable;
  how.direct = options.direct;
  TRY(std::unique_ptr<rt::file> file, files.open(path, how));
  if (options.lock) CHECK(block::lock_image(*file, options.writable));
  const rt::file_info& info = file->info();
  if (!options.direct || info.direct_align_bytes <= 1)
    return std::make_unique<file_device>(std::move(file), file_device::size_rule::fixed);
  if (info.size_bytes % info.direct_align_bytes != 0)
    return base::failure{base::errc::inval,
                         "'" + path + "' has " + std::to_string(info.size_bytes) +
                             " bytes, no multiple of the " +
                             std::to_string(info.direct_align_bytes) +
                             " that direct=1 needs (extend it, or leave direct out)"};
  return std::unique_ptr<file_device>(std::make_unique<direct_device>(std::move(file)));
}

}  // namespace lbd::store
