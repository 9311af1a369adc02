// SPDX-License-Identifier: MIT
#include "ctl/export_command.h"

#include <nlohmann/json.hpp>

#include "ctl/client.h"
#include "ctl/paths.h"
#include "ctl/runtime_dir.h"
#include "ctl/say.h"

namespace lbd::ctl {
namespace {

using base::outcome;
using nlohmann::json;

// Removing waits for the requests in flight.
constexpr uint64_t answer_ms = 120'000;

// The server has another working directory.
std::string absolute_address(const std::string& address) {
  const std::string prefix = "unix:";
  if (!address.starts_with(prefix)) return address;
  return prefix + absolute_path(address.substr(prefix.size()));
}

std::string list_text(const json& exports) {
  std::string out;
  for (const json& e : exports) {
    out += e.value("uri", "") + "\tdevice " + e.value("device", "");
    if (e.value("read_only", false)) out += ", read-only";
    out += ", " + std::to_string(e.value("clients", 0u)) + " clients\n";
  }
  return out.empty() ? "No exports\n" : out;
}

outcome<std::string> ask(const export_command& what) {
  client_target to;
  TRY(to.socket, find_daemon_socket(what.to.socket));
  json params = json::object();
  if (!what.device.empty()) params["name"] = what.device;
  if (!what.nbd.empty()) params["nbd"] = absolute_address(what.nbd);
  if (what.name) params["export"] = *what.name;
  const char* method = "export.list";
  if (what.how == export_command::action::add) {
    params["read_only"] = what.read_only;
    method = "export.add";
  } else if (what.how == export_command::action::remove) {
    method = "export.remove";
  }
  TRY(const auto answer, call_server(to, method, params, after_answer::close, answer_ms));
  if (what.json) return answer->dump(2) + "\n";
  if (what.how == export_command::action::list) return list_text(*answer);
  if (what.how == export_command::action::add) return answer->value("uri", "") + "\n";
  return std::string();
}

}  // namespace

int run_export(const export_command& what) { return finish("export", ask(what)); }

}  // namespace lbd::ctl
