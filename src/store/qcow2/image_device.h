// SPDX-License-Identifier: MIT
// The bytes of an image file as a device, where an overlay reads and writes what a layer has
// located or allocated; with a memory for what a failed sync has taken away.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "block/file_device.h"

namespace lbd::store {

class image_device final : public block::file_device {
 public:
  explicit image_device(std::unique_ptr<rt::file> file)
      : file_device(std::move(file), size_rule::growing) {}

  rt::task<base::result<void>> read(uint64_t offset, rt::segments to, block::io_opts io) override;
  block::lease borrow(uint64_t offset, uint64_t length) noexcept override;

  // A sync has failed: the kernel may have dropped the bytes of these clusters (file offsets),
  // which were written for the first time since the last good one. What it would read instead
  // belonged to somebody else, so reading them fails from now on. Once.
  void lose(std::vector<uint64_t> clusters, uint64_t cluster_bytes);

 private:
  struct lost_clusters {
    std::vector<uint64_t> offsets;  // sorted
    uint64_t cluster_bytes = 0;
  };
  bool has_lost(uint64_t offset, uint64_t length) const noexcept;

  std::unique_ptr<const lost_clusters> kept_;
  std::atomic<const lost_clusters*> lost_{nullptr};
};

}  // namespace lbd::store
