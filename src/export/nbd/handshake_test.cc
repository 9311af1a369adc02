// SPDX-License-Identifier: MIT
#include "export/nbd/server_fixture_test.h"

namespace lbd::nbd_server {
namespace {

using nbd::option;
using nbd::option_reply;

class handshake : public testing::Test {
 protected:
  void start(server_options options = {}) {
    server_ = std::make_unique<served>(options);
    server_->add(disk_, "disk");
    server_->add(other_, "other", true);
    server_->listen();
  }
  std::unique_ptr<client> greeted() {
    auto c = std::make_unique<client>(server_->path());
    c->greet();
    return c;
  }
  static nbd::byte_buffer info_data(std::string_view name) {
    const nbd::info_type wanted[] = {nbd::info_type::name, nbd::info_type::description,
                                     nbd::info_type::block_size, nbd::info_type{77}};
    nbd::byte_buffer out;
    nbd::append_info_option(out, option::info, name, wanted);
    out.erase(out.begin(), out.begin() + nbd::option_header_bytes);
    return out;
  }
  static nbd::byte_buffer meta_data(std::string_view name) {
    const std::string_view query = nbd::base_allocation;
    nbd::byte_buffer out;
    nbd::append_meta_context_option(out, option::set_meta_context, name, std::span(&query, 1));
    out.erase(out.begin(), out.begin() + nbd::option_header_bytes);
    return out;
  }

  test_device disk_{1 << 20}, other_{2 << 20};
  std::unique_ptr<served> server_;
};

TEST_F(handshake, info_and_go_tell_the_same_about_an_export) {
  start();
  auto c = greeted();
  EXPECT_EQ(c->ask(option::info, info_data("other")).header.type, option_reply::ack);
  EXPECT_EQ(c->ask(option::go, info_data("other")).header.type, option_reply::ack);
  ASSERT_EQ(c->info.size(), 8u);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(c->info[i].type, c->info[i + 4].type);
    EXPECT_EQ(c->info[i].facts.size_bytes, c->info[i + 4].facts.size_bytes);
    EXPECT_EQ(c->info[i].facts.transmission_flags, c->info[i + 4].facts.transmission_flags);
  }
  EXPECT_EQ(c->info[0].facts.size_bytes, uint64_t{2} << 20);
  EXPECT_NE(c->info[0].facts.transmission_flags & nbd::transmission_flag::read_only, 0);
  EXPECT_EQ(c->info[1].text, "other");
  EXPECT_EQ(c->info[2].text, "a disk");
  EXPECT_EQ(c->info[3].sizes, (nbd::block_sizes{1, 4096, 64 << 20}));
}

TEST_F(handshake, the_empty_name_is_the_first_export) {
  start();
  auto c = greeted();
  EXPECT_EQ(c->ask(option::go, info_data("")).header.type, option_reply::ack);
  EXPECT_EQ(c->info[1].text, "disk");
  EXPECT_EQ(c->call(nbd::command::read, 0, 512).error, nbd::wire_error::none);
}

TEST_F(handshake, export_name_is_answered_with_and_without_padding) {
  start();
  for (const uint32_t flags : {3u, 1u, 0u}) {
    client c(server_->path());
    c.greet(flags);
    nbd::byte_buffer out;
    nbd::append_option(out, option::export_name, base::as_bytes("disk"));
    c.send(out);
    const auto r = nbd::decode_export_name_reply(c.receive(nbd::export_name_reply_bytes));
    EXPECT_EQ(r.size_bytes, uint64_t{1} << 20);
    EXPECT_EQ(r.transmission_flags & nbd::transmission_flag::send_df, 0);
    if ((flags & 2) == 0) c.receive(nbd::export_name_zeroes);
    EXPECT_EQ(c.call(nbd::command::read, 0, 512).error, nbd::wire_error::none);
  }
}

TEST_F(handshake, contexts_belong_to_the_export_they_were_selected_for) {
  start();
  for (const std::string name : {"disk", "other"}) {
    auto c = greeted();
    c->ask(option::structured_reply);
    nbd::byte_buffer out;
    nbd::append_option(out, option::set_meta_context, meta_data("disk"));
    c->send(out);
    EXPECT_EQ(c->option_reply().header.type, option_reply::meta_context);
    EXPECT_EQ(c->option_reply().header.type, option_reply::ack);
    EXPECT_EQ(c->ask(option::go, info_data(name)).header.type, option_reply::ack);
    EXPECT_EQ(c->call(nbd::command::block_status, 0, 4096).error,
              name == "disk" ? nbd::wire_error::none : nbd::wire_error::inval);
  }
}

TEST_F(handshake, what_is_too_long_is_read_over_and_refused) {
  start();
  auto c = greeted();
  const auto data = pattern(1 << 20, 1);
  EXPECT_EQ(c->ask(option{4711}, data).header.type, option_reply::err_unsup);
  EXPECT_EQ(c->ask(option::info, data).header.type, option_reply::err_too_big);
  EXPECT_EQ(c->ask(option::starttls).header.type, option_reply::err_unsup);
  EXPECT_EQ(c->ask(option::list).header.type, option_reply::ack);
  EXPECT_EQ(c->ask(option::abort).header.type, option_reply::ack);
  EXPECT_TRUE(c->at_end());
}

TEST_F(handshake, whoever_takes_too_long_is_dropped) {
  server_options options;
  options.handshake_ns = 100'000'000;
  start(options);
  client idle(server_->path()), slow(server_->port());
  slow.greet();
  nbd::byte_buffer out;
  nbd::append_option(out, option::list, {});
  for (size_t i = 0; i < out.size() - 1; ++i) slow.send(base::bytes_view(out).subspan(i, 1));
  idle.receive(nbd::newstyle_greeting_bytes);
  EXPECT_TRUE(idle.at_end());
  EXPECT_TRUE(slow.at_end());
  // The limit is the handshake's alone.
  auto c = greeted();
  EXPECT_EQ(c->ask(option::go, info_data("disk")).header.type, option_reply::ack);
  std::this_thread::sleep_for(std::chrono::milliseconds(150));
  EXPECT_EQ(c->call(nbd::command::read, 0, 512).error, nbd::wire_error::none);
}

TEST_F(handshake, the_oldest_idler_gives_way_to_a_newcomer) {
  server_options options;
  options.handshakes = 4;
  start(options);
  std::vector<std::unique_ptr<client>> idlers;
  for (int i = 0; i < 6; ++i) idlers.push_back(greeted());
  for (int i = 0; i < 2; ++i) EXPECT_TRUE(idlers[size_t(i)]->at_end());
  EXPECT_FALSE(idlers[5]->readable(10));
  EXPECT_EQ(idlers[5]->ask(option::go, info_data("disk")).header.type, option_reply::ack);
}

TEST_F(handshake, no_more_connections_than_allowed) {
  server_options options;
  options.connections = 2;
  start(options);
  client a(server_->path()), b(server_->path());
  ASSERT_TRUE(a.go("disk"));
  ASSERT_TRUE(b.go("disk"));
  client refused(server_->path());
  EXPECT_TRUE(refused.at_end());
  a.close();
  ASSERT_TRUE(wait_until([&] { return server_->info().connections.size() == 1; }));
  client c(server_->path());
  EXPECT_TRUE(c.go("disk"));
}

}  // namespace
}  // namespace lbd::nbd_server
