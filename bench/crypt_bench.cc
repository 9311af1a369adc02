// SPDX-License-Identifier: MIT
// What the crypt target adds to its cipher: 4 KiB requests through a device over memory that fits
// into the cache, per second of CPU. docs/performance.md has it beside `openssl speed`.
//
// usage: crypt_bench [SECONDS]
#include <time.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "block/segments.h"
#include "rt/sync.h"
#include "stack/device_manager.h"
#include "store/memory/memory.h"

namespace lbd::bench {
namespace {

using block::io_opts;
using rt::task;

constexpr uint64_t request_bytes = 4096;
constexpr uint64_t area_bytes = 64 * 1024;  // of each reactor: stays in its cache
constexpr uint64_t requests_a_look = 256;   // between looks at the clock
constexpr char key[] =
    "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
    "202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f";

double seconds_of(clockid_t clock) {
  timespec t{};
  clock_gettime(clock, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) / 1e9;
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
  double seconds;
};

struct done {
  uint64_t bytes = 0;
  double cpu_seconds = 0;
};

// Requests one after the other in this reactor's own part of the device.
task<done> one_reactor(load l) {
  std::vector<std::byte> buffer(request_bytes);
  const iovec v{buffer.data(), buffer.size()};
  const rt::segments data(&v, 1);
  const uint64_t base = rt::reactor::current().index() * area_bytes;
  const double end = seconds_of(CLOCK_MONOTONIC) + l.seconds;
  const double cpu = seconds_of(CLOCK_THREAD_CPUTIME_ID);
  done d;
  while (seconds_of(CLOCK_MONOTONIC) < end) {
    for (uint64_t i = 0; i < requests_a_look; ++i) {
      const uint64_t at = base + i * request_bytes % area_bytes;
      base::result<void> r;
      if (l.writes)
        r = co_await block::write(l.device, at, data, io_opts{});
      else
        r = co_await block::read(l.device, at, data, io_opts{});
      if (!r) std::abort();
    }
    d.bytes += requests_a_look * request_bytes;
  }
  d.cpu_seconds = seconds_of(CLOCK_THREAD_CPUTIME_ID) - cpu;
  co_return d;
}

task<done> on_reactor(rt::reactor& where, load l) {
  auto there = [l] { return one_reactor(l); };
  co_return co_await rt::call_on(where, there);
}

task<std::vector<done>> on_all(rt::runtime& runtime, unsigned reactors, load l) {
  std::vector<task<done>> all;
  for (unsigned i = 0; i < reactors; ++i) all.push_back(on_reactor(runtime.at(i), l));
  co_return co_await rt::when_all(std::move(all));
}

void measure(unsigned reactors, const char* sector_option, double seconds) {
  auto runtime = *rt::runtime::start({.reactors = reactors});
  rt::reactor::scope here(runtime->at(0));
  one_disk disk(reactors * area_bytes);
  stack::device_manager manager(*runtime, disk);
  const stack::device_key d{"d", {}, {}};
  (void)manager.create("d", "", {});
  const std::string args = std::string("aes-xts-plain64 ") + key + " 0 /dev/vda 0" + sector_option;
  const uint64_t sectors = reactors * area_bytes / 512;
  if (!runtime->run_until(manager.load(d, {{0, sectors, "crypt", args}}, false)) ||
      !runtime->run_until(manager.resume(d, {})))
    std::abort();
  {
    const auto opened = manager.open(d);
    for (const bool writes : {false, true}) {
      const double begin = seconds_of(CLOCK_MONOTONIC);
      const auto results =
          runtime->run_until(on_all(*runtime, reactors, {*(*opened).device, writes, seconds}));
      const double elapsed = seconds_of(CLOCK_MONOTONIC) - begin;
      done sum;
      for (const done& r : results) sum = {sum.bytes + r.bytes, sum.cpu_seconds + r.cpu_seconds};
      const auto mb = static_cast<double>(sum.bytes) / 1e6;
      printf("crypt %s reactors=%u sector=%s MB_per_cpu_second=%.0f MB_per_second=%.0f\n",
             writes ? "write" : "read", reactors, *sector_option != '\0' ? "4096" : "512",
             mb / sum.cpu_seconds, mb / elapsed);
    }
  }
  (void)runtime->run_until(manager.remove(d, false));
}

}  // namespace
}  // namespace lbd::bench

int main(int argc, char** argv) {
  const double seconds = argc > 1 ? std::atof(argv[1]) : 1;
  const unsigned all = std::max(1u, std::thread::hardware_concurrency());
  for (const unsigned reactors : {1u, all})
    for (const char* sector : {"", " 1 sector_size:4096"})
      lbd::bench::measure(reactors, sector, seconds);
  return 0;
}
