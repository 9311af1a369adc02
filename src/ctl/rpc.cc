// SPDX-License-Identifier: MIT
#include "ctl/rpc.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "wire/jsonrpc/jsonrpc.h"

namespace lbd::ctl {

using nlohmann::json;

rpc_answer rpc_answer::result(const json& value) {
  rpc_answer out;
  out.value_ = std::make_shared<const json>(value);
  return out;
}

rpc_answer rpc_answer::failed(const base::failure& why) {
  rpc_answer out;
  out.code_ = why.code == base::errc::ok ? jsonrpc::internal_error : static_cast<int>(why.code);
  out.message_ = why.message;
  return out;
}

rpc_answer rpc_answer::wrong_params(const base::failure& why) {
  rpc_answer out;
  out.code_ = jsonrpc::invalid_params;
  out.message_ = why.message;
  return out;
}

void rpc_methods::add(std::string name, rpc_method method) {
  by_name_.emplace(std::move(name), std::move(method));
}

const rpc_method* rpc_methods::find(const std::string& name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : &found->second;
}

std::vector<std::string> rpc_methods::names() const {
  std::vector<std::string> out;
  for (const auto& [name, method] : by_name_) out.push_back(name);
  return out;
}

rpc_params::rpc_params(const rpc_call& call) : params_(*call.params) {
  if (!params_.is_object() && !params_.empty()) refuse("parameters must be given by name");
}

void rpc_params::refuse(std::string why) {
  if (!wrong_) wrong_ = std::move(why);
}

const json* rpc_params::value(const char* name) {
  known_.emplace_back(name);
  if (!params_.is_object()) return nullptr;
  const auto found = params_.find(name);
  return found == params_.end() ? nullptr : &*found;
}

bool rpc_params::has(const char* name) { return value(name) != nullptr; }

std::string rpc_params::text(const char* name) {
  const json* found = value(name);
  if (found == nullptr) return {};
  if (found->is_string()) return found->get<std::string>();
  refuse(std::string(name) + " must be a text");
  return {};
}

std::string rpc_params::needed_text(const char* name) {
  std::string out = text(name);
  if (out.empty()) refuse(std::string(name) + " is missing");
  return out;
}

std::vector<std::string> rpc_params::texts(const char* name) {
  std::vector<std::string> out;
  const json* found = value(name);
  if (found == nullptr) return out;
  const bool all_texts =
      found->is_array() &&
      std::all_of(found->begin(), found->end(), [](const json& j) { return j.is_string(); });
  if (all_texts)
    for (const json& j : *found) out.push_back(j.get<std::string>());
  else
    refuse(std::string(name) + " must be a list of texts");
  return out;
}

bool rpc_params::flag(const char* name) {
  const json* found = value(name);
  if (found == nullptr) return false;
  if (found->is_boolean()) return found->get<bool>();
  refuse(std::string(name) + " must be true or false");
  return false;
}

std::optional<uint64_t> rpc_params::number(const char* name) {
  const json* found = value(name);
  if (found == nullptr) return std::nullopt;
  if (found->is_number_unsigned()) return found->get<uint64_t>();
  refuse(std::string(name) + " must be a number from 0");
  return std::nullopt;
}

base::outcome<void> rpc_params::finish() {
  if (params_.is_object())
    for (const auto& [name, unused] : params_.items())
      if (std::find(known_.begin(), known_.end(), name) == known_.end())
        refuse("unknown parameter '" + name + "'");
  if (wrong_) return base::failure{base::errc::inval, *wrong_};
  return {};
}

namespace {

std::string unknown_method(const rpc_methods& methods, const std::string& method) {
  std::string known;
  for (const std::string& name : methods.names()) known += (known.empty() ? "" : ", ") + name;
  return "unknown method '" + method + "': known are " + known;
}

}  // namespace

rt::task<line_reply> rpc_handler::handle(std::string line, line_peer& from) {
  const auto request = jsonrpc::parse_request(line);
  if (!request) co_return line_reply{jsonrpc::build_error(request.error()), false};
  const jsonrpc::message_id& id = request->id;
  line_reply out;
  const rpc_method* method = methods_.find(request->method);
  if (method == nullptr) {
    out.text = jsonrpc::build_error(id, jsonrpc::method_not_found,
                                    unknown_method(methods_, request->method));
  } else {
    rpc_call call;
    call.params = request->params;
    call.from = &from;
    const rpc_answer answer = co_await (*method)(std::move(call));
    if (answer.value() != nullptr)
      out.text = jsonrpc::build_result(id, *answer.value());
    else
      out.text = jsonrpc::build_error(id, answer.code(), answer.message());
  }
  if (id.is_notification()) out.text.clear();
  co_return out;
}

std::string rpc_handler::too_long() {
  return jsonrpc::build_error(jsonrpc::message_id{"null"}, jsonrpc::invalid_request,
                              "the request is longer than 1 MiB");
}

size_t rpc_handler::max_line_bytes() const { return jsonrpc::max_message_bytes; }

}  // namespace lbd::ctl
