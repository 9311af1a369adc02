// SPDX-License-Identifier: MIT
// The reactor where io_uring is refused (most containers): epoll for sockets, a small pool of
// blocking threads for files. Same behaviour, less speed.
#pragma once

#include <memory>

#include "base/result.h"
#include "rt/reactor.h"

namespace lbd::rt {

base::outcome<std::unique_ptr<reactor>> make_threads_reactor(unsigned index);

}  // namespace lbd::rt
