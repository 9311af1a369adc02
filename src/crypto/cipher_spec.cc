// SPDX-License-Identifier: MIT
#include <charconv>

#include "base/checked_math.h"
#include "crypto/sector_cipher.h"

namespace lbd::crypto {
namespace {

using base::errc;
using base::failure;
using base::outcome;

failure bad(const char* text) { return failure{errc::inval, text}; }

// Cuts `text` at the first `c`; the rest after it goes to `rest`.
std::string_view cut(std::string_view text, char c, std::string_view& rest) {
  const size_t at = text.find(c);
  rest = at == std::string_view::npos ? std::string_view{} : text.substr(at + 1);
  return text.substr(0, at);
}

// "xts(aes)", "essiv(cbc(aes),sha256)", "ecb(cipher_null)". Anything else becomes an algorithm
// without a mode, which no library has.
cipher_spec parse_api_name(cipher_spec spec, std::string_view name) {
  const size_t open = name.find('('), close = name.rfind(')');
  spec.algorithm = name;
  spec.mode.clear();
  if (open == std::string_view::npos || close != name.size() - 1) return spec;
  std::string_view outer = name.substr(0, open);
  std::string_view inner = name.substr(open + 1, close - open - 1);
  if (outer == "essiv") {
    const size_t comma = inner.rfind(',');
    if (comma == std::string_view::npos) return spec;
    spec.iv = "essiv";
    spec.iv_option = inner.substr(comma + 1);
    return parse_api_name(std::move(spec), inner.substr(0, comma));
  }
  if (inner.find_first_of("(),") != std::string_view::npos) return spec;
  spec.mode = outer;
  spec.algorithm = inner;
  return spec;
}

// The last ':' begins the IV's options, the last '-' before it the IV's mode.
outcome<cipher_spec> parse_new_form(cipher_spec spec, std::string_view text) {
  const size_t colon = text.rfind(':');
  if (colon != std::string_view::npos) {
    spec.iv_option = text.substr(colon + 1);
    text = text.substr(0, colon);
  }
  const size_t dash = text.rfind('-');
  if (dash != std::string_view::npos) {
    spec.iv = text.substr(dash + 1);
    text = text.substr(0, dash);
  }
  if (text.starts_with("essiv(") && spec.iv != "plain64") return bad("Invalid IV mode");
  return parse_api_name(std::move(spec), text);
}

outcome<cipher_spec> parse_old_form(cipher_spec spec, std::string_view text) {
  if (text.find('(') != std::string_view::npos) return bad("Bad cipher specification");
  std::string_view rest, options;
  std::string_view first = cut(text, '-', rest);
  std::string_view count;
  spec.algorithm = cut(first, ':', count);
  if (first.find(':') != std::string_view::npos) {
    const auto [at, ec] =
        std::from_chars(count.data(), count.data() + count.size(), spec.key_count);
    if (ec != std::errc{} || at != count.data() + count.size() ||
        !base::is_power_of_two(spec.key_count))
      return bad("Bad cipher key count specification");
  }
  std::string_view iv;
  spec.mode = cut(rest, '-', iv);
  spec.iv = cut(iv, ':', options);
  spec.iv_option = options;
  // As since Linux 2.4: "aes" and "aes-plain" mean cbc with plain IVs.
  if (spec.mode.empty() || (spec.mode == "plain" && spec.iv.empty())) {
    spec.mode = "cbc";
    spec.iv = "plain";
  }
  if (spec.mode != "ecb" && spec.iv.empty()) return bad("IV mechanism required");
  return spec;
}

}  // namespace

outcome<cipher_spec> parse_cipher_spec(std::string_view text) {
  cipher_spec spec;
  spec.text = text;
  static constexpr std::string_view prefix = "capi:";
  if (text.starts_with(prefix)) return parse_new_form(std::move(spec), text.substr(prefix.size()));
  return parse_old_form(std::move(spec), text);
}

key_parts parts_of_key(const cipher_spec& spec, size_t key_bytes) noexcept {
  constexpr size_t tcw_bytes = 32;
  const uint32_t n = spec.key_count;
  if (spec.iv == "lmk" && key_bytes % n != 0) return {n + 1, key_bytes / (n + 1)};
  if (spec.iv == "tcw") return {n + 2, tcw_bytes};
  if (spec.iv == "elephant") return {2, key_bytes / 2};
  return {n, 0};
}

}  // namespace lbd::crypto
