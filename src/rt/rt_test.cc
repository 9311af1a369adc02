// SPDX-License-Identifier: MIT
// Every test runs on both back ends of the operating system.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <string>
#include <thread>

#include "rt/buffer_pool.h"
#include "rt/file.h"
#include "rt/gate.h"
#include "rt/runtime.h"
#include "rt/socket.h"
#include "rt/uring.h"
#include "rt/waiting_room.h"

namespace lbd::rt {
namespace {

using base::result;

class rt_backends : public testing::TestWithParam<backend> {
 protected:
  void SetUp() override {
    if (GetParam() == backend::uring && !uring_available()) GTEST_SKIP() << "io_uring is refused";
    auto r = runtime::start({.reactors = 3, .how = GetParam()});
    ASSERT_TRUE(r) << r.error().message;
    rt_ = *std::move(r);
  }
  std::unique_ptr<runtime> rt_;
};

INSTANTIATE_TEST_SUITE_P(all, rt_backends, testing::Values(backend::uring, backend::threads),
                         [](const auto& i) {
                           return i.param == backend::uring ? "uring" : "threads";
                         });

task<int> deep(int n) {
  if (n == 0) co_return 0;
  co_return 1 + co_await deep(n - 1);
}
task<int> many_synchronous_awaits(int n) {
  int sum = 0;
  for (int i = 0; i < n; ++i) sum += co_await deep(0) + 1;
  co_return sum;
}

TEST_P(rt_backends, a_long_loop_of_synchronous_awaits_needs_no_stack) {
  EXPECT_EQ(rt_->run_until(many_synchronous_awaits(2'000'000)), 2'000'000);
  EXPECT_EQ(rt_->run_until(deep(1000)), 1000);
}

task<uint64_t> sleeper(uint64_t ns) {
  const uint64_t start = reactor::current().now_ns();
  co_await sleep_for(std::chrono::nanoseconds(ns));
  co_return reactor::current().now_ns() - start;
}

task<std::string> timers_of_one_moment() {
  struct numbered : timer {
    char name = ' ';
    std::string* fired = nullptr;
  };
  std::string fired;
  std::array<numbered, 8> timers;
  const uint64_t due_ns = reactor::current().now_ns() + 1'000'000;
  for (const size_t i : {5u, 0u, 7u, 2u, 4u, 1u, 6u, 3u}) {
    timers[i].name = static_cast<char>('0' + i);
    timers[i].fired = &fired;
    timers[i].run = [](timer& t) {
      const auto& n = static_cast<numbered&>(t);
      *n.fired += n.name;
    };
    reactor::current().start_timer(timers[i], due_ns);
  }
  reactor::current().start_timer(timers[0], due_ns);  // again: now the last
  reactor::current().stop_timer(timers[7]);
  co_await sleep_until(due_ns + 1'000'000);
  co_return fired;
}

TEST_P(rt_backends, timers_of_one_moment_fire_in_the_order_of_their_start) {
  EXPECT_EQ(rt_->run_until(timers_of_one_moment()), "5241630");
}

TEST_P(rt_backends, timers_fire_and_not_early) {
  EXPECT_GE(rt_->run_until(sleeper(3'000'000)), 3'000'000u);
}

task<unsigned> where() { co_return reactor::current().index(); }
task<unsigned> hop(runtime& rt, unsigned to) {
  auto work = [] { return where(); };
  const unsigned there = co_await call_on(rt.at(to), work);
  co_return there * 10 + reactor::current().index();
}

TEST_P(rt_backends, calls_run_on_the_other_reactor_and_come_back) {
  EXPECT_EQ(rt_->run_until(hop(*rt_, 2)), 20u);
  EXPECT_EQ(rt_->run_until(hop(*rt_, 0)), 0u);
  for (int i = 0; i < 2000; ++i) ASSERT_EQ(rt_->run_until(hop(*rt_, 1)), 10u);
}

task<bool> tell_to(reactor& where, std::string& log, char name) {
  tell(where, [&log, name] { log += name + std::to_string(reactor::current().index()); });
  co_return true;
}
task<std::string> tell_from_elsewhere(runtime& rt) {
  std::string told;  // reactor 0's
  for (char c = 'a'; c < 'e'; ++c) {
    auto there = [&] { return tell_to(rt.at(0), told, c); };
    co_await call_on(rt.at(1), there);
  }
  co_return told;
}

TEST_P(rt_backends, what_one_reactor_tells_another_is_done_there_in_order) {
  EXPECT_EQ(rt_->run_until(tell_from_elsewhere(*rt_)), "a0b0c0d0");
}

// All in the last turn of a reactor.
task<bool> tell_at_the_end(std::shared_ptr<int> kept, cancel_token& token) {
  cancel_token::watcher w;
  EXPECT_TRUE(token.watch(w));
  token.cancel();
  token.unwatch(w);
  tell(reactor::current(), [kept] { ++*kept; });
  reactor::current().stop();
  co_return true;
}
task<bool> tell_at_the_end_of(reactor& where, std::shared_ptr<int> kept, cancel_token& token) {
  auto there = [&] { return tell_at_the_end(kept, token); };
  co_return co_await call_on(where, there);
}

TEST_P(rt_backends, what_is_told_too_late_is_destroyed_with_the_runtime) {
  const auto kept = std::make_shared<int>(0);
  for (const unsigned where : {2u, 0u}) {
    cancel_token token;
    EXPECT_TRUE(rt_->run_until(tell_at_the_end_of(rt_->at(where), kept, token)));
  }
  EXPECT_GT(kept.use_count(), 1);
  rt_.reset();
  EXPECT_EQ(kept.use_count(), 1);
  EXPECT_EQ(*kept, 0);
}

std::string temp_path() {
  std::string name = "/tmp/lbd-rt-test-XXXXXX";
  const int fd = ::mkstemp(name.data());
  EXPECT_GE(fd, 0);
  ::close(fd);
  return name;
}

task<result<std::string>> file_round_trip(std::string path) {
  auto opened = open_file(path, {.writable = true});
  if (!opened) co_return base::io_error{opened.error().code};
  file& f = **opened;
  const std::string text = "layered block devices";
  CO_CHECK(co_await f.write_all(8192, base::as_bytes(text)));
  CO_CHECK(co_await f.sync_data());
  CO_CHECK(co_await f.resize(16384));
  std::string back(text.size(), '?');
  CO_CHECK(co_await f.read_all(8192, std::as_writable_bytes(std::span(back))));
  std::string past(10, '?');
  CO_CHECK(co_await f.read_all(16380, std::as_writable_bytes(std::span(past))));
  if (past != std::string(10, '\0')) co_return base::io_error{base::errc::io, 1};
  if (f.info().size_bytes != 16384) co_return base::io_error{base::errc::io, 2};
  co_return back;
}

TEST_P(rt_backends, files_round_trip) {
  const std::string path = temp_path();
  const auto r = rt_->run_until(file_round_trip(path));
  ASSERT_TRUE(r) << base::to_string(r.error().code) << r.error().detail;
  EXPECT_EQ(*r, "layered block devices");
  ::unlink(path.c_str());
}

TEST(file, open_errors_name_the_path_and_the_remedy) {
  const auto r = open_file("/nonexistent/x", {});
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().code, base::errc::noent);
  EXPECT_NE(r.error().message.find("'/nonexistent/x'"), std::string::npos);
}

TEST(file, a_path_does_not_end_at_a_zero_byte) {
  const auto r = open_file(std::string("/etc/passwd\0.img", 16), {});
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().code, base::errc::inval);
  EXPECT_EQ(r.error().message.find('\0'), std::string::npos);
}

