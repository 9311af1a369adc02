// SPDX-License-Identifier: MIT
// Stacks of change files: an overlay over one to four of them and perhaps a flat file, behind a
// device's gate, with layers added under load.
#pragma once

#include <memory>

#include "sim/subject.h"

namespace lbd::sim {

std::unique_ptr<subject> make_stack(random& shape);
// One change file by itself, without an overlay.
std::unique_ptr<subject> make_change_file(random& shape);

}  // namespace lbd::sim
