// SPDX-License-Identifier: MIT
// The log of a log-writes target (format/dm_log_writes) when it is read again.
#pragma once

#include <optional>
#include <string>

#include "base/result.h"
#include "block/device.h"
#include "format/dm_log_writes/dm_log_writes.h"

namespace lbd::target {

// Reads a log from its device. Errors are sentences that name the log.
class log_reader {
 public:
  // `name` is the log's, for messages; the device outlives the reader.
  static rt::task<base::outcome<log_reader>> open(block::block_device& log, std::string name);

  struct place {
    uint64_t number = 0;  // of the entry, from 0
    uint64_t offset = 0;  // in the log, bytes; 0: where entry 0 is
  };
  struct item {
    dm_log_writes::entry what;
    uint64_t number = 0;
    std::string text;          // of a mark
    uint64_t data_offset = 0;  // in the log, bytes
    // On the logged device, bytes.
    uint64_t offset = 0, length = 0;
  };
  // The entry there, and moves on; nullopt at the end of the log.
  rt::task<base::outcome<std::optional<item>>> next(place& at) const;

  const dm_log_writes::super& head() const noexcept { return head_; }
  block::block_device& device() const noexcept { return *log_; }
  const std::string& name() const noexcept { return name_; }

 private:
  log_reader(block::block_device& log, std::string name) : log_(&log), name_(std::move(name)) {}

  block::block_device* log_;
  std::string name_;
  dm_log_writes::super head_;
};

}  // namespace lbd::target
