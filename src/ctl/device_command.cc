// SPDX-License-Identifier: MIT
#include "ctl/device_command.h"

#include <fmt/format.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "ctl/client.h"
#include "ctl/runtime_dir.h"
#include "ctl/say.h"

namespace lbd::ctl {
namespace {

using base::errc;
using base::failure;
using base::outcome;
using nlohmann::json;
using answer = outcome<std::shared_ptr<const json>>;

// Suspending waits for requests in flight, loading for servers that are connected to.
constexpr uint64_t answer_ms = 120'000;

const char* name_of(device_verb verb) {
  switch (verb) {
    case device_verb::create:
      return "create";
    case device_verb::load:
      return "load";
    case device_verb::clear:
      return "clear";
    case device_verb::suspend:
      return "suspend";
    case device_verb::resume:
      return "resume";
    case device_verb::rename:
      return "rename";
    case device_verb::remove:
      return "remove";
    case device_verb::message:
      return "message";
    case device_verb::status:
      return "status";
    case device_verb::table:
      return "table";
    case device_verb::info:
      return "info";
    case device_verb::list:
      return "ls";
    case device_verb::deps:
      return "deps";
    case device_verb::wait:
      return "wait";
    case device_verb::targets:
      break;
  }
  return "targets";
}

// One run of the command: the daemon's socket is found once.
class device_client {
 public:
  explicit device_client(const device_command& what)
      : what_(what), title_(std::string("device ") + name_of(what.verb)) {}

  int run() {
    const auto path = find_daemon_socket(what_.to.socket);
    if (!path) return fail(title_, path.error());
    to_.socket = *path;
    const auto done = dispatch();
    if (!done) return fail(title_, done.error());
    if (print(out_)) return exit_ok;
    return fail(title_, {errc::io, "cannot write to standard output"});
  }

 private:
  answer ask(const std::string& method, const json& params, uint64_t limit_ms = answer_ms) const {
    return call_server(to_, "device." + method, params, after_answer::close, limit_ms);
  }
  // Asks, and shows the answer only as JSON.
  outcome<void> order(const std::string& method, const json& params) {
    TRY(const auto got, ask(method, params));
    if (what_.json) out_ += got->dump(2) + "\n";
    return {};
  }
  // Shows several answers as one object, by the devices' names.
  outcome<void> order_each(const std::string& method, json params) {
    json all = json::object();
    for (const std::string& name : what_.names) {
      params["name"] = name;
      TRY(const auto got, ask(method, params));
      all[name] = *got;
    }
    if (what_.json) out_ += (all.size() == 1 ? *all.begin() : all).dump(2) + "\n";
    return {};
  }

  outcome<void> dispatch();
  outcome<std::string> read_table() const;
  outcome<void> add_table(json& params) const;
  outcome<void> create();
  outcome<void> rename();
  outcome<void> remove();
  outcome<void> message();
  outcome<void> wait();
  outcome<void> list();
  outcome<void> targets();
  // The devices that were named, or all there are.
  outcome<std::vector<std::string>> names() const;
  // One query for each device: its text from `show`, or all answers as one JSON object.
  using shower = std::function<std::string(const std::string& name, const json&, bool several)>;
  outcome<void> query(const std::string& method, json params, const shower& show);