TEST(file, a_file_that_cannot_be_made_has_another_remedy) {
  const open_options made{.writable = true, .create = true, .exclusive = true};
  const auto nowhere = open_file("/nonexistent/x", made);
  ASSERT_FALSE(nowhere);
  EXPECT_NE(nowhere.error().message.find("make its folder"), std::string::npos)
      << nowhere.error().message;
  const auto there = open_file("/etc/passwd", made);
  ASSERT_FALSE(there);
  EXPECT_EQ(there.error().code, base::errc::exist);
  EXPECT_NE(there.error().message.find("name that is free"), std::string::npos)
      << there.error().message;
}

TEST(file, tells_the_space_it_takes) {
  const std::string path = temp_path();
  ASSERT_EQ(::truncate(path.c_str(), 1 << 20), 0);
  const auto f = open_file(path, {});
  ASSERT_TRUE(f);
  EXPECT_EQ((*f)->allocated_bytes(), 0u);
  const int fd = ::open(path.c_str(), O_WRONLY);
  EXPECT_EQ(::pwrite(fd, path.data(), path.size(), 0), static_cast<ssize_t>(path.size()));
  ::fsync(fd);
  ::close(fd);
  EXPECT_GT((*f)->allocated_bytes(), 0u);
  EXPECT_LT((*f)->allocated_bytes(), 1u << 20);
  ::unlink(path.c_str());
}

