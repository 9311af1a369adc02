// SPDX-License-Identifier: MIT
#include "stack/device_name.h"

#include <charconv>

namespace lbd::stack {
namespace {

constexpr size_t quoted_chars = 4;  // \xNN

bool is_plain(char c) noexcept {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
         std::string_view("#+-.:=@_").find(c) != std::string_view::npos;
}

// Whether `text` begins with \xNN; then `byte` is what it stands for.
bool is_quoted(std::string_view text, unsigned char& byte) noexcept {
  if (text.size() < quoted_chars || !text.starts_with("\\x")) return false;
  const char* const end = text.data() + quoted_chars;
  const auto [at, error] = std::from_chars(text.data() + 2, end, byte, 16);
  return error == std::errc{} && at == end;
}

bool is_kept(std::string_view name) noexcept {
  unsigned char byte = 0;
  for (size_t i = 0; i < name.size(); ++i) {
    if (is_plain(name[i])) continue;
    if (!is_quoted(name.substr(i), byte)) return false;
    i += quoted_chars - 1;
  }
  return true;
}

// Printable, and UTF-8 by its lengths.
bool is_text(std::string_view s) noexcept {
  for (size_t i = 0; i < s.size();) {
    const auto lead = static_cast<unsigned char>(s[i++]);
    if (lead < 0x20 || lead == 0x7f || (lead >= 0x80 && lead < 0xc2) || lead > 0xf4) return false;
    const size_t more = lead < 0x80 ? 0 : lead < 0xe0 ? 1 : lead < 0xf0 ? 2 : 3;
    if (s.size() - i < more) return false;
    for (const size_t end = i + more; i < end; ++i)
      if ((static_cast<unsigned char>(s[i]) & 0xc0) != 0x80) return false;
  }
  return true;
}

std::string unquoted(std::string_view kept) {
  std::string out;
  unsigned char byte = 0;
  for (size_t i = 0; i < kept.size(); ++i) {
    if (is_quoted(kept.substr(i), byte)) {
      out += static_cast<char>(byte);
      i += quoted_chars - 1;
    } else {
      out += kept[i];
    }
  }
  return out;
}

}  // namespace

std::string kept_uuid(std::string_view uuid) {
  if (is_kept(uuid)) return std::string(uuid);
  static constexpr char digits[] = "0123456789abcdef";
  std::string out;
  for (const char c : uuid) {
    if (is_plain(c)) {
      out += c;
      continue;
    }
    const auto byte = static_cast<unsigned char>(c);
    out += {'\\', 'x', digits[byte >> 4], digits[byte & 15]};
  }
  return out;
}

std::string kept_name(std::string_view name) {
  return name.find('/') == std::string_view::npos ? kept_uuid(name) : std::string(name);
}

std::string shown_uuid(std::string_view kept) {
  std::string out = unquoted(kept);
  return is_text(out) && kept_uuid(out) == kept ? out : std::string(kept);
}

std::string shown_name(std::string_view kept) {
  std::string out = unquoted(kept);
  return is_text(out) && kept_name(out) == kept ? out : std::string(kept);
}

}  // namespace lbd::stack
