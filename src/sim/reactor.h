// SPDX-License-Identifier: MIT
// The simulator's reactor: one thread, a virtual clock, and a scheduler that resumes what is ready
// in an order drawn from the seed. Nothing of the operating system happens here: submit() aborts.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "rt/reactor.h"
#include "rt/runtime.h"
#include "sim/random.h"

namespace lbd::sim {

class sim_reactor final : public rt::reactor {
 public:
  explicit sim_reactor(uint64_t seed) : reactor(0), random_(seed, 0x7363686564) {}

  const char* kind() const noexcept override { return "sim"; }
  uint64_t now_ns() const noexcept override { return now_ns_; }
  void submit(rt::io_request& r) override;
  void cancel(rt::io_request& r) override;

  // Set when nothing was ready and no timer was armed: nothing will ever happen again.
  bool deadlocked() const noexcept { return deadlocked_; }
  void forget_deadlock() noexcept { deadlocked_ = false; }
  uint64_t turns() const noexcept { return turns_; }

 protected:
  void poll_io(uint64_t wait_ns) override;
  void wake() noexcept override {}
  std::coroutine_handle<> next_ready() override;

 private:
  random random_;
  uint64_t now_ns_ = 1'000'000'000;
  uint64_t turns_ = 0;
  bool deadlocked_ = false;
};

// One simulated process: a runtime of one sim_reactor, and a way to run tasks in it that comes back
// also when they never finish.
class world {
 public:
  explicit world(uint64_t seed);

  rt::runtime& runtime() noexcept { return *runtime_; }
  sim_reactor& reactor() const noexcept { return *reactor_; }

  // Runs until `t` has finished; nothing when it cannot finish (stuck() tells why). The task is
  // then lost for good: the world must not run any more.
  template <class T>
  std::optional<T> run(rt::task<T> t) {
    rt::reactor::scope here(*reactor_);
    auto value = std::make_shared<std::optional<T>>();
    rt::spawn(finish_into(std::move(t), value));
    while (!*value && may_go_on()) reactor_->turn(UINT64_MAX);
    return std::move(*value);
  }
  // Runs what is under way until nothing is left to do, at most `for_ns` of virtual time.
  void settle(uint64_t for_ns = 60'000'000'000);

  // "" as long as all is well.
  const std::string& stuck() const noexcept { return stuck_; }
  // A run of this many turns is taken for an endless one.
  static constexpr uint64_t most_turns = 20'000'000;

 private:
  template <class T>
  static rt::task<void> finish_into(rt::task<T> t, std::shared_ptr<std::optional<T>> value) {
    auto result = co_await t;
    value->emplace(std::move(result));
  }
  bool may_go_on();

  sim_reactor* reactor_ = nullptr;
  std::unique_ptr<rt::runtime> runtime_;
  std::string stuck_;
};

}  // namespace lbd::sim
