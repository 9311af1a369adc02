// SPDX-License-Identifier: MIT
#include "rt/cancel.h"

#include <algorithm>
#include <vector>

namespace lbd::rt {

void cancel_token::watchers::unlink(watcher& w) noexcept {
  (w.before_ != nullptr ? w.before_->next_ : first) = w.next_;
  if (w.next_ != nullptr) w.next_->before_ = w.before_;
  w.before_ = w.next_ = nullptr;
  w.home_ = nullptr;
}

// The next one that `home` has to tell, no longer registered.
cancel_token::watcher* cancel_token::watchers::take(const reactor& home) noexcept {
  const std::lock_guard held(lock);
  for (watcher* w = first; w != nullptr; w = w->next_)
    if (w->home_ == &home) {
      unlink(*w);
      return w;
    }
  return nullptr;
}

bool cancel_token::watch(watcher& w) const {
  const std::lock_guard held(watchers_->lock);
  if (canceled_.load(std::memory_order_relaxed)) return false;
  w.home_ = &reactor::current();
  w.before_ = nullptr;
  w.next_ = watchers_->first;
  if (w.next_ != nullptr) w.next_->before_ = &w;
  watchers_->first = &w;
  return true;
}

void cancel_token::unwatch(watcher& w) const noexcept {
  const std::lock_guard held(watchers_->lock);
  if (w.home_ != nullptr) watchers_->unlink(w);
}

void cancel_token::cancel() {
  std::vector<reactor*> homes;
  {
    const std::lock_guard held(watchers_->lock);
    if (canceled_.exchange(true, std::memory_order_acq_rel)) return;
    for (const watcher* w = watchers_->first; w != nullptr; w = w->next_)
      if (std::find(homes.begin(), homes.end(), w->home_) == homes.end()) homes.push_back(w->home_);
  }
  for (reactor* home : homes) {
    tell(*home, [whom = watchers_] {
      while (watcher* w = whom->take(reactor::current())) w->run(*w);
    });
  }
}

}  // namespace lbd::rt
