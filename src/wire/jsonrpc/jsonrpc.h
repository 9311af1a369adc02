// SPDX-License-Identifier: MIT
// JSON-RPC 2.0, one message a line, both sides. Messages are bounded in size and nesting; batches
// are refused (send one request a line). Users of json values include <nlohmann/json.hpp> in their
// .cc. Source: https://www.jsonrpc.org/specification
#pragma once

#include <cstddef>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "base/result.h"

namespace lbd::jsonrpc {

inline constexpr size_t max_message_bytes = size_t{1} << 20;
inline constexpr size_t max_response_bytes = 16 * max_message_bytes;
inline constexpr unsigned max_depth = 32;

// The specification's error codes. Errors of the application are positive errno values, with the
// failure's sentence as their message.
inline constexpr int parse_error = -32700;
inline constexpr int invalid_request = -32600;
inline constexpr int method_not_found = -32601;
inline constexpr int invalid_params = -32602;
inline constexpr int internal_error = -32603;

// The id of a request: a JSON string, an integer or null, kept as JSON text. Empty: a notification,
// which gets no reply.
struct message_id {
  std::string json;
  bool is_notification() const noexcept { return json.empty(); }
  friend bool operator==(const message_id&, const message_id&) = default;
};
message_id number_id(uint64_t value);

struct request {
  message_id id;
  std::string method;
  std::shared_ptr<const nlohmann::json> params;  // an object or an array; an empty object if absent
};

// Why a line is no request; build_error() makes the reply of it (the id is null if it was not
// found).
struct refusal {
  int code = invalid_request;
  std::string message;
  message_id id{"null"};
};
base::basic_result<request, refusal> parse_request(std::string_view line);

struct response {
  message_id id;
  std::shared_ptr<const nlohmann::json> result;  // null pointer: an error
  int code = 0;
  std::string message;
};
// What a client got. Errors (errc::protocol): not JSON-RPC.
base::outcome<response> parse_response(std::string_view line);
// The failure that a response with an error stands for.
base::failure to_failure(const response& r);

// Builders return one line with its end. Text that is not UTF-8 is mended, not refused.
std::string build_request(const message_id& id, std::string_view method,
                          const nlohmann::json& params);
std::string build_result(const message_id& id, const nlohmann::json& result);
std::string build_error(const message_id& id, int code, std::string_view message);
std::string build_error(const refusal& r);
std::string build_failure(const message_id& id, const base::failure& f);

}  // namespace lbd::jsonrpc
