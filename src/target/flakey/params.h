// SPDX-License-Identifier: MIT
// The words of a flakey line, `flakey <device> <sector> <up s> <down s> [<#words> <feature>...]`;
// errors carry the kernel's texts. Known are the features of 6.1 and those that came until 6.12.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"

namespace lbd::target {

struct flakey_params {
  uint64_t start_sector = 0;
  uint32_t up_s = 0, down_s = 0;

  bool error_reads = false, error_writes = false, drop_writes = false;
  // corrupt_bio_byte: 0 is off, otherwise counted from 1.
  uint32_t corrupt_byte = 0;
  bool corrupt_writes = false;  // else reads
  uint8_t corrupt_value = 0;
  uint32_t corrupt_flags = 0;  // bits of the kernel's bi_opf that a request must have
  // Requests in 10^9 that get a random byte.
  uint32_t random_read_corrupt = 0, random_write_corrupt = 0;

  // Without any feature everything fails while the device is down.
  bool no_features() const noexcept {
    return !error_reads && !error_writes && !drop_writes && corrupt_byte == 0 &&
           random_read_corrupt == 0 && random_write_corrupt == 0;
  }
};

// REQUIRES: at least four words. args[0], the device, is not looked at.
base::outcome<flakey_params> parse_flakey(const std::vector<std::string>& args);

// What a table says after the device's number.
std::string flakey_text(const flakey_params& p);

}  // namespace lbd::target