task<result<size_t>> echo_server(socket& listener) {
  auto accepted = co_await listener.accept();
  if (!accepted) co_return accepted.error();
  socket s = *std::move(accepted);
  buffer b(65536);
  size_t total = 0;
  for (;;) {
    CO_TRY(const size_t n, co_await s.recv_some(b.span()));
    if (n == 0) co_return total;
    CO_CHECK(co_await s.send_all(b.first(n)));
    total += n;
  }
}
task<result<size_t>> echo_client(socket_address where_to, size_t bytes) {
  auto connected = co_await socket::connect(where_to);
  if (!connected) co_return connected.error();
  socket s = *std::move(connected);
  buffer out(bytes), in(bytes);
  for (size_t i = 0; i < bytes; ++i) out.data()[i] = static_cast<std::byte>(i * 7);
  CO_CHECK(co_await s.send_all(out.span()));
  CO_CHECK(co_await s.recv_all(in.span()));
  co_return std::equal(in.data(), in.data() + bytes, out.data()) ? bytes : 0;
}
task<std::vector<result<size_t>>> echo_both(socket& l, socket_address a, size_t bytes) {
  std::vector<task<result<size_t>>> both;
  both.push_back(echo_server(l));
  both.push_back(echo_client(a, bytes));
  co_return co_await when_all(std::move(both));
}

