// SPDX-License-Identifier: MIT
#include "ctl/serve_table.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "ctl/daemon_command.h"
#include "ctl/paths.h"
#include "ctl/process.h"
#include "ctl/runtime_dir.h"

namespace lbd::ctl {
namespace {

using base::errc;
using base::failure;
using base::outcome;
using nlohmann::json;

// Those of the service manager's sockets, and of the options.
outcome<std::vector<std::string>> addresses_of(daemon& d, const serve_command& what) {
  std::vector<std::string> out;
  TRY(auto inherited, inherited_listeners());
  for (rt::socket& s : inherited) {
    TRY(std::string address, d.keep_listener(std::move(s)));
    out.push_back(std::move(address));
  }
  for (const uri::endpoint& at : what.listen) out.push_back("tcp:" + uri::to_text(at));
  for (const std::string& path : what.unix_sockets) out.push_back("unix:" + absolute_path(path));
  if (out.empty()) out.push_back("tcp:localhost:10809");
  return out;
}

// Makes the device and its exports; returns their URIs, a line each.
rt::task<outcome<std::string>> begin(daemon& d, const serve_command& what) {
  const stack_spec& spec = what.devices.front();
  CO_TRY(const std::string socket, choose_serve_socket(what.control_socket));
  CO_CHECK(d.listen(socket));
  CO_TRY(const auto addresses, addresses_of(d, what));
  std::string table = *what.table;
  std::replace(table.begin(), table.end(), ';', '\n');
  const std::string name = spec.name.empty() ? "default" : spec.name;
  const auto device = std::make_shared<const json>(json{{"name", name},
                                                        {"table", table},
                                                        {"read_only", spec.read_only},
                                                        {"directory", absolute_path(".")}});
  auto done = co_await d.call("device.create", device);
  if (!done) co_return failure{done.error().code, "--table: " + done.error().message};
  std::string uris;
  for (const std::string& address : addresses) {
    const auto wanted = std::make_shared<const json>(json{
        {"name", name}, {"nbd", address}, {"export", spec.name}, {"read_only", spec.read_only}});
    done = co_await d.call("export.add", wanted);
    if (!done) co_return done.error();
    uris += (*done)->value("uri", "") + "\n";
  }
  co_return uris;
}

}  // namespace

int run_serve_table(const serve_command& what) {
  daemon_process how;
  how.title = "serve";
  how.pid_file = what.pid_file;
  how.runtime = what.runtime;
  how.log_level = what.log_level;
  how.begin = [&what](daemon& d) { return begin(d, what); };
  return run_daemon_process(how);
}

}  // namespace lbd::ctl
