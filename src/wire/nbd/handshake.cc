// SPDX-License-Identifier: MIT
#include "wire/nbd/handshake.h"

#include <algorithm>

#include "base/checked_math.h"

namespace lbd::nbd {

namespace {

using base::bytes_view;
using base::load_big;

template <std::unsigned_integral T>
void append_big(byte_buffer& out, T v) {
  std::byte raw[sizeof(T)];
  base::store_big(raw, 0, v);
  out.insert(out.end(), raw, raw + sizeof(T));
}

void append_bytes(byte_buffer& out, bytes_view data) {
  out.insert(out.end(), data.begin(), data.end());
}

void append_text(byte_buffer& out, std::string_view text) {
  append_bytes(out, base::as_bytes(text));
}

// Takes pieces off the front of a message; a piece that is not there makes it fail for good.
class reader {
 public:
  explicit reader(bytes_view data) noexcept : rest_(data) {}

  template <std::unsigned_integral T>
  T take() noexcept {
    const bytes_view piece = bytes(sizeof(T));
    return failed_ ? T{0} : load_big<T>(piece, 0);
  }
  bytes_view bytes(size_t count) noexcept {
    if (failed_ || rest_.size() < count) {
      failed_ = true;
      return {};
    }
    const bytes_view piece = rest_.first(count);
    rest_ = rest_.subspan(count);
    return piece;
  }
  std::string_view text(size_t count) noexcept { return base::as_text(bytes(count)); }
  std::string_view remaining_text() noexcept { return text(rest_.size()); }
  bool failed() const noexcept { return failed_; }
  bool complete() const noexcept { return !failed_ && rest_.empty(); }
  size_t left() const noexcept { return rest_.size(); }

