// SPDX-License-Identifier: MIT
#include "wire/nbd/transmission.h"

#include <algorithm>

namespace lbd::nbd {

using base::bytes_span;
using base::store_big;

size_t error_chunk_bytes(size_t message_bytes, bool with_offset) noexcept {
  return chunk_header_bytes + 6 + std::min(message_bytes, max_string_bytes) + (with_offset ? 8 : 0);
}

size_t encode_error_chunk(bytes_span to, uint64_t cookie, wire_error error,
                          std::string_view message, std::optional<uint64_t> offset) noexcept {
  message = message.substr(0, max_string_bytes);
  const size_t total = error_chunk_bytes(message.size(), offset.has_value());
  if (to.size() < total || error == wire_error::none) std::abort();
  const auto type = offset ? chunk_type::error_offset : chunk_type::error;
  encode_chunk_header(
      to.first<chunk_header_bytes>(),
      {chunk_flag_done, type, cookie, static_cast<uint32_t>(total - chunk_header_bytes)});
  store_big(to, 20, static_cast<uint32_t>(error));
  store_big(to, 24, static_cast<uint16_t>(message.size()));
  if (!message.empty()) std::memcpy(to.data() + 26, message.data(), message.size());
  if (offset) store_big(to, 26 + message.size(), *offset);
  return total;
}

size_t encode_block_status_chunk(bytes_span to, uint64_t cookie, uint32_t context_id,
                                 std::span<const extent> extents, bool done) noexcept {
  const size_t total = block_status_chunk_bytes(extents.size());
  if (to.size() < total || extents.empty() || extents.size() > max_extents_per_reply) std::abort();
  encode_chunk_header(to.first<chunk_header_bytes>(),
                      {done ? chunk_flag_done : uint16_t{0}, chunk_type::block_status, cookie,
                       static_cast<uint32_t>(total - chunk_header_bytes)});
  store_big(to, chunk_header_bytes, context_id);
  size_t at = chunk_header_bytes + 4;
  for (const extent& e : extents) {
    store_big(to, at, e.length);
    store_big(to, at + 4, e.flags);
    at += extent_bytes;
  }
  return total;
}

}  // namespace lbd::nbd
