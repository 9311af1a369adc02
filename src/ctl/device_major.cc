// SPDX-License-Identifier: MIT
#include "ctl/device_major.h"

#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <fstream>
#include <sstream>

namespace lbd::ctl {
namespace {

constexpr uint32_t first_choice = 253, last_choice = 240;

std::string text_of(const char* path) {
  std::ifstream in(path);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

}  // namespace

std::set<uint32_t> mounted_majors(const std::string& mountinfo) {
  std::set<uint32_t> out;
  std::istringstream lines(mountinfo);
  for (std::string line; std::getline(lines, line);) {
    // "36 35 98:0 /root /mount/point ..."
    std::istringstream words(line);
    uint64_t id = 0, parent = 0;
    uint32_t major = 0;
    if (words >> id >> parent >> major) out.insert(major);
  }
  return out;
}

uint32_t best_major(const std::set<uint32_t>& used) {
  for (uint32_t major = first_choice; major >= last_choice; --major)
    if (!used.contains(major)) return major;
  return first_choice;
}

uint32_t choose_device_major() {
  std::set<uint32_t> used = mounted_majors(text_of("/proc/self/mountinfo"));
  std::istringstream swaps(text_of("/proc/swaps"));
  for (std::string line; std::getline(swaps, line);) {
    struct stat st {};
    if (::stat(line.substr(0, line.find(' ')).c_str(), &st) == 0 && S_ISBLK(st.st_mode))
      used.insert(major(st.st_rdev));
  }
  return best_major(used);
}

}  // namespace lbd::ctl