  const device_command& what_;
  const std::string title_;
  client_target to_;
  std::string out_;
};

std::string lines_text(const std::string& name, const json& lines, bool several) {
  const std::string prefix = several ? name + ": " : "";
  std::string out;
  for (const json& l : lines)
    out += fmt::format("{}{} {} {} {}\n", prefix, l.value("start", uint64_t{0}),
                       l.value("length", uint64_t{0}), l.value("type", ""), l.value("text", ""));
  return lines.empty() ? prefix + "\n" : out;
}

std::string info_text(const std::string&, const json& d, bool) {
  const bool live = d.value("live", false), inactive = d.value("inactive", false);
  std::string state = d.value("suspended", false) ? "SUSPENDED" : "ACTIVE";
  if (d.value("read_only", false)) state += " (READ-ONLY)";
  if (d.value("deferred_remove", false)) state += " (DEFERRED REMOVE)";
  std::string tables = live ? "LIVE" : inactive ? "" : "None";
  if (inactive) tables += live ? " & INACTIVE" : "INACTIVE";
  std::string out;
  const auto add = [&out](const char* title, const auto& value) {
    out += fmt::format("{:<19}{}\n", title, value);
  };
  add("Name:", d.value("name", ""));
  add("State:", state);
  add("Tables present:", tables);
  add("Open count:", d.value("open_count", 0u));
  add("Event number:", d.value("event_number", 0u));
  add("Major, minor:", fmt::format("{}, {}", d.value("major", 0u), d.value("minor", 0u)));
  add("Number of targets:", d.value("target_count", 0u));
  if (const std::string uuid = d.value("uuid", ""); !uuid.empty()) out += "UUID: " + uuid + "\n";
  add("Size:", fmt::format("{} sectors", d.value("size_bytes", uint64_t{0}) / 512));
  return out + "\n";
}

std::string deps_text(const std::string& name, const json& deps, bool several) {
  std::string out =
      fmt::format("{}{} dependencies\t:", several ? name + ": " : std::string(), deps.size());
  for (const json& d : deps)
    out += fmt::format(" ({}, {})", d.value("major", 0u), d.value("minor", 0u));
  return out + "\n";
}

outcome<std::string> device_client::read_table() const {
  if (what_.table_text) return *what_.table_text;
  if (what_.table_file.empty() || what_.table_file == "-")
    return std::string(std::istreambuf_iterator<char>(std::cin), {});
  std::ifstream in(what_.table_file, std::ios::binary);
  if (!in)
    return failure{static_cast<errc>(errno), "cannot read the table from '" + what_.table_file +
                                                 "': " + base::to_string(static_cast<errc>(errno))};
  return std::string(std::istreambuf_iterator<char>(in), {});
}

// Relative paths in the table begin where the command runs.
outcome<void> device_client::add_table(json& params) const {
  TRY(const std::string table, read_table());
  params["table"] = table;
  params["read_only"] = what_.read_only;
  std::error_code error;
  const auto here = std::filesystem::current_path(error);
  if (!error) params["directory"] = here.string();
  return {};
}

outcome<void> device_client::create() {
  json params = {{"name", what_.names.front()}};
  if (!what_.uuid.empty()) params["uuid"] = what_.uuid;
  if (what_.minor) params["minor"] = *what_.minor;
  if (!what_.no_table) CHECK(add_table(params));
  return order("create", params);
}

outcome<void> device_client::rename() {
  json params = {{"name", what_.names.front()}};
  if (!what_.uuid.empty()) {
    params["new_uuid"] = what_.uuid;
    return order("set_uuid", params);
  }
  params["new_name"] = what_.new_name;
  return order("rename", params);
}

outcome<void> device_client::remove() {
  const json params = {{"deferred", what_.deferred}};
  if (what_.all) return order("remove_all", params);
  return order_each("remove", params);
}

outcome<void> device_client::message() {
  const json params = {
      {"name", what_.names.front()}, {"sector", what_.sector}, {"words", what_.words}};
  TRY(const auto got, ask("message", params));
  std::string reply = what_.json ? got->dump(2) : got->is_string() ? got->get<std::string>() : "";
  if (!reply.empty() && !reply.ends_with('\n')) reply += "\n";
  out_ += reply;
  return {};
}

outcome<void> device_client::wait() {
  const json params = {{"name", what_.names.front()}, {"event_number", what_.event_number}};
  TRY(const auto got, ask("wait", params, 0));
  if (what_.json) out_ += got->dump(2) + "\n";
  return {};
}

outcome<void> device_client::list() {
  TRY(const auto got, ask("list", json::object()));
  if (what_.json) {
    out_ += got->dump(2) + "\n";
    return {};
  }
  for (const json& d : *got)
    out_ += fmt::format("{}\t({}:{})\n", d.value("name", ""), d.value("major", 0u),
                        d.value("minor", 0u));
  if (got->empty()) out_ += "No devices found\n";
  return {};
}

outcome<void> device_client::targets() {
  TRY(const auto got, ask("targets", json::object()));
  if (what_.json) {
    out_ += got->dump(2) + "\n";
    return {};
  }
  for (const json& t : *got) {
    const json& v = t.at("version");
    out_ += fmt::format("{:<16} v{}.{}.{}\n", t.value("name", ""), v.at(0).get<unsigned>(),
                        v.at(1).get<unsigned>(), v.at(2).get<unsigned>());
  }
  return {};
}

outcome<std::vector<std::string>> device_client::names() const {
  if (!what_.names.empty()) return what_.names;
  TRY(const auto got, ask("list", json::object()));
  std::vector<std::string> out;
  for (const json& d : *got) out.push_back(d.value("name", ""));
  return out;
}

outcome<void> device_client::query(const std::string& method, json params, const shower& show) {
  TRY(const std::vector<std::string> which, names());
  const bool several = what_.names.size() != 1;
  json all = json::object();
  for (const std::string& name : which) {
    params["name"] = name;
    TRY(const auto got, ask(method, params));
    if (what_.json)
      all[name] = *got;
    else
      out_ += show(name, *got, several);
  }
  if (what_.json)
    out_ += (several ? all : all[which.front()]).dump(2) + "\n";
  else if (which.empty())
    out_ += "No devices found\n";
  return {};
}

outcome<void> device_client::dispatch() {
  switch (what_.verb) {
    case device_verb::create:
      return create();
    case device_verb::load: {
      json params = {{"name", what_.names.front()}};
      CHECK(add_table(params));
      return order("load", params);
    }
    case device_verb::clear:
      return order_each("clear", json::object());
    case device_verb::suspend:
      return order_each("suspend", {{"no_flush", what_.no_flush}});
    case device_verb::resume:
      return order_each("resume", {{"no_flush", what_.no_flush}});
    case device_verb::rename:
      return rename();
    case device_verb::remove:
      return remove();
    case device_verb::message:
      return message();
    case device_verb::status:
      return query("status", {{"inactive", what_.inactive}, {"no_flush", what_.no_flush}},
                   lines_text);
    case device_verb::table:
      return query("table", {{"inactive", what_.inactive}, {"show_keys", what_.show_keys}},
                   lines_text);
    case device_verb::info:
      return query("info", json::object(), info_text);
    case device_verb::list:
      return list();
    case device_verb::deps:
      return query("deps", {{"inactive", what_.inactive}}, deps_text);
    case device_verb::wait:
      return wait();
    case device_verb::targets:
      break;
  }
  return targets();
}

}  // namespace

int run_device(const device_command& what) { return device_client(what).run(); }

}  // namespace lbd::ctl
