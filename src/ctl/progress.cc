// SPDX-License-Identifier: MIT
#include "ctl/progress.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "ctl/report.h"
#include "rt/reactor.h"

namespace lbd::ctl {

std::string progress_line(const std::string& what, uint64_t done_bytes, uint64_t total_bytes,
                          uint64_t elapsed_ns) {
  const double done = static_cast<double>(done_bytes);
  const double part = total_bytes == 0 ? 1 : done / static_cast<double>(total_bytes);
  const double seconds = std::max(static_cast<double>(elapsed_ns) / 1e9, 1e-9);
  std::string out = what + ": " + std::to_string(static_cast<int>(part * 100)) + " %, " +
                    human_bytes(done_bytes) + " of " + human_bytes(total_bytes) + ", " +
                    human_bytes(static_cast<uint64_t>(done / seconds)) + "/s";
  if (done_bytes == 0 || done_bytes >= total_bytes) return out;
  const auto left = static_cast<unsigned long long>(seconds * (1 - part) / part + 0.5);
  char time[64];
  if (left < 3600)
    std::snprintf(time, sizeof time, ", %llu:%02llu left", left / 60, left % 60);
  else
    std::snprintf(time, sizeof time, ", %llu:%02llu:%02llu left", left / 3600, left / 60 % 60,
                  left % 60);
  return out + time;
}

progress::progress(std::string what, uint64_t total_bytes)
    : progress(std::move(what), total_bytes, ::isatty(STDERR_FILENO) == 1) {}

progress::progress(std::string what, uint64_t total_bytes, bool terminal)
    : what_(std::move(what)),
      total_bytes_(total_bytes),
      terminal_(terminal),
      started_ns_(rt::reactor::current().now_ns()),
      next_ns_(started_ns_ + first_ns) {}

void progress::add(uint64_t bytes) {
  done_bytes_ += bytes;
  const uint64_t now = rt::reactor::current().now_ns();
  if (now >= next_ns_) show(now, false);
}

void progress::finish() {
  if (!shown_) return;
  // A plain line may have told the end already.
  if (terminal_ || shown_bytes_ != done_bytes_) show(rt::reactor::current().now_ns(), true);
}

void progress::show(uint64_t now_ns, bool last) {
  constexpr uint64_t terminal_every_ns = 200'000'000, plain_every_ns = 5'000'000'000;
  shown_ = true;
  shown_bytes_ = done_bytes_;
  next_ns_ = now_ns + (terminal_ ? terminal_every_ns : plain_every_ns);
  const std::string line = progress_line(what_, done_bytes_, total_bytes_, now_ns - started_ns_);
  // On a terminal the line is cleared to its end, for what was longer before.
  if (terminal_)
    std::fprintf(stderr, "\r%s\033[K%s", line.c_str(), last ? "\n" : "");
  else
    std::fprintf(stderr, "%s\n", line.c_str());
}

}  // namespace lbd::ctl
