// SPDX-License-Identifier: MIT
// The null store: reads are zeros, writes vanish. The bottom of every stack, and a source for tests
// ("null:10T").
#pragma once

#include "block/device.h"

namespace lbd::store {

class null_device final : public block::block_device {
 public:
  explicit null_device(uint64_t size_bytes);

  const block::limits& limits() const noexcept override { return limits_; }
  rt::task<base::result<void>> read(uint64_t offset, rt::segments to, block::io_opts io) override;
  rt::task<base::result<void>> write(uint64_t offset, rt::segments from,
                                     block::io_opts io) override;
  rt::task<base::result<void>> flush(block::io_opts io) override;
  rt::task<base::result<void>> write_zeroes(uint64_t offset, uint64_t length,
                                            block::io_opts io) override;
  rt::task<base::result<void>> extents(uint64_t offset, uint64_t length, block::extent_list& out,
                                       block::io_opts io) override;
  // Lends the one page of zeros, mapped many times.
  block::lease borrow(uint64_t offset, uint64_t length) noexcept override;

 private:
  block::limits limits_;
};

}  // namespace lbd::store
