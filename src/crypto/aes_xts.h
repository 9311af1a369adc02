// SPDX-License-Identifier: MIT
// AES-XTS on processors with vector AES (VAES and AVX-512), without the fixed cost per call that a
// library's general interface has: disk sectors are short.
#pragma once

#include <memory>

#include "crypto/cipher.h"

namespace lbd::crypto {

// nullptr where the processor lacks the instructions, or the key has not 32 or 64 bytes (two AES
// keys). It keeps no state per lane.
std::unique_ptr<cipher> make_aes_xts(base::bytes_view key);

}  // namespace lbd::crypto
