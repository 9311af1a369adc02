// SPDX-License-Identifier: MIT
#include "wire/text/text.h"

#include <algorithm>

namespace lbd::text {

namespace {

using base::errc;
using base::failure;

void append_one_line(std::string& out, std::string_view text) {
  for (char c : text) {
    const auto v = static_cast<unsigned char>(c);
    out += v < 0x20 || v == 0x7f ? ' ' : c;
  }
}

failure refuse(std::string_view line, std::string_view why) {
  std::string message = "'";
  append_one_line(message, line.substr(0, 80));
  message += line.size() > 80 ? "...': " : "': ";
  message += why;
  return {errc::inval, std::move(message)};
}

}  // namespace

base::outcome<request> parse_request(std::string_view line) {
  const size_t blank = line.find(' ');
  const std::string_view name = line.substr(0, blank);
  const bool has_argument = blank != std::string_view::npos;
  if (name == "LIVE_ADD_LAYER") {
    const std::string_view filename = has_argument ? line.substr(blank + 1) : std::string_view();
    if (filename.empty()) return refuse(line, "write LIVE_ADD_LAYER <filename>");
    const bool is_path = std::none_of(filename.begin(), filename.end(), [](char c) {
      return static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
    });
    if (!is_path) return refuse(line, "the file name holds control characters");
    return request{verb::live_add_layer, filename};
  }
  constexpr std::pair<std::string_view, verb> plain[] = {
      {"PING", verb::ping},
      {"SHUTDOWN", verb::shutdown},
      {"DEVICE_INFO_STRINGS", verb::device_info_strings}};
  for (const auto& [word, what] : plain) {
    if (name != word) continue;
    if (has_argument) return refuse(line, std::string(word) + " takes no argument");
    return request{what, {}};
  }
  return refuse(line,
                "unknown request; known are PING, SHUTDOWN, DEVICE_INFO_STRINGS and LIVE_ADD_LAYER "
                "<filename>");
}

std::string error_reply(std::string_view message) {
  std::string out = "ERROR ";
  append_one_line(out, message.empty() ? "failed" : message);
  out += '\n';
  return out;
}

std::string info_reply(const info_lines& lines) {
  std::string out;
  for (const auto& [key, value] : lines) {
    append_one_line(out, key);
    out += ": ";
    append_one_line(out, value);
    out += '\n';
  }
  out += '\n';
  return out;
}

}  // namespace lbd::text
