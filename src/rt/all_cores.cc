// SPDX-License-Identifier: MIT
#include "rt/all_cores.h"

#include <algorithm>

namespace lbd::rt {

all_cores& all_cores::of(runtime& r) {
  auto& cores = r.shared<all_cores>();
  if (cores.runtime_ == nullptr) {
    cores.runtime_ = &r;
    cores.lanes_ = std::vector<lane>(r.reactor_count());
  }
  return cores;
}

void all_cores::work::end_part() noexcept {
  if (left_.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  if (home_ == &reactor::current()) return waiter_.resume();
  run = [](message& m) { static_cast<work&>(m).waiter_.resume(); };
  home_->post(*this);
}

void all_cores::add(work& w, std::coroutine_handle<> waiter) {
  w.home_ = &reactor::current();
  w.waiter_ = waiter;
  w.left_.store(w.parts_, std::memory_order_relaxed);
  lane& l = lanes_[w.home_->index()];
  for (unsigned i = 0; i < w.parts_; ++i) l.waiting.push_back({&w, i});
  l.bytes += w.bytes_;
  if (l.runs) return;
  l.runs = true;
  spawn(run_all(l));
}

task<void> all_cores::run_all(lane& l) {
  do {
    co_await yield_now{};  // behind everything that this turn brings: there may be more
    batch& b = begin(l);
    while (take_parts(b)) co_await yield_now{};
  } while (!l.waiting.empty());
  l.runs = false;
}

all_cores::batch* all_cores::free_batch(lane& l) const noexcept {
  const auto found = std::find_if(l.shared.begin(), l.shared.end(), [](const batch& b) {
    return b.expected.load(std::memory_order_acquire) == 0;
  });
  return found != l.shared.end() ? &*found : nullptr;
}

all_cores::batch& all_cores::begin(lane& l) {
  const unsigned others = static_cast<unsigned>(lanes_.size()) - 1;
  auto helpers = static_cast<unsigned>(
      std::min<uint64_t>(others, std::exchange(l.bytes, 0) / bytes_per_helper));
  batch* b = helpers != 0 ? free_batch(l) : nullptr;
  if (b == nullptr) {
    b = &l.alone;
    helpers = 0;
  }
  b->parts.clear();
  b->parts.swap(l.waiting);
  b->next.store(0, std::memory_order_relaxed);
  b->expected.store(helpers, std::memory_order_relaxed);
  if (b->calls.size() < helpers) b->calls = std::vector<call>(others);
  const unsigned here = reactor::current().index();
  for (unsigned i = 0; i < helpers; ++i) {
    call& c = b->calls[i];
    c.of = b;
    c.run = [](message& m) {
      batch& offered = *static_cast<call&>(m).of;
      if (take_parts(offered)) return reactor::current().post(m);
      offered.expected.fetch_sub(1, std::memory_order_release);
    };
    l.last_helper = (l.last_helper + 1) % others;
    runtime_->at((here + 1 + l.last_helper) % (others + 1)).post(c);
  }
  return *b;
}

// As many as one turn may do. Whether there are more: who took the last part looks no further, for
// the runtime may end with it.
bool all_cores::take_parts(batch& b) noexcept {
  for (unsigned done = 0; done < parts_per_turn; ++done) {
    const size_t i = b.next.fetch_add(1, std::memory_order_relaxed);
    if (i >= b.parts.size()) return false;
    const part p = b.parts[i];
    p.of->do_part(p.index);
    p.of->end_part();
  }
  return b.next.load(std::memory_order_relaxed) < b.parts.size();
}

}  // namespace lbd::rt
