// SPDX-License-Identifier: MIT
#include <nlohmann/json.hpp>

#include "ctl/device_params.h"
#include "ctl/export_service.h"
#include "stack/device_name.h"

namespace lbd::ctl {
namespace {

using nlohmann::json;
using rt::task;

json to_json(const export_service::info& e) {
  return {{"device", e.device},  {"export", e.name},         {"nbd", e.address},
          {"uri", e.uri},        {"read_only", e.read_only}, {"size_bytes", e.size_bytes},
          {"clients", e.clients}};
}

task<rpc_answer> add(export_service& s, rpc_call call) {
  rpc_params p(call);
  export_service::spec what;
  what.device = read_key(p);
  what.address = p.needed_text("nbd");
  what.name = p.text("export");
  what.default_name = p.has("export") && what.name.empty();
  what.read_only = p.flag("read_only");
  if (const auto fine = p.finish(); !fine) co_return rpc_answer::wrong_params(fine.error());
  const stack::device_key key = what.device;
  const auto added = co_await s.add(std::move(what));
  if (!added) co_return device_failed(key, added.error());
  co_return rpc_answer::result(to_json(*added));
}

task<rpc_answer> list(export_service& s, rpc_call call) {
  rpc_params p(call);
  if (const auto fine = p.finish(); !fine) co_return rpc_answer::wrong_params(fine.error());
  json out = json::array();
  for (const auto& e : s.list()) out.push_back(to_json(e));
  co_return rpc_answer::result(out);
}

task<rpc_answer> remove(export_service& s, rpc_call call) {
  rpc_params p(call);
  std::string device = stack::shown_name(stack::kept_name(p.text("name"))), address = p.text("nbd");
  std::optional<std::string> name;
  if (p.has("export")) name = p.text("export");
  if (device.empty() && address.empty() && !name) p.refuse("give name, nbd or export");
  if (const auto fine = p.finish(); !fine) co_return rpc_answer::wrong_params(fine.error());
  const auto removed = co_await s.remove(std::move(device), std::move(address), std::move(name));
  if (!removed) co_return rpc_answer::failed(removed.error());
  const json out = {{"removed", *removed}};
  co_return rpc_answer::result(out);
}

}  // namespace

void add_export_service(daemon& to) {
  auto made = std::make_unique<export_service>(to);
  export_service* const s = made.get();
  to.add_service(std::move(made));
  to.methods().add("export.add", [s](rpc_call c) { return add(*s, std::move(c)); });
  to.methods().add("export.list", [s](rpc_call c) { return list(*s, std::move(c)); });
  to.methods().add("export.remove", [s](rpc_call c) { return remove(*s, std::move(c)); });
}

}  // namespace lbd::ctl
