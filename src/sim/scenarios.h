// SPDX-License-Identifier: MIT
// Everything that is simulated, and QEMU's tool as another judge of the images.
#pragma once

#include <memory>
#include <vector>

#include "sim/campaign.h"

namespace lbd::sim {

std::vector<scenario> all_scenarios();

// Copies every qcow2 image of the disk to a real file and runs `qemu-img check` on it: leaks are
// well, errors are not.
std::unique_ptr<disk_observer> make_qemu_img_judge();

}  // namespace lbd::sim
