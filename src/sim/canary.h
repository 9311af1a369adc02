// SPDX-License-Identifier: MIT
// A small device of mapped blocks with a bug in it, on request: the simulator must find each of
// them, and nothing when there is none.
//
// The file holds a table of 8-byte block addresses and then blocks of 4 KiB. A flush syncs the
// data, writes the table as it was before, and syncs again.
#pragma once

#include <memory>

#include "sim/subject.h"

namespace lbd::sim {

enum class bug {
  none,
  flush_without_sync,   // answers flushes at once
  pointers_first,       // the table is written before the data it points to is durable
  forgets_failed_sync,  // tries again and says that all is well
  ignores_fua,
  no_lock,          // two changes of one block at the same time: one is lost
  torn_table,       // the table is taken as it is after the sync, not before
  swallows_errors,  // a write that failed is answered with success
};

std::unique_ptr<subject> make_canary(bug b, uint64_t size_bytes);

}  // namespace lbd::sim
