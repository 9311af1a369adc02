// SPDX-License-Identifier: MIT
#include "target/snapshot/chunk_tracker.h"

namespace lbd::snapshot {

using rt::task;

namespace {

// A cookie: parity in bit 0, the number of chunks less one above, then the first chunk.
constexpr unsigned count_bits = 6, first_shift = count_bits + 1;

}  // namespace

chunk_tracker::chunk_tracker(rt::runtime& runtime)
    : home_(rt::reactor::current()), slots_(runtime.reactor_count()) {
  for (slot& s : slots_) {
    s.tracker = this;
    s.wake.owner = &s;
    s.wake.run = [](rt::message& m) {
      slot& from = *static_cast<wake_message&>(m).owner;
      from.posted.store(false, std::memory_order_seq_cst);
      from.tracker->left_.set();
    };
  }
}

uint64_t chunk_tracker::enter(uint64_t first, uint64_t count) noexcept {
  slot& here = slots_[rt::reactor::current().index()];
  const unsigned parity = parity_.load(std::memory_order_relaxed);
  for (uint64_t i = 0; i < count; ++i) {
    auto& counter = here.inside[parity][(first + i) % buckets];
    counter.store(counter.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  }
  std::atomic_thread_fence(std::memory_order_seq_cst);
  return first << first_shift | (count - 1) << 1 | parity;
}

void chunk_tracker::leave(uint64_t cookie) noexcept {
  slot& here = slots_[rt::reactor::current().index()];
  const uint64_t first = cookie >> first_shift;
  const uint64_t count = (cookie >> 1 & (chunks_most - 1)) + 1;
  for (uint64_t i = 0; i < count; ++i) {
    auto& counter = here.inside[cookie & 1][(first + i) % buckets];
    counter.store(counter.load(std::memory_order_relaxed) - 1, std::memory_order_release);
  }
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (!waiting_.load(std::memory_order_relaxed)) return;
  if (!here.posted.exchange(true, std::memory_order_seq_cst)) home_.post(here.wake);
}

void chunk_tracker::add(bucket_set& to, uint64_t first, uint64_t count) noexcept {
  for (uint64_t i = 0; i < count && i < buckets; ++i) to.set((first + i) % buckets);
}

bool chunk_tracker::anybody(const bucket_set& in, unsigned parity) const noexcept {
  std::atomic_thread_fence(std::memory_order_seq_cst);
  for (const slot& s : slots_)
    for (size_t b = 0; b < buckets; ++b)
      if (in[b] && s.inside[parity][b].load(std::memory_order_acquire) != 0) return true;
  return false;
}

bool chunk_tracker::busy(uint64_t first, uint64_t count) const noexcept {
  std::atomic_thread_fence(std::memory_order_seq_cst);
  for (const slot& s : slots_)
    for (uint64_t i = 0; i < count && i < buckets; ++i) {
      const size_t b = (first + i) % buckets;
      if (s.inside[0][b].load(std::memory_order_acquire) != 0 ||
          s.inside[1][b].load(std::memory_order_acquire) != 0)
        return true;
    }
  return false;
}

task<void> chunk_tracker::wait_for(const bucket_set& in, unsigned parity) {
  waiting_.store(true, std::memory_order_seq_cst);
  for (;;) {
    left_.reset();
    if (!anybody(in, parity)) break;
    co_await left_.wait();
  }
  waiting_.store(false, std::memory_order_seq_cst);
}

// One round serves everybody who has asked before it began. Nobody enters with the parity that is
// not the present one; when its last visitors have left it takes the newcomers, and those of the
// other are waited for.
task<void> chunk_tracker::run_rounds() {
  running_ = true;
  while (next_round_) {
    const std::shared_ptr<round> now = std::move(next_round_);
    const unsigned old = parity_.load(std::memory_order_relaxed);
    co_await wait_for(now->wanted, 1 - old);
    parity_.store(1 - old, std::memory_order_seq_cst);
    co_await wait_for(now->wanted, old);
    now->over.set();
  }
  running_ = false;
}

task<void> chunk_tracker::drain(uint64_t first, uint64_t count) {
  if (!busy(first, count)) co_return;
  if (!next_round_) next_round_ = std::make_shared<round>();
  add(next_round_->wanted, first, count);
  const std::shared_ptr<round> mine = next_round_;
  if (!running_) rt::spawn(run_rounds());
  co_await mine->over.wait();
}

task<void> chunk_tracker::close() {
  co_await drain(0, buckets);
  // A message that says so may still be on its way, and run_rounds() at its end.
  for (bool pending = true; pending;) {
    pending = running_;
    for (const slot& s : slots_) pending |= s.posted.load(std::memory_order_seq_cst);
    if (pending) co_await rt::yield_now{};
  }
}

}  // namespace lbd::snapshot
