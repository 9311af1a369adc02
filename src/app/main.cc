// SPDX-License-Identifier: MIT
#include <cstdio>
#include <cstring>

#include "app/command_line.h"

namespace {

// Everybody may read a process's arguments: the key of a crypt line (the word behind the cipher) is
// made unreadable there.
void hide_keys(char* text) {
  static constexpr const char* blanks = " \t\n";
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
  const std::vector<std::string> words(argv + (argc > 0 ? 1 : 0), argv + argc);
  for (int i = 1; i < argc; ++i) hide_keys(argv[i]);
  const auto command = lbd::app::parse_command_line(words);
  if (!command) {
    std::fprintf(stderr, "%s\n", command.error().message.c_str());
    return lbd::ctl::exit_usage;
  }
  return lbd::ctl::run(*command);
}
