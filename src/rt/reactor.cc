// SPDX-License-Identifier: MIT
#include "rt/reactor.h"

#include <algorithm>
#include <thread>

#include "rt/call_thread.h"

namespace lbd::rt {

thread_local reactor* reactor::current_ = nullptr;

void reactor::post(message& m) noexcept {
  message* head = posted_.load(std::memory_order_relaxed);
  do {
    m.next = head;
  } while (!posted_.compare_exchange_weak(head, &m, std::memory_order_seq_cst));
  if (sleeping_.load(std::memory_order_seq_cst) &&
      sleeping_.exchange(false, std::memory_order_seq_cst))
    wake();
}

void reactor::post_from_outside(message& m) noexcept {
  outsiders_.fetch_add(1, std::memory_order_relaxed);  // seen by whoever sees the message
  post(m);
  outsiders_.fetch_sub(1, std::memory_order_release);
}

void reactor::wait_for_outsiders() const noexcept {
  while (outsiders_.load(std::memory_order_acquire) != 0) std::this_thread::yield();
}

void reactor::drop_posted() noexcept {
  const scope here(*this);
  message* m = posted_.exchange(nullptr, std::memory_order_acquire);
  while (m != nullptr) {
    message* next = m->next;
    if (m->drop != nullptr) m->drop(*m);
    m = next;
  }
}

void reactor::stop() noexcept {
  stopping_.store(true, std::memory_order_seq_cst);
  // Always: the reactor may be between its last look at stopping_ and its sleep.
  wake();
}

void reactor::drop(turn_hook& h) noexcept {
  if (!h.queued) return;
  h.queued = false;
  std::erase(turn_hooks_, &h);
}

void reactor::start_timer(timer& t, uint64_t due_ns) {
  stop_timer(t);
  t.due_ns = due_ns;
  t.order = ++timers_started_;
  t.armed = true;
  timers_.insert(&t);
}

void reactor::stop_timer(timer& t) noexcept {
  if (!t.armed) return;
  timers_.erase(&t);
  t.armed = false;
}

void reactor::run_messages() {
  message* m = oldest_first(posted_.exchange(nullptr, std::memory_order_acquire));
  while (m != nullptr) {
    message* next = m->next;
    m->run(*m);
    m = next;
  }
}

void reactor::run_ready() {
  // Only what was ready at the start: work that reschedules itself must not starve I/O.
  for (size_t n = ready_.size(); n > 0 && !ready_.empty(); --n) next_ready().resume();
}

void reactor::run_turn_hooks() {
  for (size_t n = turn_hooks_.size(); n > 0 && !turn_hooks_.empty(); --n) {
    turn_hook* h = turn_hooks_.front();
    turn_hooks_.pop_front();
    h->queued = false;
    h->run(*h);
  }
}

void reactor::run_timers() {
  if (timers_.empty()) return;
  const uint64_t now = now_ns();
  while (!timers_.empty() && (*timers_.begin())->due_ns <= now) {
    timer* t = *timers_.begin();
    timers_.erase(timers_.begin());
    t->armed = false;
    t->run(*t);
  }
}

uint64_t reactor::wait_for(uint64_t wait_ns) const noexcept {
  if (work_pending() || messages_pending() || stopping_.load(std::memory_order_relaxed)) return 0;
  if (!timers_.empty()) {
    const uint64_t due = (*timers_.begin())->due_ns, now = now_ns();
    wait_ns = std::min(wait_ns, due > now ? due - now : 0);
  }
  return wait_ns;
}

bool reactor::turn(uint64_t wait_ns) {
  // The wait comes first: whoever runs turns until something has happened looks between them.
  poll_io(wait_for(wait_ns));
  run_messages();
  run_timers();
  run_ready();
  run_turn_hooks();
  return !stopping_.load(std::memory_order_acquire);
}

void reactor::run() {
  while (turn(UINT64_MAX)) {
  }
}

}  // namespace lbd::rt
