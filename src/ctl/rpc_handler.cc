// SPDX-License-Identifier: MIT
#include <nlohmann/json.hpp>

#include "ctl/management.h"
#include "wire/jsonrpc/jsonrpc.h"

namespace lbd::ctl {
namespace {

using nlohmann::json;

// The named text parameters of a request; what is not in `known`, or no text, is refused.
base::outcome<std::string> text_param(const json& params, const char* name) {
  const auto found = params.find(name);
  if (found == params.end()) return std::string();
  if (!found->is_string())
    return base::failure{base::errc::inval, std::string(name) + " must be a text"};
  return found->get<std::string>();
}

base::outcome<void> only(const json& params, std::initializer_list<std::string_view> known) {
  if (!params.is_object() && !params.empty())
    return base::failure{base::errc::inval, "parameters must be given by name"};
  for (const auto& [name, value] : params.items())
    if (params.is_object() && std::find(known.begin(), known.end(), name) == known.end())
      return base::failure{base::errc::inval, "unknown parameter '" + name + "'"};
  return {};
}

struct add_layer_params {
  std::string device, file;
};
base::outcome<add_layer_params> parse_add_layer(const json& params) {
  CHECK(only(params, {"device", "file"}));
  add_layer_params out;
  TRY(out.device, text_param(params, "device"));
  TRY(out.file, text_param(params, "file"));
  if (out.file.empty()) return base::failure{base::errc::inval, "file is missing"};
  return out;
}

line_reply reply_to(const jsonrpc::message_id& id, std::string text) {
  return {id.is_notification() ? std::string() : std::move(text), false};
}

}  // namespace

rt::task<line_reply> rpc_handler::handle(std::string line) {
  const auto request = jsonrpc::parse_request(line);
  if (!request) co_return line_reply{jsonrpc::build_error(request.error()), false};
  const jsonrpc::message_id& id = request->id;
  const json& params = *request->params;
  if (request->method == "add_layer") {
    auto wanted = parse_add_layer(params);
    if (!wanted)
      co_return reply_to(id,
                         jsonrpc::build_error(id, jsonrpc::invalid_params, wanted.error().message));
    const auto added =
        co_await management_.add_layer(std::move(wanted->device), std::move(wanted->file));
    if (!added) co_return reply_to(id, jsonrpc::build_failure(id, added.error()));
    co_return reply_to(id, jsonrpc::build_result(id, true));
  }
  if (const auto none = only(params, {}); !none)
    co_return reply_to(id, jsonrpc::build_error(id, jsonrpc::invalid_params, none.error().message));
  if (request->method == "info")
    co_return reply_to(id, jsonrpc::build_result(id, to_json(management_.report())));
  if (request->method == "shutdown") {
    management_.shutdown();
    co_return reply_to(id, jsonrpc::build_result(id, true));
  }
  if (request->method == "ping") co_return reply_to(id, jsonrpc::build_result(id, true));
  co_return reply_to(id,
                     jsonrpc::build_error(id, jsonrpc::method_not_found,
                                          "unknown method '" + request->method +
                                              "': ping, info, shutdown and add_layer are known"));
}

std::string rpc_handler::too_long() {
  return jsonrpc::build_error(jsonrpc::message_id{"null"}, jsonrpc::invalid_request,
                              "the request is longer than 1 MiB");
}

size_t rpc_handler::max_line_bytes() const { return jsonrpc::max_message_bytes; }

}  // namespace lbd::ctl
