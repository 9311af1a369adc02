// SPDX-License-Identifier: MIT
// For the tests of the server: a server in a thread of its own, and a client that sends what it is
// told and checks every byte that comes back.
#pragma once

#include <gtest/gtest.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "export/device_test.h"
#include "export/nbd/server.h"
#include "export/waiting_test.h"
#include "wire/nbd/handshake.h"
#include "wire/nbd/transmission.h"

namespace lbd::nbd_server {

using base::errc;
using base::result;
using export_tests::pattern;
using export_tests::test_device;
using export_tests::wait_until;
using rt::task;

// A server and its reactors; run() executes work on reactor 0.
class served {
 public:
  explicit served(server_options options = {}, rt::runtime_options how = {.reactors = 2}) {
    char folder[] = "/tmp/lbd-nbd-server-XXXXXX";
    folder_ = ::mkdtemp(folder);
    auto made = rt::runtime::start(how);
    if (!made) std::abort();
    rt_ = *std::move(made);
    thread_ = std::thread([this, options] { rt_->run_until(loop(options)); });
    while (server_ == nullptr) std::this_thread::yield();
  }
  ~served() {
    stop();
    quit_ = true;
    thread_.join();
    rt_.reset();
    ::unlink(path().c_str());
    ::rmdir(folder_.c_str());
  }

  std::string path() const { return folder_ + "/s"; }
  uint16_t port() const { return port_; }
  rt::runtime& runtime() { return *rt_; }

  void run(std::function<task<void>(server&)> work) {
    std::atomic<bool> done{false};
    {
      std::lock_guard lock(mutex_);
      jobs_.push_back(
          [&done, work = std::move(work)](server& s) { return run_one(work, s, done); });
    }
    while (!done) std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
  void add(test_device& d, std::string name = "disk", bool read_only = false) {
    run([&](server& s) { return add_one(s, {name, "a disk", &d, read_only}); });
  }
  void listen() {
    run([this](server& s) { return listen_both(s, path(), port_); });
  }
  server_info info() {
    server_info i;
    run([&i](server& s) { return ask(s, i); });
    return i;
  }
  void stop() {
    run([this](server& s) { return stop_one(s, stopped_); });
  }

 private:
  using job = std::function<task<void>(server&)>;
  static task<void> run_one(job work, server& s, std::atomic<bool>& done) {
    co_await work(s);
    done = true;
  }
  static task<void> add_one(server& s, export_options o) {
    const auto r = s.add_export(std::move(o));
    EXPECT_TRUE(r) << r.error().message;
    co_return;
  }
  static task<void> listen_both(server& s, std::string path, std::atomic<uint16_t>& port) {
    const auto at = rt::socket_address::unix_path(path);
    const auto r = s.listen(*at);
    EXPECT_TRUE(r) << r.error().message;
    const auto tcp = rt::socket_address::resolve("127.0.0.1", "0", true);
    const auto bound = s.listen(tcp->front());
    EXPECT_TRUE(bound);
    sockaddr_in in{};
    std::memcpy(&in, bound->get(), sizeof in);
    port = ntohs(in.sin_port);
    co_return;
  }
  static task<void> ask(server& s, server_info& i) {
    i = s.info();
    co_return;
  }
  static task<void> stop_one(server& s, bool& stopped) {
    if (std::exchange(stopped, true)) co_return;
    const auto r = co_await s.stop();
    EXPECT_TRUE(r);
  }
  task<void> loop(server_options options) {
    server s(*rt_, options);
    server_ = &s;
    while (!quit_) {
      job next;
      {
        std::lock_guard lock(mutex_);
        if (!jobs_.empty()) {
          next = std::move(jobs_.front());
          jobs_.pop_front();
        }
      }
      // Not awaited: work may wait for other work.
      if (next) rt::spawn(keep(std::move(next), s));
      co_await rt::sleep_for(std::chrono::microseconds(300));
    }
  }
  static task<void> keep(job next, server& s) { co_await next(s); }

  std::string folder_;
  std::unique_ptr<rt::runtime> rt_;
  std::thread thread_;
  std::atomic<server*> server_{nullptr};
  std::atomic<uint16_t> port_{0};
  std::atomic<bool> quit_{false};
  bool stopped_ = false;
  std::mutex mutex_;
  std::deque<job> jobs_;
};

// What came back for one request.
struct answer {
  nbd::wire_error error = nbd::wire_error::none;
  std::vector<std::byte> data;  // of a read, holes filled with zeros
  std::vector<nbd::extent> extents;
  unsigned chunks = 0, holes = 0;
  bool structured = false;
};

// A blocking client. A receive that takes ten seconds, or an end of the stream, throws `closed`.
class client {
 public:
  struct closed {};

