// SPDX-License-Identifier: MIT
#include "app/daemon_options.h"

#include <CLI/CLI.hpp>
#include <charconv>
#include <map>

#include "app/options.h"

namespace lbd::app {
namespace {

using base::outcome;
using ctl::device_verb;

const std::map<std::string, device_verb> verbs = {
    {"create", device_verb::create},   {"load", device_verb::load},
    {"clear", device_verb::clear},     {"suspend", device_verb::suspend},
    {"resume", device_verb::resume},   {"rename", device_verb::rename},
    {"remove", device_verb::remove},   {"message", device_verb::message},
    {"status", device_verb::status},   {"table", device_verb::table},
    {"info", device_verb::info},       {"ls", device_verb::list},
    {"deps", device_verb::deps},       {"wait", device_verb::wait},
    {"targets", device_verb::targets},
};

void add_client_options(CLI::App& to) {
  add_value(to, "--socket", "PATH",
            "The daemon's socket (default: $LBD_SOCKET, or lbd.sock in the runtime folder)");
  add_switch(to, "--json", "Answer as JSON");
}

CLI::App& add_verb(CLI::App& to, const char* name, const char* about) {
  CLI::App& made = *to.add_subcommand(name, about);
  add_client_options(made);
  return made;
}

CLI::App& add_device_verb(CLI::App& to, const char* name, const char* about, word_count names) {
  CLI::App& made = add_verb(to, name, about);
  add_words(made, "NAME", names == word_count::any ? "Devices" : "Name of the device", names);
  return made;
}

void add_table_options(CLI::App& to) {
  add_words(to, "FILE", "The table (default: standard input)", word_count::at_most_one);
  add_value(to, "--table", "TEXT", "The table: lines START LENGTH TYPE ARGS, in 512-byte sectors");
  add_switch(to, "-r,--read-only", "Refuse writes");
}

void add_changing_verbs(CLI::App& device) {
  CLI::App& create =
      add_device_verb(device, "create", "Make a device and start its table", word_count::one);
  add_table_options(create);
  add_switch(create, "--no-table", "Without a table yet: load and resume it later");
  add_value(create, "-u,--uuid", "UUID", "Its uuid");
  add_value(create, "-m,--minor", "N", "Its minor number (default: the lowest that is free)");
  CLI::App& load =
      add_device_verb(device, "load", "Build another table, which resume starts", word_count::one);
  add_table_options(load);
  add_device_verb(device, "clear", "Drop tables that were loaded and not started", word_count::any);
  CLI::App& suspend = add_device_verb(
      device, "suspend", "Wait for requests in flight and hold new ones", word_count::any);
  add_switch(suspend, "--no-flush", "Targets keep the requests that they hold for the next table");
  CLI::App& resume = add_device_verb(
      device, "resume", "Start the table that was loaded, and let requests go on", word_count::any);
  add_switch(resume, "--no-flush", "Targets keep the requests that they hold for the next table");
  CLI::App& rename =
      add_device_verb(device, "rename", "Give another name, or a uuid", word_count::one);
  add_words(rename, "NEW_NAME", "The new name", word_count::at_most_one);
  add_value(rename, "--set-uuid", "UUID", "Give a uuid to a device that has none");
  CLI::App& remove = add_device_verb(device, "remove", "Remove devices", word_count::any);
  add_switch(remove, "--deferred", "Devices in use go with their last user");
  add_switch(remove, "--all", "All that are not in use");
  CLI::App& message =
      add_device_verb(device, "message", "Tell a target something", word_count::one);
  add_words(message, "SECTOR", "The sector whose target is meant", word_count::one);
  add_words(message, "WORDS", "What it is told", word_count::any);
}

void add_asking_verbs(CLI::App& device) {
  CLI::App& status =
      add_device_verb(device, "status", "Show what the targets tell", word_count::any);
  add_switch(status, "--inactive", "Of the table that was loaded and not started");
  add_switch(status, "--no-flush", "Without writing out what the status depends on");
  CLI::App& table =
      add_device_verb(device, "table", "Show tables, which can be loaded again", word_count::any);
  add_switch(table, "--inactive", "The table that was loaded and not started");
  add_switch(table, "--show-keys", "With secret keys");
  add_device_verb(device, "info", "Show states", word_count::any);
  add_verb(device, "ls", "List devices");
  CLI::App& deps = add_device_verb(device, "deps", "Show what devices stand on", word_count::any);
  add_switch(deps, "--inactive", "Of the table that was loaded and not started");
  CLI::App& wait = add_device_verb(device, "wait", "Wait for an event", word_count::one);
  add_words(wait, "EVENT_NUMBER", "The last number that is known (default 0)",
            word_count::at_most_one);
  add_verb(device, "targets", "List the kinds of targets and their versions");
}

outcome<uint64_t> read_number(const reader& from, const std::string& name, uint64_t most) {
  TRY(const std::string text, from.word(name));
  if (text.empty()) return uint64_t{0};
  uint64_t out = 0;
  const char* end = text.data() + text.size();
  const auto [at, error] = std::from_chars(text.data(), end, out);
  if (error != std::errc{} || at != end || out > most)
    return from.wrong(name + " must be a number from 0 to " + std::to_string(most) + ", not '" +
                      text + "'");
  return out;
}

outcome<void> read_table_options(const reader& from, ctl::device_command& out) {
  TRY(out.table_file, from.word("FILE"));
  if (from.has("table")) {
    std::string text;
    for (const std::string& part : from.each("table")) text += part + "\n";
    out.table_text = std::move(text);
  }
  out.read_only = from.has("read-only");
  if (out.table_text && !out.table_file.empty())
    return from.wrong("give the table as --table or as FILE, not both");
  return {};
}

outcome<void> read_create(const reader& from, ctl::device_command& out) {
  CHECK(read_table_options(from, out));
  out.no_table = from.has("no-table");
  if (out.no_table && (out.table_text || !out.table_file.empty()))
    return from.wrong("--no-table and a table exclude each other");
  TRY(out.uuid, from.once("uuid"));
  TRY(const uint64_t minor, from.number("minor", (1u << 20) - 1, UINT64_MAX));
  if (minor != UINT64_MAX) out.minor = static_cast<uint32_t>(minor);
  return {};
}

outcome<void> read_rename(const reader& from, ctl::device_command& out) {
  TRY(out.new_name, from.word("NEW_NAME"));
  TRY(out.uuid, from.once("set-uuid"));
  if (out.new_name.empty() == out.uuid.empty())
    return from.wrong("give either the new name or --set-uuid");
  return {};
}

outcome<void> read_remove(const reader& from, ctl::device_command& out) {
  out.deferred = from.has("deferred");
  out.all = from.has("all");
  if (out.all == out.names.empty()) return {};
  return from.wrong(out.all ? "--all and names exclude each other"
                            : "name the devices, or give --all");
}

outcome<void> read_message(const reader& from, ctl::device_command& out) {
  TRY(out.sector, read_number(from, "SECTOR", UINT64_MAX));
  out.words = from.words("WORDS");
  return {};
}

outcome<void> read_details(const reader& from, ctl::device_command& out) {
  const bool needs_names = out.verb == device_verb::clear || out.verb == device_verb::suspend ||
                           out.verb == device_verb::resume;
  if (needs_names && out.names.empty()) return from.wrong("name at least one device");
  switch (out.verb) {
    case device_verb::create:
      return read_create(from, out);
    case device_verb::load:
      return read_table_options(from, out);
    case device_verb::rename:
      return read_rename(from, out);
    case device_verb::remove:
      return read_remove(from, out);
    case device_verb::message:
      return read_message(from, out);
    case device_verb::wait: {
      TRY(const uint64_t number, read_number(from, "EVENT_NUMBER", UINT32_MAX));
      out.event_number = static_cast<uint32_t>(number);
      return {};
    }
    default:
      break;
  }
  out.no_flush = from.has("no-flush");
  out.inactive = from.has("inactive");
  out.show_keys = from.has("show-keys");
  return {};
}

void add_export(CLI::App& app) {
  CLI::App& to = *app.add_subcommand("export", "Offer a daemon's device over NBD");
  add_words(to, "NAME", "Name of the device", word_count::at_most_one);
  add_value(to, "--nbd", "unix:PATH|tcp:HOST:PORT", "Where clients connect");
  add_value(to, "--name", "EXPORT", "Name of the export (default: the device's)");
  add_switch(to, "-r,--read-only", "Refuse writes");
  add_switch(to, "--remove", "End it: of the device NAME, at an address, or of a name");
  add_switch(to, "--list", "Show what is offered");
  add_client_options(to);
}

}  // namespace

void add_daemon_commands(CLI::App& app) {
  CLI::App& daemon = *app.add_subcommand("daemon", "Hold devices made of tables, until stopped");
  add_value(daemon, "--socket", "PATH",
            "Management socket (default: $LBD_SOCKET, or lbd.sock in the runtime folder)");
  add_value(daemon, "--config", "FILE",
            "Devices, exports and mounts that are there from the start (TOML)");
  add_switch(daemon, "--strict", "Do not start when anything of --config cannot be made");
  add_value(daemon, "--pid-file", "FILE", "Write the process id there once it can be asked");
  add_value(daemon, "--io", "uring|threads|auto", "How to do input and output (default auto)");
  add_value(daemon, "--reactors", "N", "Threads that serve requests (default: one per CPU)");
  add_value(daemon, "--log-level", "LEVEL", "debug, info, warn, error or off (default warn)");
  add_export(app);
  CLI::App& monitor = *app.add_subcommand("monitor", "Print the events of a daemon's devices");
  add_client_options(monitor);
  CLI::App& mount = *app.add_subcommand("mount", "Show a daemon's devices as files of a folder");
  add_words(mount, "DIR", "The folder; without it, folders that are mounted are listed",
            word_count::at_most_one);
  add_switch(mount, "--unmount", "End it, unless files are in use");
  add_switch(mount, "--force", "End it even then: programs get errors");
  add_switch(mount, "--others", "Let other users in (fuse.conf has to allow it: user_allow_other)");
  add_client_options(mount);
  CLI::App& device = *app.add_subcommand("device", "Make, change and show the devices of a daemon");
  device.require_subcommand(1);
  add_changing_verbs(device);
  add_asking_verbs(device);
}

outcome<ctl::command> read_mount(const CLI::App& command) {
  const reader from(command);
  ctl::mount_command out;
  TRY(out.folder, from.word("DIR"));
  TRY(out.to.socket, from.once("socket"));
  out.unmount = from.has("unmount");
  out.force = from.has("force");
  out.others = from.has("others");
  out.json = from.has("json");
  if (out.folder.empty() && (out.unmount || out.others)) return from.wrong("name the folder");
  if (out.force && !out.unmount) return from.wrong("--force belongs to --unmount");
  if (out.others && out.unmount) return from.wrong("--others and --unmount exclude each other");
  return ctl::command(std::move(out));
}

outcome<ctl::command> read_device(const CLI::App& verb) {
  const reader from(verb);
  ctl::device_command out;
  out.verb = verbs.at(verb.get_name());
  if (verb.get_option_no_throw("NAME") != nullptr) out.names = from.words("NAME");
  for (const std::string& name : out.names)
    if (name.empty()) return from.wrong("NAME is empty");
  TRY(out.to.socket, from.once("socket"));
  out.json = from.has("json");
  CHECK(read_details(from, out));
  return ctl::command(std::move(out));
}

outcome<ctl::command> read_export(const CLI::App& command) {
  const reader from(command);
  ctl::export_command out;
  TRY(out.device, from.word("NAME"));
  TRY(out.nbd, from.once("nbd"));
  const auto names = from.each("name");
  if (names.size() > 1) return from.wrong_value("name", "given twice");
  if (!names.empty()) out.name = names.front();
  TRY(out.to.socket, from.once("socket"));
  out.read_only = from.has("read-only");
  out.json = from.has("json");
  const bool narrowed = !out.device.empty() || !out.nbd.empty() || out.name;
  if (from.has("list")) {
    if (narrowed || from.has("remove") || out.read_only)
      return from.wrong("--list shows all exports: leave the rest out");
    return ctl::command(std::move(out));
  }
  if (from.has("remove")) {
    if (!narrowed) return from.wrong("--remove: name the device, --nbd or --name");
    out.how = ctl::export_command::action::remove;
    return ctl::command(std::move(out));
  }
  out.how = ctl::export_command::action::add;
  if (out.device.empty()) return from.wrong("name the device, or give --list");
  if (out.nbd.empty())
    return from.wrong("say where, as in --nbd unix:/run/disk.sock or --nbd tcp:localhost:10809");
  return ctl::command(std::move(out));
}

}  // namespace lbd::app
