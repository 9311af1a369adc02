// SPDX-License-Identifier: MIT
// The reactor: one thread, one event loop, run to completion. Everything that belongs to a reactor
// (connections, coroutines, home state) is touched by its thread only; other threads talk to it by
// post(). Three implementations: rt/uring, rt/threads and the simulator's. They, with the files
// they open, are the only sources of I/O, time, randomness and threads.
#pragma once

#include <atomic>
#include <chrono>
#include <coroutine>
#include <cstdint>
#include <deque>
#include <memory>
#include <set>
#include <utility>

#include "base/result.h"
#include "rt/io.h"
#include "rt/task.h"

namespace lbd::rt {

class reactor;

// A unit of work posted from any thread; owned by the poster, who keeps it alive until `run` was
// called (run may free it), or the runtime has ended. See tell() for work that nobody waits for.
struct message {
  message* next = nullptr;
  void (*run)(message&) = nullptr;
  void (*drop)(message&) = nullptr;  // instead, when the runtime ends first; may be left out
};

// Work for the end of this turn, when all completions at hand have been handled: replies are
// gathered into one send there. Queued at most once; the owner keeps it alive or removes it with
// drop().
struct turn_hook {
  void (*run)(turn_hook&) = nullptr;
  bool queued = false;
};

// A timer; fires once on the reactor's thread. Stopped by stop_timer() or by its own firing. Timers
// of one moment fire in the order in which they were started.
struct timer {
  uint64_t due_ns = 0;
  uint64_t order = 0;
  void (*run)(timer&) = nullptr;
  bool armed = false;
};

class reactor {
 public:
  explicit reactor(unsigned index) : index_(index) {}
  virtual ~reactor() = default;
  reactor(const reactor&) = delete;
  reactor& operator=(const reactor&) = delete;

  // The reactor of the calling thread. REQUIRES: called on a reactor's thread.
  static reactor& current() noexcept { return *current_; }
  static bool on_reactor() noexcept { return current_ != nullptr; }

  unsigned index() const noexcept { return index_; }
  virtual const char* kind() const noexcept = 0;

  // Monotonic nanoseconds (virtual ones in the simulator).
  virtual uint64_t now_ns() const noexcept = 0;

  // Starts a request; its waiter is resumed on this thread when it completes, never before submit
  // returns. Socket operations and files of the operating system only.
  virtual void submit(io_request& r) = 0;
  // Asks for an early end: the request still completes once, with -ECANCELED if it was in time.
  virtual void cancel(io_request& r) = 0;

  // Resumes `h` later in this turn. Own thread only.
  virtual void schedule(std::coroutine_handle<> h) { ready_.push_back(h); }
  // Runs `m` on this reactor's thread. Any thread.
  void post(message& m) noexcept;
  // The same for threads that the runtime does not join: it waits until they are out of here.
  void post_from_outside(message& m) noexcept;
  // Whoever destroys a reactor calls it first, when no such thread has anything left to post.
  void wait_for_outsiders() const noexcept;
  // Drops the messages that have not been run. Nobody may run this reactor any more.
  void drop_posted() noexcept;

  void at_turn_end(turn_hook& h) {
    if (h.queued) return;
    h.queued = true;
    turn_hooks_.push_back(&h);
  }
  void drop(turn_hook& h) noexcept;

  void start_timer(timer& t, uint64_t due_ns);
  void stop_timer(timer& t) noexcept;

  // Runs until stop(). Own thread only; stop() may come from any thread.
  void run();
  void stop() noexcept;
  // One turn: handles what is ready, waits at most `wait_ns` for more (UINT64_MAX: until something
  // happens). Returns false when stop() was called.
  bool turn(uint64_t wait_ns);

  // Makes this the calling thread's reactor for the scope's life (runtime, tests).
  class scope {
   public:
    explicit scope(reactor& r) noexcept : before_(std::exchange(current_, &r)) {}
    ~scope() { current_ = before_; }

   private:
    reactor* before_;
  };

 protected:
  // Submits what is queued, waits up to wait_ns and handles completions.
  virtual void poll_io(uint64_t wait_ns) = 0;
  // Interrupts poll_io from another thread.
  virtual void wake() noexcept = 0;
  void complete(io_request& r, int64_t result) noexcept {
    r.result = result;
    r.done = true;
    r.waiter.resume();
  }
  bool messages_pending() const noexcept {
    // Ordered after the store to sleeping_ that precedes it (see post()).
    return posted_.load(std::memory_order_seq_cst) != nullptr;
  }
  bool work_pending() const noexcept { return !ready_.empty() || !turn_hooks_.empty(); }
  virtual std::coroutine_handle<> next_ready() {
    auto h = ready_.front();
    ready_.pop_front();
    return h;
  }
  std::deque<std::coroutine_handle<>> ready_;
  // Set while poll_io may sleep: whoever posts then must wake.
  std::atomic<bool> sleeping_{false};

