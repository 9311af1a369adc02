// SPDX-License-Identifier: MIT
#include "store/memory/memory.h"

#include <sys/mman.h>

#include <algorithm>

#include "base/checked_math.h"
#include "base/size_text.h"
#include "block/segments.h"
#include "store/memory/clients_race.h"

namespace lbd::store {

using base::result;
using rt::task;

base::outcome<std::unique_ptr<memory_device>> memory_device::make(uint64_t size_bytes) {
  const uint64_t mapped = base::round_up(std::max<uint64_t>(size_bytes, 1), chunk_bytes);
  void* p = ::mmap(nullptr, mapped, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED)
    return base::failure{base::errc::nomem, "cannot reserve " + base::format_size(size_bytes) +
                                                " of address space for a memory device (choose a "
                                                "smaller size)"};
  return std::unique_ptr<memory_device>(new memory_device(static_cast<std::byte*>(p), size_bytes));
}

memory_device::memory_device(std::byte* memory, uint64_t size_bytes)
    : memory_(memory), written_(base::div_up(std::max<uint64_t>(size_bytes, 1), chunk_bytes)) {
  limits_.size_bytes = size_bytes;
  limits_.can_discard = true;
  limits_.can_write_zeroes = true;
  limits_.fast_zero = true;
  limits_.discard_granularity_bytes = chunk_bytes;
}

memory_device::~memory_device() { ::munmap(memory_, written_.size() * chunk_bytes); }

void memory_device::mark_written(uint64_t offset, uint64_t length) noexcept {
  // The bytes must be visible before the marks are looked at.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  const uint64_t last = (offset + length - 1) / chunk_bytes;
  for (uint64_t c = offset / chunk_bytes; c <= last; ++c)
    if (!written_[c].load(std::memory_order_relaxed))
      written_[c].store(true, std::memory_order_release);
}

task<result<void>> memory_device::read(uint64_t offset, rt::segments to, block::io_opts) {
  const clients_race may_be_here;
  block::copy_to(to, {memory_ + offset, limits_.size_bytes - offset});
  co_return result<void>{};
}

task<result<void>> memory_device::write(uint64_t offset, rt::segments from, block::io_opts) {
  {
    const clients_race may_be_here;
    block::copy_from(from, {memory_ + offset, limits_.size_bytes - offset});
  }
  // After the bytes, and clear() forgets before it drops the pages: whatever the order of two
  // concurrent requests, a chunk that is not marked holds zeros.
  mark_written(offset, block::total_bytes(from));
  co_return result<void>{};
}

task<result<void>> memory_device::flush(block::io_opts) { co_return result<void>{}; }

void memory_device::clear(uint64_t offset, uint64_t length) noexcept {
  const uint64_t end = offset + length;
  while (offset < end) {
    const uint64_t chunk = offset / chunk_bytes;
    const uint64_t n = std::min(end, (chunk + 1) * chunk_bytes) - offset;
    const bool to_device_end = offset + n == limits_.size_bytes;
    if (offset % chunk_bytes == 0 && (n == chunk_bytes || to_device_end)) {
      if (written_[chunk].exchange(false, std::memory_order_acq_rel))
        ::madvise(memory_ + offset, chunk_bytes, MADV_DONTNEED);
    } else if (written_[chunk].load(std::memory_order_acquire)) {
      const clients_race may_be_here;
      std::memset(memory_ + offset, 0, n);
    }
    offset += n;
  }
}

task<result<void>> memory_device::discard(uint64_t offset, uint64_t length, block::io_opts) {
  clear(offset, length);
  co_return result<void>{};
}

task<result<void>> memory_device::write_zeroes(uint64_t offset, uint64_t length,
                                               block::io_opts io) {
  if ((io.flags & block::io_no_unmap) != 0) {
    {
      const clients_race may_be_here;
      std::memset(memory_ + offset, 0, length);
    }
    mark_written(offset, length);
  } else {
    clear(offset, length);
  }
  co_return result<void>{};
}

task<result<void>> memory_device::extents(uint64_t offset, uint64_t length, block::extent_list& out,
                                          block::io_opts) {
  const uint64_t end = offset + length;
  while (offset < end) {
    const uint64_t chunk = offset / chunk_bytes;
    const uint64_t n = std::min(end, (chunk + 1) * chunk_bytes) - offset;
    const bool hole = !written_[chunk].load(std::memory_order_acquire);
    if (!out.append({n, hole, hole})) break;
    offset += n;
  }
  co_return result<void>{};
}

block::lease memory_device::borrow(uint64_t offset, uint64_t length) noexcept {
  return {{memory_ + offset, length}};
}

uint64_t memory_device::allocated_bytes() const noexcept {
  return chunk_bytes *
         static_cast<uint64_t>(std::count_if(written_.begin(), written_.end(), [](const auto& w) {
           return w.load(std::memory_order_relaxed);
         }));
}

}  // namespace lbd::store
