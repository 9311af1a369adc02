// SPDX-License-Identifier: MIT
// When a buffered write may be made on the reactor's own thread. A file system that cannot write
// without waiting (ext4) makes io_uring hand every write to a worker thread, which costs two
// context switches; but most writes only copy into the page cache and would not have waited.
#pragma once

#include <atomic>
#include <cstdint>
#include <string_view>

namespace lbd::rt {

// How full of unwritten pages the system is. Writers are made to wait near the limit; far below it
// they are not. One per thread, looks at the system at most every `look_every_ns`.
class dirty_pages {
 public:
  static dirty_pages& here() noexcept {
    static thread_local dirty_pages mine;
    return mine;
  }
  dirty_pages() = default;
  dirty_pages(const dirty_pages&) = delete;
  dirty_pages& operator=(const dirty_pages&) = delete;
  ~dirty_pages();

  bool far_from_limit(uint64_t now_ns) noexcept;
  // The same from the text of /proc/vmstat. False when it does not say.
  static bool far_from_limit_in(std::string_view vmstat) noexcept;

 private:
  static constexpr uint64_t look_every_ns = 50'000'000;
  int fd_ = -1;
  uint64_t looked_ns_ = 0;
  bool far_ = false;
};

// Of one file, any thread: a write that took long is followed by a pause in which all are left to
// others, longer with each that follows soon.
class write_patience {
 public:
  bool allows(uint64_t now_ns) const noexcept {
    return now_ns >= not_before_ns_.load(std::memory_order_relaxed);
  }
  // A write ended at `now_ns`.
  void took(uint64_t duration_ns, uint64_t now_ns) noexcept;

 private:
  static constexpr uint64_t slow_ns = 1'000'000;
  static constexpr uint64_t first_pause_ns = 20'000'000, longest_pause_ns = 5'000'000'000;
  std::atomic<uint64_t> not_before_ns_{0};
  std::atomic<uint64_t> pause_ns_{0};  // the last one
};

}  // namespace lbd::rt
