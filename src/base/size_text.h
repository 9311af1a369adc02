// SPDX-License-Identifier: MIT
// Sizes as people write them: "4096", "1G", "64KiB", "1.5T". K, M, G, T, P and KiB ... PiB are
// powers of 1024 (as in LVM and QEMU); "KB" ... are refused as ambiguous; "s" means 512-byte
// sectors.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace lbd::base {

// Bytes. Errors (errc::inval) name the text and the accepted forms.
outcome<uint64_t> parse_size(std::string_view text);

// The shortest exact form with a binary suffix ("1 GiB", "1536 KiB", "511 B").
std::string format_size(uint64_t bytes);

}  // namespace lbd::base
