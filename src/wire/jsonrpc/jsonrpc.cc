// SPDX-License-Identifier: MIT
#include "wire/jsonrpc/jsonrpc.h"

#include <nlohmann/json.hpp>
#include <optional>

namespace lbd::jsonrpc {

namespace {

using base::errc;
using base::failure;
using nlohmann::json;

// Depth of nesting, seen before the parser builds anything.
bool is_too_deep(std::string_view text) noexcept {
  unsigned depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      if (++depth > max_depth) return true;
    } else if ((c == ']' || c == '}') && depth > 0) {
      --depth;
    }
  }
  return false;
}

// Numbers beyond all bounds ("1e999") are the one thing for which the parser throws although told
// not to on some versions, so both ways are covered.
json parse_text(std::string_view text) {
  try {
    return json::parse(text.begin(), text.end(), nullptr, false);
  } catch (const json::exception&) {
    return json(json::value_t::discarded);
  }
}

std::string dump(const json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

std::string dump_line(const json& value) { return dump(value) + "\n"; }

json id_value(const message_id& id) {
  json value = id.json.empty() ? json() : parse_text(id.json);
  return value.is_discarded() ? json() : value;
}

std::optional<message_id> id_of(const json& value) {
  if (!value.is_string() && !value.is_number_integer() && !value.is_null()) return std::nullopt;
  return message_id{dump(value)};
}

}  // namespace

message_id number_id(uint64_t value) { return {std::to_string(value)}; }

base::basic_result<request, refusal> parse_request(std::string_view line) {
  if (line.size() > max_message_bytes) return refusal{parse_error, "the message is too long"};
  if (is_too_deep(line)) return refusal{parse_error, "the message is nested too deeply"};
  const json message = parse_text(line);
  if (message.is_discarded()) return refusal{parse_error, "the message is not JSON"};
  if (message.is_array()) {
    return refusal{invalid_request, "batches are not supported; send one request a line"};
  }
  if (!message.is_object()) return refusal{invalid_request, "a request is a JSON object"};
  request out;
  if (const auto at = message.find("id"); at != message.end()) {
    auto id = id_of(*at);
    if (!id) return refusal{invalid_request, "the id must be a string, an integer or null"};
    out.id = std::move(*id);
  }
  const message_id answer_to = out.id.is_notification() ? message_id{"null"} : out.id;
  const auto version = message.find("jsonrpc");
  if (version == message.end() || *version != "2.0") {
    return refusal{invalid_request, "\"jsonrpc\": \"2.0\" is missing", answer_to};
  }
  const auto method = message.find("method");
  if (method == message.end() || !method->is_string()) {
    return refusal{invalid_request, "the method is missing or no string", answer_to};
  }
  out.method = method->get<std::string>();
  const auto params = message.find("params");
  if (params == message.end()) {
    out.params = std::make_shared<const json>(json::object());
  } else if (params->is_structured()) {
    out.params = std::make_shared<const json>(*params);
  } else {
    return refusal{invalid_request, "the params must be an object or an array", answer_to};
  }
  return out;
}

base::outcome<response> parse_response(std::string_view line) {
  const auto refuse = [](const char* why) {
    return failure{errc::protocol, std::string("the answer ") + why};
  };
  if (line.size() > max_response_bytes) return refuse("is too long");
  if (is_too_deep(line)) return refuse("is nested too deeply");
  const json message = parse_text(line);
  if (!message.is_object() || message.value("jsonrpc", json()) != "2.0") {
    return refuse("is no JSON-RPC 2.0 message");
  }
  response out;
  const auto id = message.find("id");
  auto known = id == message.end() ? std::nullopt : id_of(*id);
  if (!known) return refuse("has no id");
  out.id = std::move(*known);
  const auto result = message.find("result");
  const auto error = message.find("error");
  if ((result == message.end()) == (error == message.end())) {
    return refuse("must have either a result or an error");
  }
  if (result != message.end()) {
    out.result = std::make_shared<const json>(*result);
    return out;
  }
  if (!error->is_object()) return refuse("has an error that is no object");
  const json code = error->value("code", json());
  const json text = error->value("message", json());
  if (!code.is_number_integer() || !text.is_string()) return refuse("has an error without a code");
  const auto wide = code.get<int64_t>();
  out.code = wide >= INT32_MIN && wide <= INT32_MAX ? static_cast<int>(wide) : internal_error;
  if (out.code == 0) out.code = internal_error;
  out.message = text.get<std::string>();
  return out;
}

failure to_failure(const response& r) {
  const bool is_errno = r.code > 0 && r.code < 4096;
  if (is_errno) return {static_cast<errc>(r.code), r.message};
  return {r.code == invalid_params ? errc::inval : errc::protocol, r.message};
}

std::string build_request(const message_id& id, std::string_view method, const json& params) {
  json message = {{"jsonrpc", "2.0"}, {"method", method}, {"params", params}};
  if (!id.is_notification()) message["id"] = id_value(id);
  return dump_line(message);
}

std::string build_result(const message_id& id, const json& result) {
  return dump_line({{"jsonrpc", "2.0"}, {"id", id_value(id)}, {"result", result}});
}

std::string build_error(const message_id& id, int code, std::string_view message) {
  const json error = {{"code", code}, {"message", message}};
  return dump_line({{"jsonrpc", "2.0"}, {"id", id_value(id)}, {"error", error}});
}

std::string build_error(const refusal& r) { return build_error(r.id, r.code, r.message); }

std::string build_failure(const message_id& id, const failure& f) {
  const int code = static_cast<int>(f.code);
  return build_error(id, code == 0 ? internal_error : code, f.message);
}

}  // namespace lbd::jsonrpc
