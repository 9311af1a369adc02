// SPDX-License-Identifier: MIT
#include <strings.h>

#include <cstdio>
#include <cstring>
#include <span>
#include <string_view>

#include "app/command_line.h"

namespace {

// Everybody may read a process's arguments: keys are made unreadable there.

constexpr const char* blanks = " \t\n";

bool ends_with(std::string_view text, std::string_view end) {
  return text.size() >= end.size() &&
         ::strncasecmp(text.data() + text.size() - end.size(), end.data(), end.size()) == 0;
}

// That of a message: the word behind `key set`, in arguments of their own or within one.
void hide_keys_of_messages(std::span<char*> arguments) {
  std::string_view before, last;
  for (char* at : arguments) {
    for (;;) {
      at += std::strspn(at, blanks);
      const size_t length = std::strcspn(at, blanks);
      if (length == 0) break;
      if (ends_with(before, "key") && ends_with(last, "set") && *at != ':')
        std::memset(at, '*', length);
      before = last;
      last = {at, length};
      at += length;
    }
  }
}

// That of a crypt line: the word behind the cipher.
void hide_keys_of_lines(char* text) {
  static constexpr const char* type = "crypt";
  for (char* at = text; (at = std::strstr(at, type)) != nullptr;) {
    at += std::strlen(type);
    char* cipher = at + std::strspn(at, blanks);
    char* key = cipher + std::strcspn(cipher, blanks);
    key += std::strspn(key, blanks);
    const size_t length = std::strcspn(key, blanks);
    if (cipher != at && *key != ':') std::memset(key, '*', length);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::span<char*> arguments(argv + (argc > 0 ? 1 : 0), argv + argc);
  const std::vector<std::string> words(arguments.begin(), arguments.end());
  hide_keys_of_messages(arguments);
  for (char* argument : arguments) hide_keys_of_lines(argument);
  const auto command = lbd::app::parse_command_line(words);
  if (!command) {
    std::fprintf(stderr, "%s\n", command.error().message.c_str());
    return lbd::ctl::exit_usage;
  }
  return lbd::ctl::run(*command);
}
