// SPDX-License-Identifier: MIT
#include "base/log.h"

#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>

namespace lbd::base {
namespace {

std::atomic<int> threshold{static_cast<int>(log_level::warn)};

constexpr std::string_view level_names[] = {"debug", "info", "warn", "error"};

void append_escaped(std::string& line, std::string_view text) {
  for (const char c : text) {
    const auto u = static_cast<unsigned char>(c);
    if (u >= 0x20 && u != 0x7f) {
      line += c;
    } else {
      char escaped[8];
      std::snprintf(escaped, sizeof escaped, "\\x%02x", u);
      line += escaped;
    }
  }
}

}  // namespace

void set_log_level(log_level level) noexcept {
  threshold.store(static_cast<int>(level), std::memory_order_relaxed);
}

bool log_enabled(log_level level) noexcept {
  return static_cast<int>(level) >= threshold.load(std::memory_order_relaxed);
}

void log(log_level level, std::string_view scope, std::string_view text) {
  if (!log_enabled(level) || level == log_level::off) return;
  timeval now{};
  gettimeofday(&now, nullptr);
  tm utc{};
  gmtime_r(&now.tv_sec, &utc);
  char stamp[40];
  const size_t n = strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%S", &utc);
  std::snprintf(stamp + n, sizeof stamp - n, ".%03dZ ", static_cast<int>(now.tv_usec / 1000));
  std::string line = stamp;
  line += level_names[static_cast<int>(level)];
  line += ' ';
  append_escaped(line, scope);
  line += ": ";
  append_escaped(line, text);
  line += '\n';
  // A log line that cannot be written has nowhere to be reported.
  [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, line.data(), line.size());
}

}  // namespace lbd::base