TEST_P(rt_backends, sockets_carry_bytes_both_ways) {
  auto resolved = socket_address::resolve("127.0.0.1", "0", true);
  ASSERT_TRUE(resolved);
  const std::string path = temp_path();
  ::unlink(path.c_str());
  for (const auto& address : {resolved->front(), *socket_address::unix_path(path)}) {
    auto l = socket::listen(address);
    ASSERT_TRUE(l) << l.error().message;
    socket_address at = l->local_address();
    const auto r = rt_->run_until(echo_both(*l, at, 60'000));
    ASSERT_TRUE(r[0]) << base::to_string(r[0].error().code);
    ASSERT_TRUE(r[1]);
    EXPECT_EQ(*r[0], 60'000u);
    EXPECT_EQ(*r[1], 60'000u);
  }
  // The socket file of a server that is gone is taken over.
  auto again = socket::listen(*socket_address::unix_path(path));
  EXPECT_TRUE(again);
  auto taken = socket::listen(*socket_address::unix_path(path));
  ASSERT_FALSE(taken);
  EXPECT_EQ(static_cast<int>(taken.error().code), EADDRINUSE);
  ::unlink(path.c_str());
}

TEST(socket, a_file_that_is_no_socket_is_told_as_such) {
  const std::string path = temp_path();
  const auto l = socket::listen(*socket_address::unix_path(path));
  ASSERT_FALSE(l);
  EXPECT_NE(l.error().message.find("no socket"), std::string::npos) << l.error().message;
  ::unlink(path.c_str());
}

TEST(socket, a_listening_file_has_its_mode_from_the_beginning) {
  const std::string path = temp_path();
  ::unlink(path.c_str());
  const mode_t before = ::umask(0);
  const auto l = socket::listen(*socket_address::unix_path(path), 0600);
  ::umask(before);
  ASSERT_TRUE(l) << l.error().message;
  struct stat st {};
  ASSERT_EQ(::stat(path.c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 07777, 0600u);
  ::unlink(path.c_str());
}

TEST(socket, a_file_is_removed_where_it_was_made) {
  char name[] = "/tmp/lbd-rt-test-XXXXXX";
  const std::string folder = ::mkdtemp(name), moved = folder + "-moved", path = folder + "/s";
  const auto at = *socket_address::unix_path(path);
  const auto first = socket::listen(at);
  ASSERT_TRUE(first);
  socket_file file(at);
  ASSERT_EQ(::rename(folder.c_str(), moved.c_str()), 0);
  ASSERT_EQ(::mkdir(folder.c_str(), 0700), 0);
  const auto second = socket::listen(at);
  ASSERT_TRUE(second);
  file.remove();
  EXPECT_EQ(::access((moved + "/s").c_str(), F_OK), -1);
  EXPECT_EQ(::access(path.c_str(), F_OK), 0);
  file.remove();
  socket_file(at).remove();
  EXPECT_EQ(::access(path.c_str(), F_OK), -1);
  ::rmdir(folder.c_str());
  ::rmdir(moved.c_str());
}

task<int64_t> wait_readable(int fd) {
  io_request r;
  r.op = io_op::wait_readable;
  r.fd = fd;
  os_request wait(r);
  co_return co_await wait;
}
task<size_t> many_at_once(int fd, size_t count) {
  std::vector<task<int64_t>> all;
  for (size_t i = 0; i < count; ++i) all.push_back(wait_readable(fd));
  const std::vector<int64_t> results = co_await when_all(std::move(all));
  co_return static_cast<size_t>(
      std::count_if(results.begin(), results.end(), [](int64_t r) { return r >= 0; }));
}

// More than the queues hold, begun in one turn.
// Clients may have taken every descriptor before a reactor's thread comes to run.
TEST(uring, needs_no_descriptor_once_it_is_made) {
#ifdef LBD_SANITIZED
  GTEST_SKIP() << "a sanitizer opens a pipe to look at memory";
#endif
  if (!uring_available()) GTEST_SKIP() << "io_uring is refused";
  auto made = make_uring_reactor(0, {});
  ASSERT_TRUE(made) << made.error().message;
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit none{0, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  reactor::scope here(**made);
  EXPECT_TRUE((*made)->turn(0));
  const auto another = make_uring_reactor(1, {});
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  ASSERT_FALSE(another);
  EXPECT_NE(another.error().message.find("ulimit -n"), std::string::npos);
}

TEST(uring, any_number_of_requests_may_begin_at_once) {
  if (!uring_available()) GTEST_SKIP() << "io_uring is refused";
  auto r = runtime::start({.reactors = 1, .how = backend::uring});
  ASSERT_TRUE(r);
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  ASSERT_EQ(::write(ends[1], "x", 1), 1);
  EXPECT_EQ((*r)->run_until(many_at_once(ends[0], 20'000)), 20'000u);
  ::close(ends[0]);
  ::close(ends[1]);
}

struct cancel_run {
  cancel_token token;
  std::atomic<int> told{0}, elsewhere{0}, registered{0};
};
struct noting_watcher : cancel_token::watcher {
  cancel_run* of = nullptr;
  reactor* home = nullptr;
};
task<bool> watch_and_wait(cancel_run& r) {
  noting_watcher told, gone;
  for (noting_watcher* w : {&told, &gone}) {
    w->of = &r;
    w->home = &reactor::current();
    w->run = [](cancel_token::watcher& me) {
      const auto& n = static_cast<noting_watcher&>(me);
      ++n.of->told;
      if (n.home != &reactor::current()) ++n.of->elsewhere;
    };
    if (!r.token.watch(*w)) co_return false;
  }
  r.token.unwatch(gone);
  r.token.unwatch(gone);
  ++r.registered;
  while (!r.token.canceled()) co_await sleep_for(std::chrono::microseconds(50));
  while (r.told < 3) co_await sleep_for(std::chrono::microseconds(50));
  co_return !r.token.watch(gone);
}
task<bool> cancel_when_all_wait(cancel_run& r) {
  while (r.registered < 3) co_await sleep_for(std::chrono::microseconds(50));
  r.token.cancel();
  r.token.cancel();
  co_return true;
}
template <class Make>
task<bool> run_on(reactor& where, Make& work) {
  co_return co_await call_on(where, work);
}
task<bool> cancel_everywhere(runtime& rt, cancel_run& r) {
  std::vector<task<bool>> all;
  auto work = [&r] { return watch_and_wait(r); };
  for (unsigned i = 0; i < 3; ++i) all.push_back(run_on(rt.at(i), work));
  all.push_back(cancel_when_all_wait(r));
  bool ok = true;
  for (const bool one : co_await when_all(std::move(all))) ok = ok && one;
  co_return ok;
}

TEST_P(rt_backends, a_cancellation_is_told_once_on_every_watchers_reactor) {
  cancel_run r;
  EXPECT_TRUE(rt_->run_until(cancel_everywhere(*rt_, r)));
  EXPECT_EQ(r.told, 3);
  EXPECT_EQ(r.elsewhere, 0);
}

// Registers and goes, all the time, while somebody cancels.
task<bool> come_and_go(cancel_run& r) {
  for (int i = 0; i < 20'000; ++i) {
    noting_watcher w;
    w.of = &r;
    w.run = [](cancel_token::watcher& me) { ++static_cast<noting_watcher&>(me).of->told; };
    if (!r.token.watch(w)) co_return true;
    if (i == 5000) ++r.registered;
    if (i % 16 == 0) co_await yield_now{};
    r.token.unwatch(w);
  }
  co_return false;
}
task<bool> cancel_when_some_wait(cancel_run& r) {
  while (r.registered == 0) co_await yield_now{};
  r.token.cancel();
  co_return true;
}
task<bool> cancel_in_the_middle(runtime& rt, cancel_run& r) {
  std::vector<task<bool>> all;
  auto work = [&r] { return come_and_go(r); };
  for (unsigned i = 1; i < 3; ++i) all.push_back(run_on(rt.at(i), work));
  all.push_back(cancel_when_some_wait(r));
  co_await when_all(std::move(all));
  co_return true;
}

TEST_P(rt_backends, watchers_may_come_and_go_while_a_token_is_canceled) {
  cancel_run r;
  EXPECT_TRUE(rt_->run_until(cancel_in_the_middle(*rt_, r)));
}

task<uint64_t> wait_in(waiting_room& room, uint64_t ns, const cancel_token* cancel) {
  co_await room.until(reactor::current().now_ns() + ns, cancel);
  co_return reactor::current().now_ns();
}
task<bool> leave_room(waiting_room& room, cancel_token& token) {
  co_await sleep_for(std::chrono::milliseconds(5));
  token.cancel();
  co_await sleep_for(std::chrono::milliseconds(5));
  EXPECT_FALSE(room.empty());
  room.release_all();
  co_return true;
}
task<bool> waits_in_a_room() {
  constexpr uint64_t second = 1'000'000'000;
  waiting_room room;
  cancel_token token;
  const uint64_t begin = reactor::current().now_ns();
  std::vector<task<uint64_t>> all;
  all.push_back(wait_in(room, 2'000'000, &token));
  all.push_back(wait_in(room, 100 * second, &token));
  all.push_back(wait_in(room, 50 * second, nullptr));
  spawn([](waiting_room& r, cancel_token& t) -> task<void> { co_await leave_room(r, t); }(room,
                                                                                          token));
  const std::vector<uint64_t> ends = co_await when_all(std::move(all));
  EXPECT_GE(ends[0] - begin, 2'000'000u);
  EXPECT_GE(ends[1] - begin, 5'000'000u);
  EXPECT_LT(ends[1], ends[2]);
  EXPECT_LT(ends[2] - begin, 50 * second);
  const uint64_t after = co_await wait_in(room, 100 * second, &token);
  EXPECT_LT(after - begin, 100 * second) << "a canceled one does not wait at all";
  EXPECT_TRUE(room.empty());
  co_return true;
}

TEST_P(rt_backends, waiting_ends_by_time_by_release_or_by_cancellation) {
  EXPECT_TRUE(rt_->run_until(waits_in_a_room()));
}

struct gate_run {
  explicit gate_run(runtime& rt) : g(rt) {}
  gate g;
  std::atomic<int> inside{0}, served{0};
  std::atomic<bool> closed{false}, violated{false};
};
task<bool> worker(gate_run& r, int rounds) {
  for (int i = 0; i < rounds; ++i) {
    co_await r.g.enter();
    if (r.closed) r.violated = true;
    ++r.inside;
    co_await yield_now{};
    --r.inside;
    ++r.served;
    r.g.leave();
  }
  co_return true;
}
task<bool> closer(runtime& rt, gate_run& r) {
  for (int i = 0; i < 50; ++i) {
    co_await r.g.close();
    r.closed = true;
    if (r.inside != 0) r.violated = true;
    co_await sleep_for(std::chrono::microseconds(100));
    r.closed = false;
    co_await r.g.open();
    co_await sleep_for(std::chrono::microseconds(100));
  }
  (void)rt;
  co_return true;
}
task<bool> worker_on(runtime& rt, unsigned i, gate_run& r) {
  auto work = [&r] { return worker(r, 3000); };
  co_return co_await call_on(rt.at(i), work);
}
task<bool> gate_under_load(runtime& rt, gate_run& r) {
  std::vector<task<bool>> all;
  for (unsigned i = 0; i < rt.reactor_count(); ++i) all.push_back(worker_on(rt, i, r));
  all.push_back(closer(rt, r));
  co_await when_all(std::move(all));
  co_return true;
}

// A listener whose queue is full answers no further connection attempt at all.
task<base::errc> connect_to_a_full_listener(uint64_t limit_ns, const std::atomic<bool>* abandoned) {
  const socket full(::socket(AF_INET, SOCK_STREAM, 0));
  sockaddr_in any{};
  any.sin_family = AF_INET;
  any.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(::bind(full.fd(), reinterpret_cast<sockaddr*>(&any), sizeof any), 0);
  EXPECT_EQ(::listen(full.fd(), 0), 0);
  const socket_address address = full.local_address();
  std::vector<socket> fillers;
  for (int i = 0; i < 4; ++i) {
    fillers.emplace_back(::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
    ::connect(fillers.back().fd(), address.get(), address.bytes);
  }
  const uint64_t due_ns = limit_ns == 0 ? 0 : reactor::current().now_ns() + limit_ns;
  const auto connected = co_await socket::connect(address, due_ns, abandoned);
  EXPECT_GE(reactor::current().now_ns(), due_ns);
  co_return base::code_of(connected);
}

TEST_P(rt_backends, a_connection_attempt_ends_when_its_time_is_over) {
  EXPECT_EQ(rt_->run_until(connect_to_a_full_listener(30'000'000, nullptr)), base::errc::timed_out);
}

TEST_P(rt_backends, a_connection_attempt_ends_when_nobody_wants_it) {
  std::atomic<bool> abandoned{false};
  std::jthread changes_its_mind([&abandoned] {
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    abandoned = true;
  });
  EXPECT_EQ(rt_->run_until(connect_to_a_full_listener(0, &abandoned)), base::errc::canceled);
}

TEST_P(rt_backends, a_closed_gate_is_empty_and_loses_nobody) {
  gate_run r(*rt_);
  rt_->run_until(gate_under_load(*rt_, r));
  EXPECT_FALSE(r.violated);
  EXPECT_EQ(r.served, 9000);
}

task<std::string> range_order(range_lock& locks, std::string& log, char name, uint64_t at,
                              uint64_t bytes) {
  auto held = co_await locks.lock(at, bytes);
  log += name;
  co_await yield_now{};
  co_await yield_now{};
  log += static_cast<char>(name | 0x20);
  co_return log;
}
task<std::string> ranges(std::string& log) {
  range_lock locks;
  std::vector<task<std::string>> all;
  all.push_back(range_order(locks, log, 'A', 0, 100));
  all.push_back(range_order(locks, log, 'B', 50, 100));
  all.push_back(range_order(locks, log, 'C', 200, 10));
  all.push_back(range_order(locks, log, 'D', 120, 10));
  co_await when_all(std::move(all));
  co_return log;
}

TEST_P(rt_backends, range_locks_exclude_overlaps_in_order) {
  std::string log;
  rt_->run_until(ranges(log));
  EXPECT_EQ(log.find('C'), 1u);  // C does not wait for A
  EXPECT_LT(log.find('a'), log.find('B'));
  EXPECT_LT(log.find('b'), log.find('D'));
}

task<bool> semaphore_user(semaphore& s, uint64_t n, int& holders, int& most) {
  co_await s.acquire(n);
  holders += static_cast<int>(n);
  most = std::max(most, holders);
  co_await yield_now{};
  holders -= static_cast<int>(n);
  s.release(n);
  co_return true;
}
task<bool> semaphore_users(int& most) {
  semaphore s(4);
  int holders = 0;
  std::vector<task<bool>> all;
  for (uint64_t i = 0; i < 20; ++i) all.push_back(semaphore_user(s, 1 + i % 4, holders, most));
  co_await when_all(std::move(all));
  co_return s.available() == 4;
}

TEST_P(rt_backends, semaphores_bound_and_return_everything) {
  int most = 0;
  EXPECT_TRUE(rt_->run_until(semaphore_users(most)));
  EXPECT_LE(most, 4);
  EXPECT_GE(most, 3);
}

}  // namespace
}  // namespace lbd::rt
