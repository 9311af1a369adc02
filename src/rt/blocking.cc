// SPDX-License-Identifier: MIT
#include "rt/blocking.h"

#include <signal.h>

#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

namespace lbd::rt {

struct blocking_threads::shared {
  explicit shared(unsigned m) : most(m) {}

  static void work(const std::shared_ptr<shared>& s) {
    std::unique_lock lock(s->mutex);
    for (;;) {
      while (s->jobs.empty()) {
        if (s->stopping) return;
        ++s->idle;
        s->wanted.wait(lock);
        --s->idle;
      }
      auto job = std::move(s->jobs.front());
      s->jobs.pop_front();
      lock.unlock();
      job();
      job = nullptr;
      lock.lock();
    }
  }

  const unsigned most;
  std::mutex mutex;
  std::condition_variable wanted;
  std::deque<std::function<void()>> jobs;
  unsigned idle = 0, started = 0;
  bool stopping = false;
};

blocking_threads::blocking_threads(unsigned most) : shared_(std::make_shared<shared>(most)) {}

blocking_threads::~blocking_threads() {
  const std::lock_guard lock(shared_->mutex);
  shared_->stopping = true;
  shared_->wanted.notify_all();
}

void blocking_threads::run(std::function<void()> work) {
  const std::lock_guard lock(shared_->mutex);
  shared_->jobs.push_back(std::move(work));
  if (shared_->jobs.size() <= shared_->idle || shared_->started == shared_->most)
    return shared_->wanted.notify_one();
  ++shared_->started;
  // Signals are the main thread's; threads that a library makes from here inherit that.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  std::thread([s = shared_] { shared::work(s); }).detach();
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

}  // namespace lbd::rt
