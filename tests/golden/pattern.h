// SPDX-License-Identifier: MIT
// The data that the golden images hold: every sector is 16 lines of 32 bytes that tell the seed,
// the sector's number, the line, and a hash of both.
#pragma once

#include <cstdint>
#include <string>

namespace lbd::golden {

inline void append_hex(std::string& out, uint64_t value, unsigned digits) {
  while (digits-- > 0) out += "0123456789abcdef"[value >> 4 * digits & 15];
}

inline std::string pattern_sector(uint32_t seed, uint64_t sector) {
  uint64_t x = (uint64_t{seed} << 32 ^ sector) + 0x9E3779B97F4A7C15u;
  x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
  x = (x ^ x >> 27) * 0x94D049BB133111EBu;
  x ^= x >> 31;
  std::string out;
  for (unsigned line = 0; line < 16; ++line) {
    append_hex(out, seed, 8);
    append_hex(out += ' ', sector, 10);
    append_hex(out += ' ', line, 1);
    append_hex(out += ' ', x, 9);
    out += '\n';
  }
  return out;
}

inline std::string pattern(uint32_t seed, uint64_t first_sector, uint64_t sectors) {
  std::string out;
  for (uint64_t i = 0; i < sectors; ++i) out += pattern_sector(seed, first_sector + i);
  return out;
}

}  // namespace lbd::golden
