// SPDX-License-Identifier: MIT
// Structured log lines on standard error: "2026-01-31T12:00:00.000Z warn nbd: text key=value".
// Text is logged once, where the error is found. Any thread may log; a line is one write(2).
#pragma once

#include <string>
#include <string_view>

namespace lbd::base {

enum class log_level : int { debug, info, warn, error, off };

void set_log_level(log_level level) noexcept;
bool log_enabled(log_level level) noexcept;

// `scope` is the part that speaks ("nbd", "qcow2"); line breaks in `text` are escaped, so a hostile
// name cannot forge a line.
void log(log_level level, std::string_view scope, std::string_view text);

inline void log_debug(std::string_view scope, std::string_view text) {
  if (log_enabled(log_level::debug)) log(log_level::debug, scope, text);
}
inline void log_info(std::string_view scope, std::string_view text) {
  log(log_level::info, scope, text);
}
inline void log_warn(std::string_view scope, std::string_view text) {
  log(log_level::warn, scope, text);
}
inline void log_error(std::string_view scope, std::string_view text) {
  log(log_level::error, scope, text);
}

}  // namespace lbd::base
