// SPDX-License-Identifier: MIT
#include "stack/region_stats.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

namespace lbd::stack {
namespace {

using block::op;

class regions : public testing::Test {
 protected:
  static constexpr uint64_t ms = 1'000'000;
  std::string tell(std::vector<std::string> words) {
    const auto reply = stats_.message(std::move(words), 2048, now_ns_);
    return reply ? *reply : "error: " + reply.error().message;
  }
  // A request of `sectors` that takes a while.
  void serve(op what, uint64_t sector, uint64_t sectors, uint64_t took_ms) {
    const auto r = stats_.begin(what, sector * 512, sectors * 512, now_ns_);
    now_ns_ += took_ms * ms;
    region_stats::end(r, now_ns_);
  }
  region_stats stats_;
  uint64_t now_ns_ = 7 * ms;
};

TEST_F(regions, are_made_listed_and_deleted) {
  EXPECT_FALSE(stats_.counts());
  EXPECT_EQ(tell({"@stats_list"}), "");
  EXPECT_EQ(tell({"@stats_create", "-", "/16"}), "0");
  EXPECT_TRUE(stats_.counts());
  EXPECT_EQ(tell({"@STATS_create", "0+128", "1", "prog", "aux"}), "1");
  EXPECT_EQ(tell({"@stats_create", "8+100", "/3", "2", "precise_timestamps", "histogram:1,5", "p"}),
            "2");
  EXPECT_EQ(tell({"@stats_list"}),
            "0: 0+2048 128 - -\n1: 0+128 1 prog aux\n"
            "2: 8+100 34 p - precise_timestamps histogram:1,5\n");
  EXPECT_EQ(tell({"@stats_list", "prog"}), "1: 0+128 1 prog aux\n");
  EXPECT_EQ(tell({"@stats_set_aux", "1", "other"}), "");
  EXPECT_EQ(tell({"@stats_delete", "0"}), "");
  EXPECT_EQ(tell({"@stats_create", "-", "2048"}), "0") << "the lowest free number";
  EXPECT_EQ(tell({"@stats_list"}).substr(0, 38), "0: 0+2048 2048 - -\n1: 0+128 1 prog oth");
  for (const char* id : {"0", "1", "2"}) EXPECT_EQ(tell({"@stats_delete", id}), "");
  EXPECT_FALSE(stats_.counts());
}

TEST_F(regions, count_what_the_kernel_counts) {
  ASSERT_EQ(tell({"@stats_create", "0+100", "/2"}), "0");
  serve(op::read, 0, 8, 10);
  serve(op::read, 8, 8, 5);     // goes on where the last one ended
  serve(op::write, 48, 4, 20);  // in both areas
  serve(op::discard, 96, 100, 1);
  serve(op::flush, 0, 0, 50);
  serve(op::write, 200, 8, 50);
  EXPECT_EQ(tell({"@stats_print", "0"}),
            "0+50 2 1 16 15 1 0 2 20 0 35 35 15 20\n"
            "50+50 0 0 0 0 2 0 6 21 0 21 21 0 21\n");
  EXPECT_EQ(tell({"@stats_print", "0", "1", "1"}), "50+50 0 0 0 0 2 0 6 21 0 21 21 0 21\n");
  const auto waits = stats_.begin(op::read, 0, 512, now_ns_);
  now_ns_ += 4 * ms;
  serve(op::write, 1, 1, 2);
  EXPECT_EQ(tell({"@stats_print_clear", "0", "0", "1"}), "0+50 2 1 16 15 2 0 3 22 1 41 43 21 22\n");
  now_ns_ += ms;
  region_stats::end(waits, now_ns_);
  EXPECT_EQ(tell({"@stats_print", "0"}),
            "0+50 1 0 1 7 0 0 0 0 0 1 1 1 0\n"
            "50+50 0 0 0 0 2 0 6 21 0 21 21 0 21\n");
  EXPECT_EQ(tell({"@stats_clear", "0"}), "");
  EXPECT_EQ(tell({"@stats_print", "0"}),
            "0+50 0 0 0 0 0 0 0 0 0 0 0 0 0\n50+50 0 0 0 0 0 0 0 0 0 0 0 0 0\n");
}

TEST_F(regions, may_have_a_step_beyond_all_sectors) {
  ASSERT_EQ(tell({"@stats_create", "5+100", "18446744073709551615"}), "0");
  ASSERT_EQ(tell({"@stats_create", "96+8", "18446744073709551612"}), "1");
  serve(op::read, 0, 14, 1);
  serve(op::read, 90, 100, 2);
  EXPECT_EQ(tell({"@stats_list"}),
            "0: 5+100 18446744073709551615 - -\n1: 96+8 18446744073709551612 - -\n");
  EXPECT_EQ(tell({"@stats_print", "0"}), "5+18446744073709551615 2 0 24 3 0 0 0 0 0 3 3 3 0\n");
  EXPECT_EQ(tell({"@stats_print", "1"}), "96+18446744073709551612 1 0 8 2 0 0 0 0 0 2 2 2 0\n");
}

TEST_F(regions, sort_what_requests_took) {
  ASSERT_EQ(tell({"@stats_create", "-", "/1", "1", "histogram:5,10"}), "0");
  ASSERT_EQ(tell({"@stats_create", "-", "/1", "1", "precise_timestamps"}), "1");
  for (const uint64_t took_ms : {1, 4, 5, 9, 10, 11, 12}) serve(op::read, 0, 1, took_ms);
  EXPECT_EQ(tell({"@stats_print", "0"}), "0+2048 7 0 7 52 0 0 0 0 0 52 52 52 0 2:2:3\n");
  EXPECT_EQ(tell({"@stats_print", "1"}),
            "0+2048 7 0 7 52000000 0 0 0 0 0 52000000 52000000 52000000 0\n");
}

TEST_F(regions, a_request_ends_where_it_began) {
  ASSERT_EQ(tell({"@stats_create", "-", "/1"}), "0");
  const auto r = stats_.begin(op::write, 0, 512, now_ns_);
  ASSERT_EQ(tell({"@stats_delete", "0"}), "");
  ASSERT_EQ(tell({"@stats_create", "-", "/1"}), "0");
  region_stats::end(r, now_ns_);
  EXPECT_EQ(tell({"@stats_print", "0"}), "0+2048 0 0 0 0 0 0 0 0 0 0 0 0 0\n");
  stats_.forget_old();
  EXPECT_EQ(tell({"@stats_list"}), "0: 0+2048 2048 - -\n");
}

TEST_F(regions, that_are_deleted_cost_nothing_once_no_request_is_in_them) {
  ASSERT_EQ(tell({"@stats_create", "-", "1"}), "0");
  const auto r = stats_.begin(op::write, 0, 512, now_ns_);
  for (int i = 0; i < 3000; ++i) {
    ASSERT_EQ(tell({"@stats_create", "-", "/100"}), "1") << i;
    serve(op::read, 0, 8, 1);
    ASSERT_EQ(tell({"@stats_delete", "1"}), "") << i;
  }
  const auto most = std::to_string((1 << 18) - 2048);
  ASSERT_EQ(tell({"@stats_delete", "0"}), "");
  EXPECT_EQ(stats_.message({"@stats_create", "0+262144", "1"}, 2048, now_ns_).error().code,
            base::errc::nomem)
      << "a request is in the first one";
  EXPECT_EQ(tell({"@stats_create", "0+" + most, "1"}), "0") << "what is left";
  region_stats::end(r, now_ns_);
  EXPECT_EQ(tell({"@stats_delete", "0"}), "");
  EXPECT_EQ(tell({"@stats_create", "0+262144", "1"}), "0");
}

TEST_F(regions, are_not_more_than_a_request_can_look_at) {
  for (int i = 0; i < 1 << 13; ++i)
    ASSERT_EQ(tell({"@stats_create", "0+8", "8"}), std::to_string(i));
  EXPECT_EQ(stats_.message({"@stats_create", "0+8", "8"}, 2048, now_ns_).error().code,
            base::errc::nomem);
  EXPECT_EQ(tell({"@stats_delete", "77"}), "");
  EXPECT_EQ(tell({"@stats_create", "0+8", "8"}), "77");
}

TEST_F(regions, come_and_go_while_requests_run) {
  std::atomic<bool> done{false};
  std::vector<std::thread> others;
  for (uint64_t at = 0; at < 2; ++at)
    others.emplace_back([this, at, &done] {
      for (uint64_t now = 1; !done; ++now) {
        const auto r = stats_.begin(op::read, at * 4096, 4096, now);
        region_stats::end(r, now + 1);
      }
    });
  for (int i = 0; i < 1000; ++i) {
    EXPECT_EQ(tell({"@stats_create", "-", "/100"}), "0");
    EXPECT_EQ(tell({"@stats_create", "-", "/100"}), "1");
    EXPECT_EQ(tell({"@stats_delete", "0"}), "");
    EXPECT_EQ(tell({"@stats_delete", "1"}), "");
  }
  done = true;
  for (auto& t : others) t.join();
  EXPECT_FALSE(stats_.counts());
}

TEST_F(regions, wrong_messages) {
  const std::vector<std::vector<std::string>> wrong = {
      {"@stats_create"},
      {"@stats_create", "-"},
      {"@stats_create", "x", "/1"},
      {"@stats_create", "0+0", "/1"},
      {"@stats_create", "18446744073709551615+8", "/1"},
      {"@stats_create", "-", "0"},
      {"@stats_create", "-", "/x"},
      {"@stats_create", "-", "8", "1"},
      {"@stats_create", "-", "8", "1", "other"},
      {"@stats_create", "-", "8", "1", "histogram:5,5"},
      {"@stats_create", "-", "8", "1", "histogram:"},
      {"@stats_create", "-", "8", "1", "histogram:0,5"},
      {"@stats_print", "x"},
      {"@stats_delete", "-1"},
      {"@stats_create", "-", "8", "0", "p", "a", "more"},
      {"@stats_list", "a", "b"},
      {"@stats_print"},
      {"@stats_print", "0", "1"},
      {"@stats_clear"},
      {"@stats_delete", "0", "1"},
      {"@stats_set_aux", "0"},
  };
  for (const auto& words : wrong)
    EXPECT_EQ(tell(words), "error: stats: Invalid parameters for message " + words[0]);
  for (const char* what : {"@stats_print", "@stats_clear", "@stats_delete"})
    EXPECT_EQ(stats_.message({what, "3"}, 2048, now_ns_).error().code, base::errc::noent);
  EXPECT_EQ(stats_.message({"@stats_create", "0+99999999", "1"}, 2048, now_ns_).error().code,
            base::errc::nomem);
  EXPECT_TRUE(region_stats::knows("@Stats_Print"));
  EXPECT_FALSE(region_stats::knows("@stats_other"));
}

}  // namespace
}  // namespace lbd::stack
