// SPDX-License-Identifier: MIT
// The memory store: a sparse RAM disk ("mem:1G"). Nothing survives the process. Pages are made when
// written; discard gives them back.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "block/device.h"

namespace lbd::store {

class memory_device final : public block::block_device {
 public:
  // Errors: nomem when the address space is refused.
  static base::outcome<std::unique_ptr<memory_device>> make(uint64_t size_bytes);
  ~memory_device() override;

  const block::limits& limits() const noexcept override { return limits_; }
  rt::task<base::result<void>> read(uint64_t offset, rt::segments to, block::io_opts io) override;
  rt::task<base::result<void>> write(uint64_t offset, rt::segments from,
                                     block::io_opts io) override;
  rt::task<base::result<void>> flush(block::io_opts io) override;
  rt::task<base::result<void>> discard(uint64_t offset, uint64_t length,
                                       block::io_opts io) override;
  rt::task<base::result<void>> write_zeroes(uint64_t offset, uint64_t length,
                                            block::io_opts io) override;
  rt::task<base::result<void>> extents(uint64_t offset, uint64_t length, block::extent_list& out,
                                       block::io_opts io) override;
  block::lease borrow(uint64_t offset, uint64_t length) noexcept override;

  // Bytes in chunks that were written.
  uint64_t allocated_bytes() const noexcept;

 private:
  // The unit in which pages are accounted and given back.
  static constexpr uint64_t chunk_bytes = 65536;

  memory_device(std::byte* memory, uint64_t size_bytes);
  void clear(uint64_t offset, uint64_t length) noexcept;
  void mark_written(uint64_t offset, uint64_t length) noexcept;

  std::byte* const memory_;
  // One per chunk: false means that it reads as zeros and uses no memory.
  std::vector<std::atomic<bool>> written_;
  block::limits limits_;
};

}  // namespace lbd::store
