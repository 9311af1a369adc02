// SPDX-License-Identifier: MIT
// What the engine itself costs per request: nanoseconds of walking through stacked devices, of
// coroutine frames, of gates. No data moves and nothing waits.
#include <benchmark/benchmark.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <vector>

#include "block/device.h"
#include "block/segments.h"
#include "rt/gate.h"
#include "rt/runtime.h"
#include "stack/device.h"
#include "stack/device_manager.h"
#include "store/memory/memory.h"

namespace lbd::bench {
namespace {

using block::io_opts;
using block::result;
using block::segments;
using rt::task;

constexpr std::uint64_t device_bytes = std::uint64_t{1} << 40;
constexpr std::uint64_t memory_bytes = std::uint64_t{1} << 26;

// A device that answers every request without doing anything.
class leaf final : public block::block_device {
 public:
  leaf() { limits_.size_bytes = device_bytes; }
  const block::limits& limits() const noexcept override { return limits_; }
  task<result<void>> read(std::uint64_t offset, segments, io_opts) override {
    benchmark::DoNotOptimize(offset);
    co_return result<void>{};
  }
  task<result<void>> write(std::uint64_t offset, segments, io_opts) override {
    benchmark::DoNotOptimize(offset);
    co_return result<void>{};
  }
  task<result<void>> flush(io_opts) override { co_return result<void>{}; }

 private:
  block::limits limits_;
};

enum class style {
  routes,    // remaps by route(), with one crossing
  forwards,  // hands out the task of the device below
  awaits,    // has a coroutine frame of its own
};

// A linear mapping: adds a start to the offset.
class remap final : public block::block_device, private block::crossing {
 public:
  remap(block::block_device& below, style how) : below_(below), how_(how) {}
  const block::limits& limits() const noexcept override { return below_.limits(); }

  block::routed route(block::op, std::uint64_t offset, std::uint64_t,
                      block::path& way) noexcept override {
    if (how_ != style::routes) return {};
    ++inside_;
    way.push(*this, 0);
    return {&below_, offset + start_bytes};
  }
  task<result<void>> read(std::uint64_t offset, segments to, io_opts io) override {
    if (how_ == style::awaits) return awaited(offset, to, io);
    return below_.read(offset + start_bytes, to, io);
  }
  task<result<void>> write(std::uint64_t offset, segments from, io_opts io) override {
    return below_.write(offset + start_bytes, from, io);
  }
  task<result<void>> flush(io_opts io) override { return below_.flush(io); }

 private:
  static constexpr std::uint64_t start_bytes = 4096;

  task<result<void>> awaited(std::uint64_t offset, segments to, io_opts io) {
    const result<void> done = co_await below_.read(offset + start_bytes, to, io);
    co_return done;
  }
  void leave(std::uint64_t, block::errc) noexcept override { --inside_; }

  block::block_device& below_;
  style how_;
  std::uint64_t inside_ = 0;
};

// `depth` remaps over a leaf; top() is the uppermost.
class tower {
 public:
  tower(std::int64_t depth, style how) {
    devices_.push_back(std::make_unique<leaf>());
    for (std::int64_t i = 0; i < depth; i++) {
      devices_.push_back(std::make_unique<remap>(*devices_.back(), how));
    }
  }
  block::block_device& top() { return *devices_.back(); }

