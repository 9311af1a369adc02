// SPDX-License-Identifier: MIT
#include "rt/runtime.h"

#include <sched.h>
#include <signal.h>

#include <algorithm>

#include "rt/threads.h"
#include "rt/uring.h"

namespace lbd::rt {

namespace {

unsigned own_cpus() noexcept {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (::sched_getaffinity(0, sizeof set, &set) != 0) return std::thread::hardware_concurrency();
  return static_cast<unsigned>(CPU_COUNT(&set));
}

}  // namespace

base::outcome<std::unique_ptr<runtime>> runtime::start(runtime_options options) {
  unsigned count = options.reactors;
  if (count == 0) count = std::clamp(own_cpus(), 1u, 16u);
  bool with_uring = options.how != backend::threads;
  if (with_uring && !uring_available()) {
    if (options.how == backend::uring)
      return base::failure{base::errc::perm,
                           "io_uring is refused by this kernel or container (use --io threads)"};
    with_uring = false;
  }
  std::vector<std::unique_ptr<reactor>> reactors;
  for (unsigned i = 0; i < count; ++i) {
    auto made = with_uring ? make_uring_reactor(i, uring_options{options.spin_ns})
                           : make_threads_reactor(i);
    if (!made) return made.error();
    reactors.push_back(*std::move(made));
  }
  auto r = std::make_unique<runtime>(std::move(reactors));
  // The other reactors leave signals to the main thread.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  for (unsigned i = 1; i < count; ++i)
    r->threads_.emplace_back([&one = r->at(i)] {
      reactor::scope here(one);
      one.run();
    });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return r;
}

runtime::runtime(std::vector<std::unique_ptr<reactor>> reactors) : reactors_(std::move(reactors)) {}

runtime::~runtime() {
  stop();
  for (const auto& r : reactors_) r->wait_for_outsiders();
  // Here, while those who own messages with the runtime (shared()) are still there.
  for (const auto& r : reactors_) r->drop_posted();
}

void runtime::stop() {
  for (size_t i = 1; i < reactors_.size() && !threads_.empty(); ++i) reactors_[i]->stop();
  for (auto& t : threads_) t.join();
  threads_.clear();
}

}  // namespace lbd::rt
