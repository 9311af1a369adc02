// SPDX-License-Identifier: MIT
// Reads the transcripts of tests/golden/transcripts: commands and what the kernel's device-mapper
// answered. tests/dm/transcript.py reads the same files.
#pragma once

#include <fstream>
#include <string>
#include <vector>

namespace lbd::golden {

struct transcript_command {
  std::string group;                // the "== NAME" above it
  std::string text;                 // may have several lines
  std::string output;               // both streams
  std::vector<std::string> logged;  // lines of the kernel's log
  int status = 0;
};

inline std::vector<transcript_command> read_transcript(const std::string& path) {
  std::vector<transcript_command> all;
  std::ifstream file(path);
  std::string line, group;
  while (std::getline(file, line)) {
    const std::string rest = line.size() > 2 ? line.substr(2) : "";
    if (line.starts_with("== ")) {
      group = line.substr(3);
    } else if (line.starts_with("$ ")) {
      all.push_back({group, rest, "", {}, 0});
    } else if (line.starts_with("> ")) {
      all.back().text += "\n" + rest;
    } else if (line.starts_with("|")) {
      all.back().output += rest + "\n";
    } else if (line.starts_with("k ")) {
      all.back().logged.push_back(rest);
    } else if (line.starts_with("= ")) {
      all.back().status = std::stoi(rest);
    }
  }
  return all;
}

}  // namespace lbd::golden
