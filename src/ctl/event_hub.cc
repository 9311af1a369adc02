// SPDX-License-Identifier: MIT
#include "ctl/event_hub.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "wire/jsonrpc/jsonrpc.h"

namespace lbd::ctl {
namespace {

using nlohmann::json;

// The kernel's order of what it adds for the device-mapper.
constexpr const char* mapper_variables[] = {"DM_TARGET", "DM_ACTION", "DM_SEQNUM", "DM_PATH",
                                            "DM_NR_VALID_PATHS"};

std::string notification(const char* method, const json& params) {
  return jsonrpc::build_request(jsonrpc::message_id{}, method, params);
}

// The text of a variable "NAME=VALUE", or nullptr.
const std::string* find_variable(const std::vector<std::string>& all, const std::string& name) {
  const auto found = std::find_if(
      all.begin(), all.end(), [&name](const std::string& v) { return v.starts_with(name + "="); });
  return found == all.end() ? nullptr : &*found;
}

bool is_mapper_variable(const std::string& name) {
  return std::find(std::begin(mapper_variables), std::end(mapper_variables), name) !=
         std::end(mapper_variables);
}

}  // namespace

uevent to_uevent(const stack::device_event& from, uint64_t sequence) {
  const std::string node = "dm-" + std::to_string(from.number.minor);
  uevent out;
  out.action = from.action;
  out.devpath = "/devices/virtual/block/" + node;
  out.sequence = sequence;
  const auto add = [&out](std::string name, std::string value) {
    out.variables.emplace_back(std::move(name), std::move(value));
  };
  add("ACTION", out.action);
  add("DEVPATH", out.devpath);
  add("SUBSYSTEM", "block");
  for (const char* name : mapper_variables)
    if (const std::string* v = find_variable(from.variables, name))
      add(name, v->substr(v->find('=') + 1));
  for (const std::string& v : from.variables) {
    const size_t equal = std::min(v.find('='), v.size());
    std::string name = v.substr(0, equal);
    if (is_mapper_variable(name)) continue;
    add(std::move(name), v.substr(std::min(equal + 1, v.size())));
  }
  // The kernel names the device in an event about a path, its uuid too when that is empty.
  const bool of_path = find_variable(from.variables, "DM_ACTION") != nullptr;
  add("DM_NAME", from.name);
  if (of_path || !from.uuid.empty()) add("DM_UUID", from.uuid);
  add("MAJOR", std::to_string(from.number.major));
  add("MINOR", std::to_string(from.number.minor));
  add("DEVNAME", "/dev/" + node);
  add("DEVTYPE", "disk");
  add("SEQNUM", std::to_string(sequence));
  return out;
}

json to_json(const uevent& e) {
  json variables = json::array();
  for (const auto& [name, value] : e.variables) variables.push_back(name + "=" + value);
  return {{"action", e.action},
          {"devpath", e.devpath},
          {"sequence", e.sequence},
          {"variables", std::move(variables)}};
}

event_hub::event_hub(stack::device_manager& from) {
  from.on_event([this](const stack::device_event& e) { tell(e); });
}

void event_hub::subscribe(line_peer& peer) {
  if (std::find(subscribers_.begin(), subscribers_.end(), &peer) != subscribers_.end()) return;
  subscribers_.push_back(&peer);
  peer.on_end([this, who = &peer] { subscribers_.remove(who); });
}

void event_hub::tell(const stack::device_event& e) {
  for (const listener& told : listeners_) told(e);
  if (!e.visible) return;
  ++sequence_;
  if (subscribers_.empty()) return;
  const std::string line = notification("event", to_json(to_uevent(e, sequence_)));
  for (auto at = subscribers_.begin(); at != subscribers_.end();) {
    line_peer& peer = **at++;
    if (peer.notify(line)) continue;
    peer.on_end({});
    subscribers_.remove(&peer);
    const json why = {{"message", "events come faster than they are read: subscribe again"},
                      {"sequence", sequence_}};
    peer.dismiss(notification("events.lost", why));
  }
}

namespace {

rt::task<rpc_answer> subscribe(event_hub& hub, rpc_call call) {
  rpc_params p(call);
  if (const auto fine = p.finish(); !fine) co_return rpc_answer::wrong_params(fine.error());
  hub.subscribe(*call.from);
  co_return rpc_answer::result(true);
}

}  // namespace

void add_event_methods(rpc_methods& to, event_hub& hub) {
  to.add("events.subscribe", [&hub](rpc_call c) { return subscribe(hub, std::move(c)); });
}

}  // namespace lbd::ctl
