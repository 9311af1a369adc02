// SPDX-License-Identifier: MIT
// What the tests of every export need: bytes that are easy to tell apart, and patience.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <thread>
#include <vector>

namespace lbd::export_tests {

inline std::vector<std::byte> pattern(size_t bytes, unsigned seed) {
  std::vector<std::byte> out(bytes);
  uint32_t x = seed * 2654435761u + 1;
  for (auto& b : out) {
    x = x * 1664525u + 1013904223u;
    b = static_cast<std::byte>(x >> 24);
  }
  return out;
}

template <class Condition>
bool wait_until(Condition condition, int limit_ms = 10'000) {
  for (int i = 0; i < limit_ms * 5; ++i) {
    if (condition()) return true;
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
  return false;
}

}  // namespace lbd::export_tests
