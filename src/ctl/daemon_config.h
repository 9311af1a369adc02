// SPDX-License-Identifier: MIT
// `lbd daemon --config`: devices, exports and mounts in a TOML file (docs/man/lbd-daemon.1), made
// when the daemon starts.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "ctl/daemon.h"

namespace lbd::ctl {

struct config_device {
  uint32_t line = 0;  // of the file, where it begins
  std::string name, uuid, table;
  std::optional<uint32_t> minor;  // parse_config() gives one to each that has none
  bool read_only = false;
};
struct config_export {
  uint32_t line = 0;
  std::string device, nbd;
  std::optional<std::string> name;
  bool read_only = false;
};
struct config_mount {
  uint32_t line = 0;
  std::string folder;
};
struct daemon_config {
  std::string path;                    // of the file
  std::vector<config_device> devices;  // each after those that its table names
  std::vector<config_export> exports;
  std::vector<config_mount> mounts;
};

// `path` is where the text comes from, for messages; relative paths in the text begin in its
// folder. Errors (inval) name the file, the line and the remedy.
base::outcome<daemon_config> parse_config(std::string_view text, const std::string& path);
base::outcome<daemon_config> read_config(const std::string& path);

// Makes everything that can be made. What cannot is in the answer: each names the file, the line
// and why; what stands on something that is missing is missing too, and so is what writes to the
// origin of a missing snapshot. `strict`: the first one ends it.
rt::task<std::vector<base::failure>> restore(daemon& d, const daemon_config& from, bool strict);

}  // namespace lbd::ctl
