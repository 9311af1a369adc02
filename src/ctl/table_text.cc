// SPDX-License-Identifier: MIT
#include "ctl/table_text.h"

#include <charconv>

namespace lbd::ctl {
namespace {

using base::errc;
using base::failure;
using base::outcome;

constexpr std::string_view blanks = " \t\r\f\v";

std::string_view trimmed(std::string_view text) {
  const size_t first = text.find_first_not_of(blanks);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(blanks) + 1 - first);
}

// Cuts the first word off.
std::string_view take_word(std::string_view& rest) {
  rest = trimmed(rest);
  const std::string_view word = rest.substr(0, rest.find_first_of(blanks));
  rest = trimmed(rest.substr(word.size()));
  return word;
}

bool read_number(std::string_view word, uint64_t& out) {
  const char* end = word.data() + word.size();
  const auto [at, error] = std::from_chars(word.data(), end, out);
  return error == std::errc{} && at == end;
}

outcome<stack::table_line> parse_line(std::string_view text, size_t number) {
  const auto refuse = [&](const std::string& why) {
    return failure{errc::inval, "line " + std::to_string(number) + " of the table: " + why};
  };
  stack::table_line out;
  const std::string_view start = take_word(text), length = take_word(text), type = take_word(text);
  if (!read_number(start, out.start_sector))
    return refuse("'" + std::string(start) +
                  "' is no start sector (write START LENGTH TYPE ARGS, in sectors of 512 bytes)");
  if (!read_number(length, out.length_sectors))
    return refuse("'" + std::string(length) + "' is no number of sectors");
  if (type.empty()) return refuse("the target's type is missing, as in 0 2048 linear /srv/disk 0");
  out.type = type;
  out.args = text;
  return out;
}

}  // namespace

outcome<std::vector<stack::table_line>> parse_table(std::string_view text, bool semicolons) {
  std::vector<stack::table_line> out;
  for (size_t number = 1; !text.empty(); ++number) {
    const size_t end = text.find_first_of(semicolons ? "\n;" : "\n");
    std::string_view line = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    line = trimmed(line.substr(0, line.find('#')));
    if (line.empty()) continue;
    TRY(auto parsed, parse_line(line, number));
    out.push_back(std::move(parsed));
  }
  return out;
}

std::string to_text(const stack::table_line& line) {
  return std::to_string(line.start_sector) + " " + std::to_string(line.length_sectors) + " " +
         line.type + " " + line.args;
}

}  // namespace lbd::ctl
