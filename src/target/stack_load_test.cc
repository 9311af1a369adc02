// SPDX-License-Identifier: MIT
// Stacks of mapped devices under load: tables are swapped and devices in the middle suspended, and
// nobody notices. And what a layer must not cost.
#include <cstdlib>
#include <new>

#include "target/table_fixture_test.h"

#if !defined(LBD_SANITIZED)
namespace {
thread_local uint64_t allocations = 0;
void* counted(std::size_t n) {
  ++allocations;
  void* p = std::malloc(n);
  if (p == nullptr) std::abort();
  return p;
}
}  // namespace
void* operator new(std::size_t n) { return counted(n); }
void* operator new(std::size_t n, std::align_val_t) { return counted(n); }
void operator delete(void* p) noexcept { std::free(p); }
void operator delete(void* p, std::size_t) noexcept { std::free(p); }
void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete(void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }
#endif

namespace lbd::target {
namespace {

constexpr uint64_t ms = 1'000'000;

// Memory that takes its time.
class slow_disk final : public block::block_device {
 public:
  const block::limits& limits() const noexcept override { return disk_->limits(); }
  task<result<void>> read(uint64_t offset, rt::segments to, block::io_opts io) override {
    co_await pass();
    co_return co_await disk_->read(offset, to, io);
  }
  task<result<void>> write(uint64_t offset, rt::segments from, block::io_opts io) override {
    co_await pass();
    co_return co_await disk_->write(offset, from, io);
  }
  task<result<void>> flush(block::io_opts) override {
    co_await pass();
    co_return result<void>{};
  }
  static constexpr uint64_t slowest_ns = 10 * ms;
  int inside = 0;

 private:
  task<bool> pass() {
    ++inside;
    co_await rt::sleep_for(std::chrono::nanoseconds(1 + ++count_ * 7919 * ms % slowest_ns));
    --inside;
    co_return true;
  }
  uint64_t count_ = 0;
  std::unique_ptr<store::memory_device> disk_ = *store::memory_device::make(4 << 20);
};

class stack_load : public table_fixture {
 protected:
  stack_load() { sources_.more["/dev/slow"] = block::opened_device{disk_, {8, 0}}; }

  // Writes a block and reads it back, again and again.
  task<void> worker(std::shared_ptr<block::block_device> d, uint64_t at) {
    for (int i = 0; !over_; ++i) {
      std::string text(4096, static_cast<char>('a' + i % 26)), seen(4096, '?');
      const iovec out{text.data(), text.size()}, in{seen.data(), seen.size()};
      const auto w = co_await block::write(*d, at, rt::segments(&out, 1), {});
      const auto r = co_await block::read(*d, at, rt::segments(&in, 1), {});
      EXPECT_TRUE(w && r && seen == text) << "at " << at;
      ++rounds_;
    }
    --workers_;
  }
  void start_workers(const std::shared_ptr<block::block_device>& d) {
    for (uint64_t i = 0; i < 32; ++i) {
      ++workers_;
      rt::spawn(worker(d, i * 8192));
    }
    advance(50 * ms);
  }
  void stop_workers() {
    over_ = true;
    for (int i = 0; i < 100 && workers_ > 0; ++i) advance(10 * ms);
    EXPECT_EQ(workers_, 0) << "nothing is lost";
  }

  std::shared_ptr<slow_disk> disk_ = std::make_shared<slow_disk>();
  int workers_ = 0;
  uint64_t rounds_ = 0;
  bool over_ = false;
};

TEST_F(stack_load, swapping_tables_takes_no_longer_than_the_slowest_request) {
  (void)make("linear", "/dev/slow 0", 4096, "low");
  const auto top = make("linear", "/dev/mapper/low 0", 2048, "top");
  start_workers(top);
  // The same bytes, by other ways.
  const std::pair<const char*, const char*> ways[] = {
      {"striped", "1 64 /dev/slow 0"}, {"linear", "/dev/slow 0"}, {"delay", "/dev/slow 0 0"}};
  for (int i = 0; i < 60; ++i) {
    const std::string name = i % 2 == 0 ? "low" : "top";
    const auto& [type, args] = ways[i % 3];
    ASSERT_EQ(load(name, type, args, name == "low" ? 4096 : 2048), "");
    const uint64_t before = now_ns();
    ASSERT_EQ(resume(name), "");
    EXPECT_LE(now_ns() - before, slow_disk::slowest_ns) << i;
    advance(static_cast<uint64_t>(i) % 7 * ms);
  }
  EXPECT_GT(rounds_, 300u);
  stop_workers();
}

TEST_F(stack_load, a_device_in_the_middle_is_drained_and_holds_requests) {
  (void)make("linear", "/dev/slow 0", 4096, "low");
  (void)make("striped", "2 8 /dev/mapper/low 0 /dev/mapper/low 2048", 4096, "middle");
  const auto top = make("linear", "/dev/mapper/middle 0", 4096, "top");
  start_workers(top);
  for (int i = 0; i < 20; ++i) {
    EXPECT_GT(disk_->inside, 0) << "there is load";
    const uint64_t before = now_ns();
    suspend("middle");
    EXPECT_LE(now_ns() - before, slow_disk::slowest_ns);
    EXPECT_EQ(disk_->inside, 0) << "drained";
    const uint64_t rounds = rounds_;
    advance(100 * ms);
    EXPECT_EQ(disk_->inside, 0);
    EXPECT_EQ(rounds_, rounds) << "held";
    ASSERT_EQ(resume("middle"), "");
    advance(25 * ms);
    EXPECT_GT(rounds_, rounds);
  }
  stop_workers();
  const auto totals = m_.find_device(key("top"))->totals();
  for (const auto& t : totals) EXPECT_EQ(t.errors, 0u);
}

#if !defined(LBD_SANITIZED)
TEST_F(stack_load, layers_that_only_route_allocate_nothing) {
  const std::pair<std::string, std::string> layers[] = {
      {"linear", "% 0"},
      {"striped", "2 8 % 0 % 0"},
      {"delay", "% 0 0"},
      {"flakey", "% 0 60 0"},
      {"multipath", "2 queue_mode bio 0 1 1 round-robin 0 2 0 % %"},
      {"multipath", "2 queue_mode bio 0 1 1 service-time 0 2 0 % %"}};
  int number = 0;
  for (const auto& [type, args] : layers) {
    std::string below = "/dev/vda";
    std::shared_ptr<block::block_device> top;
    for (int depth = 0; depth < 10; ++depth) {
      std::string line = args;
      for (size_t at = line.find('%'); at != std::string::npos; at = line.find('%'))
        line.replace(at, 1, below);
      const std::string name = "d" + std::to_string(number++);
      top = make(type, line, 4096, name);
      ASSERT_TRUE(top) << type;
      below = "/dev/mapper/" + name;
    }
    const uint64_t before = allocations;
    for (uint64_t i = 0; i < 1000; ++i) {
      block::path way;
      const block::place at = block::walk(*top, block::op::read, i % 500 * 4096, 4096, way);
      EXPECT_EQ(at.device, sources_.a.get()) << type;
      way.leave(errc::ok);
    }
    EXPECT_EQ(allocations, before) << type;
  }
}
#endif

}  // namespace
}  // namespace lbd::target
