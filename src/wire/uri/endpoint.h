// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string>

namespace lbd::uri {

// An address to listen on or to connect to.
struct endpoint {
  std::string host;  // a name or an address, without brackets
  uint16_t port = 0;
  friend bool operator==(const endpoint&, const endpoint&) = default;
};
// "host:port", with brackets where needed.
std::string to_text(const endpoint& e);

}  // namespace lbd::uri
