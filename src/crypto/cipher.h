// SPDX-License-Identifier: MIT
// Block ciphers in the modes that disk encryption uses, from OpenSSL (aes, camellia) and libgcrypt
// (serpent, twofish, and the XTS mode of all).
#pragma once

#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"

namespace lbd::crypto {

enum class cipher_mode { ecb, cbc, xts };

std::optional<cipher_mode> parse_mode(std::string_view name) noexcept;

// A keyed cipher. `lane` names who calls: two calls with the same lane must not overlap, so that
// each reactor keeps contexts of its own without locks.
class cipher {
 public:
  virtual ~cipher() = default;

  // As many units of the same size, one behind the other, as there are IVs of iv_bytes() in `ivs`
  // (none are looked at when the mode takes none). `in` and `out` have the same size, their units
  // a multiple of block_bytes(), and they are the same memory or do not overlap.
  virtual void encrypt(unsigned lane, base::bytes_view ivs, base::bytes_view in,
                       base::bytes_span out) = 0;
  virtual void decrypt(unsigned lane, base::bytes_view ivs, base::bytes_view in,
                       base::bytes_span out) = 0;
  virtual size_t block_bytes() const noexcept = 0;
  virtual size_t iv_bytes() const noexcept = 0;  // 0: the mode takes none

  // Errors: noent when neither library has the cipher in this mode, inval when it refuses the key's
  // length (or an XTS key of two equal halves, which OpenSSL does not take).
  static base::outcome<std::unique_ptr<cipher>> make(std::string_view algorithm, cipher_mode mode,
                                                     base::bytes_view key, unsigned lanes);
};

// The digest of `data` ("sha256", "md5" ...); nullopt when OpenSSL has none of that name.
std::optional<std::vector<std::byte>> digest(std::string_view name, base::bytes_view data);

// MD5's state after whole 64-byte blocks, without padding: what loop-AES takes as IV. 16 bytes.
// REQUIRES: data is a multiple of 64 bytes.
void md5_state(base::bytes_view data, base::bytes_span out);

}  // namespace lbd::crypto
