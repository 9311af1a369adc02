// SPDX-License-Identifier: MIT
// Arithmetic on offsets and lengths that come from outside.
#pragma once

#include <concepts>
#include <cstdint>
#include <optional>

namespace lbd::base {

template <std::unsigned_integral T>
constexpr std::optional<T> checked_add(T a, T b) noexcept {
  T out;
  if (__builtin_add_overflow(a, b, &out)) return std::nullopt;
  return out;
}
template <std::unsigned_integral T>
constexpr std::optional<T> checked_mul(T a, T b) noexcept {
  T out;
  if (__builtin_mul_overflow(a, b, &out)) return std::nullopt;
  return out;
}

// True when [offset, offset + length) lies inside [0, size).
constexpr bool range_fits(uint64_t offset, uint64_t length, uint64_t size) noexcept {
  return length <= size && offset <= size - length;
}

constexpr bool is_power_of_two(uint64_t v) noexcept { return v != 0 && (v & (v - 1)) == 0; }

// REQUIRES: unit > 0 and the result fits (round_up).
constexpr uint64_t round_down(uint64_t v, uint64_t unit) noexcept { return v - v % unit; }
constexpr uint64_t round_up(uint64_t v, uint64_t unit) noexcept {
  return v % unit == 0 ? v : v - v % unit + unit;
}
constexpr uint64_t div_up(uint64_t v, uint64_t unit) noexcept { return v / unit + (v % unit != 0); }

}  // namespace lbd::base
