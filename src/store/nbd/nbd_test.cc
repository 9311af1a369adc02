// SPDX-License-Identifier: MIT
// The NBD store against a scripted server that misbehaves. Every test runs on both back ends.
#include "store/nbd/nbd.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>

#include "block/segments.h"
#include "rt/uring.h"
#include "store/nbd/fake_server.h"

namespace lbd::store {
namespace {

using base::errc;
using testing::HasSubstr;
using testing::Not;
using namespace std::chrono_literals;

constexpr uint64_t ms = 1'000'000;

rt::task<errc> write_task(nbd_device& d, uint64_t offset, std::string text, block::io_opts io) {
  const block::segment_list s(base::as_bytes(text));
  const auto r = co_await d.write(offset, s.view(), io);
  co_return base::code_of(r);
}
rt::task<errc> read_task(nbd_device& d, uint64_t offset, std::string& text) {
  const iovec v{text.data(), text.size()};
  const auto r = co_await d.read(offset, rt::segments(&v, 1), {});
  co_return base::code_of(r);
}
rt::task<errc> flush_task(nbd_device& d) {
  const auto r = co_await d.flush({});
  co_return base::code_of(r);
}

rt::task<void> nap() { co_await rt::sleep_for(10ms); }

class nbd_store : public testing::TestWithParam<rt::backend> {
 protected:
  using script = fake_server::script;

  void SetUp() override {
    if (GetParam() == rt::backend::uring && !rt::uring_available()) GTEST_SKIP();
    auto r = rt::runtime::start({.reactors = 2, .how = GetParam()});
    ASSERT_TRUE(r) << r.error().message;
    rt_ = *std::move(r);
    std::string name = "/tmp/lbd-nbd-store-XXXXXX";
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    folder_ = name;
    disk_.resize(1 << 20);
    for (size_t i = 0; i < disk_.size(); ++i) disk_[i] = static_cast<char>('a' + i / 512 % 26);
  }
  void TearDown() override {
    stop();
    if (!folder_.empty()) std::filesystem::remove_all(folder_);
  }

  // Scripts that use a test's own variables must have ended before those do.
  void stop() {
    if (device_) rt_->run_until(device_->close());
    device_.reset();
    server_.reset();
  }

  void serve(std::vector<script> scripts) {
    server_.reset();
    server_ = std::make_unique<fake_server>(folder_ + "/s", std::move(scripts));
  }
  // A server that serves the disk well.
  script good(fake_export e = {}) {
    return [this, e](conversation& c) {
      c.shake_hands(e);
      c.serve(disk_);
    };
  }
  nbd_options options() {
    nbd_options o;
    o.socket_path = folder_ + "/s";
    o.outage_limit_ns = 3000 * ms;
    o.attempt_limit_ns = 1000 * ms;
    return o;
  }
  base::outcome<void> try_open(nbd_options o) {
    auto r = rt_->run_until(nbd_device::open(*rt_, std::move(o)));
    if (!r) return r.error();
    device_ = std::move(*r);
    return {};
  }
  void open(nbd_options o) {
    const auto r = try_open(std::move(o));
    ASSERT_TRUE(r) << r.error().message;
  }
  std::string read(uint64_t offset, size_t n, errc expected = errc::ok) {
    std::string text(n, '?');
    hand_over();
    EXPECT_EQ(rt_->run_until(read_task(*device_, offset, text)), expected);
    hand_over();
    return text;
  }
  errc write(uint64_t offset, const std::string& text, block::io_opts io = {}) {
    hand_over();
    const errc code = rt_->run_until(write_task(*device_, offset, text, io));
    hand_over();
    return code;
  }
  errc flush() { return rt_->run_until(flush_task(*device_)); }