 private:
  bytes_view rest_;
  bool failed_ = false;
};

void append_option_reply(byte_buffer& out, option to, option_reply type, size_t length) {
  append_big(out, option_reply_magic);
  append_big(out, static_cast<uint32_t>(to));
  append_big(out, static_cast<uint32_t>(type));
  append_big(out, static_cast<uint32_t>(length));
}

// Length of the UTF-8 sequence at the front, 0 when it is malformed (overlong forms, surrogates and
// values above U+10FFFF are).
size_t utf8_sequence(std::string_view s) noexcept {
  const auto byte_at = [s](size_t i) {
    return i < s.size() ? static_cast<unsigned char>(s[i]) : 0u;
  };
  const unsigned lead = byte_at(0);
  if (lead < 0x80) return 1;
  const size_t length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  if (lead < 0xc2 || lead > 0xf4) return 0;
  for (size_t i = 1; i < length; ++i) {
    if ((byte_at(i) & 0xc0) != 0x80) return 0;
  }
  const unsigned second = byte_at(1);
  if ((lead == 0xe0 && second < 0xa0) || (lead == 0xed && second > 0x9f)) return 0;
  if ((lead == 0xf0 && second < 0x90) || (lead == 0xf4 && second > 0x8f)) return 0;
  return length;
}

bool is_impossible(const block_sizes& s) noexcept {
  if (!base::is_power_of_two(s.minimum) || s.minimum > 65536) return true;
  if (!base::is_power_of_two(s.preferred) || s.preferred < s.minimum) return true;
  return s.maximum_payload < s.minimum ||
         (s.maximum_payload != UINT32_MAX && s.maximum_payload % s.minimum != 0);
}

}  // namespace

bool is_valid_string(std::string_view s) noexcept {
  if (s.size() > max_string_bytes) return false;
  while (!s.empty()) {
    const size_t length = utf8_sequence(s);
    if (length == 0 || s[0] == '\0') return false;
    s.remove_prefix(length);
  }
  return true;
}

// ---- Server
// -----------------------------------------------------------------------------------------

void append_newstyle_greeting(byte_buffer& out, uint16_t handshake_flags) {
  append_big(out, greeting_magic);
  append_big(out, newstyle_magic);
  append_big(out, handshake_flags);
}

void append_oldstyle_greeting(byte_buffer& out, uint64_t size_bytes, uint16_t transmission_flags) {
  append_big(out, greeting_magic);
  append_big(out, oldstyle_magic);
  append_big(out, size_bytes);
  append_big(out, uint32_t{transmission_flags});
  out.resize(out.size() + export_name_zeroes);
}

std::optional<uint32_t> decode_client_flags(bytes_view from, uint16_t handshake_flags) noexcept {
  // The two sides use the same bits for the same meaning.
  static_assert(client_flag::fixed_newstyle == handshake_flag::fixed_newstyle);
  static_assert(client_flag::no_zeroes == handshake_flag::no_zeroes);
  const uint32_t flags = load_big<uint32_t>(from, 0);
  constexpr uint32_t known = client_flag::fixed_newstyle | client_flag::no_zeroes;
  if ((flags & ~(known & handshake_flags)) != 0) return std::nullopt;
  return flags;
}

std::optional<option_header> decode_option_header(bytes_view from) noexcept {
  if (load_big<uint64_t>(from, 0) != newstyle_magic) return std::nullopt;
  return option_header{static_cast<option>(load_big<uint32_t>(from, 8)),
                       load_big<uint32_t>(from, 12)};
}

std::optional<std::string_view> parse_export_name(bytes_view data) noexcept {
  const std::string_view name = base::as_text(data);
  if (!is_valid_string(name)) return std::nullopt;
  return name;
}

option_result<info_request> parse_info_request(bytes_view data) noexcept {
  const auto refuse = [](std::string_view why) {
    return option_refusal{option_reply::err_invalid, why};
  };
  reader in(data);
  info_request out;
  out.name = in.text(in.take<uint32_t>());
  const size_t count = in.take<uint16_t>();
  if (in.failed()) return refuse("the export name is longer than the option's data");
  if (in.left() != count * 2) return refuse("the number of information requests is wrong");
  if (!is_valid_string(out.name)) return refuse("the export name is no valid string");
  for (size_t i = 0; i < count; ++i) {
    switch (static_cast<info_type>(in.take<uint16_t>())) {
      case info_type::name:
        out.wants_name = true;
        break;
      case info_type::description:
        out.wants_description = true;
        break;
      case info_type::block_size:
        out.wants_block_size = true;
        break;
      case info_type::export_size:
        break;
    }
  }
  return out;
}

option_result<meta_context_request> parse_meta_context_request(bytes_view data) {
  const auto refuse = [](std::string_view why) {
    return option_refusal{option_reply::err_invalid, why};
  };
  reader in(data);
  meta_context_request out;
  out.name = in.text(in.take<uint32_t>());
  const uint32_t count = in.take<uint32_t>();
  if (in.failed()) return refuse("the export name is longer than the option's data");
  if (!is_valid_string(out.name)) return refuse("the export name is no valid string");
  if (count > in.left() / 4) return refuse("there are fewer queries than announced");
  out.queries.reserve(count);
  for (uint32_t i = 0; i < count; ++i) {
    const std::string_view query = in.text(in.take<uint32_t>());
    if (in.failed()) return refuse("a query is longer than the option's data");
    if (!is_valid_string(query)) return refuse("a query is no valid string");
    out.queries.push_back(query);
  }
  if (!in.complete()) return refuse("there are bytes after the last query");
  return out;
}

bool selects(const meta_context_request& request, std::string_view context, bool listing) noexcept {
  if (request.queries.empty()) return listing;
  const std::string_view wildcard = context.substr(0, context.find(':') + 1);
  return std::any_of(request.queries.begin(), request.queries.end(), [&](std::string_view query) {
    return query == context || (listing && !wildcard.empty() && query == wildcard);
  });
}

void append_ack(byte_buffer& out, option to) { append_option_reply(out, to, option_reply::ack, 0); }

void append_error(byte_buffer& out, option to, option_reply type, std::string_view message) {
  message = message.substr(0, max_string_bytes);
  append_option_reply(out, to, type, message.size());
  append_text(out, message);
}

void append_server(byte_buffer& out, std::string_view name, std::string_view description) {
  append_option_reply(out, option::list, option_reply::server,
                      4 + name.size() + description.size());
  append_big(out, static_cast<uint32_t>(name.size()));
  append_text(out, name);
  append_text(out, description);
}

void append_info_export(byte_buffer& out, option to, uint64_t size_bytes,
                        uint16_t transmission_flags) {
  append_option_reply(out, to, option_reply::info, 12);
  append_big(out, static_cast<uint16_t>(info_type::export_size));
  append_big(out, size_bytes);
  append_big(out, transmission_flags);
}

void append_info_name(byte_buffer& out, option to, std::string_view name) {
  append_option_reply(out, to, option_reply::info, 2 + name.size());
  append_big(out, static_cast<uint16_t>(info_type::name));
  append_text(out, name);
}

void append_info_description(byte_buffer& out, option to, std::string_view description) {
  append_option_reply(out, to, option_reply::info, 2 + description.size());
  append_big(out, static_cast<uint16_t>(info_type::description));
  append_text(out, description);
}

void append_info_block_size(byte_buffer& out, option to, const block_sizes& sizes) {
  append_option_reply(out, to, option_reply::info, 14);
  append_big(out, static_cast<uint16_t>(info_type::block_size));
  append_big(out, sizes.minimum);
  append_big(out, sizes.preferred);
  append_big(out, sizes.maximum_payload);
}

void append_meta_context(byte_buffer& out, option to, uint32_t id, std::string_view context) {
  append_option_reply(out, to, option_reply::meta_context, 4 + context.size());
  append_big(out, id);
  append_text(out, context);
}

void append_export_name_reply(byte_buffer& out, uint64_t size_bytes, uint16_t transmission_flags,
                              bool no_zeroes) {
  append_big(out, size_bytes);
  append_big(out, transmission_flags);
  if (!no_zeroes) out.resize(out.size() + export_name_zeroes);
}

// ---- Client
// -----------------------------------------------------------------------------------------

std::optional<greeting_kind> decode_greeting_magic(bytes_view from) noexcept {
  if (load_big<uint64_t>(from, 0) != greeting_magic) return std::nullopt;
  const uint64_t style = load_big<uint64_t>(from, 8);
  if (style == newstyle_magic) return greeting_kind::newstyle;
  if (style == oldstyle_magic) return greeting_kind::oldstyle;
  return std::nullopt;
}

uint16_t decode_handshake_flags(bytes_view greeting) noexcept {
  return load_big<uint16_t>(greeting, 16);
}

export_reply decode_oldstyle_greeting(bytes_view greeting) noexcept {
  // Of the 32 bits of flags the lower half are the transmission flags.
  return {load_big<uint64_t>(greeting, 16), load_big<uint16_t>(greeting, 26)};
}

export_reply decode_export_name_reply(bytes_view from) noexcept {
  return {load_big<uint64_t>(from, 0), load_big<uint16_t>(from, 8)};
}

void append_client_flags(byte_buffer& out, uint32_t client_flags) { append_big(out, client_flags); }

void append_option(byte_buffer& out, option type, bytes_view data) {
  append_big(out, newstyle_magic);
  append_big(out, static_cast<uint32_t>(type));
  append_big(out, static_cast<uint32_t>(data.size()));
  append_bytes(out, data);
}

void append_info_option(byte_buffer& out, option type, std::string_view name,
                        std::span<const info_type> wanted) {
  byte_buffer data;
  append_big(data, static_cast<uint32_t>(name.size()));
  append_text(data, name);
  append_big(data, static_cast<uint16_t>(wanted.size()));
  for (info_type t : wanted) append_big(data, static_cast<uint16_t>(t));
  append_option(out, type, data);
}

void append_meta_context_option(byte_buffer& out, option type, std::string_view name,
                                std::span<const std::string_view> queries) {
  byte_buffer data;
  append_big(data, static_cast<uint32_t>(name.size()));
  append_text(data, name);
  append_big(data, static_cast<uint32_t>(queries.size()));
  for (std::string_view q : queries) {
    append_big(data, static_cast<uint32_t>(q.size()));
    append_text(data, q);
  }
  append_option(out, type, data);
}

std::optional<option_reply_header> decode_option_reply_header(bytes_view from) noexcept {
  if (load_big<uint64_t>(from, 0) != option_reply_magic) return std::nullopt;
  return option_reply_header{static_cast<option>(load_big<uint32_t>(from, 8)),
                             static_cast<option_reply>(load_big<uint32_t>(from, 12)),
                             load_big<uint32_t>(from, 16)};
}

std::optional<info_reply> parse_info_reply(bytes_view data) noexcept {
  reader in(data);
  info_reply out;
  out.type = static_cast<info_type>(in.take<uint16_t>());
  if (in.failed()) return std::nullopt;
  switch (out.type) {
    case info_type::export_size:
      out.facts.size_bytes = in.take<uint64_t>();
      out.facts.transmission_flags = in.take<uint16_t>();
      break;
    case info_type::name:
    case info_type::description:
      out.text = in.remaining_text();
      if (out.text.size() > max_string_bytes) return std::nullopt;
      break;
    case info_type::block_size:
      out.sizes.minimum = in.take<uint32_t>();
      out.sizes.preferred = in.take<uint32_t>();
      out.sizes.maximum_payload = in.take<uint32_t>();
      if (in.failed() || is_impossible(out.sizes)) return std::nullopt;
      break;
    default:
      return out;
  }
  if (!in.complete()) return std::nullopt;
  return out;
}

std::optional<server_reply> parse_server_reply(bytes_view data) noexcept {
  reader in(data);
  server_reply out;
  out.name = in.text(in.take<uint32_t>());
  out.description = in.remaining_text();
  if (in.failed() || out.name.size() > max_string_bytes) return std::nullopt;
  return out;
}

std::optional<meta_context_reply> parse_meta_context_reply(bytes_view data) noexcept {
  reader in(data);
  meta_context_reply out;
  out.id = in.take<uint32_t>();
  out.context = in.remaining_text();
  if (in.failed() || out.context.size() > max_string_bytes) return std::nullopt;
  return out;
}

std::string printable(bytes_view text) {
  constexpr size_t longest = 256;
  std::string_view in = base::as_text(text);
  std::string out;
  while (!in.empty() && out.size() < longest) {
    const size_t length = utf8_sequence(in);
    const auto c = static_cast<unsigned char>(in[0]);
    const bool fine = length > 1 || (length == 1 && c >= 0x20 && c != 0x7f);
    out.append(fine ? in.substr(0, length) : std::string_view("?"));
    in.remove_prefix(std::max<size_t>(length, 1));
  }
  return out;
}

}  // namespace lbd::nbd
