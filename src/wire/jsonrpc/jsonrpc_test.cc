// SPDX-License-Identifier: MIT
#include "wire/jsonrpc/jsonrpc.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace lbd::jsonrpc {
namespace {

using nlohmann::json;
using testing::HasSubstr;

TEST(jsonrpc, reads_requests_with_every_kind_of_id) {
  const auto r = parse_request(R"({"jsonrpc":"2.0","id":7,"method":"info","params":{"a":[1,2]}})");
  ASSERT_TRUE(r);
  EXPECT_EQ(r->id.json, "7");
  EXPECT_EQ(r->method, "info");
  EXPECT_EQ((*r->params)["a"][1], 2);

  EXPECT_EQ(parse_request(R"({"jsonrpc":"2.0","id":"x\"y","method":"m"})")->id.json, R"("x\"y")");
  EXPECT_EQ(parse_request(R"({"jsonrpc":"2.0","id":-1,"method":"m"})")->id.json, "-1");
  EXPECT_EQ(parse_request(R"({"jsonrpc":"2.0","id":null,"method":"m"})")->id.json, "null");
  const auto note = parse_request(R"({"jsonrpc":"2.0","method":"m","params":[1]})");
  ASSERT_TRUE(note);
  EXPECT_TRUE(note->id.is_notification());
  EXPECT_TRUE(note->params->is_array());
  EXPECT_TRUE(parse_request(R"({"jsonrpc":"2.0","id":1,"method":"m"})")->params->is_object());
}

TEST(jsonrpc, refuses_what_is_no_request) {
  struct {
    const char* line;
    int code;
    const char* id;
  } const wrong[] = {
      {"", parse_error, "null"},
      {"{", parse_error, "null"},
      {"PING", parse_error, "null"},
      {"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"\xff\"}", parse_error, "null"},
      {"[]", invalid_request, "null"},
      {R"([{"jsonrpc":"2.0","id":1,"method":"m"}])", invalid_request, "null"},
      {"7", invalid_request, "null"},
      {"null", invalid_request, "null"},
      {R"({"id":1,"method":"m"})", invalid_request, "1"},
      {R"({"jsonrpc":"1.0","id":1,"method":"m"})", invalid_request, "1"},
      {R"({"jsonrpc":2.0,"id":1,"method":"m"})", invalid_request, "1"},
      {R"({"jsonrpc":"2.0","id":"a"})", invalid_request, "\"a\""},
      {R"({"jsonrpc":"2.0","id":1,"method":5})", invalid_request, "1"},
      {R"({"jsonrpc":"2.0","id":1.5,"method":"m"})", invalid_request, "null"},
      {R"({"jsonrpc":"2.0","id":[1],"method":"m"})", invalid_request, "null"},
      {R"({"jsonrpc":"2.0","id":true,"method":"m"})", invalid_request, "null"},
      {R"({"jsonrpc":"2.0","id":1,"method":"m","params":3})", invalid_request, "1"},
      {R"({"jsonrpc":"2.0","id":1,"method":"m","params":null})", invalid_request, "1"},
  };
  for (const auto& w : wrong) {
    const auto r = parse_request(w.line);
    ASSERT_FALSE(r) << w.line;
    EXPECT_EQ(r.error().code, w.code) << w.line;
    EXPECT_EQ(r.error().id.json, w.id) << w.line;
    const json reply = json::parse(build_error(r.error()));
    EXPECT_EQ(reply["id"].dump(), w.id);
    EXPECT_EQ(reply["error"]["code"], w.code);
  }
}

TEST(jsonrpc, size_and_nesting_are_bounded) {
  const auto nested = [](unsigned depth) {
    return R"({"jsonrpc":"2.0","id":1,"method":"m","params":)" + std::string(depth, '[') +
           std::string(depth, ']') + "}";
  };
  EXPECT_TRUE(parse_request(nested(max_depth - 1)));
  EXPECT_FALSE(parse_request(nested(max_depth)));
  EXPECT_FALSE(parse_request(std::string(500000, '[')));
  EXPECT_FALSE(parse_request(std::string(max_message_bytes + 1, ' ')));
  const std::string in_string = R"({"jsonrpc":"2.0","id":1,"method":")" + std::string(99, '[') +
                                R"(\"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["})";
  EXPECT_TRUE(parse_request(in_string));
  EXPECT_FALSE(parse_request(R"({"jsonrpc":"2.0","id":1e999,"method":"m"})"));
}

TEST(jsonrpc, replies_are_one_line_and_read_back) {
  const std::string ok = build_result({"7"}, json{{"text", "a\nb"}});
  EXPECT_EQ(ok.find('\n'), ok.size() - 1);
  auto r = parse_response(ok);
  ASSERT_TRUE(r);
  EXPECT_EQ(r->id, number_id(7));
  ASSERT_TRUE(r->result);
  EXPECT_EQ((*r->result)["text"], "a\nb");

  r = parse_response(build_failure({"\"x\""}, {base::errc::noent, "no such file"}));
  ASSERT_TRUE(r);
  EXPECT_FALSE(r->result);
  EXPECT_EQ(to_failure(*r).code, base::errc::noent);
  EXPECT_EQ(to_failure(*r).message, "no such file");

  r = parse_response(build_error({"1"}, invalid_params, "bad"));
  EXPECT_EQ(to_failure(*r).code, base::errc::inval);

  r = parse_response(build_result({"null"}, json()));
  ASSERT_TRUE(r);
  EXPECT_TRUE(r->result && r->result->is_null());
}

TEST(jsonrpc, requests_read_back) {
  const auto r = parse_request(build_request(number_id(3), "add", json{{"file", "x"}}));
  ASSERT_TRUE(r);
  EXPECT_EQ(r->id, number_id(3));
  EXPECT_EQ(r->method, "add");
  EXPECT_EQ((*r->params)["file"], "x");
  EXPECT_TRUE(parse_request(build_request({}, "note", json::array()))->id.is_notification());
}

TEST(jsonrpc, text_that_is_not_utf8_is_mended) {
  const auto r = parse_response(build_error({"1"}, 5, "bad \xff name"));
  ASSERT_TRUE(r);
  EXPECT_THAT(r->message, HasSubstr("bad "));
}

TEST(jsonrpc, wrong_answers_are_refused) {
  for (const char* bad :
       {"", "7", "[]", R"({"jsonrpc":"2.0","id":1})", R"({"jsonrpc":"2.0","result":1})",
        R"({"jsonrpc":"2.0","id":1,"result":1,"error":{"code":1,"message":"x"}})",
        R"({"jsonrpc":"2.0","id":1,"error":1})", R"({"jsonrpc":"2.0","id":1,"error":{"code":"x"}})",
        R"({"jsonrpc":"2.0","id":1,"error":{"code":1}})", R"({"id":1,"result":1})"}) {
    const auto r = parse_response(bad);
    ASSERT_FALSE(r) << bad;
    EXPECT_EQ(r.error().code, base::errc::protocol);
  }
  const auto huge =
      parse_response(R"({"jsonrpc":"2.0","id":1,"error":{"code":99999999999,"message":"x"}})");
  ASSERT_TRUE(huge);
  EXPECT_EQ(huge->code, internal_error);
}

}  // namespace
}  // namespace lbd::jsonrpc