 private:
  std::vector<std::unique_ptr<block::block_device>> devices_;
};

void walk(benchmark::State& state) {
  tower devices(state.range(0), style::routes);
  std::uint64_t offset = 0;
  for (auto _ : state) {
    block::path way;
    const block::place at = block::walk(devices.top(), block::op::read, offset, 4096, way);
    benchmark::DoNotOptimize(at.offset);
    way.leave(block::errc::ok);
    offset = (offset + 4096) & (device_bytes / 2 - 1);
  }
}
BENCHMARK(walk)->Arg(0)->Arg(1)->Arg(5)->Arg(10)->Arg(20);

task<void> read_many(benchmark::State& state, block::block_device& top) {
  std::byte bytes[512];
  const iovec one{bytes, sizeof bytes};
  for (auto _ : state) {
    const result<void> done = co_await top.read(0, segments(&one, 1), io_opts{});
    benchmark::DoNotOptimize(done);
  }
}

void coroutine_per_device(benchmark::State& state) {
  tower devices(state.range(0), style::awaits);
  rt::spawn(read_many(state, devices.top()));
}
BENCHMARK(coroutine_per_device)->Arg(0)->Arg(1)->Arg(5)->Arg(10)->Arg(20);

void task_handed_through(benchmark::State& state) {
  tower devices(state.range(0), style::forwards);
  rt::spawn(read_many(state, devices.top()));
}
BENCHMARK(task_handed_through)->Arg(1)->Arg(10);

task<void> walk_and_read_many(benchmark::State& state, block::block_device& top) {
  std::byte bytes[512];
  const iovec one{bytes, sizeof bytes};
  for (auto _ : state) {
    const result<void> done = co_await block::read(top, 0, segments(&one, 1), io_opts{});
    benchmark::DoNotOptimize(done);
  }
}

// What an export pays for a request that cannot be lent: the walk, its frame and the leaf's.
void walk_and_read(benchmark::State& state) {
  tower devices(state.range(0), style::routes);
  rt::spawn(walk_and_read_many(state, devices.top()));
}
BENCHMARK(walk_and_read)->Arg(0)->Arg(1)->Arg(10)->Arg(20);

std::unique_ptr<rt::runtime> start_runtime() {
  rt::runtime_options options;
  options.reactors = 1;
  auto started = rt::runtime::start(options);
  if (!started) {
    std::fputs("engine_bench: no reactor can run here\n", stderr);
    std::exit(1);
  }
  return std::move(*started);
}

void gate_enter_leave(benchmark::State& state) {
  const auto runtime = start_runtime();
  const rt::reactor::scope here(runtime->at(0));
  rt::gate gate(*runtime);
  for (auto _ : state) {
    benchmark::DoNotOptimize(gate.try_enter());
    gate.leave();
  }
}
BENCHMARK(gate_enter_leave);

// Real devices with gate, table and counters over the memory store. Down to the memory, as an
// export does it that lends the bytes.
void lend_through_devices(benchmark::State& state) {
  const auto runtime = start_runtime();
  const rt::reactor::scope here(runtime->at(0));
  std::shared_ptr<block::block_device> top = *store::memory_device::make(memory_bytes);
  for (std::int64_t i = 0; i < state.range(0); i++) {
    top = std::make_shared<stack::device>(*runtime, "d", stack::table::whole(top));
  }
  std::uint64_t offset = 0;
  for (auto _ : state) {
    block::path way;
    const block::place at = block::walk(*top, block::op::read, offset, 4096, way);
    const block::lease lent = at.device->borrow(at.offset, 4096);
    benchmark::DoNotOptimize(lent.bytes.data());
    way.leave(block::errc::ok);
    offset = (offset + 4096) & (memory_bytes - 1);
  }
}
BENCHMARK(lend_through_devices)->Arg(0)->Arg(1)->Arg(2)->Arg(10);

// One request to a device with its gate, table and counters, by the coroutine operation.
void device_read(benchmark::State& state) {
  const auto runtime = start_runtime();
  const rt::reactor::scope here(runtime->at(0));
  stack::device device(*runtime, "d", stack::table::whole(std::make_shared<leaf>()));
  rt::spawn(read_many(state, device));
}
BENCHMARK(device_read);

task<void> zero_many(benchmark::State& state, block::block_device& top) {
  for (auto _ : state) {
    const result<void> done = co_await top.write_zeroes(0, 4096, io_opts{});
    benchmark::DoNotOptimize(done);
  }
}
void device_write_zeroes(benchmark::State& state) {
  const auto runtime = start_runtime();
  const rt::reactor::scope here(runtime->at(0));
  stack::device device(*runtime, "d", stack::table::whole(std::make_shared<leaf>()));
  rt::spawn(zero_many(state, device));
}
BENCHMARK(device_write_zeroes);

// Every name is the same leaf, under two numbers.
class leaf_source final : public stack::source_opener {
 public:
  task<base::outcome<block::opened_device>> open(std::string source, bool) override {
    co_return block::opened_device{one_, {254, source == "/dev/store" ? 16u : 0u}};
  }

