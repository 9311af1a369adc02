// SPDX-License-Identifier: MIT
#include "export/nbd/reply.h"

#include "wire/nbd/request_check.h"

namespace lbd::nbd_server {
namespace {

template <size_t Count>
nbd::mutable_bytes<Count> header_space(request_slot& s) noexcept {
  return nbd::mutable_bytes<Count>(s.header.data(), Count);
}

void set_parts(request_slot& s, size_t header_bytes, const std::byte* data, size_t bytes) noexcept {
  s.parts[0] = {s.header.data(), header_bytes};
  s.parts[1] = {const_cast<std::byte*>(data), bytes};
  s.part_count = bytes == 0 ? 1 : 2;
  s.reply_bytes = header_bytes + bytes;
}

// Whether the command's replies must be structured once that was negotiated.
bool wants_chunks(const request_slot& s) noexcept {
  return s.structured &&
         (s.request.type == nbd::command::read || s.request.type == nbd::command::block_status);
}

}  // namespace

void reply_done(request_slot& s) noexcept {
  if (wants_chunks(s)) {
    nbd::encode_none_chunk(header_space<nbd::chunk_header_bytes>(s), s.request.cookie);
    return set_parts(s, nbd::chunk_header_bytes, nullptr, 0);
  }
  nbd::encode_simple_reply(header_space<nbd::simple_reply_bytes>(s), nbd::wire_error::none,
                           s.request.cookie);
  set_parts(s, nbd::simple_reply_bytes, nullptr, 0);
}

void reply_data(request_slot& s, const std::byte* data) noexcept {
  const nbd::request& r = s.request;
  if (s.structured) {
    nbd::encode_data_chunk(header_space<nbd::data_chunk_header_bytes>(s), r.cookie, r.offset,
                           r.length, true);
    return set_parts(s, nbd::data_chunk_header_bytes, data, r.length);
  }
  nbd::encode_simple_reply(header_space<nbd::simple_reply_bytes>(s), nbd::wire_error::none,
                           r.cookie);
  set_parts(s, nbd::simple_reply_bytes, data, r.length);
}

void reply_hole(request_slot& s) noexcept {
  const nbd::request& r = s.request;
  nbd::encode_hole_chunk(header_space<nbd::hole_chunk_bytes>(s), r.cookie, r.offset, r.length,
                         true);
  set_parts(s, nbd::hole_chunk_bytes, nullptr, 0);
}

void reply_runs(request_slot& s, const std::vector<block::extent>& runs, const std::byte* data) {
  // The headers stand behind the data in the slot's own buffer: see runs_buffer_bytes().
  std::byte* header = s.owned.data() + s.request.length;
  uint64_t at = 0;
  s.more.clear();
  s.reply_bytes = 0;
  for (size_t i = 0; i < runs.size(); ++i) {
    const auto length = static_cast<uint32_t>(runs[i].length_bytes);
    const bool done = i + 1 == runs.size();
    size_t header_bytes = nbd::hole_chunk_bytes;
    if (runs[i].zero) {
      nbd::encode_hole_chunk(nbd::mutable_bytes<nbd::hole_chunk_bytes>(header, header_bytes),
                             s.request.cookie, s.request.offset + at, length, done);
    } else {
      header_bytes = nbd::data_chunk_header_bytes;
      nbd::encode_data_chunk(nbd::mutable_bytes<nbd::data_chunk_header_bytes>(header, header_bytes),
                             s.request.cookie, s.request.offset + at, length, done);
    }
    s.more.push_back({header, header_bytes});
    s.reply_bytes += header_bytes;
    if (!runs[i].zero) {
      s.more.push_back({const_cast<std::byte*>(data) + at, length});
      s.reply_bytes += length;
    }
    header += nbd::hole_chunk_bytes;
    at += length;
  }
}

void reply_block_status(request_slot& s, uint32_t context_id,
                        std::span<const nbd::extent> extents) {
  const size_t bytes = nbd::block_status_chunk_bytes(extents.size());
  s.owned = rt::buffer(bytes);
  nbd::encode_block_status_chunk(s.owned.span(), s.request.cookie, context_id, extents, true);
  s.parts[0] = {s.owned.data(), bytes};
  s.part_count = 1;
  s.reply_bytes = bytes;
}

void reply_error(request_slot& s, nbd::wire_error error) noexcept {
  s.more.clear();
  if (!s.structured) {
    nbd::encode_simple_reply(header_space<nbd::simple_reply_bytes>(s), error, s.request.cookie);
    return set_parts(s, nbd::simple_reply_bytes, nullptr, 0);
  }
  // The protocol's name of the error: what a client shows beside the number.
  const size_t bytes =
      nbd::encode_error_chunk(s.header, s.request.cookie, error, nbd::error_name(error));
  set_parts(s, bytes, nullptr, 0);
}

}  // namespace lbd::nbd_server
