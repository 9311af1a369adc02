// SPDX-License-Identifier: MIT
// The store over a library of our own that fails, delays, reorders, holds and loses as told: what
// its tests share.
#pragma once

#include "store/gluster/gluster.h"

#include <dlfcn.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "base/log.h"
#include "fake_gfapi.h"
#include "store/gluster/volume.h"

namespace lbd::store {

using base::errc;
using base::outcome;
using base::result;
using rt::task;
using testing::HasSubstr;

using device_ptr = std::unique_ptr<gluster_device>;

// The fake's controls.
struct controls {
  decltype(&fake_reset) reset;
  decltype(&fake_rule) rule;
  decltype(&fake_clear_rules) clear_rules;
  decltype(&fake_release) release;
  decltype(&fake_reorder) reorder;
  decltype(&fake_crash) crash;
  decltype(&fake_forget_locks) forget_locks;
  decltype(&fake_locks) locks;
  decltype(&fake_put) put;
  decltype(&fake_get) get;
  decltype(&fake_count) count;
  decltype(&fake_most_in_flight) most_in_flight;
  decltype(&fake_connections) connections;
  decltype(&fake_had_option) had_option;
  decltype(&fake_servers) servers;
};

template <class F>
void find(void* library, F& f, const char* name) {
  f = reinterpret_cast<F>(::dlsym(library, name));
  ASSERT_NE(f, nullptr) << name;
}

inline const controls& fake() {
  static const controls c = [] {
    controls out{};
    void* library = ::dlopen(LBD_FAKE_GFAPI, RTLD_NOW | RTLD_LOCAL);
    EXPECT_NE(library, nullptr);
    find(library, out.reset, "fake_reset");
    find(library, out.rule, "fake_rule");
    find(library, out.clear_rules, "fake_clear_rules");
    find(library, out.release, "fake_release");
    find(library, out.reorder, "fake_reorder");
    find(library, out.crash, "fake_crash");
    find(library, out.forget_locks, "fake_forget_locks");
    find(library, out.locks, "fake_locks");
    find(library, out.put, "fake_put");
    find(library, out.get, "fake_get");
    find(library, out.count, "fake_count");
    find(library, out.most_in_flight, "fake_most_in_flight");
    find(library, out.connections, "fake_connections");
    find(library, out.had_option, "fake_had_option");
    find(library, out.servers, "fake_servers");
    return out;
  }();
  return c;
}

inline uri::gluster_source source(const std::string& text) {
  auto s = uri::parse_gluster(text);
  EXPECT_TRUE(s) << text;
  return *s;
}

inline std::string content(const char* volume, const char* path) {
  const int64_t size = fake().get(volume, path, nullptr, 0);
  if (size < 0) return "(missing)";
  std::string out(static_cast<size_t>(size), '?');
  fake().get(volume, path, out.data(), out.size());
  return out;
}

// Drops a line of the log that a test provokes.
class gluster_store : public testing::TestWithParam<rt::backend> {
 protected:
  void SetUp() override {
    ::setenv("LBD_GFAPI", LBD_FAKE_GFAPI, 1);
    base::set_log_level(base::log_level::off);
    fake().reset();
    put("v", "a", 1 << 20);
    start(2);
  }
  // Connections end in the background: the next test counts only its own calls.
  void TearDown() override {
    fake().clear_rules();
    rt_.reset();
    for (int i = 0; i < 10'000 && fake().connections() != 0; ++i) {
      fake().release();
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    EXPECT_EQ(fake().connections(), 0u);
  }

  void start(unsigned reactors) {
    auto rt = rt::runtime::start({.reactors = reactors, .how = GetParam()});
    ASSERT_TRUE(rt);
    rt_ = *std::move(rt);
  }
  static void put(const char* volume, const char* path, size_t length) {
    const std::string zeros(length, '\0');
    fake().put(volume, path, zeros.data(), zeros.size());
  }
  device_ptr open(const std::string& text = "gluster://h/v/a", bool writable = true) {
    auto d = rt_->run_until(gluster_device::open(*rt_, source(text), writable));
    EXPECT_TRUE(d) << d.error().message;
    return d ? *std::move(d) : nullptr;
  }

  std::unique_ptr<rt::runtime> rt_;
};

inline task<result<void>> write(gluster_device& d, uint64_t offset, std::string bytes,
                                uint32_t flags = 0) {
  const iovec v{bytes.data(), bytes.size()};
  block::io_opts io;
  io.flags = flags;
  co_return co_await d.write(offset, rt::segments(&v, 1), io);
}
inline task<std::string> read(gluster_device& d, uint64_t offset, size_t length) {
  std::string out(length, '?');
  const iovec v{out.data(), out.size()};
  const auto done = co_await d.read(offset, rt::segments(&v, 1), {});
  if (!done) co_return "error " + std::to_string(static_cast<int>(done.error().code));
  co_return out;
}
inline task<bool> write_much(gluster_device& d, unsigned mebibytes) {
  for (unsigned i = 0; i < mebibytes; ++i) {
    const std::string bytes(1 << 20, static_cast<char>('a' + i % 26));
    const auto done = co_await write(d, 0, bytes);
    if (!done) co_return false;
  }
  co_return true;
}

inline task<bool> renew_locks(rt::runtime& rt) {
  rt.shared<gluster_volumes>().renew_locks();
  co_return true;
}

inline bool comes_true(const std::function<bool()>& what) {
  for (int i = 0; i < 5000 && !what(); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  return what();
}

}  // namespace lbd::store