  explicit client(const std::string& path) {
    const auto a = rt::socket_address::unix_path(path);
    open(AF_UNIX, a->get(), a->bytes);
  }
  explicit client(uint16_t port) {
    const auto a = rt::socket_address::resolve("127.0.0.1", std::to_string(port), false);
    open(AF_INET, a->front().get(), a->front().bytes);
  }
  ~client() { close(); }
  client(const client&) = delete;
  client& operator=(const client&) = delete;
  void close() {
    if (fd_ >= 0) ::close(std::exchange(fd_, -1));
  }
  int fd() const { return fd_; }

  void send(base::bytes_view b) {
    while (!b.empty()) {
      const ssize_t n = ::send(fd_, b.data(), b.size(), MSG_NOSIGNAL);
      if (n <= 0) throw closed{};
      b = b.subspan(static_cast<size_t>(n));
    }
  }
  std::vector<std::byte> receive(size_t bytes) {
    std::vector<std::byte> out(bytes);
    for (size_t at = 0; at < bytes;) {
      pollfd p{fd_, POLLIN, 0};
      if (::poll(&p, 1, 10'000) != 1) throw closed{};
      const ssize_t n = ::recv(fd_, out.data() + at, bytes - at, 0);
      if (n <= 0) throw closed{};
      at += static_cast<size_t>(n);
    }
    return out;
  }
  bool readable(int wait_ms) {
    pollfd p{fd_, POLLIN, 0};
    return ::poll(&p, 1, wait_ms) == 1;
  }
  // Whether the server has closed the connection and nothing is left to read.
  bool at_end(int wait_ms = 10'000) {
    std::byte b;
    return readable(wait_ms) && ::recv(fd_, &b, 1, 0) <= 0;
  }

  void greet(uint32_t flags = 3) {
    receive(nbd::newstyle_greeting_bytes);
    nbd::byte_buffer out;
    nbd::append_client_flags(out, flags);
    send(out);
  }
  struct option_answer {
    nbd::option_reply_header header;
    std::vector<std::byte> data;
  };
  option_answer option_reply() {
    option_answer a;
    a.header = *nbd::decode_option_reply_header(receive(nbd::option_reply_header_bytes));
    a.data = receive(a.header.length);
    return a;
  }
  // Sends an option and returns the last reply to it.
  option_answer ask(nbd::option o, base::bytes_view data = {}) {
    nbd::byte_buffer out;
    nbd::append_option(out, o, data);
    send(out);
    for (;;) {
      option_answer a = option_reply();
      if (a.header.type == nbd::option_reply::info) {
        infos_.push_back(a.data);
        info.push_back(*nbd::parse_info_reply(infos_.back()));
      }
      if (a.header.type == nbd::option_reply::ack || nbd::is_error(a.header.type)) return a;
    }
  }
  // The whole handshake; false when GO was refused.
  bool go(const std::string& name, bool structured = false, bool status = false) {
    greet();
    if (structured) ask(nbd::option::structured_reply);
    if (status) {
      nbd::byte_buffer out;
      const std::string_view query = nbd::base_allocation;
      nbd::append_meta_context_option(out, nbd::option::set_meta_context, name,
                                      std::span(&query, 1));
      send(out);
      while (option_reply().header.type == nbd::option_reply::meta_context) {
      }
    }
    nbd::byte_buffer data;
    nbd::append_info_option(data, nbd::option::go, name, {});
    return ask(nbd::option::go, base::bytes_view(data).subspan(nbd::option_header_bytes))
               .header.type == nbd::option_reply::ack;
  }
  std::vector<nbd::info_reply> info;

  void request(nbd::command c, uint64_t cookie, uint64_t offset, uint32_t length,
               uint16_t flags = 0, base::bytes_view payload = {}) {
    std::byte head[nbd::request_bytes];
    nbd::encode_request(head, {c, flags, cookie, offset, length});
    std::vector<std::byte> out(head, head + sizeof head);
    out.insert(out.end(), payload.begin(), payload.end());
    send(out);
  }
  // The next reply; `reads` tells the offset and length if the cookie is a read's.
  struct read_range {
    uint64_t offset = 0;
    uint32_t length = 0;
  };
  std::pair<uint64_t, answer> reply(std::function<read_range(uint64_t)> reads) {
    auto head = receive(nbd::simple_reply_bytes);
    if (base::load_big<uint32_t>(head, 0) == nbd::simple_reply_magic) {
      const auto r = nbd::decode_simple_reply(
          nbd::const_bytes<nbd::simple_reply_bytes>(head.data(), head.size()));
      answer a;
      a.error = r.error;
      if (a.error == nbd::wire_error::none) a.data = receive(reads(r.cookie).length);
      return {r.cookie, std::move(a)};
    }
    return chunks(std::move(head), reads);
  }
  // One request, one reply.
  answer call(nbd::command c, uint64_t offset, uint32_t length, uint16_t flags = 0,
              base::bytes_view payload = {}) {
    const uint64_t cookie = ++cookie_;
    request(c, cookie, offset, length, flags, payload);
    auto got = reply([&](uint64_t) {
      return read_range{offset, c == nbd::command::read ? length : 0};
    });
    EXPECT_EQ(got.first, cookie);
    return std::move(got.second);
  }

 private:
  void open(int family, const sockaddr* to, socklen_t bytes) {
    fd_ = ::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (::connect(fd_, to, bytes) != 0) throw closed{};
    const int on = 1;
    if (family != AF_UNIX) ::setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  }
  std::pair<uint64_t, answer> chunks(std::vector<std::byte> head,
                                     const std::function<read_range(uint64_t)>& reads) {
    answer a;
    a.structured = true;
    for (;;) {
      if (base::load_big<uint32_t>(head, 0) != nbd::structured_reply_magic) throw closed{};
      const auto rest = receive(nbd::chunk_header_bytes - head.size());
      head.insert(head.end(), rest.begin(), rest.end());
      const auto h = nbd::decode_chunk_header(
          nbd::const_bytes<nbd::chunk_header_bytes>(head.data(), nbd::chunk_header_bytes));
      const auto body = receive(h.length);
      ++a.chunks;
      take_chunk(a, h, body, reads(h.cookie));
      if ((h.flags & nbd::chunk_flag_done) != 0) return {h.cookie, std::move(a)};
      head = receive(nbd::simple_reply_bytes);
    }
  }
  static void take_chunk(answer& a, const nbd::chunk_header& h, base::bytes_view body,
                         read_range range) {
    if (a.data.size() < range.length) a.data.resize(range.length, std::byte{0xee});
    if (h.type == nbd::chunk_type::offset_data) {
      const uint64_t at = base::load_big<uint64_t>(body, 0) - range.offset;
      ASSERT_LE(at + body.size() - 8, a.data.size());
      std::memcpy(a.data.data() + at, body.data() + 8, body.size() - 8);
    } else if (h.type == nbd::chunk_type::offset_hole) {
      ++a.holes;
      const uint64_t at = base::load_big<uint64_t>(body, 0) - range.offset;
      ASSERT_LE(at + base::load_big<uint32_t>(body, 8), a.data.size());
      std::memset(a.data.data() + at, 0, base::load_big<uint32_t>(body, 8));
    } else if (h.type == nbd::chunk_type::block_status) {
      EXPECT_NE(base::load_big<uint32_t>(body, 0), 0u);
      for (size_t i = 4; i < body.size(); i += nbd::extent_bytes)
        a.extents.push_back(
            {base::load_big<uint32_t>(body, i), base::load_big<uint32_t>(body, i + 4)});
    } else if (nbd::is_error(h.type)) {
      a.error = static_cast<nbd::wire_error>(base::load_big<uint32_t>(body, 0));
    }
  }

  int fd_ = -1;
  uint64_t cookie_ = 0;
  std::deque<std::vector<std::byte>> infos_;  // what `info` points into
};

}  // namespace lbd::nbd_server