 private:
  std::shared_ptr<block::block_device> one_ = std::make_shared<leaf>();
};

// Mapped devices on top of each other, each of one target; "%" in `args` is the device below.
class mapped_tower {
 public:
  mapped_tower(std::int64_t depth, const std::string& type, const std::string& args) {
    for (std::int64_t i = 0; i < depth; i++) {
      const stack::device_key key{std::to_string(i), {}, {}};
      std::string line = args;
      const std::string below = i == 0 ? "/dev/leaf" : "/dev/mapper/" + std::to_string(i - 1);
      for (size_t at = line.find('%'); at != std::string::npos; at = line.find('%'))
        line.replace(at, 1, below);
      (void)manager_.create(key.name, "", {});
      const auto loaded = runtime_->run_until(
          manager_.load(key, {{0, std::uint64_t{1} << (30 - i), type, line}}, false));
      const auto resumed = runtime_->run_until(manager_.resume(key, {}));
      if (!loaded || !resumed) {
        std::fprintf(stderr, "engine_bench: %s\n", loaded ? "" : loaded.error().message.c_str());
        std::exit(1);
      }
    }
    top_ = (*manager_.open({std::to_string(depth - 1), {}, {}})).device;
  }
  ~mapped_tower() {
    top_.reset();
    runtime_->run_until(manager_.remove_all(false));
  }
  mapped_tower(const mapped_tower&) = delete;
  mapped_tower& operator=(const mapped_tower&) = delete;
  block::block_device& top() { return *top_; }

 private:
  std::unique_ptr<rt::runtime> runtime_ = start_runtime();
  rt::reactor::scope here_{runtime_->at(0)};
  leaf_source sources_;
  stack::device_manager manager_{*runtime_, sources_};
  std::shared_ptr<block::block_device> top_;
};

// A layer is a mapped device and its target.
void mapped_layers(benchmark::State& state, const char* type, const char* args) {
  mapped_tower devices(state.range(0), type, args);
  constexpr std::uint64_t mask = (std::uint64_t{1} << 28) - 1;
  std::uint64_t offset = 0;
  for (auto _ : state) {
    block::path way;
    const block::place at = block::walk(devices.top(), block::op::read, offset, 4096, way);
    benchmark::DoNotOptimize(at.offset);
    way.leave(block::errc::ok);
    offset = (offset + 4096) & mask;
  }
}
BENCHMARK_CAPTURE(mapped_layers, linear, "linear", "% 0")->Arg(1)->Arg(10);
BENCHMARK_CAPTURE(mapped_layers, striped, "striped", "2 128 % 0 % 0")->Arg(1)->Arg(10);
BENCHMARK_CAPTURE(mapped_layers, round_robin, "multipath",
                  "2 queue_mode bio 0 1 1 round-robin 0 2 0 % %")
    ->Arg(1)
    ->Arg(10);
BENCHMARK_CAPTURE(mapped_layers, queue_length, "multipath",
                  "2 queue_mode bio 0 1 1 queue-length 0 2 0 % %")
    ->Arg(1)
    ->Arg(10);
BENCHMARK_CAPTURE(mapped_layers, service_time, "multipath",
                  "2 queue_mode bio 0 1 1 service-time 0 2 0 % %")
    ->Arg(1)
    ->Arg(10);
BENCHMARK_CAPTURE(mapped_layers, historical, "multipath",
                  "2 queue_mode bio 0 1 1 historical-service-time 0 2 0 % %")
    ->Arg(1)
    ->Arg(10);
// Reads that a snapshot sends to its origin, and writes to an origin that nobody has to keep.
BENCHMARK_CAPTURE(mapped_layers, snapshot, "snapshot", "% /dev/store N 16")->Arg(1)->Arg(10);
BENCHMARK_CAPTURE(mapped_layers, snapshot_origin, "snapshot-origin", "%")->Arg(1)->Arg(10);

// Memory: an origin, and stores that are as large.
class memory_source final : public stack::source_opener {
 public:
  explicit memory_source(std::uint64_t size_bytes) : size_bytes_(size_bytes) {}
  task<base::outcome<block::opened_device>> open(std::string source, bool) override {
    auto& d = devices_[source];
    if (!d) d = *store::memory_device::make(size_bytes_);
    co_return block::opened_device{d, {254, static_cast<std::uint32_t>(source.back()) * 16}};
  }

