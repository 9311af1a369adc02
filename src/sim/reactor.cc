// SPDX-License-Identifier: MIT
#include "sim/reactor.h"

#include <cstdio>
#include <cstdlib>
#include <utility>
#include <vector>

namespace lbd::sim {
namespace {

[[noreturn]] void refuse(const char* what) {
  std::fprintf(stderr, "simulation: %s reached the operating system's interface\n", what);
  std::abort();
}

}  // namespace

void sim_reactor::submit(rt::io_request&) { refuse("a request"); }
void sim_reactor::cancel(rt::io_request&) { refuse("a cancellation"); }

void sim_reactor::poll_io(uint64_t wait_ns) {
  ++turns_;
  if (wait_ns == UINT64_MAX) {
    deadlocked_ = true;
    return;
  }
  now_ns_ += wait_ns;
}

std::coroutine_handle<> sim_reactor::next_ready() {
  std::swap(ready_[random_.below(ready_.size())], ready_.front());
  auto h = ready_.front();
  ready_.pop_front();
  return h;
}

world::world(uint64_t seed) {
  auto r = std::make_unique<sim_reactor>(seed);
  reactor_ = r.get();
  std::vector<std::unique_ptr<rt::reactor>> all;
  all.push_back(std::move(r));
  runtime_ = std::make_unique<rt::runtime>(std::move(all));
}

bool world::may_go_on() {
  if (reactor_->deadlocked()) stuck_ = "deadlock: nothing is ready and no timer is armed";
  if (reactor_->turns() > most_turns) stuck_ = "no end in sight: too many turns";
  return stuck_.empty();
}

void world::settle(uint64_t for_ns) {
  rt::reactor::scope here(*reactor_);
  const uint64_t end_ns = reactor_->now_ns() + for_ns;
  while (reactor_->now_ns() < end_ns && reactor_->turns() <= most_turns && !reactor_->deadlocked())
    reactor_->turn(UINT64_MAX);
  if (stuck_.empty()) reactor_->forget_deadlock();
}

}  // namespace lbd::sim
