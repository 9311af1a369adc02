// SPDX-License-Identifier: MIT
// Entries of refcount blocks, 1 to 64 bits wide. Narrow ones fill a byte from its least significant
// bit, wide ones are big-endian. Source: QEMU's docs/interop/qcow2 ("Host cluster management").
#pragma once

#include <cstdint>

#include "base/bytes.h"

namespace lbd::qcow2 {

// REQUIRES: order <= 6, the entry lies in the block.
uint64_t load_refcount(base::bytes_view block, uint32_t order, uint64_t index) noexcept;

// REQUIRES: as above, and the value fits into the width.
void store_refcount(base::bytes_span block, uint32_t order, uint64_t index,
                    uint64_t value) noexcept;

}  // namespace lbd::qcow2
