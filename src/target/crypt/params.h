// SPDX-License-Identifier: MIT
// Reading a crypt line; errors carry the kernel's texts.
#pragma once

#include "target/crypt/crypt.h"

namespace lbd::target {

// The cipher, the key and the options. REQUIRES: at least five words.
base::outcome<crypt_params> parse_crypt(const std::vector<std::string>& args,
                                        uint64_t length_sectors, unsigned lanes);

base::outcome<uint64_t> parse_crypt_iv_offset(const std::string& word, uint32_t sector_bytes);

// A key word: hex digits, "-", or ":size:type:description" of the kernel's keyring (user keys only:
// the kernel gives logon keys to nobody).
base::outcome<crypto::secret> parse_crypt_key(const std::string& word);

}  // namespace lbd::target
