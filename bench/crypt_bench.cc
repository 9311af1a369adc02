// SPDX-License-Identifier: MIT
// How fast a crypt device is over memory that fits into the cache. bench/crypt runs this beside
// `openssl speed`.
//
// usage: crypt_bench [--reactors N] [--from N] [--depth N] [--request BYTES] [--sector BYTES]
//                    [--seconds S] [--options "WORD..."]
//
// `--from` reactors send requests, each `--depth` at a time; the others are there to help. Prints a
// line for reads and one for writes: MB per second, and MB per second of CPU time.
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "block/device.h"
#include "rt/buffer_pool.h"
#include "stack/device_manager.h"
#include "store/memory/memory.h"

namespace lbd::bench {
namespace {

using block::io_opts;
using rt::task;

constexpr uint64_t bytes_a_look = uint64_t{1} << 20;  // between looks at the clock
constexpr char key[] =
    "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
    "202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f";

struct options {
  unsigned reactors = 1, from = 1, depth = 1, sector = 512;
  uint64_t request_bytes = 4096;
  double seconds = 1;
  std::string words;  // more of the table line's options

  // Of one of the requests that are in flight at once.
  uint64_t area_bytes() const { return std::max<uint64_t>(request_bytes, 65536 / depth); }
};

double seconds_of(clockid_t clock) {
  timespec t{};
  clock_gettime(clock, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) / 1e9;
}

[[noreturn]] void fail(const std::string& text) {
  std::fprintf(stderr, "crypt_bench: %s\n", text.c_str());
  std::exit(1);
}

class one_disk final : public stack::source_opener {
 public:
  explicit one_disk(uint64_t bytes) : disk_(*store::memory_device::make(bytes)) {}
  task<base::outcome<block::opened_device>> open(std::string, bool) override {
    co_return block::opened_device{disk_, {254, 0}, "vda"};
  }

 private:
  std::shared_ptr<block::block_device> disk_;
};

struct load {
  block::block_device& device;
  bool writes;
  const options& how;
};

// Requests one after the other to a part of the device that nobody else uses; their bytes.
task<uint64_t> one_after_the_other(load l, uint64_t part) {
  const uint64_t n = l.how.request_bytes, area = l.how.area_bytes(), begin = part * area;
  rt::buffer buffer(n);
  const iovec v{buffer.data(), n};
  const rt::segments data(&v, 1);
  const double end = seconds_of(CLOCK_MONOTONIC) + l.how.seconds;
  uint64_t done = 0;
  while (seconds_of(CLOCK_MONOTONIC) < end)
    for (uint64_t look = 0; look < bytes_a_look; look += n * l.how.depth) {
      const uint64_t at = begin + done % area;
      base::result<void> r;
      if (l.writes)
        r = co_await block::write(l.device, at, data, io_opts{});
      else
        r = co_await block::read(l.device, at, data, io_opts{});
      if (!r) fail("a request failed");
      done += n;
    }
  co_return done;
}

task<uint64_t> sum_of(std::vector<task<uint64_t>> tasks) {
  const std::vector<uint64_t> all = co_await rt::when_all(std::move(tasks));
  uint64_t sum = 0;
  for (const uint64_t one : all) sum += one;
  co_return sum;
}

task<uint64_t> from_one_reactor(load l, unsigned index) {
  std::vector<task<uint64_t>> all;
  for (unsigned i = 0; i < l.how.depth; ++i)
    all.push_back(one_after_the_other(l, index * l.how.depth + i));
  return sum_of(std::move(all));
}

task<uint64_t> on_reactor(rt::reactor& where, load l) {
  auto there = [&where, l] { return from_one_reactor(l, where.index()); };
  co_return co_await rt::call_on(where, there);
}

task<uint64_t> from_all(rt::runtime& runtime, load l) {
  std::vector<task<uint64_t>> all;
  for (unsigned i = 0; i < l.how.from; ++i) all.push_back(on_reactor(runtime.at(i), l));
  return sum_of(std::move(all));
}

void measure(rt::runtime& runtime, load l) {
  const double begin = seconds_of(CLOCK_MONOTONIC), cpu = seconds_of(CLOCK_PROCESS_CPUTIME_ID);
  const auto mb = static_cast<double>(runtime.run_until(from_all(runtime, l))) / 1e6;
  std::printf("%s %.0f %.0f\n", l.writes ? "write" : "read",
              mb / (seconds_of(CLOCK_MONOTONIC) - begin),
              mb / (seconds_of(CLOCK_PROCESS_CPUTIME_ID) - cpu));
}

void run(const options& o) {
  auto runtime = *rt::runtime::start({.reactors = o.reactors});
  rt::reactor::scope here(runtime->at(0));
  const uint64_t bytes = o.from * o.depth * o.area_bytes();
  one_disk disk(bytes);
  stack::device_manager manager(*runtime, disk);
  const stack::device_key d{"d", {}, {}};
  (void)manager.create("d", "", {});
  std::string words = o.words;
  if (o.sector != 512) words += " sector_size:" + std::to_string(o.sector);
  const auto count = std::count(words.begin(), words.end(), ' ');
  const std::string args =
      std::string("aes-xts-plain64 ") + key + " 0 /dev/vda 0 " + std::to_string(count) + words;
  const auto loaded = runtime->run_until(manager.load(d, {{0, bytes / 512, "crypt", args}}, false));
  if (!loaded) fail(loaded.error().message);
  if (!runtime->run_until(manager.resume(d, {}))) fail("the device does not resume");
  {
    const auto opened = manager.open(d);
    for (const bool writes : {true, false}) measure(*runtime, {*(*opened).device, writes, o});
  }
  (void)runtime->run_until(manager.remove(d, false));
}

options parse(int argc, char** argv) {
  options o;
  for (int i = 1; i < argc; i += 2) {
    const std::string_view name = argv[i];
    if (i + 1 == argc) fail("no value for " + std::string(name));
    const char* value = argv[i + 1];
    const auto number = static_cast<unsigned>(std::strtoul(value, nullptr, 10));
    if (name == "--reactors")
      o.reactors = number;
    else if (name == "--from")
      o.from = number;
    else if (name == "--depth")
      o.depth = number;
    else if (name == "--request")
      o.request_bytes = number;
    else if (name == "--sector")
      o.sector = number;
    else if (name == "--seconds")
      o.seconds = std::strtod(value, nullptr);
    else if (name == "--options")
      o.words = std::string(" ") + value;
    else
      fail("unknown option " + std::string(name));
  }
  if (o.reactors == 0 || o.from == 0 || o.from > o.reactors || o.depth == 0 || o.request_bytes == 0)
    fail("a number that cannot be");
  return o;
}

}  // namespace
}  // namespace lbd::bench

int main(int argc, char** argv) {
  lbd::bench::run(lbd::bench::parse(argc, argv));
  return 0;
}
