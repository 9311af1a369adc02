// SPDX-License-Identifier: MIT
// Files that a command makes: their names are durable, and nothing stays of a failure.
#pragma once

#include <string>

#include "base/result.h"
#include "rt/file.h"

namespace lbd::ctl {

// The operating system's files; remembers whether a new one was made through it.
class new_files final : public rt::file_system {
 public:
  base::outcome<std::unique_ptr<rt::file>> open(const std::string& path,
                                                rt::open_options options) override;
  // Removes the file at `path` if it was made here; another one that was there before stays.
  void remove_made(const std::string& path) const;

 private:
  bool made_ = false;
};

// Makes the name of a new file durable (blocks). Errors name the folder.
base::outcome<void> sync_folder_of(const std::string& path);

}  // namespace lbd::ctl
