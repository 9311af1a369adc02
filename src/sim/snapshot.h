// SPDX-License-Identifier: MIT
// An origin and its snapshots as one device, one after the other: what each of them holds does not
// depend on the others, whatever happens.
#pragma once

#include <memory>

#include "sim/subject.h"

namespace lbd::sim {

// What is wrong with the stores' device, on request.
enum class store_bug {
  none,
  ignores_flush,  // only what is written through is durable
  ignores_all,    // nothing is ever synced
};

// An origin behind snapshot-origin and up to three snapshots.
std::unique_ptr<subject> make_snapshot(random& shape);
std::unique_ptr<subject> make_broken_snapshot(random& shape, store_bug bug);
// A snapshot that is being merged into its origin, and perhaps another snapshot of that.
std::unique_ptr<subject> make_merge(random& shape);
// Such a merge alone, on a disk that fails now and then: also writes that are done all the same.
std::unique_ptr<subject> make_failing_merge(random& shape);

}  // namespace lbd::sim
