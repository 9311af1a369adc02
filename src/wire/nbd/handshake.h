// SPDX-License-Identifier: MIT
// The handshake of both sides, encoded and decoded. Builders append to a byte buffer; parsers work
// on a complete message and return views into it. Nothing here keeps state: which options are
// allowed when is the session's business. Source: proto.md "Newstyle negotiation", "Option types",
// "Option reply types".
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "wire/nbd/protocol.h"

namespace lbd::nbd {

using byte_buffer = std::vector<std::byte>;

// Why a server refuses an option: the reply type and a sentence for a person.
struct option_refusal {
  option_reply type = option_reply::err_invalid;
  std::string_view message;
};
template <class T>
using option_result = base::basic_result<T, option_refusal>;

// True when `s` may be a name or a message: UTF-8, no NUL, at most max_string_bytes.
bool is_valid_string(std::string_view s) noexcept;

// ---- Server: greeting
// -------------------------------------------------------------------------------

void append_newstyle_greeting(byte_buffer& out, uint16_t handshake_flags);
// The whole oldstyle handshake: the transmission phase follows at once.
void append_oldstyle_greeting(byte_buffer& out, uint64_t size_bytes, uint16_t transmission_flags);

// The client's answer. Nothing when it holds a flag that `handshake_flags` did not offer or that is
// unknown: the connection must be dropped. REQUIRES: client_flags_bytes bytes.
std::optional<uint32_t> decode_client_flags(base::bytes_view from,
                                            uint16_t handshake_flags) noexcept;

// ---- Server: options
// --------------------------------------------------------------------------------

struct option_header {
  option type = option::abort;
  uint32_t length = 0;  // of the data that follow
};
// Nothing when the magic is wrong (drop the connection). REQUIRES: option_header_bytes bytes.
std::optional<option_header> decode_option_header(base::bytes_view from) noexcept;

// EXPORT_NAME's data. Nothing when the name is not valid (drop the connection).
std::optional<std::string_view> parse_export_name(base::bytes_view data) noexcept;

// INFO's and GO's data. INFO_EXPORT is always answered, unknown and repeated requests are ignored.
struct info_request {
  std::string_view name;
  bool wants_name = false;
  bool wants_description = false;
  bool wants_block_size = false;
};
option_result<info_request> parse_info_request(base::bytes_view data) noexcept;

// LIST_META_CONTEXT's and SET_META_CONTEXT's data. The query count is bounded by max_option_bytes.
struct meta_context_request {
  std::string_view name;
  std::vector<std::string_view> queries;
};
option_result<meta_context_request> parse_meta_context_request(base::bytes_view data);

// Does the request select (SET) or list (LIST) this context? Only LIST knows wildcards: no queries
// at all, or the bare namespace ("base:").
bool selects(const meta_context_request& request, std::string_view context, bool listing) noexcept;

// ---- Server: option replies
// -------------------------------------------------------------------------

void append_ack(byte_buffer& out, option to);
// REQUIRES: an error type. The message is cut to max_string_bytes.
void append_error(byte_buffer& out, option to, option_reply type, std::string_view message);
// One entry of LIST.
void append_server(byte_buffer& out, std::string_view name, std::string_view description);
void append_info_export(byte_buffer& out, option to, uint64_t size_bytes,
                        uint16_t transmission_flags);
void append_info_name(byte_buffer& out, option to, std::string_view name);
void append_info_description(byte_buffer& out, option to, std::string_view description);
void append_info_block_size(byte_buffer& out, option to, const block_sizes& sizes);
void append_meta_context(byte_buffer& out, option to, uint32_t id, std::string_view context);
// The answer to EXPORT_NAME; the transmission phase follows.
void append_export_name_reply(byte_buffer& out, uint64_t size_bytes, uint16_t transmission_flags,
                              bool no_zeroes);

// ---- Client: greeting
// -------------------------------------------------------------------------------

enum class greeting_kind { newstyle, oldstyle };
inline constexpr size_t greeting_magic_bytes = 16;
// Nothing when this is no NBD server. REQUIRES: greeting_magic_bytes bytes.
std::optional<greeting_kind> decode_greeting_magic(base::bytes_view from) noexcept;
// REQUIRES: newstyle_greeting_bytes bytes, magic checked.
uint16_t decode_handshake_flags(base::bytes_view greeting) noexcept;

struct export_reply {
  uint64_t size_bytes = 0;
  uint16_t transmission_flags = 0;
};
// REQUIRES: oldstyle_greeting_bytes bytes, magic checked.
export_reply decode_oldstyle_greeting(base::bytes_view greeting) noexcept;
// REQUIRES: export_name_reply_bytes bytes.
export_reply decode_export_name_reply(base::bytes_view from) noexcept;

void append_client_flags(byte_buffer& out, uint32_t client_flags);

// ---- Client: options
// --------------------------------------------------------------------------------

// An option whose data are `data` (EXPORT_NAME: the name; ABORT, LIST, STRUCTURED_REPLY: none).
void append_option(byte_buffer& out, option type, base::bytes_view data = {});
// INFO or GO. REQUIRES: a valid name.
void append_info_option(byte_buffer& out, option type, std::string_view name,
                        std::span<const info_type> wanted);
// LIST_META_CONTEXT or SET_META_CONTEXT. REQUIRES: valid strings.
void append_meta_context_option(byte_buffer& out, option type, std::string_view name,
                                std::span<const std::string_view> queries);

struct option_reply_header {
  option to = option::abort;
  option_reply type = option_reply::ack;
  uint32_t length = 0;  // of the data that follow
};
// Nothing when the magic is wrong. REQUIRES: option_reply_header_bytes bytes.
std::optional<option_reply_header> decode_option_reply_header(base::bytes_view from) noexcept;

// The data of a reply of type `info`. Only the member that belongs to `type` is set; unknown types
// are to be ignored.
struct info_reply {
  info_type type = info_type::export_size;
  export_reply facts;
  std::string_view text;  // name or description
  block_sizes sizes;
};
// The parsers of replies return nothing when the server broke the protocol (wrong length,
// impossible block sizes, strings that are too long).
std::optional<info_reply> parse_info_reply(base::bytes_view data) noexcept;

struct server_reply {
  std::string_view name;
  std::string_view description;
};
std::optional<server_reply> parse_server_reply(base::bytes_view data) noexcept;

struct meta_context_reply {
  uint32_t id = 0;
  std::string_view context;
};
std::optional<meta_context_reply> parse_meta_context_reply(base::bytes_view data) noexcept;

// A server's words made safe for a terminal and a log line: control characters and bytes that are
// not UTF-8 become '?', cut to 256 bytes.
std::string printable(base::bytes_view text);

}  // namespace lbd::nbd