  std::unique_ptr<rt::runtime> rt_;
  std::string folder_;
  std::string disk_;
  std::unique_ptr<fake_server> server_;
  std::unique_ptr<nbd_device> device_;
};

INSTANTIATE_TEST_SUITE_P(all, nbd_store, testing::Values(rt::backend::uring, rt::backend::threads),
                         [](const auto& i) {
                           return i.param == rt::backend::uring ? "uring" : "threads";
                         });

// ---- Handshake
// --------------------------------------------------------------------------------------

TEST_P(nbd_store, falls_back_to_export_name_where_go_is_unknown) {
  fake_export e;
  e.knows_go = false;
  serve({good(e)});
  open(options());
  EXPECT_STREQ(device_->session().style, "EXPORT_NAME");
  EXPECT_TRUE(device_->session().structured);
  EXPECT_EQ(read(1024, 512), disk_.substr(1024, 512));
}

TEST_P(nbd_store, a_newstyle_server_that_is_not_fixed_gets_only_the_export_name) {
  std::string first_option;
  std::string name;
  serve({[&](conversation& c) {
    c.greet(0);
    first_option = c.next_option(name) == nbd::option::export_name ? "EXPORT_NAME" : "other";
    nbd::byte_buffer out;
    nbd::append_export_name_reply(out, disk_.size(), nbd::transmission_flag::has_flags, false);
    c.send(out);
    const nbd::request r = c.next();
    c.simple(r.cookie);
    c.send(disk_.substr(r.offset, r.length));
    c.next();
  }});
  nbd_options o = options();
  o.export_name = "disk";
  open(o);
  EXPECT_EQ(read(512, 512), disk_.substr(512, 512));
  EXPECT_FALSE(device_->limits().can_discard);
  stop();
  EXPECT_EQ(first_option, "EXPORT_NAME");
  EXPECT_EQ(name, "disk");
}

TEST_P(nbd_store, hostile_handshakes_end_in_a_message) {
  using nbd::option;
  const auto reply = [](uint64_t magic, option to, uint32_t type, uint32_t length) {
    std::string raw(20, '\0');
    const base::bytes_span bytes(reinterpret_cast<std::byte*>(raw.data()), raw.size());
    base::store_big(bytes, 0, magic);
    base::store_big(bytes, 8, static_cast<uint32_t>(to));
    base::store_big(bytes, 12, type);
    base::store_big(bytes, 16, length);
    return raw;
  };
  const auto after_greeting = [](std::string bytes) {
    return [bytes](conversation& c) {
      c.greet();
      std::string data;
      c.next_option(data);
      for (int i = 0; i < 200; ++i) c.send(bytes);
      c.receive(1);
    };
  };
  constexpr uint64_t magic = nbd::option_reply_magic;
  const std::vector<script> scripts = {
      [](conversation&) {},
      [](conversation& c) { c.send("SSH-2.0-OpenSSH_9.2p1 Debian\r\n"); },
      [](conversation& c) { c.send("NBDMAGICNBDMAGIC"); },
      [](conversation& c) { c.send("NBDMAGICIHAVE"); },
      [](conversation& c) { c.greet(); },
      after_greeting(reply(0, option::structured_reply, 1, 0)),
      after_greeting(reply(magic, option::list, 1, 0)),
      after_greeting(reply(magic, option::structured_reply, 2, 0)),
      after_greeting(reply(magic, option::structured_reply, 1, UINT32_MAX)),
      after_greeting(reply(magic, option::structured_reply, 1, 65536)),
  };
  for (size_t i = 0; i < scripts.size(); ++i) {
    serve({scripts[i]});
    const auto r = try_open(options());
    ASSERT_FALSE(r) << i;
    EXPECT_THAT(r.error().message, HasSubstr(folder_)) << i;
  }
}

TEST_P(nbd_store, a_refused_export_is_named) {
  serve({[](conversation& c) {
    c.greet();
    std::string data;
    for (;;) {
      const nbd::option what = c.next_option(data);
      if (!c.ok()) return;
      nbd::byte_buffer out;
      const auto type =
          what == nbd::option::go ? nbd::option_reply::err_unknown : nbd::option_reply::err_unsup;
      nbd::append_error(out, what, type, "no such\x1b[31m thing");
      c.send(out);
    }
  }});
  nbd_options o = options();
  o.export_name = "blue";
  const auto r = try_open(o);
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().code, errc::noent);
  EXPECT_THAT(r.error().message, HasSubstr("'blue'"));
  EXPECT_THAT(r.error().message, HasSubstr("no such?[31m thing"));
  EXPECT_THAT(r.error().message, HasSubstr("name another"));
  EXPECT_THAT(r.error().message, Not(HasSubstr("is it running?")));
}

TEST_P(nbd_store, a_silent_server_takes_no_longer_than_allowed) {
  serve({[](conversation& c) { c.receive(1); }});
  nbd_options o = options();
  o.attempt_limit_ns = 100 * ms;
  const auto start = std::chrono::steady_clock::now();
  EXPECT_FALSE(try_open(o));
  EXPECT_LT(std::chrono::steady_clock::now() - start, 5s);
}

TEST_P(nbd_store, nobody_there_is_told_with_a_remedy) {
  const auto r = try_open(options());
  ASSERT_FALSE(r);
  EXPECT_THAT(r.error().message, HasSubstr("is it running?"));
}

// ---- Requests
// ---------------------------------------------------------------------------------------

TEST_P(nbd_store, reads_in_pieces_with_holes) {
  serve({[this](conversation& c) {
    c.shake_hands({});
    const nbd::request r = c.next();
    c.chunk(r, r.offset + 8192, disk_.substr(r.offset + 8192, 4096), false);
    std::array<std::byte, nbd::hole_chunk_bytes> hole;
    nbd::encode_hole_chunk(hole, r.cookie, r.offset + 4096, 4096, false);
    c.send(hole);
    c.chunk(r, r.offset, disk_.substr(r.offset, 4096), false);
    std::array<std::byte, nbd::chunk_header_bytes> end;
    nbd::encode_none_chunk(end, r.cookie);
    c.send(end);
    c.next();
  }});
  open(options());
  EXPECT_EQ(read(512, 12288),
            disk_.substr(512, 4096) + std::string(4096, '\0') + disk_.substr(512 + 8192, 4096));
}

TEST_P(nbd_store, large_transfers_are_split_and_scattered) {
  fake_export e;
  e.sizes = {1, 4096, 65536};
  serve({good(e)});
  open(options());
  EXPECT_EQ(device_->limits().max_transfer_bytes, 65536u);
  EXPECT_EQ(read(0, disk_.size()), disk_);
  std::string first(100, '?'), second(300'000, '?'), third(1, '?');
  const iovec v[] = {
      {first.data(), first.size()}, {second.data(), second.size()}, {third.data(), third.size()}};
  ASSERT_TRUE(rt_->run_until(device_->read(77, v, {})));
  hand_over();
  EXPECT_EQ(first + second + third, disk_.substr(77, 300'101));
  hand_over();
  ASSERT_TRUE(rt_->run_until(device_->write(500'000, v, {})));
  EXPECT_EQ(read(500'000, 300'101), first + second + third);
}

rt::task<size_t> concurrent_writes(nbd_device& d) {
  std::vector<rt::task<errc>> all;
  for (size_t i = 0; i < 32; ++i) {
    all.push_back(write_task(d, 8192 + i * 256, std::string(256, static_cast<char>('A' + i)), {}));
  }
  const auto codes = co_await rt::when_all(std::move(all));
  co_return static_cast<size_t>(std::count(codes.begin(), codes.end(), errc::ok));
}

TEST_P(nbd_store, parts_of_one_block_written_at_once_do_not_undo_each_other) {
  fake_export e;
  e.sizes = {4096, 4096, 1 << 20};
  serve({good(e)});
  open(options());
  EXPECT_EQ(device_->limits().block_bytes, 4096u);
  EXPECT_EQ(rt_->run_until(concurrent_writes(*device_)), 32u);
  const std::string after = read(8191, 8194);
  for (size_t i = 0; i < 8192; ++i) ASSERT_EQ(after[1 + i], static_cast<char>('A' + i / 256)) << i;
  EXPECT_EQ(after.front(), disk_[8191]);
}

TEST_P(nbd_store, an_error_is_the_servers) {
  serve({[](conversation& c) {
    c.shake_hands({});
    c.simple(c.next().cookie, nbd::wire_error::nospc);
    const nbd::request r = c.next();
    std::vector<std::byte> raw(nbd::error_chunk_bytes(8, true));
    nbd::encode_error_chunk(raw, r.cookie, nbd::wire_error::io, "bad disk", r.offset);
    c.send(raw);
    c.next();
  }});
  open(options());
  EXPECT_EQ(write(0, "x"), errc::nospc);
  read(0, 512, errc::io);
}

TEST_P(nbd_store, memory_is_not_given_back_while_the_kernel_reads_it) {
  std::atomic<bool> drained{false};
  serve({[&](conversation& c) {
    c.shake_hands({});
    std::string payload;
    const nbd::request r = c.next(payload, false);
    c.simple(r.cookie, nbd::wire_error::nospc);  // before the payload has been read
    std::this_thread::sleep_for(100ms);
    drained = true;
    c.receive(r.length);
    c.next();
  }});
  nbd_options o = options();
  open(o);
  fake_export big;
  EXPECT_EQ(write(0, std::string(big.size_bytes, 'x')), errc::nospc);
  EXPECT_TRUE(drained);
  stop();
}

// ---- Lost connections
// -------------------------------------------------------------------------------

TEST_P(nbd_store, a_read_cut_short_is_asked_again) {
  serve({[](conversation& c) {
           c.shake_hands({});
           const nbd::request r = c.next();
           std::array<std::byte, nbd::data_chunk_header_bytes> raw;
           nbd::encode_data_chunk(raw, r.cookie, r.offset, r.length, true);
           c.send(raw);
           c.send(std::string(r.length / 2, '!'));
         },
         good()});
  open(options());
  EXPECT_EQ(read(4096, 400'000), disk_.substr(4096, 400'000));
  EXPECT_EQ(device_->reconnections(), 1u);
}

TEST_P(nbd_store, a_server_that_breaks_the_protocol_is_dropped_and_the_read_asked_again) {
  const std::vector<std::function<void(conversation&, const nbd::request&)>> crimes = {
      [](conversation& c, const nbd::request& r) { c.simple(r.cookie + 1); },
      [](conversation& c, const nbd::request& r) { c.simple(r.cookie); },
      [](conversation& c, const nbd::request&) { c.send(std::string(64, 'x')); },
      [](conversation& c, const nbd::request& r) {
        c.chunk(r, r.offset + 1, std::string(r.length, '!'), true);
      },
      [](conversation& c, const nbd::request& r) {
        c.chunk(r, r.offset, std::string(512, '!'), false);
        c.chunk(r, r.offset, std::string(512, '!'), false);
      },
      [](conversation& c, const nbd::request& r) {
        c.chunk(r, r.offset, std::string(512, '!'), true);
      },
      [](conversation& c, const nbd::request& r) {
        c.chunk(r, UINT64_MAX - 100, std::string(512, '!'), true);
      },
  };
  for (const auto& crime : crimes) {
    serve({[&](conversation& c) {
             c.shake_hands({});
             const nbd::request r = c.next();
             crime(c, r);
             c.receive(1);
           },
           good()});
    open(options());
    EXPECT_EQ(read(4096, 8192), disk_.substr(4096, 8192));
    EXPECT_EQ(device_->reconnections(), 1u);
    stop();
  }
}

TEST_P(nbd_store, a_server_that_shuts_down_is_left_and_the_write_goes_to_the_next) {
  serve({[](conversation& c) {
           c.shake_hands({});
           c.simple(c.next().cookie, nbd::wire_error::shutdown);
           c.receive(1);
         },
         good()});
  open(options());
  EXPECT_EQ(write(512, "hello"), errc::ok);
  EXPECT_EQ(read(512, 5), "hello");
}

TEST_P(nbd_store, a_server_that_hangs_is_left) {
  serve({[](conversation& c) {
           c.shake_hands({});
           c.next();
           c.receive(1);
         },
         good()});
  nbd_options o = options();
  o.reply_limit_ns = 150 * ms;
  open(o);
  EXPECT_EQ(read(0, 512), disk_.substr(0, 512));
  EXPECT_EQ(device_->reconnections(), 1u);
}

TEST_P(nbd_store, a_write_without_an_answer_is_sent_again) {
  serve({[](conversation& c) {
           c.shake_hands({});
           c.next();
         },
         good()});
  open(options());
  EXPECT_EQ(write(4096, std::string(4096, 'W')), errc::ok);
  EXPECT_EQ(read(4096, 4096), std::string(4096, 'W'));
}

rt::task<std::vector<errc>> two_writes(nbd_device& d) {
  std::vector<rt::task<errc>> all;
  all.push_back(write_task(d, 4096, std::string(4096, 'O'), {}));
  all.push_back(write_task(d, 8000, std::string(4096, 'N'), {}));
  co_return co_await rt::when_all(std::move(all));
}

TEST_P(nbd_store, an_old_write_is_not_sent_again_over_a_newer_one) {
  serve({[this](conversation& c) {
           c.shake_hands({});
           c.next();  // the old one gets no answer
           std::string payload;
           const nbd::request r = c.next(payload);
           disk_.replace(r.offset, r.length, payload);
           c.simple(r.cookie);
         },
         good()});
  open(options());
  const std::vector<errc> codes = rt_->run_until(two_writes(*device_));
  hand_over();
  EXPECT_EQ(codes[0], errc::io);
  EXPECT_EQ(codes[1], errc::ok);
  EXPECT_EQ(read(8000, 4096), std::string(4096, 'N'));
}

rt::task<errc> give_up(block::cancel_token& token, std::atomic<bool>& given_up) {
  co_await rt::sleep_for(50ms);
  token.cancel();
  given_up = true;
  co_return errc::ok;
}
rt::task<std::vector<errc>> write_and_give_up(nbd_device& d, block::cancel_token& token,
                                              std::atomic<bool>& given_up) {
  block::io_opts io;
  io.cancel = &token;
  std::vector<rt::task<errc>> all;
  all.push_back(write_task(d, 0, "late", io));
  all.push_back(give_up(token, given_up));
  co_return co_await rt::when_all(std::move(all));
}

TEST_P(nbd_store, a_canceled_write_is_not_sent_again) {
  block::cancel_token token;
  std::atomic<bool> given_up{false};
  serve({[&](conversation& c) {
           c.shake_hands({});
           c.next();
           while (!given_up) std::this_thread::sleep_for(1ms);
         },
         good()});
  open(options());
  const std::string before = disk_.substr(0, 4);
  const std::vector<errc> codes = rt_->run_until(write_and_give_up(*device_, token, given_up));
  EXPECT_EQ(codes[0], errc::canceled);
  EXPECT_EQ(read(0, 4), before);
  stop();
}

TEST_P(nbd_store, a_canceled_request_does_not_wait_for_a_server_that_is_gone) {
  block::cancel_token token;
  std::atomic<bool> given_up{false};
  serve({[](conversation& c) {
    c.shake_hands({});
    c.next();
  }});
  nbd_options o = options();
  o.outage_limit_ns = 60'000 * ms;
  open(o);
  const std::vector<errc> codes = rt_->run_until(write_and_give_up(*device_, token, given_up));
  EXPECT_EQ(codes[0], errc::canceled);
  stop();
}

TEST_P(nbd_store, a_flush_does_not_pretend_for_writes_that_a_lost_server_had_answered) {
  serve({[this](conversation& c) {
           c.shake_hands({});
           c.serve(disk_, 1);
         },
         good()});
  open(options());
  EXPECT_EQ(write(0, "volatile"), errc::ok);
  EXPECT_EQ(flush(), errc::io);
  EXPECT_EQ(write(0, "again"), errc::ok);
  EXPECT_EQ(flush(), errc::io) << "a failed flush stays failed";
  EXPECT_EQ(read(0, 5), "again");
}

TEST_P(nbd_store, a_flush_with_nothing_at_stake_is_sent_again) {
  serve({[this](conversation& c) {
           c.shake_hands({});
           c.serve(disk_, 3);  // write, flush, durable write; the next flush gets no answer
           c.next();
         },
         good()});
  open(options());
  EXPECT_EQ(write(0, "x"), errc::ok);
  EXPECT_EQ(flush(), errc::ok);
  block::io_opts durable;
  durable.flags = block::io_fua;
  EXPECT_EQ(write(0, "y", durable), errc::ok);
  EXPECT_EQ(flush(), errc::ok);
  EXPECT_EQ(device_->reconnections(), 1u);
}

TEST_P(nbd_store, an_outage_is_bounded_and_its_end_is_noticed) {
  serve({[](conversation& c) {
    c.shake_hands({});
    c.next();
  }});
  nbd_options o = options();
  o.outage_limit_ns = 300 * ms;
  open(o);
  const auto start = std::chrono::steady_clock::now();
  read(0, 512, errc::timed_out);
  const auto waited = std::chrono::steady_clock::now() - start;
  EXPECT_GE(waited, 290ms);
  EXPECT_LT(waited, 5s);
  read(0, 512, errc::not_connected);
  serve({good()});
  for (int i = 0; i < 300 && device_->reconnections() == 0; ++i) {
    rt_->run_until(nap());
  }
  EXPECT_EQ(read(0, 512), disk_.substr(0, 512));
}

TEST_P(nbd_store, another_export_in_the_same_place_is_not_taken) {
  fake_export smaller;
  smaller.size_bytes = 4096;
  fake_export without_flush;
  without_flush.flags = nbd::transmission_flag::has_flags;
  serve({[](conversation& c) {
           c.shake_hands({});
           c.next();
         },
         good(smaller), good(without_flush), good()});
  open(options());
  EXPECT_EQ(read(8192, 512), disk_.substr(8192, 512));
  EXPECT_EQ(server_->accepted(), 4u);
}

TEST_P(nbd_store, deadlines_hold_in_an_outage) {
  serve({[](conversation& c) {
    c.shake_hands({});
    c.next();
  }});
  nbd_options o = options();
  o.outage_limit_ns = 60'000 * ms;
  open(o);
  block::io_opts io;
  {
    rt::reactor::scope here(rt_->at(0));
    io.deadline_ns = rt_->at(0).now_ns() + 200 * ms;
  }
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(write(0, "x", io), errc::timed_out);
  EXPECT_LT(std::chrono::steady_clock::now() - start, 5s);
}

TEST_P(nbd_store, a_device_may_go_without_saying_goodbye) {
  serve({good()});
  open(options());
  device_.reset();
  rt_->run_until(nap());
}

// ---- The log of writes
// ------------------------------------------------------------------------------

TEST(write_log, knows_what_was_written_since) {
  write_log log;
  log.add(1, 0, 4096);
  log.add(2, 8192, 4096);
  EXPECT_FALSE(log.overlapped_since(1, 0, 4096)) << "it does not overlap itself";
  EXPECT_TRUE(log.overlapped_since(1, 12287, 1));
  EXPECT_FALSE(log.overlapped_since(1, 12288, 1));
  EXPECT_FALSE(log.overlapped_since(1, 0, 8192));
  EXPECT_FALSE(log.overlapped_since(2, 0, 1 << 20));
}

TEST(write_log, assumes_the_worst_about_what_it_forgot) {
  write_log log;
  for (uint64_t i = 1; i <= 2048; ++i) log.add(i, 0, 1);
  EXPECT_FALSE(log.overlapped_since(1, 4096, 1));
  log.add(2049, 0, 1);
  EXPECT_FALSE(log.overlapped_since(1, 4096, 1)) << "only the write itself is forgotten";
  log.add(2050, 0, 1);
  EXPECT_TRUE(log.overlapped_since(1, 4096, 1));
  EXPECT_FALSE(log.overlapped_since(2, 4096, 1));
}

}  // namespace
}  // namespace lbd::store
