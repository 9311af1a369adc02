// SPDX-License-Identifier: MIT
// Progress of a long command on standard error: nothing in the first second; then one line that is
// rewritten on a terminal, and a plain line now and then elsewhere.
#pragma once

#include <cstdint>
#include <string>

namespace lbd::ctl {

// "commit: 37 %, 1.2 GiB of 3.4 GiB, 512 MiB/s, 0:05 left".
std::string progress_line(const std::string& what, uint64_t done_bytes, uint64_t total_bytes,
                          uint64_t elapsed_ns);

class progress {
 public:
  // On a reactor; its clock is used.
  progress(std::string what, uint64_t total_bytes);
  progress(std::string what, uint64_t total_bytes, bool terminal);

  void add(uint64_t bytes);
  // Ends the line. Without it (a failure) the line is left as it was.
  void finish();

 private:
  static constexpr uint64_t first_ns = 1'000'000'000;
  void show(uint64_t now_ns, bool last);

  const std::string what_;
  const uint64_t total_bytes_;
  const bool terminal_;
  const uint64_t started_ns_;
  uint64_t done_bytes_ = 0;
  uint64_t next_ns_;
  uint64_t shown_bytes_ = 0;  // in the last line
  bool shown_ = false;
};

}  // namespace lbd::ctl
