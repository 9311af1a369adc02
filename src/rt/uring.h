// SPDX-License-Identifier: MIT
// The reactor on io_uring (liburing): one ring per thread, SINGLE_ISSUER and DEFER_TASKRUN.
#pragma once

#include <memory>

#include "base/result.h"
#include "rt/reactor.h"

namespace lbd::rt {

// How long an idle reactor may look for work before it sleeps; it does so only while work keeps
// arriving faster than that. 0 switches it off.
struct uring_options {
  uint64_t spin_ns = 50'000;
};

// It belongs to the thread that first runs it, and needs no descriptor from then on.
// Errors: what the kernel said (perm under seccomp, notsup): use rt/threads then.
base::outcome<std::unique_ptr<reactor>> make_uring_reactor(unsigned index, uring_options options);

// Whether this kernel lets this process make a ring.
bool uring_available() noexcept;

}  // namespace lbd::rt
