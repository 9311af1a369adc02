// SPDX-License-Identifier: MIT
#include "wire/text/text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace lbd::text {
namespace {

using namespace std::string_literals;
using testing::HasSubstr;

TEST(text, requests) {
  EXPECT_EQ(parse_request("PING")->what, verb::ping);
  EXPECT_EQ(parse_request("SHUTDOWN")->what, verb::shutdown);
  EXPECT_EQ(parse_request("DEVICE_INFO_STRINGS")->what, verb::device_info_strings);
  const auto add = parse_request("LIVE_ADD_LAYER /srv/new layer.qcow2");
  ASSERT_TRUE(add);
  EXPECT_EQ(add->what, verb::live_add_layer);
  EXPECT_EQ(add->filename, "/srv/new layer.qcow2");
}

TEST(text, wrong_requests_are_named) {
  for (const std::string& bad :
       {""s, "ping"s, "PONG"s, "PING "s, "PING x"s, " PING"s, "SHUTDOWN now"s, "LIVE_ADD_LAYER"s,
        "LIVE_ADD_LAYER "s, "LIVE_ADD_LAYER a\0b"s, "LIVE_ADD_LAYER a\tb"s, "GET / HTTP/1.1"s,
        "PING\0"s, std::string(8000, 'A')}) {
    const auto r = parse_request(bad);
    ASSERT_FALSE(r) << bad;
    EXPECT_EQ(r.error().code, base::errc::inval);
    EXPECT_LT(r.error().message.size(), 300u);
    const std::string reply = error_reply(r.error().message);
    EXPECT_EQ(reply.find('\n'), reply.size() - 1);
  }
  EXPECT_THAT(parse_request("PONG").error().message, HasSubstr("'PONG'"));
  EXPECT_THAT(parse_request("LIVE_ADD_LAYER").error().message, HasSubstr("<filename>"));
}

TEST(text, replies_are_whole_lines) {
  EXPECT_EQ(error_reply("no\nsuch\r\nfile"), "ERROR no such  file\n");
  EXPECT_EQ(error_reply(""), "ERROR failed\n");
  EXPECT_EQ(info_reply({{"layer 0", "expandable"}, {"path", "/a\nb: c"}}),
            "layer 0: expandable\npath: /a b: c\n\n");
  EXPECT_EQ(info_reply({}), "\n");
}

}  // namespace
}  // namespace lbd::text
