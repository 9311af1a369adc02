// SPDX-License-Identifier: MIT
#include "ctl/client_commands.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "ctl/client.h"
#include "ctl/paths.h"
#include "ctl/report.h"
#include "ctl/runtime_dir.h"
#include "ctl/say.h"
#include "rt/reactor.h"

namespace lbd::ctl {
namespace {

constexpr uint64_t answer_ms = 10'000;
// A shutdown waits for requests in flight and flushes; adding a layer waits for requests in flight.
constexpr uint64_t slow_answer_ms = 120'000;

// As udevadm shows them: seconds of the monotonic clock, the action, the device, its variables.
std::string event_text(const nlohmann::json& event) {
  const uint64_t us = rt::reactor::current().now_ns() / 1000;
  std::string out =
      fmt::format("KERNEL[{}.{:06}] {:<8} {} (block)\n", us / 1'000'000, us % 1'000'000,
                  event.value("action", ""), event.value("devpath", ""));
  for (const auto& v : event.value("variables", nlohmann::json::array()))
    out += (v.is_string() ? v.get<std::string>() : v.dump()) + "\n";
  return out + "\n";
}

base::outcome<void> show_event(const nlohmann::json& told, bool as_json) {
  const nlohmann::json event = told.value("params", nlohmann::json::object());
  if (told.at("method") == "events.lost")
    return base::failure{base::errc::overflow, event.value("message", "events were lost")};
  if (print(as_json ? event.dump() + "\n" : event_text(event))) return {};
  return no_output();
}

}  // namespace

int run_ping(const ping_command& what) {
  const auto answer =
      call_server(what.to, "ping", nlohmann::json::object(), after_answer::close, answer_ms);
  if (!answer) return fail("ping", answer.error());
  return finish("ping", (*answer)->dump() + "\n");
}

int run_info(const info_command& what) {
  const auto answer =
      call_server(what.to, "info", nlohmann::json::object(), after_answer::close, answer_ms);
  if (!answer) return fail("info", answer.error());
  if (what.json) return finish("info", (*answer)->dump(2) + "\n");
  const auto report = report_from_json(**answer);
  if (!report) return fail("info", report.error());
  return finish("info", to_text(*report));
}

int run_shutdown(const shutdown_command& what) {
  const auto answer = call_server(what.to, "shutdown", nlohmann::json::object(),
                                  after_answer::wait_for_end, slow_answer_ms);
  if (!answer) return fail("shutdown", answer.error());
  return exit_ok;
}

int run_monitor(const monitor_command& what) {
  const auto path = find_daemon_socket(what.to.socket);
  if (!path) return fail("monitor", path.error());
  // Whoever reads it knows that no event is missed from here on.
  const auto listens = [&what] {
    if (!what.json)
      print("monitor will print the received events for:\nKERNEL - the kernel uevent\n\n");
  };
  const take_line take = [&what](const nlohmann::json& told) {
    return show_event(told, what.json);
  };
  const auto done =
      follow_server({*path}, "events.subscribe", nlohmann::json::object(), listens, take);
  if (!done) return fail("monitor", done.error());
  return exit_ok;
}

int run_add_layer(const add_layer_command& what) {
  std::string file = what.file;
  // The server has another working directory.
  if (!uri::has_gluster_scheme(file)) file = absolute_path(file);
  nlohmann::json params = {{"file", file}};
  if (!what.device.empty()) params["device"] = what.device;
  const auto answer =
      call_server(what.to, "add_layer", params, after_answer::close, slow_answer_ms);
  if (!answer) return fail("add-layer", answer.error());
  return exit_ok;
}

}  // namespace lbd::ctl
