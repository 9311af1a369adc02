// SPDX-License-Identifier: MIT
// The log of a log-writes target (format/dm_log_writes) while it is written.
#pragma once

#include <memory>
#include <string>

#include "block/device.h"
#include "format/dm_log_writes/dm_log_writes.h"
#include "rt/buffer_pool.h"

namespace lbd::target {

// What is to be logged. Sectors are the log's.
struct log_item : dm_log_writes::entry {
  std::string text;  // of a mark
  rt::buffer data;   // of a write
};

class log_file {
 public:
  // `sector_bytes`: a power of two from dm_log_writes::least_sector_bytes on.
  log_file(std::shared_ptr<block::block_device> device, uint32_t sector_bytes)
      : device_(std::move(device)), sector_bytes_(sector_bytes), next_bytes_(sector_bytes) {}

  uint32_t sector_bytes() const noexcept { return sector_bytes_; }
  // One at a time. Errors: nospc when the log is full, the device's; the log is to be given up
  // then.
  rt::task<base::result<void>> append(const log_item& e);

  uint64_t entries() const noexcept { return entries_; }
  // Where the next entry goes.
  uint64_t next_bytes() const noexcept { return next_bytes_; }

 private:
  rt::task<base::result<void>> write_super();

  const std::shared_ptr<block::block_device> device_;
  const uint32_t sector_bytes_;
  uint64_t entries_ = 0, next_bytes_;
};

}  // namespace lbd::target
