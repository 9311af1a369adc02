// SPDX-License-Identifier: MIT
#include "base/size_text.h"

#include <charconv>

#include "base/checked_math.h"

namespace lbd::base {
namespace {

failure bad_size(std::string_view text) {
  return failure{errc::inval, "'" + std::string(text) +
                                  "' is not a size: write bytes, or a number with K, M, G, T or P "
                                  "(or KiB ... PiB) as in 512M, 1.5G, or sectors as in 2048s"};
}

// The power of 1024 that a suffix means, or -1.
int suffix_power(std::string_view suffix) {
  if (suffix.empty() || suffix == "B" || suffix == "b") return 0;
  static constexpr std::string_view letters = "kmgtp";
  const char low = static_cast<char>(suffix[0] | 0x20);
  const size_t at = letters.find(low);
  if (at == std::string_view::npos) return -1;
  const std::string_view rest = suffix.substr(1);
  return rest.empty() || rest == "iB" || rest == "ib" ? static_cast<int>(at) + 1 : -1;
}

}  // namespace

outcome<uint64_t> parse_size(std::string_view text) {
  uint64_t whole = 0;
  const char* end = text.data() + text.size();
  auto [at, ec] = std::from_chars(text.data(), end, whole);
  if (ec != std::errc{} || at == text.data()) return bad_size(text);
  // A fraction is kept as digits/scale so that 1.5G is exact.
  uint64_t digits = 0, scale = 1;
  if (at != end && *at == '.') {
    const char* from = ++at;
    while (at != end && *at >= '0' && *at <= '9' && at - from < 9) {
      digits = digits * 10 + static_cast<uint64_t>(*at++ - '0');
      scale *= 10;
    }
    if (at == from) return bad_size(text);
  }
  const std::string_view suffix(at, static_cast<size_t>(end - at));
  uint64_t unit = 512;
  if (suffix != "s") {
    const int power = suffix_power(suffix);
    if (power < 0) return bad_size(text);
    unit = uint64_t{1} << (10 * power);
  }
  const auto big = checked_mul(whole, unit);
  const auto fraction = checked_mul(digits, unit);
  if (!big || !fraction || *fraction % scale != 0) return bad_size(text);
  const auto sum = checked_add(*big, *fraction / scale);
  if (!sum || *sum > uint64_t{INT64_MAX}) return bad_size(text);
  return *sum;
}

std::string format_size(uint64_t bytes) {
  static constexpr const char* units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  size_t unit = 0;
  while (unit + 1 < std::size(units) && bytes != 0 && bytes % 1024 == 0) {
    bytes /= 1024;
    ++unit;
  }
  return std::to_string(bytes) + " " + units[unit];
}

}  // namespace lbd::base