 private:
  void run_messages();
  void run_ready();
  void run_turn_hooks();
  void run_timers();
  uint64_t wait_for(uint64_t wait_ns) const noexcept;

  static thread_local reactor* current_;
  const unsigned index_;
  std::atomic<message*> posted_{nullptr};
  std::atomic<unsigned> outsiders_{0};
  std::atomic<bool> stopping_{false};
  std::deque<turn_hook*> turn_hooks_;
  struct sooner {
    bool operator()(const timer* a, const timer* b) const noexcept {
      return a->due_ns != b->due_ns ? a->due_ns < b->due_ns : a->order < b->order;
    }
  };
  std::set<timer*, sooner> timers_;
  uint64_t timers_started_ = 0;
};

// Runs `work()` in a later turn of that reactor; nobody waits for it. Any thread that the runtime
// joins. A runtime that ends before destroys `work` as it is.
template <class F>
void tell(reactor& where, F work) {
  struct note final : message {
    explicit note(F w) : work(std::move(w)) {}
    F work;
  };
  auto* n = new note(std::move(work));
  n->run = [](message& m) {
    const std::unique_ptr<note> mine(static_cast<note*>(&m));
    mine->work();
  };
  n->drop = [](message& m) { delete static_cast<note*>(&m); };
  where.post(*n);
}

// Awaitable: resumes at `due_ns` of this reactor's clock.
class [[nodiscard]] sleep_until {
 public:
  explicit sleep_until(uint64_t due_ns) : due_ns_(due_ns) {}
  bool await_ready() const noexcept { return reactor::current().now_ns() >= due_ns_; }
  void await_suspend(std::coroutine_handle<> h) {
    node_.waiter = h;
    node_.run = [](timer& t) { static_cast<node&>(t).waiter.resume(); };
    reactor::current().start_timer(node_, due_ns_);
  }
  void await_resume() const noexcept {}

 private:
  struct node : timer {
    std::coroutine_handle<> waiter;
  };
  uint64_t due_ns_;
  node node_;
};

inline sleep_until sleep_for(std::chrono::nanoseconds d) {
  return sleep_until(reactor::current().now_ns() + static_cast<uint64_t>(d.count()));
}

// Awaitable: lets everything else that is ready run first.
struct [[nodiscard]] yield_now {
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> h) { reactor::current().schedule(h); }
  void await_resume() const noexcept {}
};

// Awaitable for one request to the operating system on this reactor.
class [[nodiscard]] os_request {
 public:
  explicit os_request(io_request r) noexcept : request_(r) {}
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> h) {
    request_.waiter = h;
    reactor::current().submit(request_);
  }
  // Bytes or a descriptor, or -errno.
  int64_t await_resume() const noexcept { return request_.result; }

 private:
  io_request request_;
};

// Runs `make()` -> task<T> on `where` and resumes the caller on its own reactor with the result.
// Awaited on the same reactor it runs inline. `make` is kept alive by the awaiter: name it before
// the co_await (gcc 12 destroys lambda temporaries in awaited expressions twice).
template <class Make>
class [[nodiscard]] call_on {
 public:
  using task_type = decltype(std::declval<Make&>()());
  using value_type = decltype(std::declval<task_type&>().await_resume());

  call_on(reactor& where, Make& make) noexcept : make_(make), where_(where) {}
  bool await_ready() const noexcept { return false; }
  bool await_suspend(std::coroutine_handle<> h) {
    waiter_ = h;
    home_ = &reactor::current();
    if (home_ == &where_) {
      // Inline: resume at once only if it did not finish before returning here.
      spawn(run_here(*this));
      if (finished_) return false;
      suspended_ = true;
      return true;
    }
    out_.self = this;
    out_.run = [](message& m) {
      auto* self = static_cast<node&>(m).self;
      spawn(run_there(*self));
    };
    where_.post(out_);
    return true;
  }
  value_type await_resume() { return std::move(*value_); }

 private:
  struct node : message {
    call_on* self = nullptr;
  };
  static task<void> run_here(call_on& c) {
    c.value_.emplace(co_await c.make_());
    c.finished_ = true;
    if (c.suspended_) c.waiter_.resume();
  }
  static task<void> run_there(call_on& c) {
    c.value_.emplace(co_await c.make_());
    c.back_.self = &c;
    c.back_.run = [](message& m) { static_cast<node&>(m).self->waiter_.resume(); };
    c.home_->post(c.back_);
  }
  Make& make_;
  reactor& where_;
  reactor* home_ = nullptr;
  std::coroutine_handle<> waiter_;
  std::optional<value_type> value_;
  node out_, back_;
  bool finished_ = false, suspended_ = false;
};

}  // namespace lbd::rt
