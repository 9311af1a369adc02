// SPDX-License-Identifier: MIT
// Cancellation: a flag that any reactor may read, and whoever waits for something long may be told.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>

#include "rt/reactor.h"

namespace lbd::rt {

// Set once, by whoever no longer wants the outcome of some requests (a vanished client). It must
// outlive them. Looking at it costs a load; only who waits pays for a lock.
class cancel_token {
  struct watchers;

 public:
  // Somebody who waits. Owned by the waiter, registered with one token at a time.
  class watcher {
   public:
    watcher() = default;
    watcher(const watcher&) = delete;
    watcher& operator=(const watcher&) = delete;
    // Called once, on the reactor that registered it, in a later turn than cancel(); it is not
    // registered any more then.
    void (*run)(watcher&) = nullptr;

   private:
    friend class cancel_token;
    friend struct watchers;
    watcher* before_ = nullptr;
    watcher* next_ = nullptr;
    reactor* home_ = nullptr;  // while registered
  };

  cancel_token() : watchers_(std::make_shared<watchers>()) {}
  // REQUIRES: nobody is registered.
  ~cancel_token() = default;
  cancel_token(const cancel_token&) = delete;
  cancel_token& operator=(const cancel_token&) = delete;

  // Any thread.
  bool canceled() const noexcept { return canceled_.load(std::memory_order_acquire); }
  // Any thread; later calls do nothing.
  void cancel();

  // Registers `w` on this reactor; false when the token is canceled: `w` will not be told.
  bool watch(watcher& w) const;
  // On the reactor that registered it. No-op when `w` is not registered.
  void unwatch(watcher& w) const noexcept;

 private:
  // Outlives the token while the reactors are being told.
  struct watchers {
    std::mutex lock;
    watcher* first = nullptr;

    void unlink(watcher& w) noexcept;
    watcher* take(const reactor& home) noexcept;
  };

  std::atomic<bool> canceled_{false};
  const std::shared_ptr<watchers> watchers_;
};

}  // namespace lbd::rt
