// SPDX-License-Identifier: MIT
// Requests and replies of the transmission phase, encoded and decoded in place: fixed-size spans of
// the caller's receive and send buffers, no allocation. Source: proto.md "Transmission".
#pragma once

#include <optional>
#include <span>
#include <string_view>

#include "base/bytes.h"
#include "wire/nbd/protocol.h"

namespace lbd::nbd {

template <size_t Count>
using const_bytes = std::span<const std::byte, Count>;
template <size_t Count>
using mutable_bytes = std::span<std::byte, Count>;

inline void encode_request(mutable_bytes<request_bytes> to, const request& r) noexcept {
  base::store_big(to, 0, request_magic);
  base::store_big(to, 4, r.flags);
  base::store_big(to, 6, static_cast<uint16_t>(r.type));
  base::store_big(to, 8, r.cookie);
  base::store_big(to, 16, r.offset);
  base::store_big(to, 24, r.length);
}

// Nothing when the magic is wrong: the stream is out of step and the connection must be dropped.
// The type may be a number outside `command` (request_error refuses it).
inline std::optional<request> decode_request(const_bytes<request_bytes> from) noexcept {
  if (base::load_big<uint32_t>(from, 0) != request_magic) return std::nullopt;
  request r;
  r.flags = base::load_big<uint16_t>(from, 4);
  r.type = static_cast<command>(base::load_big<uint16_t>(from, 6));
  r.cookie = base::load_big<uint64_t>(from, 8);
  r.offset = base::load_big<uint64_t>(from, 16);
  r.length = base::load_big<uint32_t>(from, 24);
  return r;
}

struct simple_reply {
  wire_error error = wire_error::none;
  uint64_t cookie = 0;
};

inline void encode_simple_reply(mutable_bytes<simple_reply_bytes> to, wire_error error,
                                uint64_t cookie) noexcept {
  base::store_big(to, 0, simple_reply_magic);
  base::store_big(to, 4, static_cast<uint32_t>(error));
  base::store_big(to, 8, cookie);
}

// REQUIRES: the magic was seen to be simple_reply_magic.
inline simple_reply decode_simple_reply(const_bytes<simple_reply_bytes> from) noexcept {
  return {static_cast<wire_error>(base::load_big<uint32_t>(from, 4)),
          base::load_big<uint64_t>(from, 8)};
}

struct chunk_header {
  uint16_t flags = 0;  // chunk_flag_done
  chunk_type type = chunk_type::none;
  uint64_t cookie = 0;
  uint32_t length = 0;  // payload bytes
};

inline void encode_chunk_header(mutable_bytes<chunk_header_bytes> to,
                                const chunk_header& h) noexcept {
  base::store_big(to, 0, structured_reply_magic);
  base::store_big(to, 4, h.flags);
  base::store_big(to, 6, static_cast<uint16_t>(h.type));
  base::store_big(to, 8, h.cookie);
  base::store_big(to, 16, h.length);
}

// REQUIRES: the magic was seen to be structured_reply_magic.
inline chunk_header decode_chunk_header(const_bytes<chunk_header_bytes> from) noexcept {
  return {base::load_big<uint16_t>(from, 4),
          static_cast<chunk_type>(base::load_big<uint16_t>(from, 6)),
          base::load_big<uint64_t>(from, 8), base::load_big<uint32_t>(from, 16)};
}

// A reply without content: success when no error chunk went before.
inline void encode_none_chunk(mutable_bytes<chunk_header_bytes> to, uint64_t cookie) noexcept {
  encode_chunk_header(to, {chunk_flag_done, chunk_type::none, cookie, 0});
}

// The header of `length` data bytes, which the caller sends next. Set `done` only when no error can
// be found any more, the data being in memory.
inline void encode_data_chunk(mutable_bytes<data_chunk_header_bytes> to, uint64_t cookie,
                              uint64_t offset, uint32_t length, bool done) noexcept {
  encode_chunk_header(
      to.first<chunk_header_bytes>(),
      {done ? chunk_flag_done : uint16_t{0}, chunk_type::offset_data, cookie, length + 8});
  base::store_big(to, chunk_header_bytes, offset);
}

// A range that reads as zeros. REQUIRES: length > 0.
inline void encode_hole_chunk(mutable_bytes<hole_chunk_bytes> to, uint64_t cookie, uint64_t offset,
                              uint32_t length, bool done) noexcept {
  encode_chunk_header(to.first<chunk_header_bytes>(),
                      {done ? chunk_flag_done : uint16_t{0}, chunk_type::offset_hole, cookie, 12});
  base::store_big(to, chunk_header_bytes, offset);
  base::store_big(to, chunk_header_bytes + 8, length);
}

// Bytes that encode_error_chunk writes for a message of this length (cut to max_string_bytes).
size_t error_chunk_bytes(size_t message_bytes, bool with_offset) noexcept;

// A final error chunk: ERROR, or ERROR_OFFSET when `offset` is given. Returns the bytes written.
// REQUIRES: error is not none; `to` holds error_chunk_bytes().
size_t encode_error_chunk(base::bytes_span to, uint64_t cookie, wire_error error,
                          std::string_view message,
                          std::optional<uint64_t> offset = std::nullopt) noexcept;

constexpr size_t block_status_chunk_bytes(size_t extents) noexcept {
  return chunk_header_bytes + 4 + extents * extent_bytes;
}

// One chunk for one metadata context. Returns the bytes written.
// REQUIRES: 1 to max_extents_per_reply extents; `to` holds block_status_chunk_bytes().
size_t encode_block_status_chunk(base::bytes_span to, uint64_t cookie, uint32_t context_id,
                                 std::span<const extent> extents, bool done) noexcept;

}  // namespace lbd::nbd
