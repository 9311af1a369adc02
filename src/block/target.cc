// SPDX-License-Identifier: MIT
#include "block/target.h"

#include <charconv>

#include "base/log.h"

namespace lbd::block {

bool target::refuses_writes() const {
  bool any = false;
  for_each_child([&any](const opened_device& d) { any |= d.device->limits().read_only; });
  return any;
}
rt::task<base::outcome<std::string>> target::message(std::vector<std::string>) {
  constexpr const char* text = "ioctl: Target type does not support messages";
  base::log_warn("device-mapper", text);
  co_return base::failure{errc::inval, text};
}
rt::task<void> target::presuspend(bool) { co_return; }
rt::task<void> target::presuspend_undone() { co_return; }
rt::task<void> target::postsuspend() { co_return; }
rt::task<result<void>> target::preresume() { co_return result<void>{}; }
rt::task<void> target::resumed() { co_return; }
rt::task<void> target::closed() { co_return; }

std::optional<uint64_t> parse_u64(std::string_view word) noexcept {
  if (word.empty()) return std::nullopt;
  uint64_t value = 0;
  for (const char c : word) {
    if (c < '0' || c > '9') return std::nullopt;
    value = value * 10 + static_cast<uint64_t>(c - '0');
  }
  return value;
}

std::optional<uint32_t> parse_u32(std::string_view word) noexcept {
  const auto wide = parse_u64(word);
  if (!wide) return std::nullopt;
  return static_cast<uint32_t>(*wide);
}

std::optional<uint32_t> parse_kstrtouint(std::string_view word) noexcept {
  if (!word.empty() && word.front() == '+') word.remove_prefix(1);
  uint32_t value = 0;
  const char* end = word.data() + word.size();
  const auto [at, ec] = std::from_chars(word.data(), end, value);
  if (ec != std::errc{} || at != end) return std::nullopt;
  return value;
}

}  // namespace lbd::block
