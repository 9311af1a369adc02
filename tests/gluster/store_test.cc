// SPDX-License-Identifier: MIT
// The store over a library of our own that fails, delays, reorders, holds and loses as told.
#include "store/gluster/gluster.h"

#include <dlfcn.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <random>
#include <thread>

#include "base/log.h"
#include "fake_gfapi.h"
#include "store/gluster/unsynced.h"
#include "store/gluster/volume.h"
#include "store/qcow2/change_file.h"

namespace lbd::store {
namespace {

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

const controls& fake() {
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

uri::gluster_source source(const std::string& text) {
  auto s = uri::parse_gluster(text);
  EXPECT_TRUE(s) << text;
  return *s;
}

std::string content(const char* volume, const char* path) {
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

INSTANTIATE_TEST_SUITE_P(all, gluster_store,
                         testing::Values(rt::backend::threads, rt::backend::automatic),
                         [](const auto& p) {
                           return p.param == rt::backend::threads ? "threads" : "automatic";
                         });

task<result<void>> write(gluster_device& d, uint64_t offset, std::string bytes,
                         uint32_t flags = 0) {
  const iovec v{bytes.data(), bytes.size()};
  block::io_opts io;
  io.flags = flags;
  co_return co_await d.write(offset, rt::segments(&v, 1), io);
}
task<std::string> read(gluster_device& d, uint64_t offset, size_t length) {
  std::string out(length, '?');
  const iovec v{out.data(), out.size()};
  const auto done = co_await d.read(offset, rt::segments(&v, 1), {});
  if (!done) co_return "error " + std::to_string(static_cast<int>(done.error().code));
  co_return out;
}

// ---- Opening

TEST_P(gluster_store, what_makes_writes_safe_is_set_before_init) {
  const auto d = open();
  EXPECT_TRUE(fake().had_option("*-write-behind", "pass-through", "true"));
  const auto behind = open("gluster://h/v/a?write-behind=on");
  EXPECT_TRUE(fake().had_option("*-write-behind", "resync-failed-syncs-after-fsync", "on"));
}

TEST_P(gluster_store, several_servers_are_asked_in_order) {
  const auto d = open("gluster://a/v/a?server=[::1]:7&server=c");
  EXPECT_STREQ(fake().servers(), "tcp a:24007, tcp ::1:7, tcp c:24007");
  put("w", "a", 512);
  const auto e = open("gluster+unix:///w/a?socket=/run/g.sock");
  EXPECT_STREQ(fake().servers(), "unix /run/g.sock:0");
}

task<std::vector<device_ptr>> open_many(rt::runtime& rt, std::vector<std::string> texts) {
  std::vector<task<outcome<device_ptr>>> tasks;
  for (const auto& t : texts) tasks.push_back(gluster_device::open(rt, source(t), true));
  std::vector<device_ptr> out;
  for (auto& d : co_await rt::when_all(std::move(tasks)))
    if (d) out.push_back(*std::move(d));
  co_return out;
}

TEST_P(gluster_store, one_connection_per_volume_and_servers) {
  put("v", "b", 512);
  put("w", "a", 512);
  fake().rule("init delay 20");
  const auto all = rt_->run_until(open_many(
      *rt_, {"gluster://h/v/a", "gluster://h/v/b", "gluster://h/w/a", "gluster://other/v/a",
             "gluster://h:24007/v/b?loglevel=1", "gluster://h/v/a"}));
  EXPECT_EQ(all.size(), 6u);
  EXPECT_EQ(fake().count("init"), 3u);
}

TEST_P(gluster_store, errors_of_opening_name_the_image) {
  const auto text = [this](const char* uri) {
    auto d = rt_->run_until(gluster_device::open(*rt_, source(uri), true));
    return d ? std::string("opened") : d.error().message;
  };
  EXPECT_THAT(text("gluster://h/v/none"), HasSubstr("'gluster://h:24007/v/none': No such file"));
  fake().rule("open fail 13 times 1");
  EXPECT_THAT(text("gluster://h/v/a"), HasSubstr("Permission denied"));
  fake().rule("fstat fail 5 times 1");
  EXPECT_THAT(text("gluster://h/v/a"), HasSubstr("Input/output error"));
  for (const char* call : {"new", "set_volfile_server", "set_logging", "set_xlator_option"}) {
    fake().rule((std::string(call) + " fail 12 times 1").c_str());
    EXPECT_THAT(text("gluster://other/v/a"), HasSubstr("Cannot allocate memory")) << call;
  }
  fake().rule("init fail 107 times 1");
  EXPECT_THAT(text("gluster://dead/v/a?server=dead2"),
              HasSubstr("'v' on dead:24007, dead2:24007: Transport endpoint is not connected"));
  EXPECT_EQ(text("gluster://dead/v/a?server=dead2"), "opened");
}

TEST_P(gluster_store, servers_that_say_nothing_hold_up_nobody_else) {
  put("w", "a", 512);
  fake().rule("init hold times 1");
  auto hung =
      rt_->run_until(gluster_device::open(*rt_, source("gluster://dead/v/a?timeout=1"), true));
  ASSERT_FALSE(hung);
  EXPECT_EQ(hung.error().code, errc::timed_out);
  EXPECT_THAT(hung.error().message, HasSubstr("no answer in 1 s"));
  EXPECT_NE(open("gluster://h/w/a"), nullptr);
  fake().release();
}

// ---- Data

// Random requests against a plain copy, on a library that answers late, in no order, inside the
// call, and short.
class model_run {
 public:
  model_run(gluster_device& d, uint64_t seed) : device_(d), random_(seed), model_(size, '\0') {}

  task<std::string> run(unsigned count) {
    for (unsigned i = 0; i < count; ++i) {
      const uint64_t offset = random_() % size;
      const uint64_t length = 1 + random_() % std::min<uint64_t>(size - offset, 70000);
      const std::string wrong = co_await step(offset, length);
      if (!wrong.empty()) co_return "step " + std::to_string(i) + ": " + wrong;
    }
    co_return co_await compare(0, size);
  }
  const std::string& model() const { return model_; }

 private:
  static constexpr uint64_t size = 1 << 20;

  task<std::string> compare(uint64_t offset, uint64_t length) {
    const std::string got = co_await read(device_, offset, length);
    if (got != model_.substr(offset, length)) co_return "wrong bytes";
    co_return "";
  }
  task<std::string> step(uint64_t offset, uint64_t length) {
    block::io_opts io;
    if (random_() % 8 == 0) io.flags = block::io_fua;
    const unsigned what = random_() % 8;
    result<void> done;
    if (what < 3) {
      const std::string bytes(length, static_cast<char>('a' + random_() % 26));
      done = co_await write(device_, offset, bytes, io.flags);
      model_.replace(offset, length, bytes);
    } else if (what == 3) {
      done = co_await device_.discard(offset, length, io);
      model_.replace(offset, length, length, '\0');
    } else if (what == 4) {
      if (random_() % 2 == 0) io.flags |= block::io_no_unmap;
      done = co_await device_.write_zeroes(offset, length, io);
      model_.replace(offset, length, length, '\0');
    } else if (what == 5) {
      done = co_await device_.flush({});
    } else if (what == 6) {
      co_return co_await extents(offset, length);
    } else {
      co_return co_await compare(offset, length);
    }
    if (!done) co_return "error " + std::to_string(static_cast<int>(done.error().code));
    co_return "";
  }
  task<std::string> extents(uint64_t offset, uint64_t length) {
    block::extent_list list;
    const auto done = co_await device_.extents(offset, length, list, {});
    if (!done || list.total_bytes() == 0) co_return "no extents";
    uint64_t at = offset;
    for (const auto& e : list.runs()) {
      const bool zeros = model_.substr(at, e.length_bytes) == std::string(e.length_bytes, '\0');
      if (e.zero && !zeros) co_return "data in a hole";
      at += e.length_bytes;
    }
    co_return at <= offset + length ? std::string() : "too long";
  }

  gluster_device& device_;
  std::mt19937_64 random_;
  std::string model_;
};

TEST_P(gluster_store, agrees_with_a_plain_copy) {
  for (const char* rule :
       {"io delay 0", "io inline", "io delay 1", "preadv short 1000", "pwritev short 700"}) {
    put("v", "a", 1 << 20);
    fake().clear_rules();
    fake().rule(rule);
    fake().reorder(1);
    const auto d = open();
    model_run run(*d, 7);
    EXPECT_EQ(rt_->run_until(run.run(80)), "") << rule;
    EXPECT_EQ(content("v", "a"), run.model());
  }
}

TEST_P(gluster_store, reads_with_a_deadline_bring_the_same) {
  const auto d = open("gluster://h/v/a?timeout=60");
  model_run run(*d, 8);
  EXPECT_EQ(rt_->run_until(run.run(80)), "");
}

TEST_P(gluster_store, operations_are_the_librarys) {
  const auto d = open();
  ASSERT_TRUE(rt_->run_until(write(*d, 0, std::string(4096, 'x'))));
  EXPECT_EQ(fake().count("pwritev"), 1u);
  EXPECT_EQ(fake().count("fdatasync"), 0u);
  ASSERT_TRUE(rt_->run_until(write(*d, 0, std::string(4096, 'x'), block::io_fua)));
  EXPECT_EQ(fake().count("fdatasync"), 1u);
  ASSERT_TRUE(rt_->run_until(d->discard(0, 4096, {})));
  EXPECT_EQ(fake().count("discard"), 1u);
  block::io_opts keep;
  keep.flags = block::io_no_unmap;
  ASSERT_TRUE(rt_->run_until(d->write_zeroes(0, 4096, keep)));
  EXPECT_EQ(fake().count("zerofill"), 1u);
  ASSERT_TRUE(rt_->run_until(d->flush({})));
  EXPECT_EQ(fake().count("fdatasync"), 2u);
  ASSERT_TRUE(rt_->run_until(d->file().resize(2 << 20)));
  EXPECT_EQ(content("v", "a").size(), 2u << 20);
  EXPECT_EQ(d->file().info().size_bytes, 2u << 20);
}

TEST_P(gluster_store, every_calls_error_is_told_and_forgotten) {
  const auto d = open();
  block::io_opts keep;
  keep.flags = block::io_no_unmap;
  for (const char* how : {" fail 28 times 1", " refuse 28 times 1", " keep 28 times 1"}) {
    const auto with = [how](const char* call) {
      fake().clear_rules();
      fake().rule((std::string(call) + how).c_str());
    };
    with("preadv");
    EXPECT_EQ(rt_->run_until(read(*d, 0, 512)), "error 28");
    with("pwritev");
    EXPECT_EQ(code_of(rt_->run_until(write(*d, 0, "x"))), errc::nospc);
    with("discard");
    EXPECT_EQ(code_of(rt_->run_until(d->discard(0, 512, {}))), errc::nospc);
    with("zerofill");
    EXPECT_EQ(code_of(rt_->run_until(d->write_zeroes(0, 512, keep))), errc::nospc);
    with("ftruncate");
    EXPECT_EQ(code_of(rt_->run_until(d->file().resize(1 << 20))), errc::nospc);
    EXPECT_TRUE(rt_->run_until(write(*d, 0, "x")));
    with("fdatasync");
    EXPECT_EQ(code_of(rt_->run_until(d->flush({}))), errc::nospc);
    EXPECT_TRUE(rt_->run_until(d->flush({})));
    EXPECT_EQ(rt_->run_until(read(*d, 0, 1)), "x");
  }
  fake().rule("lseek fail 5 times 1");
  block::extent_list list;
  EXPECT_EQ(code_of(rt_->run_until(d->extents(0, 512, list, {}))), errc::io);
}

TEST_P(gluster_store, what_servers_cannot_do_is_done_otherwise) {
  fake().rule("discard fail 95");
  fake().rule("zerofill fail 95");
  fake().rule("lseek fail 22");
  const auto d = open();
  model_run run(*d, 9);
  EXPECT_TRUE(rt_->run_until(write(*d, 0, std::string(8192, 'x'))));
  EXPECT_TRUE(rt_->run_until(d->discard(0, 4096, {})));
  EXPECT_TRUE(rt_->run_until(d->write_zeroes(0, 4096, {})));
  EXPECT_EQ(rt_->run_until(read(*d, 0, 8192)), std::string(4096, '\0') + std::string(4096, 'x'));
  block::extent_list list;
  ASSERT_TRUE(rt_->run_until(d->extents(0, 4096, list, {})));
  EXPECT_EQ(list.runs().front(), (block::extent{4096, false, false}));
}

// ---- Bounds

task<unsigned> read_many(gluster_device& d, unsigned count) {
  std::vector<task<std::string>> tasks;
  for (unsigned i = 0; i < count; ++i) tasks.push_back(read(d, uint64_t{i} * 512, 512));
  unsigned good = 0;
  for (const auto& s : co_await rt::when_all(std::move(tasks)))
    good += s == std::string(512, '\0') ? 1 : 0;
  co_return good;
}
task<unsigned> read_many_everywhere(rt::runtime& rt, gluster_device& d, unsigned count) {
  unsigned good = 0;
  for (unsigned i = 0; i < rt.reactor_count(); ++i) {
    auto work = [&d, count] { return read_many(d, count); };
    good += co_await rt::call_on(rt.at(i), work);
  }
  co_return good;
}

TEST_P(gluster_store, the_library_gets_a_bounded_number_of_requests) {
  fake().rule("io delay 5");
  const auto d = open();
  EXPECT_EQ(rt_->run_until(read_many_everywhere(*rt_, *d, 1000)), 2000u);
  EXPECT_LE(fake().most_in_flight(), gluster_bounds::requests_per_reactor);
  EXPECT_GT(fake().most_in_flight(), gluster_bounds::requests_per_reactor / 4);
}

task<bool> write_much(gluster_device& d, unsigned mebibytes) {
  for (unsigned i = 0; i < mebibytes; ++i) {
    const std::string bytes(1 << 20, static_cast<char>('a' + i % 26));
    const auto done = co_await write(d, 0, bytes);
    if (!done) co_return false;
  }
  co_return true;
}

TEST_P(gluster_store, unsynced_writes_are_synced_before_their_copies_are_many) {
  const auto d = open();
  EXPECT_TRUE(rt_->run_until(write_much(*d, 200)));
  EXPECT_GE(fake().count("fdatasync"), 3u);
}

TEST_P(gluster_store, closing_waits_for_a_sync_that_began_by_itself) {
  fake().rule("fdatasync delay 300");
  auto d = open();
  EXPECT_TRUE(rt_->run_until(write_much(*d, 20)));
  EXPECT_EQ(fake().count("fdatasync"), 1u);
  rt_->run_until(d->close());
  EXPECT_EQ(fake().count("close"), 1u);
  d.reset();
  rt_.reset();
  EXPECT_EQ(fake().count("fdatasync"), 1u);
}

// ---- Failing servers

TEST_P(gluster_store, a_failed_sync_is_made_good_by_the_next) {
  const auto d = open();
  ASSERT_TRUE(rt_->run_until(write(*d, 0, std::string(1000, 'a'))));
  ASSERT_TRUE(rt_->run_until(write(*d, 500, std::string(1000, 'b'))));
  ASSERT_TRUE(rt_->run_until(write(*d, 250, std::string(500, 'c'))));
  ASSERT_TRUE(rt_->run_until(d->write_zeroes(300, 100, {})));
  fake().rule("fdatasync fail 107 times 2");
  EXPECT_EQ(code_of(rt_->run_until(d->flush({}))), errc::not_connected);
  fake().crash();
  EXPECT_EQ(content("v", "a").substr(0, 2000), std::string(2000, '\0'));
  EXPECT_EQ(code_of(rt_->run_until(d->flush({}))), errc::not_connected);
  fake().crash();
  EXPECT_TRUE(rt_->run_until(d->flush({})));
  fake().crash();
  const std::string wanted = std::string(250, 'a') + std::string(50, 'c') + std::string(100, '\0') +
                             std::string(350, 'c') + std::string(750, 'b') + std::string(500, '\0');
  EXPECT_EQ(content("v", "a").substr(0, 2000), wanted);
}

TEST_P(gluster_store, writing_again_never_shows_old_bytes) {
  const auto d = open();
  ASSERT_TRUE(rt_->run_until(write(*d, 0, std::string(4096, '1'))));
  ASSERT_TRUE(rt_->run_until(write(*d, 1024, std::string(1024, '2'))));
  ASSERT_TRUE(rt_->run_until(write(*d, 0, std::string(4096, '3'))));
  fake().rule("fdatasync fail 107 times 1");
  EXPECT_FALSE(rt_->run_until(d->flush({})));
  // The servers go away again after the first write.
  fake().rule("pwritev fail 107 skip 1");
  (void)rt_->run_until(d->flush({}));
  EXPECT_EQ(rt_->run_until(read(*d, 0, 4096)), std::string(4096, '3'));
}

TEST_P(gluster_store, what_servers_lost_before_a_request_failed_is_written_again) {
  const auto d = open();
  for (const char* rule : {"pwritev fail 107 times 1", "preadv fail 107 times 1",
                           "pwritev fail 5 times 1", "pwritev fail 30 times 1"}) {
    ASSERT_TRUE(rt_->run_until(write(*d, 0, rule)));
    fake().crash();
    fake().rule(rule);
    (void)rt_->run_until(write(*d, 4096, "B"));
    (void)rt_->run_until(read(*d, 0, 1));
    fake().clear_rules();
    ASSERT_TRUE(rt_->run_until(write(*d, 4096, "B")));
    ASSERT_TRUE(rt_->run_until(d->flush({})));
    fake().crash();
    EXPECT_EQ(content("v", "a").substr(0, std::strlen(rule)), rule);
    EXPECT_EQ(content("v", "a").substr(4096, 1), "B");
  }
}

TEST_P(gluster_store, writes_fail_when_no_sync_makes_room_for_their_copies) {
  const auto d = open();
  fake().rule("fdatasync fail 5");
  EXPECT_FALSE(rt_->run_until(write_much(*d, 200)));
  EXPECT_FALSE(rt_->run_until(d->discard(0, 4096, {})));
  fake().clear_rules();
  EXPECT_TRUE(rt_->run_until(write(*d, 0, "x")));
  EXPECT_TRUE(rt_->run_until(d->flush({})));
}

TEST_P(gluster_store, a_fua_write_whose_sync_fails_fails) {
  const auto d = open();
  fake().rule("fdatasync fail 5 times 1");
  EXPECT_EQ(code_of(rt_->run_until(write(*d, 0, "x", block::io_fua))), errc::io);
  EXPECT_TRUE(rt_->run_until(write(*d, 0, "y", block::io_fua)));
}

TEST_P(gluster_store, a_sync_fails_as_long_as_its_changes_cannot_be_written_again) {
  const auto d = open();
  ASSERT_TRUE(rt_->run_until(write(*d, 0, "abc")));
  fake().rule("fdatasync fail 107 times 1");
  EXPECT_FALSE(rt_->run_until(d->flush({})));
  fake().crash();
  fake().rule("pwritev fail 28 times 1");
  EXPECT_EQ(code_of(rt_->run_until(d->flush({}))), errc::nospc);
  EXPECT_TRUE(rt_->run_until(d->flush({})));
  EXPECT_EQ(content("v", "a").substr(0, 3), "abc");
}

// Writes from both reactors while syncs fail and the servers forget; nothing that a good sync
// covered may be missing.
struct writer_state {
  std::vector<char> last;  // per block
  bool failed = false;
};
task<bool> write_blocks(gluster_device& d, writer_state& s, unsigned first, unsigned rounds) {
  uint64_t draw = first;
  for (unsigned i = 0; i < rounds; ++i) {
    draw = draw * 6364136223846793005u + 1442695040888963407u;
    const unsigned block = first + static_cast<unsigned>((draw >> 40) % 32) * 2;
    const char c = static_cast<char>('a' + i % 26);
    const auto done = co_await write(d, uint64_t{block} * 4096, std::string(4096, c));
    if (done) s.last[block] = c;
    if (!done) s.failed = true;
  }
  co_return true;
}
task<unsigned> flush_often(gluster_device& d, unsigned rounds) {
  unsigned good = 0;
  for (unsigned i = 0; i < rounds; ++i) {
    const auto done = co_await d.flush({});
    if (done) ++good;
    co_await rt::sleep_for(std::chrono::microseconds(500));
  }
  co_return good;
}
task<unsigned> write_on_both(rt::runtime& rt, gluster_device& d, writer_state& s) {
  struct here {
    static task<unsigned> even(rt::runtime& rt, gluster_device& d, writer_state& s) {
      auto work = [&d, &s] { return write_blocks(d, s, 0, 300); };
      (void)co_await rt::call_on(rt.at(0), work);
      co_return 0u;
    }
    static task<unsigned> odd(rt::runtime& rt, gluster_device& d, writer_state& s) {
      auto work = [&d, &s] { return write_blocks(d, s, 1, 300); };
      (void)co_await rt::call_on(rt.at(1), work);
      co_return 0u;
    }
  };
  std::vector<task<unsigned>> all;
  all.push_back(here::even(rt, d, s));
  all.push_back(here::odd(rt, d, s));
  all.push_back(flush_often(d, 60));
  unsigned good = 0;
  for (unsigned n : co_await rt::when_all(std::move(all))) good += n;
  co_return good;
}

TEST_P(gluster_store, nothing_answered_is_lost_when_syncs_fail_under_load) {
  const auto d = open();
  fake().reorder(1);
  for (int i = 0; i < 15; ++i)
    fake().rule(("fdatasync fail 107 times 1 skip " + std::to_string(i)).c_str());
  writer_state s;
  s.last.assign(64, '\0');
  (void)rt_->run_until(write_on_both(*rt_, *d, s));
  EXPECT_FALSE(s.failed);
  fake().clear_rules();
  fake().rule("fdatasync fail 107 times 1");
  ASSERT_TRUE(rt_->run_until(write(*d, 1 << 19, "x")));
  EXPECT_FALSE(rt_->run_until(d->flush({})));
  fake().crash();
  ASSERT_TRUE(rt_->run_until(d->flush({})));
  fake().crash();
  const std::string bytes = content("v", "a");
  for (unsigned b = 0; b < 64; ++b)
    EXPECT_EQ(bytes.substr(b * 4096, 4096), std::string(4096, s.last[b])) << b;
}

TEST_P(gluster_store, servers_go_and_come_back) {
  const auto d = open();
  ASSERT_TRUE(rt_->run_until(write(*d, 0, "before")));
  fake().rule("io fail 107");
  EXPECT_EQ(code_of(rt_->run_until(write(*d, 0, "during"))), errc::not_connected);
  EXPECT_EQ(rt_->run_until(read(*d, 0, 6)), "error 107");
  EXPECT_FALSE(rt_->run_until(d->flush({})));
  fake().clear_rules();
  EXPECT_EQ(rt_->run_until(read(*d, 0, 6)), "before");
  EXPECT_TRUE(rt_->run_until(d->flush({})));
  EXPECT_TRUE(rt_->run_until(write(*d, 0, "after!")));
}

// ---- Hanging servers

TEST_P(gluster_store, a_hanging_volume_fails_only_its_own_devices) {
  put("w", "a", 4096);
  const auto hung = open("gluster://h/v/a?timeout=1");
  const auto well = open("gluster://h/w/a");
  fake().rule("pwritev hold times 1");
  EXPECT_EQ(code_of(rt_->run_until(write(*hung, 0, "late"))), errc::timed_out);
  // What was given up may still arrive: nothing newer overtakes it.
  EXPECT_EQ(code_of(rt_->run_until(write(*hung, 0, "newer"))), errc::timed_out);
  EXPECT_EQ(code_of(rt_->run_until(hung->flush({}))), errc::ok);  // nothing was answered
  EXPECT_TRUE(rt_->run_until(write(*well, 0, "quick")));
  EXPECT_EQ(rt_->run_until(read(*hung, 0, 1)), std::string(1, '\0'));
  fake().release();
  for (int i = 0; i < 2000 && !rt_->run_until(write(*hung, 0, "newer")); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_EQ(content("v", "a").substr(0, 5), "newer");
}

TEST_P(gluster_store, a_read_that_was_given_up_touches_nobodys_memory) {
  auto d = open("gluster://h/v/a?timeout=1");
  ASSERT_TRUE(rt_->run_until(write(*d, 0, std::string(4096, 'x'))));
  fake().rule("preadv hold times 1");
  EXPECT_EQ(rt_->run_until(read(*d, 0, 4096)), "error 110");  // its memory is freed here
  fake().release();
  EXPECT_EQ(rt_->run_until(read(*d, 0, 4096)), std::string(4096, 'x'));
}

TEST_P(gluster_store, a_sync_that_was_given_up_is_made_good) {
  const auto d = open("gluster://h/v/a?timeout=1");
  ASSERT_TRUE(rt_->run_until(write(*d, 0, "abc")));
  fake().rule("fdatasync hold times 1");
  EXPECT_EQ(code_of(rt_->run_until(d->flush({}))), errc::timed_out);
  fake().crash();
  fake().release();
  for (int i = 0; i < 2000 && !rt_->run_until(d->flush({})); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_EQ(content("v", "a").substr(0, 3), "abc");
}

TEST_P(gluster_store, answers_come_after_the_device_and_the_runtime_are_gone) {
  auto d = open("gluster://h/v/a?timeout=1");
  fake().rule("io hold");
  EXPECT_EQ(rt_->run_until(read(*d, 0, 512)), "error 110");
  EXPECT_EQ(code_of(rt_->run_until(write(*d, 0, "late"))), errc::timed_out);
  d.reset();
  rt_.reset();
  EXPECT_EQ(fake().count("close"), 0u);  // the library still works on it
  fake().release();
  for (int i = 0; i < 5000 && fake().count("fini") == 0; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_EQ(fake().count("close"), 1u);
  EXPECT_EQ(fake().count("fini"), 1u);
}

TEST_P(gluster_store, closing_does_not_wait_for_the_librarys_end) {
  fake().rule("fini delay 3000");
  const auto begin = std::chrono::steady_clock::now();
  auto d = open();
  ASSERT_TRUE(rt_->run_until(write(*d, 0, "x")));
  rt_->run_until(d->close());
  EXPECT_EQ(fake().count("close"), 1u);
  d.reset();
  rt_.reset();
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::milliseconds(2000));
}

// ---- Change files

task<outcome<std::unique_ptr<change_file>>> make_change_file(rt::runtime& rt) {
  rt::open_options how;
  how.writable = how.create = how.exclusive = true;
  CO_TRY(auto file, co_await open_gluster_file(rt, source("gluster://h/v/top"), how));
  opened_gluster_file files(std::move(file));
  new_change_file what;
  what.size_bytes = 1 << 20;
  co_return co_await change_file::create(files, "top", what);
}

task<result<void>> put_cluster(change_file& file, uint64_t offset, char c) {
  CO_TRY(const block::allocation a, co_await file.allocate(offset, 65536));
  const std::string bytes(65536, c);
  const iovec v{const_cast<char*>(bytes.data()), bytes.size()};
  const auto written = co_await file.data_device().write(a.device_offset, rt::segments(&v, 1), {});
  if (!written) {
    file.abandon(a);
    co_return written;
  }
  co_return co_await file.publish(a);
}

TEST_P(gluster_store, a_change_file_works_again_when_the_servers_do) {
  auto made = rt_->run_until(make_change_file(*rt_));
  ASSERT_TRUE(made) << made.error().message;
  change_file& file = **made;
  ASSERT_TRUE(rt_->run_until(put_cluster(file, 0, 'a')));
  for (const char* rule : {"fdatasync fail 107 times 1", "pwritev fail 107 times 1",
                           "fdatasync fail 5 times 1 skip 1", "pwritev fail 5 times 1 skip 1"}) {
    ASSERT_TRUE(rt_->run_until(put_cluster(file, 65536, 'b')));
    fake().rule(rule);
    (void)rt_->run_until(file.flush({}));
    fake().clear_rules();
    ASSERT_TRUE(rt_->run_until(file.flush({}))) << rule;
  }
  ASSERT_TRUE(rt_->run_until(put_cluster(file, 131072, 'c')));
  fake().rule("io fail 107");
  EXPECT_FALSE(rt_->run_until(put_cluster(file, 196608, 'd')));
  EXPECT_FALSE(rt_->run_until(file.flush({})));
  fake().clear_rules();
  ASSERT_TRUE(rt_->run_until(file.flush({})));
  fake().crash();
  ASSERT_TRUE(rt_->run_until(file.close()));
  fake().crash();
  made->reset();
  // As the servers have it now.
  const std::string bytes = content("v", "top");
  const std::string path = testing::TempDir() + "/lbd-gluster-" + std::to_string(::getpid());
  std::ofstream(path, std::ios::binary) << bytes;
  auto again = rt_->run_until(change_file::open(rt::os_files(), path, {}));
  ASSERT_TRUE(again) << again.error().message;
  std::string got(262144, '?');
  const iovec v{got.data(), got.size()};
  ASSERT_TRUE(rt_->run_until((*again)->read(0, rt::segments(&v, 1), {})));
  EXPECT_EQ(got, std::string(65536, 'a') + std::string(65536, 'b') + std::string(65536, 'c') +
                     std::string(65536, '\0'));
  again->reset();
  ::unlink(path.c_str());
}

// ---- Images at rest

TEST_P(gluster_store, images_are_made_listed_and_removed) {
  rt::open_options make;
  make.writable = make.create = make.exclusive = true;
  {
    auto made = rt_->run_until(open_gluster_file(*rt_, source("gluster://h/v/new"), make));
    ASSERT_TRUE(made) << made.error().message;
    ASSERT_TRUE(rt_->run_until((*made)->resize(12288)));
  }
  auto again = rt_->run_until(open_gluster_file(*rt_, source("gluster://h/v/new"), make));
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().code, errc::exist);
  const auto status = rt_->run_until(gluster_image_status(*rt_, source("gluster://h/v/new")));
  ASSERT_TRUE(status);
  EXPECT_EQ(status->size_bytes, 12288u);
  const auto folder = uri::parse_gluster("gluster://h/v", uri::gluster_path::folder);
  const auto listed = rt_->run_until(list_gluster_folder(*rt_, *folder));
  ASSERT_TRUE(listed);
  ASSERT_EQ(listed->size(), 2u);
  EXPECT_EQ(listed->at(1).name, "new");
  EXPECT_EQ(listed->at(1).size_bytes, 12288u);
  EXPECT_TRUE(rt_->run_until(remove_gluster_image(*rt_, source("gluster://h/v/new"))));
  const auto gone = rt_->run_until(remove_gluster_image(*rt_, source("gluster://h/v/new")));
  ASSERT_FALSE(gone);
  EXPECT_THAT(gone.error().message, HasSubstr("cannot remove 'gluster://h:24007/v/new': No such"));
}

}  // namespace
}  // namespace lbd::store
