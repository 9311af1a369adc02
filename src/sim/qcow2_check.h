// SPDX-License-Identifier: MIT
// A checker of qcow2 images for simulations: reads the whole image and compares the refcounts with
// what the tables refer to, as `qemu-img check` does. It shares no code with what it judges.
// Source: QEMU's docs/interop/qcow2. Images without internal snapshots.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/bytes.h"

namespace lbd::sim {

struct qcow2_findings {
  std::vector<std::string> errors;  // bounded: the first ones
  uint64_t leaked_clusters = 0;     // refcount too high: harmless
  uint64_t data_clusters = 0;
};

qcow2_findings check_qcow2(base::bytes_view image);

}  // namespace lbd::sim
