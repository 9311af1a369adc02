// SPDX-License-Identifier: MIT
// Sectors of an encrypted disk, as the kernel's dm-crypt has them: a cipher, an IV generator,
// perhaps several keys. Source: the cipher and IV descriptions of dm-crypt and cryptsetup.
#pragma once

#include <memory>
#include <string>

#include "base/bytes.h"
#include "base/result.h"

namespace lbd::crypto {

// The words of a cipher specification.
struct cipher_spec {
  std::string text;       // as given
  std::string algorithm;  // "aes"
  std::string mode;       // "xts"
  std::string iv;         // "plain64", "essiv" ...; may be empty
  std::string iv_option;  // "sha256" of essiv:sha256
  uint32_t key_count = 1;
};

// "aes-xts-plain64", "aes:64-cbc-lmk", "capi:cbc(aes)-essiv:sha256",
// "capi:essiv(cbc(aes),sha256)-plain64". Errors carry the kernel's text.
base::outcome<cipher_spec> parse_cipher_spec(std::string_view text);

// What a key of so many bytes is made of, as the kernel counts it: keys of ciphers, and what the IV
// generator takes for itself.
struct key_parts {
  uint32_t count = 1;
  size_t extra_bytes = 0;
};
key_parts parts_of_key(const cipher_spec& spec, size_t key_bytes) noexcept;

class sector_cipher {
 public:
  virtual ~sector_cipher() = default;

  // Crypto sectors that follow each other. `sector` counts 512-byte sectors from the device's
  // start, the IV offset added. `in` and `out` have the same size, a multiple of the sector size,
  // and are the same memory or do not overlap. `lane` as in cipher.
  virtual void encrypt(unsigned lane, uint64_t sector, base::bytes_view in,
                       base::bytes_span out) = 0;
  virtual void decrypt(unsigned lane, uint64_t sector, base::bytes_view in,
                       base::bytes_span out) = 0;

  struct shape {
    uint32_t sector_bytes = 512;
    bool iv_large_sectors = false;  // the IV counts crypto sectors
    unsigned lanes = 1;
  };
  // Errors carry dm-crypt's text: "Error allocating crypto tfm" (noent), "Invalid IV mode", "Error
  // creating IV", "Error decoding and setting key" (inval) ...
  static base::outcome<std::unique_ptr<sector_cipher>> make(const cipher_spec& spec,
                                                            base::bytes_view key, shape s);
};

}  // namespace lbd::crypto
