// SPDX-License-Identifier: MIT
// The forms of coroutines that this code base uses, each with objects that count what happens to
// them: compilers are known to destroy temporaries twice, or to lose a body, in others
// (HACKING.md).
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "rt/task.h"

namespace lbd::rt {
namespace {

using base::errc;
using base::io_error;
using base::result;

// An object that must be destroyed as often as it was made, and holds its value meanwhile.
class counted {
 public:
  counted(int& balance, int value) : balance_(&balance), value_(value) { ++*balance_; }
  counted(const counted& o) : balance_(o.balance_), value_(o.value_) { ++*balance_; }
  counted(counted&& o) noexcept : balance_(o.balance_), value_(o.value_) {
    ++*balance_;
    o.value_ = -1;
  }
  counted& operator=(const counted&) = default;
  counted& operator=(counted&& o) noexcept {
    value_ = std::exchange(o.value_, -1);
    return *this;
  }
  ~counted() {
    --*balance_;
    value_ = -1'000'000;
  }
  int value() const noexcept { return value_; }

 private:
  int* balance_;
  int value_;
};

struct options {  // trivially destructible
  int a = 0, b = 0;
};
struct bundle {  // an aggregate that is not
  counted first;
  std::string text;
};

// Whoever waits resumes later, so that every form is tried with a real suspension too.
struct later {
  std::vector<std::coroutine_handle<>>& waiting;
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> h) const { waiting.push_back(h); }
  void await_resume() const noexcept {}
};

class forms : public testing::TestWithParam<bool> {
 protected:
  // A step of work: at once, or after a suspension.
  task<void> step() {
    if (GetParam()) co_await later{waiting_};
  }
  task<int> number(int n) {
    co_await step();
    co_return n;
  }
  task<counted> make(int n) {
    co_await step();
    co_return counted(balance_, n);
  }
  task<int> take(counted c) {
    co_await step();
    co_return c.value();
  }
  task<int> look(const counted& c) {
    co_await step();
    co_return c.value();
  }
  task<int> with_options(int n, options o = {}) {
    co_await step();
    co_return n + o.a * 10 + o.b * 100;
  }
  task<int> take_bundle(bundle b) {
    co_await step();
    co_return b.first.value() + static_cast<int>(b.text.size());
  }
  task<result<int>> checked(int n) {
    co_await step();
    if (n < 0) co_return io_error{errc::inval, 0};
    co_return n;
  }
  task<std::unique_ptr<int>> boxed(int n) {
    co_await step();
    co_return std::make_unique<int>(n);
  }
  virtual task<int> overridden(int n) { co_return n; }

  static task<void> store(task<int> t, std::optional<int>& value) { value = co_await t; }
  int run(task<int> t) {
    std::optional<int> value;
    spawn(store(std::move(t), value));
    while (!waiting_.empty()) {
      const auto h = waiting_.back();
      waiting_.pop_back();
      h.resume();
    }
    EXPECT_TRUE(value) << "the body did not run to its end";
    return value.value_or(-1);
  }
  void TearDown() override { EXPECT_EQ(balance_, 0); }

  int balance_ = 0;
  std::vector<std::coroutine_handle<>> waiting_;
  int seen_ = 0;

