// SPDX-License-Identifier: MIT
#include "ctl/paths.h"

#include <filesystem>

namespace lbd::ctl {

std::string absolute_path(const std::string& path) {
  std::error_code error;
  const auto absolute = std::filesystem::absolute(path, error);
  return error ? path : absolute.lexically_normal().string();
}

std::string absolute_path(const std::string& path, const std::string& folder) {
  return (std::filesystem::path(folder) / path).lexically_normal().string();
}

}  // namespace lbd::ctl
