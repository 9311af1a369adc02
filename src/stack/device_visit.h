// SPDX-License-Identifier: MIT
// Private to the device's source files.
#pragma once

#include "stack/device.h"

namespace lbd::stack {

// A request that came by a coroutine: inside the gate from enter() to the end of its scope.
class device::visit {
 public:
  visit(device& d, block::op what, uint64_t offset, uint64_t bytes) noexcept : device_(d) {
    block::moment begin;
    cookie_ = d.count_start(what, bytes, begin);
    if (d.regions_.counts()) counted_ = d.regions_.begin(what, offset, bytes, begin.ns());
  }
  visit(const visit&) = delete;
  visit& operator=(const visit&) = delete;
  ~visit() {
    block::moment end;
    if (counted_.in != nullptr) region_stats::end(counted_, end.ns());
    device_.leave_at(cookie_, code, end);
  }
  base::errc code = base::errc::ok;

 private:
  device& device_;
  uint64_t cookie_ = 0;
  region_stats::request counted_;
};

}  // namespace lbd::stack
