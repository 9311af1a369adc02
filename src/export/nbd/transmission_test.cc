// SPDX-License-Identifier: MIT
#include <sys/mman.h>

#include <map>

#include "export/nbd/server_fixture_test.h"
#include "rt/uring.h"

namespace lbd::nbd_server {
namespace {

using nbd::command;
using nbd::wire_error;
namespace cf = nbd::command_flag;

constexpr size_t disk_bytes = 8 << 20;

struct shape {
  bool tcp, structured, lend, threads;
};
std::string shape_name(const testing::TestParamInfo<shape>& i) {
  const shape& s = i.param;
  return std::string(s.tcp ? "tcp" : "unix") + (s.structured ? "_structured" : "_simple") +
         (s.lend ? "_lent" : "_copied") + (s.threads ? "_threads" : "_uring");
}

class every_shape : public testing::TestWithParam<shape> {
 protected:
  void SetUp() override {
    if (!GetParam().threads && !rt::uring_available()) GTEST_SKIP() << "io_uring is refused";
    rt::runtime_options how{.reactors = 2};
    how.how = GetParam().threads ? rt::backend::threads : rt::backend::uring;
    server_ = std::make_unique<served>(server_options{}, how);
    disk_.lend = GetParam().lend;
    server_->add(disk_);
    server_->listen();
    client_ = connect();
  }
  std::unique_ptr<client> connect() {
    auto c = GetParam().tcp ? std::make_unique<client>(server_->port())
                            : std::make_unique<client>(server_->path());
    EXPECT_TRUE(c->go("disk", GetParam().structured));
    return c;
  }

