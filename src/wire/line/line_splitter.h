// SPDX-License-Identifier: MIT
// Cuts a stream of bytes into lines of bounded length, for the protocols that speak one message a
// line.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace lbd::wire {

class line_splitter {
 public:
  // `max_bytes`: the longest line, without its end.
  explicit line_splitter(size_t max_bytes) noexcept : max_bytes_(max_bytes) {}

  // Adds received bytes. Not more than a few lines' worth at once: take the lines out in between.
  void push(std::string_view bytes) {
    buffer_.erase(0, taken_);
    scanned_ -= taken_;
    taken_ = 0;
    buffer_.append(bytes);
  }

  // The next line without its "\n" or "\r\n", or nothing when none is complete. Valid until push().
  std::optional<std::string_view> next() noexcept {
    const size_t end = buffer_.find('\n', scanned_);
    scanned_ = end == std::string::npos ? buffer_.size() : end + 1;
    const size_t length = (end == std::string::npos ? buffer_.size() : end) - taken_;
    // One more than the limit may still turn out to be the "\r" of the line's end.
    if (length > max_bytes_ + 1) too_long_ = true;
    if (end == std::string::npos || too_long_) return std::nullopt;
    std::string_view line(buffer_.data() + taken_, length);
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    if (line.size() > max_bytes_) {
      too_long_ = true;
      return std::nullopt;
    }
    taken_ = end + 1;
    return line;
  }

  // A line was longer than allowed: nothing more comes out, the connection should be closed.
  bool too_long() const noexcept { return too_long_; }

 private:
  size_t max_bytes_;
  std::string buffer_;
  size_t taken_ = 0;    // bytes of the buffer that were handed out
  size_t scanned_ = 0;  // bytes that were searched for a line end; >= taken_
  bool too_long_ = false;
};

}  // namespace lbd::wire