  task<int> temporaries_with_constructors();
  task<int> named_aggregates();
  task<int> trivial_aggregates();
  task<int> nested_arguments();
  task<int> bodies_without_variables();
  task<int> switch_in_a_loop();
  task<int> declaring_conditions();
  task<int> logic_and_loops();
  task<result<int>> early_returns(int n);
  task<int> bindings_and_moves();
  task<int> named_lambdas();
  task<int> several_at_once();
  task<int> several_scopes();
};

INSTANTIATE_TEST_SUITE_P(all, forms, testing::Bool(),
                         [](const auto& i) { return i.param ? "suspended" : "synchronous"; });

task<int> forms::temporaries_with_constructors() {
  const int a = co_await take(counted(balance_, 1));
  const int b = co_await look(counted(balance_, 20));
  const counted c = co_await make(300);
  co_return a + b + c.value();
}
TEST_P(forms, temporaries_of_classes_with_constructors) {
  EXPECT_EQ(run(temporaries_with_constructors()), 321);
}

task<int> forms::named_aggregates() {
  bundle one{counted(balance_, 1), "four"};
  const int a = co_await take_bundle(std::move(one));
  counted first = co_await make(10);
  bundle two{std::move(first), std::string(100, 'x')};
  co_return a + co_await take_bundle(std::move(two));
}
TEST_P(forms, aggregates_are_named_before) { EXPECT_EQ(run(named_aggregates()), 115); }

task<int> forms::trivial_aggregates() {
  const int a = co_await with_options(1, {});
  const int b = co_await with_options(2);
  options o;
  o.a = 3;
  co_return a + b + co_await with_options(0, o);
}
TEST_P(forms, trivial_aggregates_may_stand_in_the_call) {
  EXPECT_EQ(run(trivial_aggregates()), 33);
}

task<int> forms::nested_arguments() {
  const int a = co_await with_options(co_await number(5));
  const int b = co_await take(co_await make(20));
  co_return a + b + co_await overridden(co_await number(300));
}
TEST_P(forms, awaits_among_arguments) { EXPECT_EQ(run(nested_arguments()), 325); }

// No variable anywhere in the body.
task<int> forms::bodies_without_variables() {
  if (seen_ == 0) co_await step();
  while (seen_ < 3) seen_ += co_await number(1);
  switch (seen_) {
    case 3:
      seen_ += co_await number(10);
      break;
    default:
      break;
  }
  co_return seen_;
}
TEST_P(forms, bodies_without_variables) { EXPECT_EQ(run(bodies_without_variables()), 13); }

task<int> forms::switch_in_a_loop() {
  for (;;) {
    const int what = seen_++ % 3;
    switch (what) {
      case 0:
        continue;
      case 1:
        seen_ += co_await number(9);
        continue;
      case 2:
        co_return co_await number(seen_);
    }
  }
}
TEST_P(forms, a_switch_in_an_endless_loop) {
  seen_ = 1;
  EXPECT_EQ(run(switch_in_a_loop()), 12);
}

task<int> forms::declaring_conditions() {
  int sum = 0;
  if (const auto c = co_await make(1); c.value() == 1) sum += c.value();
  while (const int n = co_await number(sum < 10 ? 3 : 0)) sum += n;
  for (const int n : {co_await number(100), 200}) sum += n;
  co_return sum;
}
TEST_P(forms, conditions_that_declare) { EXPECT_EQ(run(declaring_conditions()), 310); }

task<int> forms::logic_and_loops() {
  bool both = seen_ == 0 && co_await number(1) == 1;
  both = both || co_await number(7) == 7;
  int sum = both ? 1 : 0;
  for (int i = 0; i < 5; ++i) {
    const counted each = co_await make(i);
    if (i == 1) continue;
    if (i == 4) break;
    sum += each.value() * 10;
  }
  for (const counted& c : std::vector<counted>(2, counted(balance_, 100))) {
    sum += co_await look(c);
  }
  co_return sum;
}
TEST_P(forms, logic_and_loops) { EXPECT_EQ(run(logic_and_loops()), 251); }

task<result<int>> forms::early_returns(int n) {
  const counted guard(balance_, n);
  CO_TRY(const int a, co_await checked(n));
  CO_CHECK(co_await checked(n - 1));
  counted moved = co_await make(a);
  CO_TRY(const int b, co_await checked(n - 2));
  co_return moved.value() + b;
}
TEST_P(forms, early_returns_destroy_once) {
  for (const int n : {-1, 0, 1, 2}) {
    auto ask = [this](int k) -> int {
      auto unwrap = [](task<result<int>> t) -> task<int> {
        const auto r = co_await t;
        co_return r ? *r : -7;
      };
      return run(unwrap(early_returns(k)));
    };
    EXPECT_EQ(ask(n), n < 2 ? -7 : 2);
    EXPECT_EQ(balance_, 0);
  }
}

task<int> forms::bindings_and_moves() {
  std::unique_ptr<int> box = co_await boxed(5);
  const auto pair = std::make_pair(co_await number(1), co_await make(10));
  const auto& [small, big] = pair;
  std::optional<counted> held;
  held.emplace(co_await make(100));
  held = co_await make(200);
  std::string text = "ab" + std::string(static_cast<size_t>(co_await number(3)), 'c');
  co_return *box + small + big.value() + held->value() + static_cast<int>(text.size()) * 1000;
}
TEST_P(forms, bindings_moves_and_optionals) { EXPECT_EQ(run(bindings_and_moves()), 5216); }

task<int> forms::named_lambdas() {
  const counted captured = co_await make(3);
  // Captures, and is no coroutine itself: it returns the task of one.
  auto work = [this, captured] { return take(captured); };
  const int a = co_await work();
  const std::function<task<int>()> erased = work;
  const int b = co_await erased();
  auto plain = [](int n) -> task<int> { co_return n * 100; };
  co_return a + b * 10 + co_await plain(co_await number(2));
}
TEST_P(forms, lambdas_are_named_before) { EXPECT_EQ(run(named_lambdas()), 233); }

task<int> forms::several_at_once() {
  std::vector<task<counted>> all;
  for (int i = 1; i <= 3; ++i) all.push_back(make(i));
  const std::vector<counted> made = co_await when_all(std::move(all));
  int sum = 0;
  for (const counted& c : made) sum = sum * 10 + c.value();
  co_return sum;
}
TEST_P(forms, several_at_once) { EXPECT_EQ(run(several_at_once()), 123); }

task<int> forms::several_scopes() {
  int sum = 0;
  {
    const counted one = co_await make(1);
    sum += one.value();
    {
      const counted two = co_await make(20);
      sum += co_await look(two);
    }
    EXPECT_EQ(balance_, 1);
  }
  EXPECT_EQ(balance_, 0);
  do {
    const counted three = co_await make(300);
    if (three.value() == 300) sum += co_await look(three);
  } while (sum < 300);
  co_return sum;
}
TEST_P(forms, scopes_end_where_they_end) { EXPECT_EQ(run(several_scopes()), 321); }

}  // namespace
}  // namespace lbd::rt
