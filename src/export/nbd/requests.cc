// SPDX-License-Identifier: MIT
// Requests that wait for the device. Each runs as a coroutine of its own; the slot keeps what it
// needs.
#include <algorithm>

#include "block/segments.h"
#include "export/nbd/reply.h"
#include "export/nbd/transmission.h"

namespace lbd::nbd_server {
namespace {

using base::errc;
using base::io_error;
using base::result;
using rt::task;

// Runs of zeros shorter than this are sent as data.
constexpr uint64_t least_hole_bytes = 4096;

// Cuts extents to the request and joins what is too short to be worth a chunk of its own.
std::vector<block::extent> reply_runs_of(const block::extent_list& found, uint64_t length) {
  std::vector<block::extent> out;
  uint64_t at = 0;
  for (const block::extent& e : found.runs()) {
    const uint64_t n = std::min(e.length_bytes, length - at);
    if (n == 0) break;
    const bool zero = e.zero && n >= least_hole_bytes;
    if (!out.empty() && out.back().zero == zero)
      out.back().length_bytes += n;
    else
      out.push_back({n, false, zero});
    at += n;
  }
  // A short answer about extents says nothing about the rest.
  if (at < length) {
    if (!out.empty() && !out.back().zero)
      out.back().length_bytes += length - at;
    else
      out.push_back({length - at, false, false});
  }
  return out;
}

std::vector<nbd::extent> status_extents(const block::extent_list& found, uint64_t length) {
  std::vector<nbd::extent> out;
  for (const block::extent& e : found.runs()) {
    const uint64_t n = std::min(e.length_bytes, length);
    if (n == 0) break;
    const uint32_t flags =
        (e.hole ? nbd::allocation_flag::hole : 0u) | (e.zero ? nbd::allocation_flag::zero : 0u);
    out.push_back({static_cast<uint32_t>(n), flags});
    length -= n;
  }
  return out;
}

}  // namespace

block::io_opts transmission::options_of(const request_slot& s) const noexcept {
  block::io_opts io;
  io.trace_id = connection_.id;
  io.cancel = &cancel_;
  const uint16_t flags = s.request.flags;
  if ((flags & nbd::command_flag::fua) != 0) io.flags |= block::io_fua;
  if ((flags & nbd::command_flag::no_hole) != 0) io.flags |= block::io_no_unmap;
  if ((flags & nbd::command_flag::fast_zero) != 0) io.flags |= block::io_fast_only;
  return io;
}

task<void> transmission::read_from(request_slot& s) {
  const uint32_t length = s.request.length;
  s.owned = rt::buffer(length);
  const iovec to{s.owned.data(), length};
  const auto r = co_await s.at.device->read(s.at.offset, rt::segments(&to, 1), options_of(s));
  if (!r) co_return failed_read(s, r.error().code);
  s.way.leave(errc::ok);
  if (structured_ && base::is_zero(s.owned.first(length)))
    reply_hole(s);
  else
    reply_data(s, s.owned.data());
  answer_read(s);
}

// In pieces: around holes, and no longer than the device takes at once.
task<void> transmission::read_runs(request_slot& s, bool look_for_holes) {
  const uint32_t length = s.request.length;
  block::extent_list found;
  if (look_for_holes) {
    // Asked where the walk led to: what is zero there is zero for the client. A server would be
    // asked for longer than its zeros take.
    block::io_opts io = options_of(s);
    io.flags |= block::io_fast_only;
    const auto told = co_await s.at.device->extents(s.at.offset, length, found, io);
    if (!told) co_return failed_read(s, told.error().code);
  }
  const auto runs = reply_runs_of(found, length);
  // The headers of the runs stand behind the data.
  s.owned = rt::buffer(length + runs.size() * nbd::hole_chunk_bytes);
  uint64_t at = 0;
  for (const block::extent& run : runs) {
    if (!run.zero) {
      const auto r = co_await read_range(s, at, run.length_bytes);
      if (!r) co_return failed_read(s, r.error().code);
    }
    at += run.length_bytes;
  }
  s.way.leave(errc::ok);
  if (look_for_holes)
    reply_runs(s, runs, s.owned.data());
  else
    reply_data(s, s.owned.data());
  answer_read(s);
}

task<result<void>> transmission::read_range(request_slot& s, uint64_t begin, uint64_t length) {
  const uint64_t most = device_.limits().max_transfer_bytes;
  while (length > 0) {
    const uint64_t n = std::min(length, most);
    const iovec to{s.owned.data() + begin, n};
    CO_CHECK(co_await s.at.device->read(s.at.offset + begin, rt::segments(&to, 1), options_of(s)));
    begin += n;
    length -= n;
  }
  co_return result<void>{};
}

void transmission::failed_read(request_slot& s, errc code) {
  if (s.way.leave_for_retry(code)) return start_read(s);
  finish(s, code);
}

task<void> transmission::write(request_slot& s) {
  const uint64_t most = device_.limits().max_transfer_bytes;
  block::io_opts io = options_of(s);
  // A Unix socket holds little: its client stands still while a whole payload is copied here.
  if (s.owned && !tcp_) io.flags |= block::io_in_turns;
  errc code = errc::ok;
  for (uint64_t at = 0; at < s.payload.size() && code == errc::ok; at += most) {
    const auto piece = s.payload.subspan(at, std::min(most, s.payload.size() - at));
    const iovec from{const_cast<std::byte*>(piece.data()), piece.size()};
    const auto r = co_await s.at.device->write(s.at.offset + at, rt::segments(&from, 1), io);
    code = base::code_of(r);
  }
  if (s.way.leave_for_retry(code)) co_return start_write(s);
  end_write(s, code);
}

// The payload is let go before the reply is sent.
void transmission::end_write(request_slot& s, errc code) {
  if (code == errc::ok) connection_.counters.bytes_written.add(s.request.length);
  if (s.payload_in != nullptr) pool_.unpin(std::exchange(s.payload_in, nullptr));
  s.owned = rt::buffer();
  finish(s, code);
}

task<void> transmission::flush(request_slot& s) {
  const auto r = co_await device_.flush(options_of(s));
  finish(s, base::code_of(r));
}

task<void> transmission::discard(request_slot& s) {
  const auto r = co_await device_.discard(s.request.offset, s.request.length, options_of(s));
  finish(s, base::code_of(r));
}

task<void> transmission::write_zeroes(request_slot& s) {
  const auto r = co_await device_.write_zeroes(s.request.offset, s.request.length, options_of(s));
  finish(s, base::code_of(r));
}

task<void> transmission::block_status(request_slot& s) {
  const bool one = (s.request.flags & nbd::command_flag::req_one) != 0;
  block::extent_list found(one ? 1 : block::bounds::extents_per_answer);
  const auto r = co_await device_.extents(s.request.offset, s.request.length, found, options_of(s));
  if (!r) co_return finish(s, r.error().code);
  const auto extents = status_extents(found, s.request.length);
  if (extents.empty()) co_return finish(s, errc::io);
  reply_block_status(s, allocation_context_id, extents);
  answer(s);
}

}  // namespace lbd::nbd_server
