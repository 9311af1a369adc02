// SPDX-License-Identifier: MIT
#include "rt/all_cores.h"

#include <algorithm>
#include <utility>

namespace lbd::rt {

all_cores& all_cores::of(runtime& r) {
  auto& cores = r.shared<all_cores>();
  if (cores.runtime_ == nullptr) {
    cores.runtime_ = &r;
    cores.lanes_ = std::vector<lane>(r.reactor_count());
    for (lane& l : cores.lanes_) {
      l.calls = std::vector<call>(r.reactor_count() - 1);
      for (call& c : l.calls) c.of = &l;
      l.turn.run = [](turn_hook& h) { static_cast<lane_turn&>(h).bytes = 0; };
    }
  }
  return cores;
}

// Sends home what a helper has finished, several at a time: each message costs both sides.
class all_cores::finished {
 public:
  ~finished() { send(); }
  void add(work& w) noexcept {
    w.also_finished_ = last_;
    last_ = &w;
    bytes_ += w.bytes_;
    if (bytes_ >= alone_bytes) send();
  }

 private:
  void send() noexcept {
    if (last_ == nullptr) return;
    last_->run = [](message& m) {
      // A work is gone when its waiter runs.
      for (work* w = static_cast<work*>(&m); w != nullptr;)
        std::exchange(w, w->also_finished_)->waiter_.resume();
    };
    work& w = *std::exchange(last_, nullptr);
    bytes_ = 0;
    w.home_->post(w);
  }
  work* last_ = nullptr;
  uint64_t bytes_ = 0;
};

bool all_cores::queue::push(part p) noexcept {
  const uint64_t end = end_.load(std::memory_order_relaxed);
  if (end - first_.load(std::memory_order_acquire) == slots_.size()) return false;
  slot& s = slots_[end % slots_.size()];
  s.of.store(p.of, std::memory_order_relaxed);
  s.index.store(p.index, std::memory_order_relaxed);
  end_.store(end + 1, std::memory_order_release);
  return true;
}

bool all_cores::queue::pop(part& p) noexcept {
  uint64_t first = first_.load(std::memory_order_acquire);
  while (first != end_.load(std::memory_order_acquire)) {
    // A slot that is filled anew in the meantime has been taken: `first_` has moved then.
    const slot& s = slots_[first % slots_.size()];
    p = {s.of.load(std::memory_order_relaxed), s.index.load(std::memory_order_relaxed)};
    if (first_.compare_exchange_weak(first, first + 1, std::memory_order_acq_rel,
                                     std::memory_order_acquire))
      return true;
  }
  return false;
}

all_cores::way all_cores::choose(const work& w) noexcept {
  if (lanes_.size() == 1) return way::at_once;
  reactor& here = reactor::current();
  lane& l = lanes_[here.index()];
  l.bytes += w.bytes_;
  l.turn.bytes += w.bytes_;
  here.at_turn_end(l.turn);
  if (w.bytes_ > small_bytes) return way::shared;
  if (l.turn.bytes > turn_bytes) return way::next_turn;
  if (w.bytes_ < worth_bytes || l.turn.bytes <= alone_bytes) return way::at_once;
  if (l.shared.size() >= std::min<size_t>(16 * l.calls.size(), 64)) return way::at_once;
  if (l.helpers.load(std::memory_order_relaxed) != 0) return way::shared;
  if (l.bytes < l.look_again) return way::at_once;
  if (call* c = take_away(l); c != nullptr) {
    c->now.store(call::state::away, std::memory_order_release);
    return way::shared;
  }
  l.look_again = l.bytes + bytes_per_helper;
  return way::at_once;
}

void all_cores::do_at_home(work& w) noexcept {
  if (lanes_.size() == 1) return w.do_here();
  reactor& here = reactor::current();
  lane& l = lanes_[here.index()];
  if (++l.at_home % works_per_look != 0) return w.do_here();
  const uint64_t begin = here.now_ns();
  w.do_here();
  l.own_ns.store((here.now_ns() - begin) * bytes_of_rate / w.bytes_, std::memory_order_relaxed);
}

void all_cores::add(work& w, std::coroutine_handle<> waiter) {
  w.home_ = &reactor::current();
  w.waiter_ = waiter;
  w.left_.store(w.parts_, std::memory_order_relaxed);
  lane& l = lanes_[w.home_->index()];
  l.uncalled += w.bytes_;
  for (unsigned i = 0; i < w.parts_; ++i) l.waiting.push_back({&w, i});
  fill(l);
  call_helpers(l);
  if (l.runs) return;
  l.runs = true;
  spawn(run_all(l));
}

task<void> all_cores::run_all(lane& l) {
  do {
    co_await yield_now{};
    fill(l);
    if (l.shared.size() > parts_per_turn) l.uncalled = std::max(l.uncalled, bytes_per_helper);
    call_helpers(l);
    take_at_home(l);
  } while (!l.waiting.empty() || l.shared.size() != 0);
  l.uncalled = 0;
  l.runs = false;
}

void all_cores::fill(lane& l) {
  while (!l.waiting.empty() && l.shared.push(l.waiting.front())) l.waiting.pop_front();
}

// Somebody who may be called now, and is taken for called from here on.
all_cores::call* all_cores::take_away(lane& l) noexcept {
  for (size_t i = 1; i <= l.calls.size(); ++i) {
    call& c = l.calls[(l.last_called + i) % l.calls.size()];
    auto away = call::state::away;
    if (c.now.load(std::memory_order_relaxed) != away ||
        !c.now.compare_exchange_strong(away, call::state::called))
      continue;
    if (std::exchange(c.is_back, false)) c.not_before = l.bytes + c.pause_bytes;
    if (c.not_before <= l.bytes) return &c;
    c.now.store(call::state::away, std::memory_order_release);
  }
  return nullptr;
}

void all_cores::call_helpers(lane& l) {
  if (l.uncalled < bytes_per_helper) return;
  // A helper that is not seen to be away sees the parts.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  const unsigned here = reactor::current().index();
  while (l.uncalled >= bytes_per_helper) {
    call* c = take_away(l);
    if (c == nullptr) {
      l.uncalled = 0;
      return;
    }
    l.uncalled -= bytes_per_helper;
    l.last_called = static_cast<unsigned>(c - l.calls.data());
    c->run = &help;
    runtime_->at((here + 1 + l.last_called) % runtime_->reactor_count()).post(*c);
  }
}

// On the helper.
void all_cores::help(message& m) noexcept {
  call& c = static_cast<call&>(m);
  lane& l = *c.of;
  reactor& here = reactor::current();
  for (uint64_t bytes = 0;;) {
    const uint64_t begin = here.now_ns();
    const bool arrives = c.now.load(std::memory_order_relaxed) == call::state::called;
    if (arrives) {
      c.now.store(call::state::here, std::memory_order_relaxed);
      l.helpers.fetch_add(1, std::memory_order_relaxed);
    } else if (begin - c.turn_end_ns > own_work_ns) {
      return leave(c, true);
    }
    const taken t = take_as_helper(l);
    bytes += t.bytes;
    c.turn_end_ns = here.now_ns();
    // Small parts may cost more here than at home: their bytes are in the other core's cache.
    const uint64_t own_ns = l.own_ns.load(std::memory_order_relaxed);
    const bool slow = t.bytes >= alone_bytes && t.bytes < t.parts * alone_bytes && own_ns != 0 &&
                      (c.turn_end_ns - begin) * bytes_of_rate / t.bytes > own_ns * 3 / 2;
    if (bytes >= turn_bytes && !slow) return here.post(c);
    leave(c, slow || (arrives && t.bytes == 0));
    if (slow) return;
    // There may be more since, from somebody who saw this helper at work and did not call it.
    std::atomic_thread_fence(std::memory_order_seq_cst);
    auto away = call::state::away;
    if (l.shared.size() == 0 || !c.now.compare_exchange_strong(away, call::state::called)) return;
  }
}

void all_cores::leave(call& c, bool for_nothing) noexcept {
  c.pause_bytes =
      for_nothing ? std::clamp(c.pause_bytes * 2, least_pause_bytes, most_pause_bytes) : 0;
  c.is_back = true;
  c.of->helpers.fetch_sub(1, std::memory_order_relaxed);
  c.now.store(call::state::away, std::memory_order_release);
}

void all_cores::take_at_home(lane& l) noexcept {
  part p{};
  for (unsigned done = 0; done < parts_per_turn && l.shared.pop(p); ++done) {
    p.of->do_part(p.index);
    if (p.of->end_part()) p.of->waiter_.resume();
  }
}

// As many as one turn may do.
all_cores::taken all_cores::take_as_helper(lane& l) noexcept {
  taken t;
  finished done;
  part p{};
  while (t.bytes < turn_bytes && l.shared.pop(p)) {
    ++t.parts;
    t.bytes += p.of->part_bytes();
    p.of->do_part(p.index);
    if (p.of->end_part()) done.add(*p.of);
  }
  return t;
}

}  // namespace lbd::rt
