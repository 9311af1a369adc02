// SPDX-License-Identifier: MIT
#include "block/copy.h"

#include <algorithm>

#include "block/segments.h"
#include "rt/buffer_pool.h"

namespace lbd::block {
namespace {

constexpr uint64_t ns_per_s = 1'000'000'000;

task<bool> write_one(region to, segments from, io_opts io) {
  const auto r = co_await write(*to.device, to.offset, from, io);
  co_return r.has_value();
}
task<bool> zero_one(region to, io_opts io) {
  const auto r = co_await to.device->write_zeroes(to.offset, to.length, io);
  co_return r.has_value();
}
task<bool> flush_one(block_device* d, io_opts io) {
  const auto r = co_await d->flush(io);
  co_return r.has_value();
}

region_errors bits_of(const std::vector<bool>& worked) noexcept {
  region_errors failed = 0;
  for (size_t i = 0; i < worked.size(); ++i)
    if (!worked[i]) failed |= region_errors{1} << i;
  return failed;
}

}  // namespace

task<region_errors> write_regions(std::span<const region> to, segments from, io_opts io) {
  std::vector<task<bool>> all;
  for (const region& r : to) all.push_back(write_one(r, from, io));
  const std::vector<bool> worked = co_await rt::when_all(std::move(all));
  co_return bits_of(worked);
}

task<region_errors> zero_regions(std::span<const region> to, io_opts io) {
  std::vector<task<bool>> all;
  for (const region& r : to) all.push_back(zero_one(r, io));
  const std::vector<bool> worked = co_await rt::when_all(std::move(all));
  co_return bits_of(worked);
}

task<region_errors> flush_regions(std::span<const region> of, io_opts io) {
  std::vector<block_device*> devices;
  for (const region& r : of)
    if (std::find(devices.begin(), devices.end(), r.device) == devices.end())
      devices.push_back(r.device);
  std::vector<task<bool>> all;
  for (block_device* d : devices) all.push_back(flush_one(d, io));
  const std::vector<bool> worked = co_await rt::when_all(std::move(all));
  region_errors failed = 0;
  for (size_t i = 0; i < of.size(); ++i) {
    const auto at = std::find(devices.begin(), devices.end(), of[i].device) - devices.begin();
    if (!worked[static_cast<size_t>(at)]) failed |= region_errors{1} << i;
  }
  co_return failed;
}

struct copier::job {
  region from;
  std::vector<copy_destination> to;
  copy_options how;
  uint64_t next = 0;  // the first byte that nobody copies yet
  uint64_t done_bytes = 0;
  copy_result outcome;

  bool over() const noexcept {
    return next == from.length || outcome.read_error != errc::ok ||
           (outcome.failed != 0 && !how.keep_going);
  }
};

// Keeps to the speed: a piece waits until those before it have had their time.
task<void> copier::wait_for_turn(uint64_t bytes) {
  if (options_.bytes_per_second == 0) co_return;
  const uint64_t now = rt::reactor::current().now_ns();
  const uint64_t turn = std::max(now, next_turn_ns_);
  const auto time = static_cast<uint64_t>(static_cast<double>(bytes) * ns_per_s /
                                          static_cast<double>(options_.bytes_per_second));
  next_turn_ns_ = turn + time;
  if (turn > now) co_await rt::sleep_until(turn);
}

// The part of a piece that destination `which` takes. `at` is the piece's place in the source.
task<bool> copier::write_part(job& j, size_t which, uint64_t at, base::bytes_view piece) {
  const copy_destination& d = j.to[which];
  const uint64_t begin = std::max(at, d.skip), end = std::min(at + piece.size(), d.skip + d.length);
  for (uint64_t b = begin; b < end;) {
    // A run that is zero or is not; without looking it is data.
    uint64_t n = end - b;
    bool zero = false;
    if (j.how.zeroes) {
      n = std::min(n, zero_block_bytes);
      zero = base::is_zero(piece.subspan(b - at, n));
      while (b + n < end) {
        const uint64_t more = std::min(end - (b + n), zero_block_bytes);
        if (base::is_zero(piece.subspan(b + n - at, more)) != zero) break;
        n += more;
      }
    }
    const uint64_t offset = d.offset + (b - d.skip);
    result<void> r;
    if (zero) {
      r = co_await d.device->write_zeroes(offset, n, {});
    } else {
      const segment_list part{piece.subspan(b - at, n)};
      r = co_await write(*d.device, offset, part.view(), {});
    }
    if (!r) co_return false;
    b += n;
  }
  co_return true;
}

task<void> copier::copy_piece(job& j, uint64_t at, uint64_t length) {
  rt::buffer bytes(length);
  const iovec v{bytes.data(), length};
  const segments whole(&v, 1);
  const auto got = co_await read(*j.from.device, j.from.offset + at, whole, {});
  if (!got) {
    j.outcome.read_error = got.error().code;
    co_return;
  }
  const base::bytes_view piece = bytes.first(length);
  std::vector<size_t> taking;
  for (size_t i = 0; i < j.to.size(); ++i) {
    const copy_destination& d = j.to[i];
    const bool dead = (j.outcome.failed >> i & 1) != 0;
    if (!dead && d.skip < at + length && at < d.skip + d.length) taking.push_back(i);
  }
  if (taking.size() == 1) {
    const bool worked = co_await write_part(j, taking[0], at, piece);
    if (!worked) j.outcome.failed |= region_errors{1} << taking[0];
  } else {
    std::vector<task<bool>> all;
    for (const size_t i : taking) all.push_back(write_part(j, i, at, piece));
    const std::vector<bool> worked = co_await rt::when_all(std::move(all));
    for (size_t i = 0; i < taking.size(); ++i)
      if (!worked[i]) j.outcome.failed |= region_errors{1} << taking[i];
  }
  copied_bytes_ += length;
  j.done_bytes += length;
  if (j.how.progress) j.how.progress(j.done_bytes);
}

// One of those who share a job's pieces.
task<bool> copier::work_on(job& j) {
  while (!j.over()) {
    const uint64_t at = j.next;
    const uint64_t n = std::min(j.from.length - at, options_.piece_bytes);
    j.next += n;
    co_await memory_.acquire(n);
    co_await wait_for_turn(n);
    co_await copy_piece(j, at, n);
    memory_.release(n);
  }
  co_return true;
}

task<copy_result> copier::copy(region from, std::vector<copy_destination> to, copy_options how) {
  job j;
  j.from = from;
  j.to = std::move(to);
  j.how = std::move(how);
  const uint64_t pieces = (from.length + options_.piece_bytes - 1) / options_.piece_bytes;
  const uint64_t workers = std::min<uint64_t>(pieces, options_.pieces_of_a_job);
  if (workers <= 1) {
    co_await work_on(j);
    co_return j.outcome;
  }
  std::vector<task<bool>> all;
  for (uint64_t i = 0; i < workers; ++i) all.push_back(work_on(j));
  co_await rt::when_all(std::move(all));
  co_return j.outcome;
}

task<region_errors> copier::zero(std::vector<region> to) {
  uint64_t longest = 0;
  for (const region& r : to) longest = std::max(longest, r.length);
  co_await wait_for_turn(longest);
  co_return co_await zero_regions(to, {});
}

}  // namespace lbd::block
