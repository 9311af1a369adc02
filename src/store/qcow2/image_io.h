// SPDX-License-Identifier: MIT
// The bytes of an image file as a block device: where an overlay reads and writes the clusters that
// a layer has located or allocated. Reads past the end of the file give zeros (the last cluster of
// an image need not be whole). No bounds of its own: addresses come from checked tables.
#pragma once

#include "block/device.h"
#include "rt/file.h"

namespace lbd::store {

class image_io final : public block::block_device {
 public:
  image_io(rt::file& file, bool read_only);

  const block::limits& limits() const noexcept override { return limits_; }
  rt::task<base::result<void>> read(uint64_t offset, rt::segments to, block::io_opts io) override;
  rt::task<base::result<void>> write(uint64_t offset, rt::segments from,
                                     block::io_opts io) override;
  rt::task<base::result<void>> flush(block::io_opts io) override;
  block::lease borrow(uint64_t offset, uint64_t length) noexcept override;

 private:
  rt::file& file_;
  block::limits limits_;
};

}  // namespace lbd::store
