// SPDX-License-Identifier: MIT
// Exports and connections that come and go: stopping, removing, resizing, and clients that are
// lost.
#include "export/nbd/server_fixture_test.h"

namespace lbd::nbd_server {
namespace {

using nbd::command;
using nbd::wire_error;

constexpr size_t disk_bytes = 1 << 20;

class lifecycle : public testing::Test {
 protected:
  void start(server_options options = {}) {
    server_ = std::make_unique<served>(options);
    server_->add(disk_);
    server_->listen();
  }
  std::unique_ptr<client> connect() {
    auto c = std::make_unique<client>(server_->path());
    EXPECT_TRUE(c->go("disk"));
    return c;
  }
  bool serves() {
    try {
      return connect()->call(command::read, 0, 512).error == wire_error::none;
    } catch (const client::closed&) {
      return false;
    }
  }
  static client::read_range nothing(uint64_t) { return {}; }

  test_device disk_{disk_bytes}, other_{disk_bytes};
  std::unique_ptr<served> server_;
};

TEST_F(lifecycle, stop_answers_what_has_arrived_and_flushes) {
  start();
  auto busy = connect(), idle = connect();
  client tcp(server_->port());
  ASSERT_TRUE(tcp.go("disk"));
  disk_.hold = true;
  const auto data = pattern(4096, 1);
  for (uint64_t i = 0; i < 10; ++i) {
    busy->request(command::write, i, i * 4096, 4096, 0, data);
    tcp.request(command::read, i, i * 4096, 4096);
  }
  ASSERT_TRUE(wait_until([&] { return disk_.started == 20; }));
  std::jthread stopping([&] { server_->stop(); });
  EXPECT_TRUE(idle->at_end());
  EXPECT_FALSE(busy->readable(20));
  disk_.hold = false;
  for (int i = 0; i < 10; ++i) {
    EXPECT_EQ(busy->reply(nothing).second.error, wire_error::none);
    EXPECT_EQ(tcp.reply([](uint64_t) {
                   return client::read_range{0, 4096};
                 })
                  .second.error,
              wire_error::none);
  }
  EXPECT_TRUE(busy->at_end());
  EXPECT_TRUE(tcp.at_end());
  stopping.join();
  EXPECT_EQ(disk_.flushes, 1);
  EXPECT_EQ(::access(server_->path().c_str(), F_OK), -1);
  EXPECT_THROW(client again(server_->path()), client::closed);
}

TEST_F(lifecycle, stop_flushes_what_was_written_before_the_device_became_read_only) {
  start();
  server_->add(other_, "never written", true);
  auto c = connect();
  EXPECT_EQ(c->call(command::write, 0, 4096, 0, pattern(4096, 1)).error, wire_error::none);
  disk_.become_read_only();
  server_->stop();
  EXPECT_EQ(disk_.flushes, 1);
  EXPECT_EQ(other_.flushes, 0);
}

TEST_F(lifecycle, stop_does_not_wait_for_clients_that_take_no_replies) {
  server_options options;
  options.stop_grace_ns = 100'000'000;
  start(options);
  auto c = connect();
  for (uint64_t i = 0; i < 200; ++i) c->request(command::read, i, 0, disk_bytes);
  ASSERT_TRUE(wait_until([&] { return disk_.finished > 20; }));
  const auto before = std::chrono::steady_clock::now();
  server_->stop();
  EXPECT_LT(std::chrono::steady_clock::now() - before, std::chrono::seconds(3));
}

TEST_F(lifecycle, requests_that_a_device_holds_are_canceled_when_the_grace_is_over) {
  server_options options;
  options.stop_grace_ns = 100'000'000;
  start(options);
  auto c = connect();
  disk_.hold = true;
  c->request(command::read, 1, 0, 4096);
  c->request(command::write, 2, 0, 4096, 0, pattern(4096, 1));
  ASSERT_TRUE(wait_until([&] { return disk_.started == 2; }));
  std::jthread stopping([&] { server_->stop(); });
  EXPECT_TRUE(c->at_end());
  disk_.hold = false;
  stopping.join();
  EXPECT_EQ(disk_.canceled, 2);
}

// Stuck in its sends, with nobody to read: neither direction will ever move.
TEST_F(lifecycle, stop_cuts_off_clients_that_block_long_before_the_grace_is_over) {
  server_options options;
  options.stop_grace_ns = 300'000'000'000;
  start(options);
  auto c = connect(), half = connect();
  for (uint64_t i = 0; i < 200; ++i) c->request(command::read, i, 0, disk_bytes);
  half->request(command::write, 1, 0, disk_bytes);  // its payload never comes
  ASSERT_TRUE(wait_until([&] { return disk_.finished > 20; }));
  server_->stop();
  EXPECT_EQ(disk_.flushes, 1);
}

TEST_F(lifecycle, stop_with_handshakes_and_half_requests_under_way) {
  start();
  client silent(server_->path()), half(server_->path());
  ASSERT_TRUE(half.go("disk"));
  half.send(pattern(10, 1));
  server_->stop();
  silent.receive(nbd::newstyle_greeting_bytes);
  EXPECT_TRUE(silent.at_end());
  EXPECT_TRUE(half.at_end());
}

TEST_F(lifecycle, a_removed_export_ends_its_connections_only) {
  start();
  server_->add(other_, "other");
  auto c = connect();
  client stays(server_->path());
  ASSERT_TRUE(stays.go("other"));
  server_->run([](server& s) -> task<void> {
    const auto r = co_await s.remove_export("disk");
    EXPECT_TRUE(r);
    const auto twice = co_await s.remove_export("disk");
    EXPECT_EQ(twice.error().code, errc::noent);
  });
  EXPECT_TRUE(c->at_end());
  EXPECT_EQ(stays.call(command::read, 0, 512).error, wire_error::none);
  client late(server_->path());
  EXPECT_FALSE(late.go("disk"));
  server_->add(disk_);
  EXPECT_TRUE(serves());
}

TEST_F(lifecycle, a_grown_device_is_told_to_new_clients_and_usable_by_old_ones) {
  start();
  auto c = connect();
  EXPECT_EQ(c->call(command::read, disk_bytes, 512).error, wire_error::inval);
  disk_.memory()->resize(2 * disk_bytes);
  disk_.limits_.size_bytes = 2 * disk_bytes;
  server_->run([](server& s) -> task<void> {
    EXPECT_TRUE(s.resize_export("disk"));
    co_return;
  });
  EXPECT_EQ(c->call(command::read, disk_bytes, 512).error, wire_error::none);
  auto fresh = connect();
  EXPECT_EQ(fresh->info.at(0).facts.size_bytes, 2 * disk_bytes);
}

// The kernel's client gives a connection up, connects anew and sends its writes again: the first
// ones must not land after newer ones.
TEST_F(lifecycle, a_new_connection_waits_for_the_requests_of_a_lost_one) {
  for (const bool structured : {false, true}) {
    start();
    auto lost = connect();
    disk_.hold = true;
    const auto old_data = pattern(4096, 1), new_data = pattern(4096, 2);
    for (uint64_t i = 0; i < 30; ++i) lost->request(command::write, i, 0, 4096, 0, old_data);
    ASSERT_TRUE(wait_until([&] { return disk_.started >= 30; }));
    lost->close();
    client next(server_->path());
    std::atomic<bool> attached{false};
    std::jthread attaching([&] {
      EXPECT_TRUE(next.go("disk", structured));
      attached = true;
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    EXPECT_FALSE(attached);
    disk_.hold = false;
    attaching.join();
    EXPECT_EQ(disk_.finished, disk_.started);
    EXPECT_EQ(next.call(command::write, 0, 4096, 0, new_data).error, wire_error::none);
    EXPECT_EQ(std::memcmp(disk_.memory()->data(), new_data.data(), 4096), 0);
    EXPECT_GE(disk_.canceled, 30);
    disk_.started = 0;
    disk_.finished = 0;
    disk_.canceled = 0;
    server_.reset();
  }
}

// More than a connection has in flight lies unread in its socket when the client vanishes.
TEST_F(lifecycle, nothing_of_a_lost_connection_happens_after_a_new_one_has_begun) {
  start();
  auto lost = connect();
  disk_.hold = true;
  const auto old_data = pattern(512, 1);
  for (uint64_t i = 0; i < 300; ++i) lost->request(command::write, i, 0, 512, 0, old_data);
  ASSERT_TRUE(
      wait_until([&] { return disk_.started == int{block::bounds::requests_per_connection}; }));
  lost->close();
  client next(server_->path());
  std::jthread attaching([&] { EXPECT_TRUE(next.go("disk")); });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  disk_.hold = false;
  attaching.join();
  const int started = disk_.started;
  EXPECT_EQ(disk_.finished, started);
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_EQ(disk_.started, started);
}

TEST_F(lifecycle, a_lost_connection_whose_requests_hang_keeps_others_out_but_not_for_ever) {
  server_options options;
  options.handshake_ns = 100'000'000;
  start(options);
  auto lost = connect();
  auto sibling = connect();
  disk_.hold = true;
  lost->request(command::write, 1, 0, 512, 0, pattern(512, 1));
  ASSERT_TRUE(wait_until([&] { return disk_.started == 1; }));
  lost->close();
  client next(server_->path());
  EXPECT_FALSE(next.go("disk"));
  EXPECT_TRUE(next.at_end());
  disk_.hold = false;
  EXPECT_EQ(sibling->call(command::read, 0, 512).error, wire_error::none);
  EXPECT_TRUE(wait_until([&] { return serves(); }));
}

// The kernel's client with several connections sends again on one that is open.
TEST_F(lifecycle, open_connections_wait_for_overlapping_changes_of_a_lost_one) {
  start();
  auto lost = connect(), other = connect(), third = connect();
  disk_.hold = true;
  const auto old_data = pattern(8192, 1), new_data = pattern(4096, 2);
  lost->request(command::write, 1, 8192, 8192, 0, old_data);
  ASSERT_TRUE(wait_until([&] { return disk_.started == 1; }));
  disk_.hold_first = 1;
  disk_.hold = false;
  lost->close();
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  // Reads, and changes elsewhere, are served.
  EXPECT_EQ(other->call(command::read, 8192, 4096).error, wire_error::none);
  EXPECT_EQ(other->call(command::write, 4096, 4096, 0, new_data).error, wire_error::none);
  EXPECT_EQ(third->call(command::trim, 16384, 4096).error, wire_error::none);
  other->request(command::write, 7, 12288, 4096, 0, new_data);
  third->request(command::write_zeroes, 8, 8192, 1);
  EXPECT_FALSE(other->readable(50));
  EXPECT_FALSE(third->readable(1));
  disk_.hold_first = 0;
  EXPECT_EQ(other->reply(nothing).second.error, wire_error::none);
  EXPECT_EQ(third->reply(nothing).second.error, wire_error::none);
  EXPECT_EQ(disk_.memory()->at(8192), std::byte{0});
  EXPECT_EQ(disk_.memory()->at(8193), old_data[1]);
  EXPECT_EQ(std::memcmp(disk_.memory()->data() + 12288, new_data.data(), 4096), 0);
  EXPECT_EQ(other->call(command::write, 8192, 4096, 0, new_data).error, wire_error::none);
}

// ... also when the lost one was too busy to see that its client has gone.
TEST_F(lifecycle, input_that_waits_behind_a_lost_clients_requests_is_dropped) {
  start();
  auto lost = connect(), other = connect();
  disk_.hold_first = 1000;
  const auto old_data = pattern(512, 1), new_data = pattern(512, 2);
  const int most = int{block::bounds::requests_per_connection};
  for (int i = 0; i < most; ++i) lost->request(command::write, 1, 4096, 512, 0, old_data);
  for (int i = 0; i < 20; ++i) lost->request(command::write, 1, 0, 512, 0, old_data);
  ASSERT_TRUE(wait_until([&] { return disk_.started == most; }));
  lost->close();
  std::this_thread::sleep_for(std::chrono::milliseconds(150));
  other->request(command::write, 2, 4096, 512, 0, new_data);
  EXPECT_FALSE(other->readable(50));
  disk_.hold_first = 0;
  EXPECT_EQ(other->reply(nothing).second.error, wire_error::none);
  EXPECT_EQ(std::memcmp(disk_.memory()->data() + 4096, new_data.data(), 512), 0);
  ASSERT_TRUE(wait_until([&] { return server_->info().connections.size() == 1; }));
  EXPECT_EQ(disk_.started, most + 1);
  EXPECT_EQ(disk_.memory()->at(1), std::byte{0});
}

TEST_F(lifecycle, half_a_write_changes_nothing) {
  start();
  for (const uint32_t length : {4096u, 500'000u}) {
    auto c = connect();
    c->request(command::write, 1, 0, length, 0, pattern(length / 2, 1));
    c->close();
  }
  ASSERT_TRUE(wait_until([&] { return server_->info().connections.empty(); }));
  EXPECT_EQ(*disk_.memory(), std::vector<std::byte>(disk_bytes));
  EXPECT_EQ(disk_.started, 0);
  EXPECT_TRUE(serves());
}

TEST_F(lifecycle, connections_are_spread_and_counted) {
  start();
  std::vector<std::unique_ptr<client>> all;
  for (int i = 0; i < 4; ++i) all.push_back(connect());
  const auto data = pattern(4096, 3);
  for (auto& c : all) {
    c->call(command::write, 0, 4096, 0, data);
    c->call(command::read, 0, 1024);
    c->call(command::read, disk_bytes, 1024);
  }
  const server_info i = server_->info();
  ASSERT_EQ(i.connections.size(), 4u);
  unsigned on_first = 0;
  for (const auto& c : i.connections) {
    on_first += c.reactor == 0;
    EXPECT_EQ(c.counters.requests, 3u);
    EXPECT_EQ(c.counters.bytes_written, 4096u);
    EXPECT_EQ(c.counters.bytes_read, 1024u);
    EXPECT_EQ(c.counters.errors, 1u);
    EXPECT_EQ(c.export_name, "disk");
    EXPECT_EQ(c.peer.substr(0, 9), "unix pid ");
  }
  EXPECT_EQ(on_first, 2u);
  EXPECT_EQ(i.exports.at(0).connections, 4u);
  all.clear();
  ASSERT_TRUE(wait_until([&] { return server_->info().connections.empty(); }));
  EXPECT_EQ(server_->info().total.requests, 12u);
  EXPECT_EQ(server_->info().total.bytes_written, 4 * 4096u);
  EXPECT_EQ(server_->info().addresses.size(), 2u);
}

TEST_F(lifecycle, exports_have_different_valid_names) {
  start();
  server_->run([this](server& s) {
    const auto twice = s.add_export({"disk", "", &disk_, false});
    EXPECT_EQ(twice.error().code, errc::exist);
    const auto bad = s.add_export({std::string("a\0b", 3), "", &disk_, false});
    EXPECT_EQ(bad.error().code, errc::inval);
    return [](server&) -> task<void> { co_return; }(s);
  });
}

}  // namespace
}  // namespace lbd::nbd_server
