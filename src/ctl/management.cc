// SPDX-License-Identifier: MIT
#include "ctl/management.h"

#include <nlohmann/json.hpp>

namespace lbd::ctl {
namespace {

using nlohmann::json;

// The methods as coroutines of plain functions: a lambda that captures must not be one.
rt::task<rpc_answer> ping(rpc_call call) {
  rpc_params p(call);
  if (const auto fine = p.finish(); !fine) co_return rpc_answer::wrong_params(fine.error());
  co_return rpc_answer::result(true);
}

rt::task<rpc_answer> info(server_control& what, rpc_call call) {
  rpc_params p(call);
  if (const auto fine = p.finish(); !fine) co_return rpc_answer::wrong_params(fine.error());
  co_return rpc_answer::result(to_json(what.report()));
}

rt::task<rpc_answer> shutdown(server_control& what, rpc_call call) {
  rpc_params p(call);
  if (const auto fine = p.finish(); !fine) co_return rpc_answer::wrong_params(fine.error());
  what.shutdown();
  co_return rpc_answer::result(true);
}

rt::task<rpc_answer> add_layer(management& what, rpc_call call) {
  rpc_params p(call);
  std::string device = p.text("device");
  std::string file = p.needed_text("file");
  if (const auto fine = p.finish(); !fine) co_return rpc_answer::wrong_params(fine.error());
  const auto added = co_await what.add_layer(std::move(device), std::move(file));
  if (!added) co_return rpc_answer::failed(added.error());
  co_return rpc_answer::result(true);
}

}  // namespace

void add_server_methods(rpc_methods& to, server_control& what) {
  to.add("ping", ping);
  to.add("info", [&what](rpc_call c) { return info(what, std::move(c)); });
  to.add("shutdown", [&what](rpc_call c) { return shutdown(what, std::move(c)); });
}

void add_management_methods(rpc_methods& to, management& what) {
  add_server_methods(to, what);
  to.add("add_layer", [&what](rpc_call c) { return add_layer(what, std::move(c)); });
}

}  // namespace lbd::ctl
