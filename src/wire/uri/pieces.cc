// SPDX-License-Identifier: MIT
#include "wire/uri/pieces.h"

#include <algorithm>
#include <charconv>

namespace lbd::uri {

using base::errc;
using base::failure;
using base::outcome;

failure refuse(std::string_view text, const std::string& why) {
  return {errc::inval, "'" + std::string(text) + "': " + why};
}

outcome<std::string> decode(std::string_view whole, std::string_view piece) {
  std::string out;
  for (size_t i = 0; i < piece.size(); ++i) {
    if (piece[i] == '\0') return refuse(whole, "it holds a NUL character");
    if (piece[i] != '%') {
      out += piece[i];
      continue;
    }
    const int high = i + 1 < piece.size() ? hex_value(piece[i + 1]) : -1;
    const int low = i + 2 < piece.size() ? hex_value(piece[i + 2]) : -1;
    if (high < 0 || low < 0) return refuse(whole, "'%' needs two hex digits; write %25 for itself");
    if (high + low == 0) return refuse(whole, "it holds a NUL character (%00)");
    out += static_cast<char>(high * 16 + low);
    i += 2;
  }
  return out;
}

std::string encode(std::string_view text, std::string_view also_plain) {
  std::string out;
  for (char c : text) {
    if (is_alpha(c) || is_digit(c) || std::string_view("-._~").find(c) != std::string_view::npos ||
        also_plain.find(c) != std::string_view::npos) {
      out += c;
      continue;
    }
    const auto v = static_cast<unsigned char>(c);
    out += '%';
    out += "0123456789ABCDEF"[v >> 4];
    out += "0123456789ABCDEF"[v & 15];
  }
  return out;
}

std::optional<uint16_t> parse_port(std::string_view digits) {
  unsigned value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (error != std::errc() || end != digits.data() + digits.size()) return std::nullopt;
  if (value == 0 || value > 65535) return std::nullopt;
  return static_cast<uint16_t>(value);
}

bool is_ipv6_text(std::string_view s) {
  // A zone, the name of an interface, may follow: fe80::1%eth0
  const std::string_view address = s.substr(0, s.find('%'));
  if (address.size() < s.size() && !is_host_name(s.substr(address.size() + 1))) return false;
  return std::count(address.begin(), address.end(), ':') >= 2 &&
         std::all_of(address.begin(), address.end(),
                     [](char c) { return hex_value(c) >= 0 || c == ':' || c == '.'; });
}

bool is_host_name(std::string_view s) {
  return !s.empty() && s.size() <= 253 && std::all_of(s.begin(), s.end(), [](char c) {
    return is_alpha(c) || is_digit(c) || c == '-' || c == '.' || c == '_';
  });
}

outcome<endpoint> split_host_port(std::string_view whole, std::string_view text, port_zero zero) {
  endpoint out;
  std::string_view port;
  bool has_port = false;
  if (!text.empty() && text[0] == '[') {
    const size_t close = text.find(']');
    if (close == std::string_view::npos)
      return refuse(whole, "']' is missing after the IPv6 address");
    TRY(out.host, decode(whole, text.substr(1, close - 1)));
    if (!is_ipv6_text(out.host))
      return refuse(whole, "there is no IPv6 address between the brackets");
    const std::string_view after = text.substr(close + 1);
    if (!after.empty() && after[0] != ':') return refuse(whole, "write [IPV6]:PORT");
    has_port = !after.empty();
    port = has_port ? after.substr(1) : after;
  } else {
    const size_t colon = text.find(':');
    if (colon != std::string_view::npos && text.find(':', colon + 1) != std::string_view::npos) {
      return refuse(whole, "write an IPv6 address in brackets, as in [::1]:10809");
    }
    TRY(out.host, decode(whole, text.substr(0, colon)));
    if (!out.host.empty() && !is_host_name(out.host)) {
      return refuse(whole, "'" + out.host + "' is no host name or address");
    }
    has_port = colon != std::string_view::npos;
    if (has_port) port = text.substr(colon + 1);
  }
  if (!has_port) return out;
  if (zero == port_zero::left_out && port == "0") return out;
  const auto number = parse_port(port);
  if (!number) return refuse(whole, "the port must be a number from 1 to 65535");
  out.port = *number;
  return out;
}

std::string to_text(const endpoint& e) {
  const bool is_ipv6 = e.host.find(':') != std::string::npos;
  return (is_ipv6 ? "[" + e.host + "]" : e.host) + ":" + std::to_string(e.port);
}

std::string to_authority(const endpoint& e) {
  endpoint shown = e;
  // The '%' before an IPv6 zone is the only character of a host that needs it.
  if (const size_t zone = e.host.find('%'); zone != std::string::npos)
    shown.host.insert(zone + 1, "25");
  return to_text(shown);
}

size_t scheme_length(std::string_view text) {
  if (text.empty() || !is_alpha(text[0])) return 0;
  const size_t end = static_cast<size_t>(std::find_if(text.begin(), text.end(),
                                                      [](char c) {
                                                        return !is_alpha(c) && !is_digit(c) &&
                                                               c != '+' && c != '-' && c != '.';
                                                      }) -
                                         text.begin());
  return end < text.size() && text[end] == ':' ? end : 0;
}

}  // namespace lbd::uri
