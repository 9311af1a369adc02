// SPDX-License-Identifier: MIT
// A file as a block device: what stores that keep their bytes in files stand on.
#pragma once

#include <atomic>
#include <memory>

#include "block/device.h"
#include "rt/file.h"
#include "rt/sync.h"

namespace lbd::block {

// Any reactor may call; operations run on the calling one. Byte granularity (files opened with
// direct I/O excepted: those need direct_align). Once a sync has failed every later flush and FUA
// write fails with io: what the kernel has dropped cannot be promised later.
class file_device : public block_device {
 public:
  enum class size_rule {
    fixed,    // limits().size_bytes is the file's size now, rounded up to 512 bytes
    growing,  // no bound: an image file that its format extends
  };
  file_device(std::unique_ptr<rt::file> file, size_rule rule);

  const block::limits& limits() const noexcept override { return limits_; }
  task<result<void>> read(uint64_t offset, segments to, io_opts io) override;
  task<result<void>> write(uint64_t offset, segments from, io_opts io) override;
  task<result<void>> flush(io_opts io) override;
  // Punches a hole (reads as zeros afterwards); ok where the file system cannot.
  task<result<void>> discard(uint64_t offset, uint64_t length, io_opts io) override;
  task<result<void>> write_zeroes(uint64_t offset, uint64_t length, io_opts io) override;
  task<result<void>> extents(uint64_t offset, uint64_t length, extent_list& out,
                             io_opts io) override;
  lease borrow(uint64_t offset, uint64_t length) noexcept override;

  rt::file& file() noexcept { return *file_; }
  bool sync_failed() const noexcept { return sync_failed_.load(std::memory_order_acquire); }
  // Bytes up to here exist in the file (its size when opened, and what was written since).
  uint64_t end_bytes() const noexcept { return end_.load(std::memory_order_acquire); }
  // Tells that the file was resized through file().
  void set_end(uint64_t bytes) noexcept { end_.store(bytes, std::memory_order_release); }

 protected:
  block::limits limits_;

 private:
  void note_written(uint64_t end) noexcept;
  task<result<void>> sync_at_home();
  task<result<void>> allocate(int mode, uint64_t offset, uint64_t length, io_opts io);

  std::unique_ptr<rt::file> file_;
  std::atomic<uint64_t> end_;
  std::atomic<uint64_t> written_{0};  // counts completed changes
  std::atomic<uint64_t> synced_{0};   // written_ as it was before the last good sync
  std::atomic<bool> sync_failed_{false};
  // Where syncs run, one after the other: the reactor of the first flush.
  std::atomic<rt::reactor*> sync_home_{nullptr};
  rt::mutex syncing_;
  std::atomic<bool> no_punch_{false}, no_zero_range_{false};
};

}  // namespace lbd::block
