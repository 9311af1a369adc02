// SPDX-License-Identifier: MIT
// The major number of mapped devices.
#pragma once

#include <cstdint>
#include <set>
#include <string>

namespace lbd::ctl {

// 253, or the next lower number that no mounted file system and no swap of this machine has: tools
// look there to see whether a device is in use, and would take ours for theirs.
uint32_t choose_device_major();

// Its parts, for tests. The majors in /proc/self/mountinfo; the best number that is not in `used`.
std::set<uint32_t> mounted_majors(const std::string& mountinfo);
uint32_t best_major(const std::set<uint32_t>& used);

}  // namespace lbd::ctl
