// SPDX-License-Identifier: MIT
// The flat file store as a device, behind a device's gate.
#pragma once

#include <memory>

#include "sim/subject.h"

namespace lbd::sim {

std::unique_ptr<subject> make_raw(random& shape);

}  // namespace lbd::sim
