// SPDX-License-Identifier: MIT
// The log of a log-writes target, as the kernel's replay tools read it. Little-endian, in 512-byte
// sectors:
//   sector 0   u64 magic, u64 version 1, u64 entries, u32 sector size
//   sector 1.. one after the other: a sector with u64 sector, u64 sectors, u64 flags, u64 text
//   length, a
//              mark's text; then the data, if there is any
// Sector 0 is brought up to date after entries that are marks or FUA only.
#pragma once

#include <memory>
#include <string>

#include "block/device.h"
#include "rt/buffer_pool.h"

namespace lbd::target {

struct log_entry {
  static constexpr uint64_t flush = 1, fua = 2, discard = 4, mark = 8;

  uint64_t sector = 0, sectors = 0, flags = 0;
  std::string text;  // of a mark
  rt::buffer data;   // of a write

  // What it takes of the log.
  uint64_t log_sectors() const noexcept { return 1 + (data ? sectors : 0); }
  bool tells_super() const noexcept { return (flags & (fua | mark)) != 0; }
};

class log_file {
 public:
  static constexpr uint64_t magic = 0x6a736677736872, version = 1;
  static constexpr size_t header_bytes = 32;
  // Of a mark's text.
  static constexpr size_t text_most = 512 - header_bytes - 1;

  explicit log_file(std::shared_ptr<block::block_device> device) : device_(std::move(device)) {}

  // One at a time. Errors: nospc when the log is full, the device's; the log is to be given up
  // then.
  rt::task<base::result<void>> append(const log_entry& e);

  uint64_t entries() const noexcept { return entries_; }
  // Where the next entry goes.
  uint64_t next_sector() const noexcept { return next_sector_; }

 private:
  rt::task<base::result<void>> write_super();

  const std::shared_ptr<block::block_device> device_;
  uint64_t entries_ = 0, next_sector_ = 1;
};

}  // namespace lbd::target
