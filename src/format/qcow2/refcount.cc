// SPDX-License-Identifier: MIT
#include "format/qcow2/refcount.h"

namespace lbd::qcow2 {

using base::load_big;
using base::store_big;

uint64_t load_refcount(base::bytes_view block, uint32_t order, uint64_t index) noexcept {
  switch (order) {
    case 3:
      return load_big<uint8_t>(block, index);
    case 4:
      return load_big<uint16_t>(block, index * 2);
    case 5:
      return load_big<uint32_t>(block, index * 4);
    case 6:
      return load_big<uint64_t>(block, index * 8);
    default:
      break;
  }
  if (order > 6) std::abort();
  uint32_t width = 1u << order;
  uint64_t bit = index << order;
  uint32_t byte = load_big<uint8_t>(block, bit / 8);
  return byte >> (bit % 8) & ((1u << width) - 1);
}

void store_refcount(base::bytes_span block, uint32_t order, uint64_t index,
                    uint64_t value) noexcept {
  if (order > 6 || (order < 6 && value >> (1u << order) != 0)) std::abort();
  switch (order) {
    case 3:
      return store_big(block, index, static_cast<uint8_t>(value));
    case 4:
      return store_big(block, index * 2, static_cast<uint16_t>(value));
    case 5:
      return store_big(block, index * 4, static_cast<uint32_t>(value));
    case 6:
      return store_big(block, index * 8, value);
    default:
      break;
  }
  uint64_t bit = index << order;
  uint32_t mask = ((1u << (1u << order)) - 1) << (bit % 8);
  uint32_t byte = load_big<uint8_t>(block, bit / 8);
  byte = (byte & ~mask) | (static_cast<uint32_t>(value) << (bit % 8) & mask);
  store_big(block, bit / 8, static_cast<uint8_t>(byte));
}

}  // namespace lbd::qcow2
