// SPDX-License-Identifier: MIT
// Waiting inside one reactor: event, semaphore, mutex and range lock. Not for other threads;
// waiters are resumed in order, from the reactor's ready queue, so that a release never recurses.
#pragma once

#include <coroutine>
#include <cstdint>
#include <list>
#include <utility>

#include "rt/reactor.h"

namespace lbd::rt {

namespace detail {
struct waiter {
  std::coroutine_handle<> handle;
  waiter* next = nullptr;
};
class waiter_queue {
 public:
  bool empty() const noexcept { return head_ == nullptr; }
  waiter* front() const noexcept { return head_; }
  void push(waiter& w) noexcept {
    w.next = nullptr;
    (tail_ != nullptr ? tail_->next : head_) = &w;
    tail_ = &w;
  }
  waiter* pop() noexcept {
    waiter* w = head_;
    head_ = w->next;
    if (head_ == nullptr) tail_ = nullptr;
    return w;
  }

 private:
  waiter* head_ = nullptr;
  waiter* tail_ = nullptr;
};
}  // namespace detail

// Manual-reset event: wait() returns at once while it is set.
class event {
 public:
  void set() {
    set_ = true;
    while (!waiters_.empty()) reactor::current().schedule(waiters_.pop()->handle);
  }
  void reset() noexcept { set_ = false; }
  bool is_set() const noexcept { return set_; }
  auto wait() noexcept {
    struct awaiter : detail::waiter {
      explicit awaiter(event& owner) noexcept : e(owner) {}
      event& e;
      bool await_ready() const noexcept { return e.set_; }
      void await_suspend(std::coroutine_handle<> h) noexcept {
        handle = h;
        e.waiters_.push(*this);
      }
      void await_resume() const noexcept {}
    };
    return awaiter{*this};
  }

 private:
  detail::waiter_queue waiters_;
  bool set_ = false;
};

// Counting semaphore, first come first served (a large request is not overtaken by small ones).
class semaphore {
 public:
  explicit semaphore(uint64_t units) noexcept : units_(units) {}
  uint64_t available() const noexcept { return units_; }
  bool try_acquire(uint64_t n) noexcept {
    if (!waiters_.empty() || units_ < n) return false;
    units_ -= n;
    return true;
  }
  void release(uint64_t n) {
    units_ += n;
    while (!waiters_.empty()) {
      auto* w = static_cast<awaiter*>(waiters_.front());
      if (w->wanted > units_) break;
      units_ -= w->wanted;
      reactor::current().schedule(waiters_.pop()->handle);
    }
  }
  struct awaiter : detail::waiter {
    awaiter(semaphore& owner, uint64_t n) noexcept : s(owner), wanted(n) {}
    semaphore& s;
    uint64_t wanted;
    bool await_ready() const noexcept { return s.try_acquire(wanted); }
    void await_suspend(std::coroutine_handle<> h) noexcept {
      handle = h;
      s.waiters_.push(*this);
    }
    void await_resume() const noexcept {}
  };
  // REQUIRES: n is at most the number of units there ever are.
  awaiter acquire(uint64_t n = 1) noexcept { return awaiter{*this, n}; }

 private:
  uint64_t units_;
  detail::waiter_queue waiters_;
};

// Mutual exclusion across awaits: `auto held = co_await m.lock();`
class mutex {
 public:
  class [[nodiscard]] guard {
   public:
    explicit guard(mutex* m) noexcept : m_(m) {}
    guard(guard&& o) noexcept : m_(std::exchange(o.m_, nullptr)) {}
    guard& operator=(guard&& o) noexcept {
      std::swap(m_, o.m_);
      return *this;
    }
    ~guard() { unlock(); }
    void unlock() {
      if (m_ != nullptr) std::exchange(m_, nullptr)->units_.release(1);
    }

   private:
    mutex* m_;
  };
  struct awaiter : semaphore::awaiter {
    explicit awaiter(mutex& m) noexcept : semaphore::awaiter(m.units_, 1), owner(m) {}
    mutex& owner;
    guard await_resume() const noexcept { return guard(&owner); }
  };
  awaiter lock() noexcept { return awaiter{*this}; }
  bool locked() const noexcept { return units_.available() == 0; }

 private:
  semaphore units_{1};
};

// Exclusive locks on byte ranges: `auto held = co_await locks.lock(offset, length);` Overlapping
// requests are granted in the order in which they came.
class range_lock {
  struct entry {
    uint64_t begin, end;
    bool granted;
    std::coroutine_handle<> handle;
  };

 public:
  class [[nodiscard]] guard {
   public:
    guard(range_lock* owner, std::list<entry>::iterator at) noexcept : owner_(owner), at_(at) {}
    guard(guard&& o) noexcept : owner_(std::exchange(o.owner_, nullptr)), at_(o.at_) {}
    guard& operator=(guard&&) = delete;
    ~guard() {
      if (owner_ != nullptr) owner_->unlock(at_);
    }

   private:
    range_lock* owner_;
    std::list<entry>::iterator at_;
  };
  struct awaiter {
    awaiter(range_lock& l, uint64_t begin, uint64_t end)
        : locks(l), at(l.entries_.insert(l.entries_.end(), entry{begin, end, false, {}})) {}
    range_lock& locks;
    std::list<entry>::iterator at;
    bool await_ready() const noexcept {
      at->granted = !locks.blocked(at);
      return at->granted;
    }
    void await_suspend(std::coroutine_handle<> h) const noexcept { at->handle = h; }
    guard await_resume() const noexcept { return guard(&locks, at); }
  };
  // REQUIRES: length > 0 and offset + length does not wrap.
  awaiter lock(uint64_t offset, uint64_t length) { return awaiter(*this, offset, offset + length); }
  bool empty() const noexcept { return entries_.empty(); }

 private:
  // Whether an earlier entry overlaps.
  bool blocked(std::list<entry>::iterator at) const noexcept {
    for (auto i = entries_.begin(); entries_.end() != i && &*i != &*at; ++i)
      if (i->begin < at->end && at->begin < i->end) return true;
    return false;
  }
  void unlock(std::list<entry>::iterator gone) {
    const uint64_t begin = gone->begin, end = gone->end;
    entries_.erase(gone);
    for (auto i = entries_.begin(); i != entries_.end(); ++i) {
      if (i->granted || !(i->begin < end && begin < i->end) || blocked(i)) continue;
      i->granted = true;
      reactor::current().schedule(i->handle);
    }
  }
  std::list<entry> entries_;
};

}  // namespace lbd::rt
