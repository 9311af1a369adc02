// SPDX-License-Identifier: MIT
#include "rt/call_thread.h"

#include <semaphore.h>
#include <signal.h>

#include <atomic>
#include <thread>

namespace lbd::rt {

message* oldest_first(message* newest) noexcept {
  message* in_order = nullptr;
  while (newest != nullptr) {
    message* next = newest->next;
    newest->next = in_order;
    in_order = newest;
    newest = next;
  }
  return in_order;
}

struct call_thread::shared {
  shared() { ::sem_init(&woken, 0, 0); }
  ~shared() { ::sem_destroy(&woken); }

  std::atomic<message*> posted{nullptr};
  std::atomic<bool> stopping{false};
  // While the thread may sleep; whoever takes it away has to wake. (std::atomic's own waiting
  // yields the processor a few times before it sleeps, which costs where others want it.)
  std::atomic<bool> sleeping{false};
  sem_t woken;

  void wake() noexcept {
    if (sleeping.load(std::memory_order_seq_cst) &&
        sleeping.exchange(false, std::memory_order_seq_cst))
      ::sem_post(&woken);
  }
  void sleep() noexcept {
    sleeping.store(true, std::memory_order_seq_cst);
    if (!has_nothing() && sleeping.exchange(false, std::memory_order_seq_cst)) return;
    while (::sem_wait(&woken) != 0) {  // a signal
    }
  }
  bool has_nothing() const noexcept {
    // Ordered after the store to `sleeping` that precedes it.
    return posted.load(std::memory_order_seq_cst) == nullptr &&
           !stopping.load(std::memory_order_seq_cst);
  }
  static void run_all(message* newest) {
    for (message* m = oldest_first(newest); m != nullptr;) {
      message* next = m->next;
      m->run(*m);
      m = next;
    }
  }
  static void work(const std::shared_ptr<shared>& s) {
    for (;;) {
      // Before the look at what was posted: everything that came before the end is seen then.
      const bool last = s->stopping.load(std::memory_order_acquire);
      if (message* newest = s->posted.exchange(nullptr, std::memory_order_acquire)) {
        run_all(newest);
        continue;
      }
      if (last) return;
      s->sleep();
    }
  }
};

call_thread::call_thread() : shared_(std::make_shared<shared>()) {
  // Signals are the main thread's; threads that a library makes from here inherit that.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  std::thread([s = shared_] { shared::work(s); }).detach();
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

call_thread::~call_thread() {
  shared_->stopping.store(true, std::memory_order_seq_cst);
  shared_->wake();
}

void call_thread::post(message& m) noexcept {
  message* head = shared_->posted.load(std::memory_order_relaxed);
  do {
    m.next = head;
  } while (!shared_->posted.compare_exchange_weak(head, &m, std::memory_order_seq_cst));
  shared_->wake();
}

}  // namespace lbd::rt
