// SPDX-License-Identifier: MIT
// What the parsers of sources share: characters, percent-encoding, hosts and ports.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "wire/uri/uri.h"

namespace lbd::uri {

constexpr bool is_alpha(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
constexpr bool is_digit(char c) { return c >= '0' && c <= '9'; }
constexpr int hex_value(char c) {
  if (is_digit(c)) return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// errc::inval: "'TEXT': WHY".
base::failure refuse(std::string_view text, const std::string& why);

// Undoes percent-encoding. Errors name `whole`.
base::outcome<std::string> decode(std::string_view whole, std::string_view piece);
// Letters, digits, "-._~" and what `also_plain` holds stay as they are.
std::string encode(std::string_view text, std::string_view also_plain);

// 1 to 65535.
std::optional<uint16_t> parse_port(std::string_view digits);
bool is_ipv6_text(std::string_view s);
bool is_host_name(std::string_view s);

// HOST, HOST:PORT, [IPV6], [IPV6]:PORT; either part may be missing (an empty host, port 0).
enum class port_zero { refused, left_out };  // what port "0" means
base::outcome<endpoint> split_host_port(std::string_view whole, std::string_view text,
                                        port_zero zero = port_zero::refused);

// "host:port" as it stands in a URI: brackets around IPv6, the '%' before a zone encoded.
std::string to_authority(const endpoint& e);

// The length of "SCHEME" in "SCHEME:..."; 0 where there is none.
size_t scheme_length(std::string_view text);

}  // namespace lbd::uri
