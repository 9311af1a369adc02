// SPDX-License-Identifier: MIT
// Copies what one device holds into another, run by run, several chunks at a time.
#pragma once

#include "base/result.h"
#include "block/device.h"
#include "ctl/progress.h"
#include "rt/task.h"

namespace lbd::ctl {

// What to do with a run of the address space.
enum class copy_kind { skip, copy, zero };
struct copy_run {
  copy_kind kind = copy_kind::skip;
  uint64_t length_bytes = 0;
};

class copy_source {
 public:
  virtual ~copy_source() = default;
  // The run at `offset`, at most `length` bytes and at least 1. One call at a time.
  virtual rt::task<base::result<copy_run>> at(uint64_t offset, uint64_t length) = 0;
};

// Copies [0, size) from `from` to `to` as `runs` tells, and counts bytes in `shown`. The first
// failure ends it, with the offset in its message; `to` is not flushed.
rt::task<base::outcome<void>> copy_runs(copy_source& runs, block::block_device& from,
                                        block::block_device& to, uint64_t size_bytes,
                                        progress& shown);

}  // namespace lbd::ctl
