// SPDX-License-Identifier: MIT
#include "ctl/new_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <filesystem>

namespace lbd::ctl {

using base::errc;
using base::failure;
using base::outcome;

outcome<std::unique_ptr<rt::file>> new_files::open(const std::string& path,
                                                   rt::open_options options) {
  auto file = rt::os_files().open(path, options);
  // Only an exclusive open tells a new file from one that was there.
  if (file && options.create && options.exclusive) made_ = true;
  return file;
}

void new_files::remove_made(const std::string& path) const {
  std::error_code ignored;
  if (made_) std::filesystem::remove(path, ignored);
}

outcome<void> sync_folder_of(const std::string& path) {
  std::string folder = std::filesystem::path(path).parent_path().string();
  if (folder.empty()) folder = ".";
  const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  int error = fd < 0 ? errno : 0;
  if (fd >= 0) {
    if (::fsync(fd) != 0) error = errno;
    ::close(fd);
  }
  if (error == 0) return {};
  const auto code = static_cast<errc>(error);
  return failure{code, "cannot make the name '" + path + "' durable in the folder '" + folder +
                           "': " + base::to_string(code)};
}

}  // namespace lbd::ctl