 private:
  const std::uint64_t size_bytes_;
  std::map<std::string, std::shared_ptr<block::block_device>> devices_;
};

// An origin with a snapshot, both behind their mapped devices.
class snapshot_pair {
 public:
  explicit snapshot_pair(const std::string& store) {
    make("s", "snapshot", "/dev/a /dev/b " + store);
    make("o", "snapshot-origin", "/dev/a");
  }
  ~snapshot_pair() { runtime_->run_until(manager_.remove_all(false)); }
  snapshot_pair(const snapshot_pair&) = delete;
  snapshot_pair& operator=(const snapshot_pair&) = delete;
  std::shared_ptr<block::block_device> open(const char* name) {
    return (*manager_.open({name, {}, {}})).device;
  }

 private:
  void make(const std::string& name, const std::string& type, const std::string& args) {
    (void)manager_.create(name, "", {});
    const auto loaded =
        runtime_->run_until(manager_.load({name, {}, {}}, {{0, sectors, type, args}}, false));
    const auto resumed = runtime_->run_until(manager_.resume({name, {}, {}}, {}));
    if (loaded && resumed) return;
    std::fprintf(stderr, "engine_bench: no %s\n", type.c_str());
    std::exit(1);
  }
  static constexpr std::uint64_t sectors = std::uint64_t{1} << 22;
  std::unique_ptr<rt::runtime> runtime_ = start_runtime();
  rt::reactor::scope here_{runtime_->at(0)};
  memory_source sources_{(sectors + (sectors >> 4)) * 512};
  stack::device_manager manager_{*runtime_, sources_};
};

task<void> write_ahead(benchmark::State& state, block::block_device& top, std::uint64_t step) {
  std::vector<std::byte> bytes(4096);
  const iovec one{bytes.data(), bytes.size()};
  std::uint64_t offset = 0;
  for (auto _ : state) {
    const result<void> done = co_await block::write(top, offset, segments(&one, 1), io_opts{});
    if (!done) state.SkipWithError("a write failed");
    offset += step;
  }
}

// 4 KiB each, to a chunk that has no exception yet: written whole, or copied before.
void snapshot_first_write(benchmark::State& state, const char* store, const char* device) {
  snapshot_pair devices(store);
  const std::uint64_t chunk_bytes = 512u * static_cast<unsigned>(state.range(0));
  const auto top = devices.open(device);
  rt::spawn(write_ahead(state, *top, chunk_bytes));
}
BENCHMARK_CAPTURE(snapshot_first_write, persistent, "P 8", "s")->Arg(8)->Iterations(40'000);
BENCHMARK_CAPTURE(snapshot_first_write, persistent_copied, "P 16", "s")
    ->Arg(16)
    ->Iterations(40'000);
BENCHMARK_CAPTURE(snapshot_first_write, transient, "N 8", "s")->Arg(8)->Iterations(40'000);
BENCHMARK_CAPTURE(snapshot_first_write, of_the_origin, "P 8", "o")->Arg(8)->Iterations(40'000);

// Written again: routed.
void snapshot_next_write(benchmark::State& state) {
  snapshot_pair devices("P 8");
  const auto top = devices.open("s");
  rt::spawn(write_ahead(state, *top, 0));
}
BENCHMARK(snapshot_next_write);

}  // namespace
}  // namespace lbd::bench

BENCHMARK_MAIN();
