// SPDX-License-Identifier: MIT
// Random numbers of a simulation: the same seed gives the same numbers on every machine.
#pragma once

#include <cstdint>

namespace lbd::sim {

// A good 64-bit mixing function (splitmix64's finaliser).
constexpr uint64_t mix(uint64_t v) noexcept {
  v += 0x9e3779b97f4a7c15;
  v = (v ^ (v >> 30)) * 0xbf58476d1ce4e5b9;
  v = (v ^ (v >> 27)) * 0x94d049bb133111eb;
  return v ^ (v >> 31);
}

// splitmix64. Streams made with different `purpose` from one seed are independent, so that one more
// draw in one part of a simulation does not change what the others draw.
class random {
 public:
  explicit constexpr random(uint64_t seed, uint64_t purpose = 0) noexcept
      : state_(mix(seed ^ mix(purpose))) {}

  constexpr uint64_t next() noexcept {
    state_ += 0x9e3779b97f4a7c15;
    return mix(state_);
  }
  // In [0, below). REQUIRES: below > 0. (The bias of the remainder does not matter here.)
  constexpr uint64_t below(uint64_t below) noexcept { return next() % below; }
  // In [from, to].
  constexpr uint64_t between(uint64_t from, uint64_t to) noexcept {
    return from + below(to - from + 1);
  }
  constexpr bool percent(uint64_t chance) noexcept { return below(100) < chance; }
  constexpr bool coin() noexcept { return (next() & 1) != 0; }

 private:
  uint64_t state_;
};

}  // namespace lbd::sim
