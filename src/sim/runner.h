// SPDX-License-Identifier: MIT
// Carries out a plan on a subject: clients in parallel, faults, power losses, and after each end a
// check of the files' structure, a reopening, and a comparison of every sector with the oracle.
#pragma once

#include <string>

#include "sim/subject.h"
#include "sim/workload.h"

namespace lbd::sim {

struct verdict {
  std::string failure;    // "": all was well
  uint64_t requests = 0;  // of the clients
  uint64_t crashes = 0;
  bool ok() const noexcept { return failure.empty(); }
};

// Called with the disk after each check of the files' structure (dumps for other judges).
class disk_observer {
 public:
  virtual ~disk_observer() = default;
  // "" or what is wrong.
  virtual std::string look(const sim_disk& disk) = 0;
};

verdict run_plan(const plan& p, subject& s, disk_observer* observer = nullptr);

}  // namespace lbd::sim
