// SPDX-License-Identifier: MIT
#include "base/result.h"

#include <cstring>

namespace lbd::base {

std::string to_string(errc code) {
  char text[128];
  // The GNU variant: it returns the text, which may or may not be in the buffer.
  return strerror_r(static_cast<int>(code), text, sizeof text);
}

}  // namespace lbd::base
