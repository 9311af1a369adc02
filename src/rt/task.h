// SPDX-License-Identifier: MIT
// Coroutine tasks. A task is lazy: it starts when awaited and never leaves the reactor thread that
// started it, which is what makes the awaiter below valid without tail calls: gcc 12 overflows the
// stack with symmetric transfer in unoptimised and sanitizer builds.
#pragma once

#include <coroutine>
#include <cstddef>
#include <cstdlib>
#include <exception>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

namespace lbd::rt {

// Free lists of coroutine frames, one per thread, in size classes of 64 bytes.
class frame_pool {
 public:
  static frame_pool& here() noexcept {
    static thread_local frame_pool pool;
    return pool;
  }
  ~frame_pool() {
    for (void* p : free_)
      while (p != nullptr) {
        void* next = *static_cast<void**>(p);
        std::free(p);
        p = next;
      }
  }
  void* get(size_t bytes) noexcept {
    const size_t k = (bytes + grain - 1) / grain;
    if (k < classes && free_[k] != nullptr) {
      void* p = free_[k];
      free_[k] = *static_cast<void**>(p);
      return p;
    }
    void* p = std::malloc(k * grain);
    if (p == nullptr) std::abort();
    return p;
  }
  void put(void* p, size_t bytes) noexcept {
    const size_t k = (bytes + grain - 1) / grain;
    if (k >= classes) return std::free(p);
    *static_cast<void**>(p) = free_[k];
    free_[k] = p;
  }

 private:
  static constexpr size_t grain = 64, classes = 48;
  void* free_[classes] = {};
};

namespace detail {

struct promise_base {
  std::coroutine_handle<> parent;

#if !defined(LBD_SANITIZED)
  static void* operator new(size_t n) { return frame_pool::here().get(n); }
  static void operator delete(void* p, size_t n) { frame_pool::here().put(p, n); }
#endif

  struct finish {
    bool await_ready() const noexcept { return false; }
    template <class Promise>
    void await_suspend(std::coroutine_handle<Promise> h) const noexcept {
      if (auto awaiting = h.promise().parent) awaiting.resume();
    }
    void await_resume() const noexcept {}
  };
  std::suspend_always initial_suspend() noexcept { return {}; }
  finish final_suspend() noexcept { return {}; }
  void unhandled_exception() noexcept { std::terminate(); }
};

template <class T>
struct promise_value : promise_base {
  std::optional<T> value;
  template <class U>
  void return_value(U&& v) {
    value.emplace(std::forward<U>(v));
  }
  T take() { return std::move(*value); }
};
template <>
struct promise_value<void> : promise_base {
  void return_void() noexcept {}
  void take() noexcept {}
};

}  // namespace detail

template <class T>
class [[nodiscard]] task {
 public:
  struct promise_type : detail::promise_value<T> {
    task get_return_object() noexcept {
      return task{std::coroutine_handle<promise_type>::from_promise(*this)};
    }
  };

  explicit task(std::coroutine_handle<promise_type> h) noexcept : h_(h) {}
  task(task&& o) noexcept : h_(std::exchange(o.h_, {})) {}
  task& operator=(task&& o) noexcept {
    std::swap(h_, o.h_);
    return *this;
  }
  // REQUIRES: finished or never started (a running task has a caller that waits for it).
  ~task() {
    if (h_) h_.destroy();
  }

  bool await_ready() const noexcept { return false; }
  // Starts the child; if it finished without suspending, the parent never suspends either.
  bool await_suspend(std::coroutine_handle<> parent) noexcept {
    h_.resume();
    if (h_.done()) return false;
    h_.promise().parent = parent;
    return true;
  }
  T await_resume() { return h_.promise().take(); }

 private:
  std::coroutine_handle<promise_type> h_;
};

namespace detail {
struct detached {
  struct promise_type {
    detached get_return_object() noexcept { return {}; }
    std::suspend_never initial_suspend() noexcept { return {}; }
    std::suspend_never final_suspend() noexcept { return {}; }
    void return_void() noexcept {}
    void unhandled_exception() noexcept { std::terminate(); }
#if !defined(LBD_SANITIZED)
    static void* operator new(size_t n) { return frame_pool::here().get(n); }
    static void operator delete(void* p, size_t n) { frame_pool::here().put(p, n); }
#endif
  };
};
inline detached run_detached(task<void> t) { co_await t; }
}  // namespace detail

// Starts `t` now on this reactor; nobody waits for it. It must see to its own lifetime.
inline void spawn(task<void> t) { detail::run_detached(std::move(t)); }

// Runs all tasks concurrently on this reactor; the results are in the order of the tasks.
template <class T>
task<std::vector<T>> when_all(std::vector<task<T>> tasks) {
  struct joint {
    std::coroutine_handle<> waiter;
    size_t left;
    std::vector<std::optional<T>> results;
    bool await_ready() const noexcept { return left == 0; }
    void await_suspend(std::coroutine_handle<> h) noexcept { waiter = h; }
    void await_resume() const noexcept {}
    static task<void> one(joint& j, task<T>& t, size_t i) {
      j.results[i].emplace(co_await t);
      if (--j.left == 0 && j.waiter) j.waiter.resume();
    }
  };
  joint j{{}, tasks.size(), std::vector<std::optional<T>>(tasks.size())};
  for (size_t i = 0; i < tasks.size(); ++i) spawn(joint::one(j, tasks[i], i));
  co_await j;
  std::vector<T> out;
  out.reserve(tasks.size());
  for (auto& r : j.results) out.push_back(std::move(*r));
  co_return out;
}

}  // namespace lbd::rt
