// SPDX-License-Identifier: MIT
#include "export/nbd/registry.h"

#include <algorithm>

namespace lbd::nbd_server {
namespace {

using rt::reactor;
using rt::task;

constexpr uint64_t first_pause_ns = 100'000, longest_pause_ns = 20'000'000;
// A lost connection that has not come to its end by itself so soon is cut off: what it has not
// looked at yet is dropped.
constexpr uint64_t patience_ns = 2'000'000'000;

}  // namespace

std::shared_ptr<export_entry> registry::find_exactly(std::string_view name) const {
  for (const auto& e : exports_)
    if (e->options.name == name) return e;
  return nullptr;
}

std::shared_ptr<export_entry> registry::find(std::string_view name) const {
  const auto found = find_exactly(name);
  return found == nullptr && name.empty() && !exports_.empty() ? exports_.front() : found;
}

std::shared_ptr<lost_changes> registry::lost_changes_of(const block::block_device& device) const {
  for (const auto& e : exports_)
    if (&e->device() == &device) return e->lost;
  return nullptr;
}

void registry::remove(const export_entry& e) {
  std::erase_if(exports_, [&e](const auto& p) { return p.get() == &e; });
}

void registry::remove(const connection& c) {
  std::erase_if(connections_, [&c](const auto& p) { return p.get() == &c; });
}

bool registry::lost_one_runs(const block::block_device& device, bool cut_off) const noexcept {
  bool any = false;
  for (const auto& c : connections_) {
    if (c->running == nullptr || &c->target->device() != &device) continue;
    if (!c->ending.load(std::memory_order_acquire) && !hung_up(c->socket.fd())) continue;
    any = true;
    if (cut_off) c->abort();
  }
  return any;
}

task<bool> registry::lost_ones_done(const block::block_device& device, uint64_t limit_ns) {
  const uint64_t start = reactor::current().now_ns();
  uint64_t pause_ns = first_pause_ns;
  for (;;) {
    const uint64_t waited = reactor::current().now_ns() - start;
    if (!lost_one_runs(device, waited > patience_ns)) co_return true;
    if (waited > limit_ns || stopping_) co_return false;
    co_await rt::sleep_for(std::chrono::nanoseconds(pause_ns));
    pause_ns = std::min(pause_ns * 2, longest_pause_ns);
  }
}

}  // namespace lbd::nbd_server
