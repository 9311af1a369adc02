// SPDX-License-Identifier: MIT
// The Network Block Device protocol's numbers and shapes (proto.md of the reference
// implementation). All integers are big endian on the wire and host order here; lengths and offsets
// are bytes.
#pragma once

#include <cstddef>
#include <cstdint>

namespace lbd::nbd {

// Magic numbers.
inline constexpr uint64_t greeting_magic = 0x4e42444d41474943;  // "NBDMAGIC"
inline constexpr uint64_t newstyle_magic = 0x49484156454F5054;  // "IHAVEOPT"
inline constexpr uint64_t oldstyle_magic = 0x00420281861253;    // instead of "IHAVEOPT"
inline constexpr uint64_t option_reply_magic = 0x0003e889045565a9;
inline constexpr uint32_t request_magic = 0x25609513;
inline constexpr uint32_t simple_reply_magic = 0x67446698;
inline constexpr uint32_t structured_reply_magic = 0x668e33ef;

// Fixed lengths.
inline constexpr size_t newstyle_greeting_bytes = 18;
inline constexpr size_t oldstyle_greeting_bytes = 152;
inline constexpr size_t client_flags_bytes = 4;
inline constexpr size_t option_header_bytes = 16;
inline constexpr size_t option_reply_header_bytes = 20;
inline constexpr size_t export_name_reply_bytes = 10;  // then 124 zeros unless NO_ZEROES
inline constexpr size_t export_name_zeroes = 124;
inline constexpr size_t request_bytes = 28;
inline constexpr size_t simple_reply_bytes = 16;
inline constexpr size_t chunk_header_bytes = 20;
inline constexpr size_t data_chunk_header_bytes = 28;  // chunk header and the offset
inline constexpr size_t hole_chunk_bytes = 32;
inline constexpr size_t extent_bytes = 8;

// Limits. The first is the protocol's, the others are ours.
inline constexpr size_t max_string_bytes = 4096;
// Options up to here are read and understood; longer ones are drained up to
// max_drained_option_bytes and refused with ERR_TOO_BIG; beyond that the connection is dropped.
inline constexpr uint32_t max_option_bytes = 64 << 10;
inline constexpr uint32_t max_drained_option_bytes = 16 << 20;
inline constexpr uint32_t max_payload_bytes = 64 << 20;
// A longer write is not drained: the connection is dropped.
inline constexpr uint32_t max_drained_payload_bytes = 128 << 20;
inline constexpr uint32_t max_extents_per_reply = 1 << 20;

inline constexpr uint16_t default_port = 10809;

namespace handshake_flag {
inline constexpr uint16_t fixed_newstyle = 1 << 0;
inline constexpr uint16_t no_zeroes = 1 << 1;
}  // namespace handshake_flag

namespace client_flag {
inline constexpr uint32_t fixed_newstyle = 1 << 0;
inline constexpr uint32_t no_zeroes = 1 << 1;
}  // namespace client_flag

// What the export can do, told at the end of the handshake.
namespace transmission_flag {
inline constexpr uint16_t has_flags = 1 << 0;
inline constexpr uint16_t read_only = 1 << 1;
inline constexpr uint16_t send_flush = 1 << 2;
inline constexpr uint16_t send_fua = 1 << 3;
inline constexpr uint16_t rotational = 1 << 4;
inline constexpr uint16_t send_trim = 1 << 5;
inline constexpr uint16_t send_write_zeroes = 1 << 6;
inline constexpr uint16_t send_df = 1 << 7;
inline constexpr uint16_t can_multi_conn = 1 << 8;
inline constexpr uint16_t send_cache = 1 << 10;
inline constexpr uint16_t send_fast_zero = 1 << 11;
}  // namespace transmission_flag

namespace command_flag {
inline constexpr uint16_t fua = 1 << 0;
inline constexpr uint16_t no_hole = 1 << 1;
inline constexpr uint16_t df = 1 << 2;
inline constexpr uint16_t req_one = 1 << 3;
inline constexpr uint16_t fast_zero = 1 << 4;
}  // namespace command_flag

// Flags of a base:allocation extent.
namespace allocation_flag {
inline constexpr uint32_t hole = 1 << 0;
inline constexpr uint32_t zero = 1 << 1;
}  // namespace allocation_flag
inline constexpr char base_allocation[] = "base:allocation";

enum class option : uint32_t {
  export_name = 1,
  abort = 2,
  list = 3,
  starttls = 5,
  info = 6,
  go = 7,
  structured_reply = 8,
  list_meta_context = 9,
  set_meta_context = 10,
  extended_headers = 11,
};

enum class option_reply : uint32_t {
  ack = 1,
  server = 2,
  info = 3,
  meta_context = 4,
  err_unsup = 0x80000001,
  err_policy = 0x80000002,
  err_invalid = 0x80000003,
  err_platform = 0x80000004,
  err_tls_reqd = 0x80000005,
  err_unknown = 0x80000006,
  err_shutdown = 0x80000007,
  err_block_size_reqd = 0x80000008,
  err_too_big = 0x80000009,
  err_ext_header_reqd = 0x8000000a,
};
constexpr bool is_error(option_reply type) noexcept {
  return (static_cast<uint32_t>(type) & 0x80000000u) != 0;
}

enum class info_type : uint16_t { export_size = 0, name = 1, description = 2, block_size = 3 };

enum class command : uint16_t {
  read = 0,
  write = 1,
  disc = 2,
  flush = 3,
  trim = 4,
  cache = 5,
  write_zeroes = 6,
  block_status = 7,
};

enum class chunk_type : uint16_t {
  none = 0,
  offset_data = 1,
  offset_hole = 2,
  block_status = 5,
  error = 0x8001,
  error_offset = 0x8002,
};
inline constexpr uint16_t chunk_flag_done = 1 << 0;
constexpr bool is_error(chunk_type type) noexcept {
  return (static_cast<uint16_t>(type) & 0x8000u) != 0;
}

// The error numbers allowed on the wire.
enum class wire_error : uint32_t {
  none = 0,
  perm = 1,
  io = 5,
  nomem = 12,
  inval = 22,
  nospc = 28,
  overflow = 75,
  notsup = 95,
  shutdown = 108,
};

// One request. The cookie is the client's and opaque; it may repeat.
struct request {
  command type = command::read;
  uint16_t flags = 0;  // command_flag
  uint64_t cookie = 0;
  uint64_t offset = 0;
  uint32_t length = 0;
  friend bool operator==(const request&, const request&) = default;
};

// Bytes of payload that follow the request on the wire, also when the request is refused.
constexpr uint32_t payload_bytes(const request& r) noexcept {
  return r.type == command::write ? r.length : 0;
}

// Block sizes in bytes (INFO_BLOCK_SIZE); the defaults are the protocol's for a silent server.
struct block_sizes {
  uint32_t minimum = 1;
  uint32_t preferred = 4096;
  uint32_t maximum_payload = 32 << 20;
  friend bool operator==(const block_sizes&, const block_sizes&) = default;
};

struct extent {
  uint32_t length = 0;
  uint32_t flags = 0;
  friend bool operator==(const extent&, const extent&) = default;
};

}  // namespace lbd::nbd
