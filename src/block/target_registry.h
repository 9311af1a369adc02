// SPDX-License-Identifier: MIT
// The target types of this build: generated from the folders of src/target (lbd_target in
// cmake/lbd.cmake), linked in by lbd_target_registry.
#pragma once

#include <span>

#include "block/target.h"

namespace lbd::block {

std::span<const target_type* const> all_target_types() noexcept;

}  // namespace lbd::block