  test_device disk_{disk_bytes};
  std::unique_ptr<served> server_;
  std::unique_ptr<client> client_;
};

INSTANTIATE_TEST_SUITE_P(
    all, every_shape,
    testing::Values(shape{false, false, false, false}, shape{false, false, true, false},
                    shape{false, true, false, false}, shape{false, true, true, false},
                    shape{true, false, true, false}, shape{true, true, false, false},
                    shape{false, true, false, true}, shape{true, false, true, true}),
    shape_name);

TEST_P(every_shape, what_was_written_is_read_back_at_any_size) {
  unsigned seed = 1;
  for (const uint32_t n :
       {1u, 511u, 4096u, 65535u, 65536u, 65537u, 262144u, 300'001u, 5'000'000u}) {
    const auto data = pattern(n, ++seed);
    const uint64_t at = 12'345 * seed;
    ASSERT_EQ(client_->call(command::write, at, n, 0, data).error, wire_error::none) << n;
    ASSERT_EQ(std::memcmp(disk_.memory()->data() + at, data.data(), n), 0) << n;
    const answer a = client_->call(command::read, at, n);
    ASSERT_EQ(a.error, wire_error::none);
    ASSERT_EQ(a.data, data) << n;
    ASSERT_EQ(a.structured, GetParam().structured);
  }
}

// Many requests of many sizes in one stream that arrives in odd pieces; replies come in any order.
TEST_P(every_shape, a_long_pipeline_in_odd_pieces_is_answered_once_each) {
  std::vector<std::byte> stream;
  std::map<uint64_t, client::read_range> reads;
  std::map<uint64_t, std::vector<std::byte>> expected;
  unsigned x = 7;
  const auto fresh = pattern(disk_bytes / 2, 99);
  std::memcpy(disk_.memory()->data(), fresh.data(), fresh.size());
  for (uint64_t cookie = 1; cookie <= 900; ++cookie) {
    x = x * 1103515245 + 12345;
    const uint32_t n = 1 + (x >> 8) % (cookie % 50 == 0 ? 200'000 : 6000);
    const uint64_t at = (x >> 4) % (disk_bytes / 2 - n);
    const bool write = cookie % 3 == 0;
    const auto payload =
        write ? pattern(n, static_cast<unsigned>(cookie)) : std::vector<std::byte>{};
    std::byte head[nbd::request_bytes];
    nbd::encode_request(head, {write ? command::write : command::read, 0, cookie,
                               at + (write ? disk_bytes / 2 : 0), n});
    stream.insert(stream.end(), head, head + sizeof head);
    stream.insert(stream.end(), payload.begin(), payload.end());
    reads[cookie] = {at, write ? 0 : n};
    if (!write) expected[cookie].assign(fresh.begin() + long(at), fresh.begin() + long(at + n));
  }
  std::jthread sender([&] {
    base::bytes_view left = stream;
    for (unsigned i = 0; !left.empty(); ++i) {
      const size_t n = std::min<size_t>(left.size(), 1 + (i * 7919) % 40'000);
      client_->send(left.first(n));
      left = left.subspan(n);
    }
  });
  size_t answered = 0;
  while (!reads.empty()) {
    const auto [cookie, a] = client_->reply([&](uint64_t c) { return reads.at(c); });
    ASSERT_EQ(a.error, wire_error::none);
    ASSERT_EQ(a.data, expected[cookie]);
    reads.erase(cookie);
    ++answered;
  }
  sender.join();
  EXPECT_EQ(answered, 900u);
  EXPECT_FALSE(client_->readable(20));
  EXPECT_EQ(server_->info().connections.at(0).counters.requests, 900u);
  EXPECT_EQ(server_->info().connections.at(0).in_flight, 0u);
}

TEST_P(every_shape, errors_of_the_device_are_told_and_nothing_else_is_hurt) {
  disk_.lend = false;
  const std::pair<errc, wire_error> table[] = {
      {errc::io, wire_error::io},        {errc::nospc, wire_error::nospc},
      {errc::fbig, wire_error::nospc},   {errc::rofs, wire_error::perm},
      {errc::timed_out, wire_error::io}, {errc::nomem, wire_error::nomem}};
  const auto data = pattern(100'000, 3);
  for (const auto& [code, told] : table) {
    disk_.error = code;
    EXPECT_EQ(client_->call(command::read, 0, 4096).error, told);
    EXPECT_EQ(client_->call(command::read, 0, 100'000).error, told);
    EXPECT_EQ(client_->call(command::write, 0, 100'000, 0, data).error, told);
    EXPECT_EQ(client_->call(command::flush, 0, 0).error, told);
    EXPECT_EQ(client_->call(command::trim, 0, 4096).error, told);
    EXPECT_EQ(client_->call(command::write_zeroes, 0, 4096).error, told);
  }
  disk_.error = errc::ok;
  EXPECT_EQ(client_->call(command::read, 0, 4096).error, wire_error::none);
  EXPECT_EQ(server_->info().total.errors, 36u);
}

TEST_P(every_shape, disc_finishes_what_came_before) {
  disk_.hold = true;
  disk_.lend = false;
  const auto data = pattern(4096, 5);
  for (uint64_t i = 0; i < 20; ++i) client_->request(command::write, i, i * 4096, 4096, 0, data);
  client_->request(command::disc, 99, 0, 0);
  ASSERT_TRUE(wait_until([&] { return disk_.started == 20; }));
  EXPECT_FALSE(client_->readable(20));
  disk_.hold = false;
  for (int i = 0; i < 20; ++i) client_->reply([](uint64_t) { return client::read_range{}; });
  EXPECT_TRUE(client_->at_end());
  EXPECT_EQ(disk_.finished, 20);
}

class one_client : public testing::Test {
 protected:
  void start(bool structured = true, bool status = false, server_options options = {}) {
    server_ = std::make_unique<served>(options);
    server_->add(disk_);
    server_->listen();
    client_ = std::make_unique<client>(server_->path());
    ASSERT_TRUE(client_->go("disk", structured, status));
  }
  test_device disk_{disk_bytes}, big_{0};
  std::unique_ptr<served> server_;
  std::unique_ptr<client> client_;
};

TEST_F(one_client, flags_reach_the_device) {
  start();
  const auto data = pattern(512, 1);
  client_->call(command::write, 0, 512, cf::fua, data);
  EXPECT_EQ(disk_.last_flags, uint32_t{block::io_fua});
  client_->call(command::write_zeroes, 0, 512, cf::no_hole);
  EXPECT_EQ(disk_.last_flags, uint32_t{block::io_no_unmap});
  client_->call(command::write_zeroes, 0, 512, cf::fast_zero | cf::fua);
  EXPECT_EQ(disk_.last_flags, uint32_t{block::io_fast_only | block::io_fua});
  client_->call(command::trim, 0, 512, cf::fua);
  EXPECT_EQ(disk_.last_flags, uint32_t{block::io_fua});
  client_->call(command::write, 0, 512, 0, data);
  EXPECT_EQ(disk_.last_flags, 0u);
  disk_.error = errc::notsup;
  EXPECT_EQ(client_->call(command::write_zeroes, 0, 512, cf::fast_zero).error, wire_error::notsup);
  disk_.error = errc::ok;
}

TEST_F(one_client, transfers_longer_than_the_device_takes_are_cut) {
  disk_.limits_.max_transfer_bytes = 100'000;
  start(false);
  const auto data = pattern(1'000'000, 8);
  ASSERT_EQ(client_->call(command::write, 77, 1'000'000, 0, data).error, wire_error::none);
  EXPECT_EQ(disk_.longest, 100'000u);
  EXPECT_EQ(client_->call(command::read, 77, 1'000'000).data, data);
  EXPECT_EQ(disk_.longest, 100'000u);
}

TEST_F(one_client, reads_leave_out_what_the_device_knows_to_be_zero) {
  const auto data = pattern(disk_bytes, 4);
  std::memcpy(disk_.memory()->data(), data.data(), data.size());
  disk_.map = {
      {100'000, false, false}, {100'000, true, true}, {disk_bytes - 200'000, false, false}};
  std::memset(disk_.memory()->data() + 100'000, 0, 100'000);
  start();
  const answer a = client_->call(command::read, 50'000, 200'000);
  EXPECT_EQ(a.chunks, 3u);
  EXPECT_EQ(a.holes, 1u);
  ASSERT_EQ(a.data.size(), 200'000u);
  EXPECT_EQ(std::memcmp(a.data.data(), disk_.memory()->data() + 50'000, 200'000), 0);
  const answer whole = client_->call(command::read, 50'000, 200'000, cf::df);
  EXPECT_EQ(whole.chunks, 1u);
  EXPECT_EQ(whole.data, a.data);
  const answer zeros = client_->call(command::read, 120'000, 4096);
  EXPECT_EQ(zeros.holes, 1u);
  EXPECT_EQ(zeros.chunks, 1u);
  // Nothing but the question, which must not take longer than reading.
  EXPECT_EQ(client_->call(command::read, 100'000, 100'000).holes, 1u);
  EXPECT_EQ(disk_.last_flags & block::io_fast_only, block::io_fast_only);
}

TEST_F(one_client, block_status_tells_extents) {
  disk_.map = {{4096, false, false}, {8192, true, true}, {disk_bytes - 12288, false, true}};
  start(true, true);
  const answer a = client_->call(command::block_status, 1024, 65536);
  const std::vector<nbd::extent> expected = {{3072, 0}, {8192, 3}, {65536 - 3072 - 8192, 2}};
  EXPECT_EQ(a.extents, expected);
  const answer one = client_->call(command::block_status, 5000, 100, cf::req_one);
  EXPECT_EQ(one.extents, (std::vector<nbd::extent>{{100, 3}}));
}

TEST_F(one_client, lent_memory_that_cannot_be_read_any_more_costs_only_its_bytes) {
  const size_t half = disk_bytes / 2;
  const int fd = ::memfd_create("mapped", 0);
  ASSERT_EQ(::ftruncate(fd, disk_bytes), 0);
  void* p = ::mmap(nullptr, disk_bytes, PROT_READ, MAP_SHARED, fd, 0);
  ASSERT_NE(p, MAP_FAILED);
  const auto data = pattern(half, 2);
  ASSERT_EQ(::pwrite(fd, data.data(), half, 0), static_cast<ssize_t>(half));
  disk_.foreign = {static_cast<std::byte*>(p), disk_bytes};
  disk_.lend = true;
  start(false);
  ASSERT_EQ(::ftruncate(fd, static_cast<off_t>(half)), 0);
  const std::vector<std::byte> zeros(200'000);
  for (int round = 0; round < 3; ++round) {
    const answer lost = client_->call(command::read, half, 200'000);
    EXPECT_EQ(lost.error, wire_error::none);
    EXPECT_EQ(lost.data, zeros);
    // Beside it in one send, and across the end.
    client_->request(command::read, 1, 0, 4096);
    client_->request(command::read, 2, half + 8192, 4096);
    client_->request(command::read, 3, half - 4096, 8192);
    for (int i = 0; i < 3; ++i) {
      const auto [cookie, a] = client_->reply([](uint64_t c) {
        return client::read_range{0, c == 3 ? 8192u : 4096u};
      });
      EXPECT_EQ(a.error, wire_error::none) << cookie;
    }
  }
  disk_.error = errc::io;
  client_->request(command::read, 9, half, 4096);
  EXPECT_EQ(client_->reply([](uint64_t) { return client::read_range{}; }).second.error,
            wire_error::io);
  EXPECT_EQ(disk_.borrowed, 0);
  disk_.error = errc::ok;
  client_->close();
  server_.reset();
  ::munmap(p, disk_bytes);
  ::close(fd);
}

TEST_F(one_client, a_client_that_takes_nothing_gives_loans_back_and_loses_nothing) {
  disk_.lend = true;
  start(false);
  const auto data = pattern(disk_bytes, 6);
  std::memcpy(disk_.memory()->data(), data.data(), data.size());
  for (uint64_t i = 0; i < 16; ++i) client_->request(command::read, i, i * 400'000, 400'000);
  ASSERT_TRUE(wait_until([&] { return disk_.borrowed > 3; }));
  EXPECT_TRUE(wait_until([&] { return disk_.borrowed == 0; }, 5000));
  for (int i = 0; i < 16; ++i) {
    const auto [cookie, a] = client_->reply([](uint64_t) {
      return client::read_range{0, 400'000};
    });
    ASSERT_EQ(std::memcmp(a.data.data(), data.data() + cookie * 400'000, 400'000), 0);
  }
}

TEST_F(one_client, a_reply_that_has_begun_and_cannot_go_on_ends_the_connection) {
  disk_.lend = true;
  for (const bool structured : {false, true}) {
    start(structured);
    client_->request(command::read, 1, 0, 4'000'000);
    EXPECT_TRUE(client_->readable(10'000));
    disk_.error = errc::io;  // the loan is taken back, since nobody takes the rest
    EXPECT_TRUE(wait_until([&] { return server_->info().connections.empty(); }));
    EXPECT_EQ(disk_.borrowed, 0);
    EXPECT_THROW(client_->receive(4'000'000), client::closed);
    disk_.error = errc::ok;  // for the flush at the end
    client_.reset();
    server_.reset();
  }
}

TEST_F(one_client, a_client_that_takes_nothing_for_too_long_is_dropped) {
  disk_.lend = true;
  server_options options;
  options.stalled_ns = 100'000'000;
  start(false, false, options);
  for (uint64_t i = 0; i < 16; ++i) client_->request(command::read, i, 0, 4'000'000);
  EXPECT_TRUE(wait_until([&] { return server_->info().connections.empty(); }));
  EXPECT_EQ(disk_.borrowed, 0);
}

TEST_F(one_client, a_payload_that_does_not_come_ends_the_connection) {
  server_options options;
  options.stalled_ns = 50'000'000;
  start(false, false, options);
  client_->request(command::write, 1, 0, 1 << 20, 0, pattern(1000, 1));
  EXPECT_TRUE(client_->at_end());
  EXPECT_EQ(disk_.started, 0);
}

TEST_F(one_client, more_requests_than_fit_wait_their_turn) {
  disk_.hold = true;
  start(false);
  for (uint64_t i = 0; i < 400; ++i) client_->request(command::flush, i, 0, 0);
  ASSERT_TRUE(
      wait_until([&] { return disk_.started == int{block::bounds::requests_per_connection}; }));
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_EQ(disk_.started, int{block::bounds::requests_per_connection});
  disk_.hold = false;
  for (int i = 0; i < 400; ++i) client_->reply([](uint64_t) { return client::read_range{}; });
  EXPECT_EQ(disk_.flushes, 400);
}

TEST_F(one_client, the_largest_requests_pass_although_memory_is_bounded) {
  big_.memory()->resize(80 << 20);
  big_.limits_.size_bytes = 80 << 20;
  start(false);
  server_->add(big_, "big");
  client c(server_->path());
  ASSERT_TRUE(c.go("big"));
  const uint32_t n = 64 << 20;
  const auto data = pattern(n, 12);
  for (uint64_t i = 0; i < 3; ++i) {
    ASSERT_EQ(c.call(command::write, i << 20, n, 0, data).error, wire_error::none);
  }
  for (uint64_t i = 0; i < 3; ++i) c.request(command::read, i, 2 << 20, n);
  for (int i = 0; i < 3; ++i)
    ASSERT_EQ(c.reply([&](uint64_t) { return client::read_range{2 << 20, n}; }).second.data, data);
  ASSERT_EQ(c.call(command::read, 0, n + 1).error, wire_error::inval);
  ASSERT_EQ(c.call(command::read, 0, 1).error, wire_error::none);
}

TEST_F(one_client, a_refused_write_is_read_over) {
  start(false);
  server_->add(disk_, "ro", true);
  client c(server_->path());
  ASSERT_TRUE(c.go("ro"));
  const auto data = pattern(1'000'000, 1);
  EXPECT_EQ(c.call(command::write, 0, 1'000'000, 0, data).error, wire_error::perm);
  EXPECT_EQ(c.call(command::write, disk_bytes, 10, 0, std::span(data).first(10)).error,
            wire_error::perm);
  EXPECT_EQ(client_->call(command::write, disk_bytes, 10, 0, std::span(data).first(10)).error,
            wire_error::nospc);
  EXPECT_EQ(c.call(command::read, 0, 512).error, wire_error::none);
  EXPECT_EQ(*disk_.memory(), std::vector<std::byte>(disk_bytes));
}

}  // namespace
}  // namespace lbd::nbd_server
