// SPDX-License-Identifier: MIT
// The text management protocol on TCP: one request a line, in ASCII capitals.
//
//   PING                       -> "true"
//   SHUTDOWN                   -> "true", then the server stops gracefully
//   DEVICE_INFO_STRINGS        -> lines "key: value", then an empty line
//   LIVE_ADD_LAYER <filename>  -> "true" once the new layer is the topmost one
//
// An error is one line that begins with "ERROR "; after an unknown or too long request the server
// closes the connection. Lines end with "\n" or "\r\n".
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"

namespace lbd::text {

inline constexpr size_t max_line_bytes = 8192;

enum class verb { ping, shutdown, device_info_strings, live_add_layer };

struct request {
  verb what = verb::ping;
  std::string_view filename;  // live_add_layer: everything after the blank, as written
};

// A line without its end. Errors (errc::inval) name the line and what is understood.
base::outcome<request> parse_request(std::string_view line);

// Replies, complete with their line ends.
inline constexpr std::string_view true_reply = "true\n";
// Line breaks and other control characters of the message become blanks.
std::string error_reply(std::string_view message);
using info_lines = std::vector<std::pair<std::string, std::string>>;
std::string info_reply(const info_lines& lines);

}  // namespace lbd::text
