// SPDX-License-Identifier: MIT
#include "rt/write_patience.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>

namespace lbd::rt {
namespace {

// The number behind "\nNAME ".
std::optional<uint64_t> value_of(std::string_view vmstat, std::string_view name) noexcept {
  for (size_t at = vmstat.find(name); at != std::string_view::npos;
       at = vmstat.find(name, at + 1)) {
    const size_t end = at + name.size();
    if ((at != 0 && vmstat[at - 1] != '\n') || end >= vmstat.size() || vmstat[end] != ' ') continue;
    uint64_t value = 0;
    const auto parsed =
        std::from_chars(vmstat.data() + end + 1, vmstat.data() + vmstat.size(), value);
    if (parsed.ec == std::errc()) return value;
  }
  return std::nullopt;
}

}  // namespace

dirty_pages::~dirty_pages() {
  if (fd_ >= 0) ::close(fd_);
}

bool dirty_pages::far_from_limit(uint64_t now_ns) noexcept {
  if (looked_ns_ != 0 && now_ns - looked_ns_ < look_every_ns) return far_;
  looked_ns_ = now_ns;
  if (fd_ < 0) fd_ = ::open("/proc/vmstat", O_RDONLY | O_CLOEXEC);
  std::array<char, 16384> text;
  const ssize_t n = fd_ < 0 ? -1 : ::pread(fd_, text.data(), text.size(), 0);
  far_ = n > 0 && far_from_limit_in({text.data(), static_cast<size_t>(n)});
  return far_;
}

// Below the threshold at which writing back begins nobody waits: the kernel slows writers down from
// the middle between that and the limit.
bool dirty_pages::far_from_limit_in(std::string_view vmstat) noexcept {
  const auto dirty = value_of(vmstat, "nr_dirty");
  const auto writeback = value_of(vmstat, "nr_writeback");
  const auto threshold = value_of(vmstat, "nr_dirty_background_threshold");
  return dirty && writeback && threshold && *dirty + *writeback < *threshold;
}

void write_patience::took(uint64_t duration_ns, uint64_t now_ns) noexcept {
  if (duration_ns < slow_ns) return;
  const uint64_t last = pause_ns_.load(std::memory_order_relaxed);
  const uint64_t ended = not_before_ns_.load(std::memory_order_relaxed);
  const bool soon = last != 0 && now_ns < ended + last * 8;
  const uint64_t pause = soon ? std::min(last * 2, longest_pause_ns) : first_pause_ns;
  pause_ns_.store(pause, std::memory_order_relaxed);
  not_before_ns_.store(now_ns + pause, std::memory_order_relaxed);
}

}  // namespace lbd::rt
