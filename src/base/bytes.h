// SPDX-License-Identifier: MIT
// Bytes and byte order. Codecs read and write integers at byte offsets of spans; a range outside
// the span is a programming error (checked, aborts): codecs test lengths before.
#pragma once

#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>
#include <string_view>

namespace lbd::base {

using bytes_view = std::span<const std::byte>;
using bytes_span = std::span<std::byte>;

template <std::unsigned_integral T>
constexpr T byte_swap(T v) noexcept {
  if constexpr (sizeof(T) == 1) return v;
  if constexpr (sizeof(T) == 2) return __builtin_bswap16(v);
  if constexpr (sizeof(T) == 4) return __builtin_bswap32(v);
  if constexpr (sizeof(T) == 8) return __builtin_bswap64(v);
}

template <std::unsigned_integral T>
constexpr T to_big(T v) noexcept {
  return std::endian::native == std::endian::big ? v : byte_swap(v);
}
template <std::unsigned_integral T>
constexpr T to_little(T v) noexcept {
  return std::endian::native == std::endian::little ? v : byte_swap(v);
}

template <std::unsigned_integral T>
T load_big(bytes_view from, size_t offset) noexcept {
  if (offset > from.size() || from.size() - offset < sizeof(T)) std::abort();
  T v;
  std::memcpy(&v, from.data() + offset, sizeof v);
  return to_big(v);
}
template <std::unsigned_integral T>
T load_little(bytes_view from, size_t offset) noexcept {
  if (offset > from.size() || from.size() - offset < sizeof(T)) std::abort();
  T v;
  std::memcpy(&v, from.data() + offset, sizeof v);
  return to_little(v);
}
template <std::unsigned_integral T>
void store_big(bytes_span to, size_t offset, T v) noexcept {
  if (offset > to.size() || to.size() - offset < sizeof(T)) std::abort();
  v = to_big(v);
  std::memcpy(to.data() + offset, &v, sizeof v);
}
template <std::unsigned_integral T>
void store_little(bytes_span to, size_t offset, T v) noexcept {
  if (offset > to.size() || to.size() - offset < sizeof(T)) std::abort();
  v = to_little(v);
  std::memcpy(to.data() + offset, &v, sizeof v);
}

inline bytes_view as_bytes(std::string_view text) noexcept {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}
inline std::string_view as_text(bytes_view bytes) noexcept {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// True when every byte is zero (an empty span is).
inline bool is_zero(bytes_view b) noexcept {
  return b.empty() ||
         (b[0] == std::byte{0} && std::memcmp(b.data(), b.data() + 1, b.size() - 1) == 0);
}

}  // namespace lbd::base
