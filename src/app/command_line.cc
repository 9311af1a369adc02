// SPDX-License-Identifier: MIT
#include "app/command_line.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <map>
#include <memory>

#include "app/daemon_options.h"
#include "app/image_options.h"
#include "app/options.h"
#include "app/replay_log_options.h"
#include "app/run_options.h"
#include "base/checked_math.h"
#include "base/size_text.h"

namespace lbd::app {
namespace {

using base::errc;
using base::failure;
using base::outcome;

constexpr const char* layers_text =
    "Layers, topmost first; a null layer (zeros) is always at the bottom";

void add_layer_options(CLI::App& to) {
  add_value(to, "-E,--expandable", "FILE",
            "Change file: holds only what was written (qcow2); made if missing; also "
            "gluster://SERVER/VOLUME/PATH",
            layers_text);
  add_value(to, "-f,--flat", "FILE", "Flat file, block device or gluster://SERVER/VOLUME/PATH",
            layers_text);
  add_value(to, "-n,--nbd", "HOST:PORT|URI",
            "Another NBD server: nbd://HOST:PORT/EXPORT, nbd+unix:///EXPORT?socket=PATH",
            layers_text);
  add_value(to, "--source", "URI",
            "Any source: mem:1G, null:10T, file:PATH, qcow2:PATH (an existing image, read-only), "
            "nbd://..., gluster://...",
            layers_text);
}

void add_stack_options(CLI::App& to) {
  add_layer_options(to);
  add_value(to, "-s,--size", "SIZE",
            "Size of the device: bytes, or with K, M, G, T (or KiB ...); may be left out when a "
            "layer has a size");
}

void add_socket_option(CLI::App& to) {
  add_value(to, "--socket", "PATH",
            "The server's management socket (default: $LBD_SOCKET, or the only server that runs)");
}

void add_serve(CLI::App& app) {
  CLI::App& to = *app.add_subcommand("serve", "Serve a stack of layers as a block device over NBD");
  add_value(to, "-l,--listen", "[HOST:]PORT",
            "Listen on TCP (default without -l and -u: localhost:10809)");
  add_value(to, "-u,--unix", "SOCKET", "Listen on a Unix socket");
  add_value(to, "-a,--admin", "[[HOST:]PORT]",
            "Text protocol on TCP (default without a value: localhost:6666)")
      ->expected(0, 1);
  add_stack_options(to);
  add_value(to, "--table", "TABLE",
            "Instead of layers, a device made of targets: lines START LENGTH TYPE ARGS in 512-byte "
            "sectors, with ';' between them");
  add_switch(to, "-r,--read-only", "Refuse writes");
  add_value(
      to, "--name", "EXPORT",
      "Name of the export. Given several times, each begins another export: the layers, -s and "
      "-r after it are its own");
  add_value(to, "--cluster-size", "SIZE",
            "Cluster size of change files that are made (16K to 2M, default 64K)");
  add_value(to, "--socket", "PATH",
            "Management socket (default: $LBD_SOCKET, or serve-PID.sock in the runtime folder)");
  add_value(to, "--pid-file", "FILE", "Write the process id there once clients can connect");
  add_switch(to, "--stdin", "Serve one client on standard input (a socket, as inetd gives it)");
  add_value(to, "--io", "uring|threads|auto", "How to do input and output (default auto)");
  add_value(to, "--reactors", "N", "Threads that serve clients (default: one per CPU)");
  add_value(to, "--log-level", "LEVEL", "debug, info, warn, error or off (default warn)");
}

void add_client_commands(CLI::App& app) {
  add_socket_option(*app.add_subcommand("ping", "Ask a running server whether it answers"));
  CLI::App& info = *app.add_subcommand("info", "Show devices, layers, clients and counters");
  add_socket_option(info);
  add_switch(info, "--json", "As JSON");
  add_socket_option(*app.add_subcommand(
      "shutdown", "Stop a running server: requests are answered and everything is flushed first"));
  CLI::App& add = *app.add_subcommand(
      "add-layer", "Make a new change file the topmost layer of a device in use");
  add_value(add, "FILE", "", "The new change file", "Positionals")->required();
  add_value(add, "--device", "NAME", "Which device (needed if the server has several)");
  add_socket_option(add);
}

void add_offline_commands(CLI::App& app) {
  CLI::App& commit = *app.add_subcommand(
      "commit", "Merge the topmost layer into the one below it (files not in use)");
  add_stack_options(commit);
  add_switch(commit, "--remove", "Remove the topmost file when its content is safe below");
  CLI::App& flatten = *app.add_subcommand(
      "flatten", "Bring the content of all layers into one file (files not in use)");
  add_stack_options(flatten);
  add_value(
      flatten, "-o,--output", "FILE",
      "Write a new flat file, or gluster://SERVER/VOLUME/PATH; without it the topmost change file "
      "takes everything in");
  CLI::App& map = *app.add_subcommand("map", "Show which layer holds what (files not in use)");
  add_stack_options(map);
  add_switch(map, "--json", "As JSON");
}

std::unique_ptr<CLI::App> make_app() {
  auto app = std::make_unique<CLI::App>(
      "Layered Block Devices: block devices made of layers, served over the network", "lbd");
  app->set_version_flag("--version", "lbd " LBD_VERSION);
  app->require_subcommand(1);
  app->failure_message([](const CLI::App*, const CLI::Error& e) { return std::string(e.what()); });
  add_serve(*app);
  add_daemon_commands(*app);
  add_run(*app);
  add_client_commands(*app);
  add_offline_commands(*app);
  add_image_commands(*app);
  add_replay_log(*app);
  CLI::App& completion = *app->add_subcommand("completion", "Print a completion script");
  add_value(completion, "SHELL", "", "bash", "Positionals")->required();
  app->footer(
      "lbd COMMAND --help tells the options of a command. Exit status: 0 done, 1 failed, 2 "
      "wrong usage.");
  return app;
}

std::optional<ctl::layer_option> layer_option_of(const std::string& option) {
  if (option == "expandable") return ctl::layer_option::expandable;
  if (option == "flat") return ctl::layer_option::flat;
  if (option == "nbd") return ctl::layer_option::nbd;
  if (option == "source") return ctl::layer_option::source;
  return std::nullopt;
}

// Takes one option into the stack it belongs to; options that are not a stack's are passed by.
outcome<void> take_stack_option(const reader& from, const occurrence& o, ctl::stack_spec& stack) {
  if (const auto how = layer_option_of(o.option)) {
    if (o.value.empty()) return from.wrong_value(o.option, "its value is empty");
    stack.layers.push_back({*how, o.value});
  } else if (o.option == "size") {
    if (stack.size_bytes) return from.wrong_value("size", "given twice");
    auto size = base::parse_size(o.value);
    if (!size) return from.wrong_value("size", size.error().message);
    if (*size == 0) return from.wrong_value("size", "a device of 0 bytes has nothing to serve");
    stack.size_bytes = *size;
  } else if (o.option == "read-only") {
    stack.read_only = true;
  }
  return {};
}

outcome<std::vector<ctl::stack_spec>> read_stacks(const reader& from) {
  const size_t names = from.each("name").size();
  std::vector<ctl::stack_spec> stacks;
  if (names <= 1) stacks.emplace_back();
  for (const occurrence& o : from.all()) {
    if (o.option == "name") {
      for (const auto& s : stacks)
        if (!s.layers.empty() && s.name == o.value)
          return from.wrong_value("name", "'" + o.value + "' is given twice");
      if (names > 1) stacks.emplace_back();
      stacks.back().name = o.value;
      continue;
    }
    const bool of_stack =
        layer_option_of(o.option) || o.option == "size" || o.option == "read-only";
    if (of_stack && stacks.empty())
      return from.wrong_value(o.option,
                              "stands before the first of several --name: put it after "
                              "the --name of its export");
    if (of_stack) CHECK(take_stack_option(from, o, stacks.back()));
  }
  for (const auto& s : stacks)
    if (s.layers.empty())
      return from.wrong((s.name.empty() ? "" : "export '" + s.name + "': ") +
                        "no layer given: name at least one, as in -E FILE or -f FILE");
  return stacks;
}

outcome<ctl::stack_spec> read_stack(const reader& from) {
  TRY(auto stacks, read_stacks(from));
  return std::move(stacks.front());
}

outcome<uint64_t> read_cluster_size(const reader& from) {
  TRY(const std::string text, from.once("cluster-size"));
  if (text.empty()) return uint64_t{0};
  auto size = base::parse_size(text);
  if (!size) return from.wrong_value("cluster-size", size.error().message);
  if (!base::is_power_of_two(*size) || *size < (16u << 10) || *size > (2u << 20))
    return from.wrong_value("cluster-size", "must be a power of two from 16K to 2M, not " + text);
  return *size;
}

outcome<ctl::runtime_choice> read_runtime(const reader& from) {
  ctl::runtime_choice out;
  TRY(const std::string io, from.once("io"));
  if (io == "uring")
    out.how = rt::backend::uring;
  else if (io == "threads")
    out.how = rt::backend::threads;
  else if (!io.empty() && io != "auto")
    return from.wrong_value("io", "must be uring, threads or auto, not " + io);
  TRY(const std::string reactors, from.once("reactors"));
  if (reactors.empty()) return out;
  const char* end = reactors.data() + reactors.size();
  const auto [at, error] = std::from_chars(reactors.data(), end, out.reactors);
  if (error != std::errc{} || at != end || out.reactors < 1 || out.reactors > 256)
    return from.wrong_value("reactors", "must be a number from 1 to 256, not " + reactors);
  return out;
}

outcome<void> read_addresses(const reader& from, ctl::serve_command& out) {
  for (const std::string& text : from.each("listen")) {
    auto parsed = uri::parse_endpoint(text, "localhost", 0);
    if (!parsed) return from.wrong_value("listen", parsed.error().message);
    out.listen.push_back(*parsed);
  }
  out.unix_sockets = from.each("unix");
  for (const std::string& path : out.unix_sockets)
    if (path.empty()) return from.wrong_value("unix", "its value is empty");
  const auto admin = from.each("admin");
  if (admin.size() > 1) return from.wrong_value("admin", "given twice");
  if (admin.empty()) return {};
  // Without a value the parser reports an empty text.
  const bool bare = admin[0].empty() || admin[0] == "{}";
  auto parsed = uri::parse_endpoint(bare ? "6666" : admin[0], "localhost", 0);
  if (!parsed) return from.wrong_value("admin", parsed.error().message);
  out.admin = *parsed;
  return {};
}

// A table stands for the layers of the only device.
outcome<void> read_table(const reader& from, ctl::serve_command& out) {
  out.table = std::string();
  for (const std::string& part : from.each("table")) *out.table += part + "\n";
  ctl::stack_spec device;
  TRY(device.name, from.once("name"));
  device.read_only = from.has("read-only");
  out.devices.push_back(std::move(device));
  for (const char* other : {"expandable", "flat", "nbd", "source", "size", "cluster-size"})
    if (from.has(other)) return from.wrong_value(other, "is for layers: --table goes without");
  for (const char* other : {"admin", "stdin"})
    if (from.has(other)) return from.wrong_value(other, "does not go with --table");
  return {};
}

outcome<ctl::command> read_serve(const reader& from) {
  ctl::serve_command out;
  CHECK(read_addresses(from, out));
  if (from.has("table")) {
    CHECK(read_table(from, out));
  } else {
    TRY(out.devices, read_stacks(from));
  }
  TRY(out.change_files.cluster_bytes, read_cluster_size(from));
  TRY(out.runtime, read_runtime(from));
  TRY(out.log_level, read_log_level(from));
  TRY(out.control_socket, from.once("socket"));
  TRY(out.pid_file, from.once("pid-file"));
  out.standard_input = from.has("stdin");
  if (out.standard_input && !(out.listen.empty() && out.unix_sockets.empty()))
    return from.wrong("--stdin serves the one client on standard input: leave out -l and -u");
  return ctl::command(std::move(out));
}

outcome<ctl::command> read_daemon(const reader& from) {
  ctl::daemon_command out;
  TRY(out.socket, from.once("socket"));
  TRY(out.config, from.once("config"));
  out.strict = from.has("strict");
  if (out.strict && out.config.empty())
    return from.wrong_value("strict", "is about what --config names: give that too");
  TRY(out.pid_file, from.once("pid-file"));
  TRY(out.runtime, read_runtime(from));
  TRY(out.log_level, read_log_level(from));
  return ctl::command(std::move(out));
}

outcome<ctl::command> read_add_layer(const reader& from, const CLI::App& app) {
  ctl::add_layer_command out;
  out.file = app.get_option("FILE")->results().front();
  if (out.file.empty()) return from.wrong("FILE is empty");
  TRY(out.device, from.once("device"));
  TRY(out.to.socket, from.once("socket"));
  return ctl::command(std::move(out));
}

outcome<ctl::command> read_flatten(const reader& from) {
  ctl::flatten_command out;
  TRY(out.stack, read_stack(from));
  TRY(out.output, from.once("output"));
  return ctl::command(std::move(out));
}

outcome<ctl::command> read_commit(const reader& from) {
  ctl::commit_command out;
  TRY(out.stack, read_stack(from));
  if (out.stack.layers.size() < 2)
    return from.wrong(
        "needs two layers: the one to merge and the one below it, as in -E top -f base");
  out.remove = from.has("remove");
  return ctl::command(std::move(out));
}

outcome<ctl::command> read_command(const CLI::App& app) {
  if (app.get_name() == "device") return read_device(*app.get_subcommands().front());
  if (app.get_name() == "image") return read_image(*app.get_subcommands().front());
  if (app.get_name() == "mount") return read_mount(app);
  if (app.get_name() == "export") return read_export(app);
  const reader from(app);
  const std::string name = app.get_name();
  if (name == "serve") return read_serve(from);
  if (name == "daemon") return read_daemon(from);
  if (name == "add-layer") return read_add_layer(from, app);
  if (name == "commit") return read_commit(from);
  if (name == "flatten") return read_flatten(from);
  if (name == "map") {
    TRY(auto stack, read_stack(from));
    return ctl::command(ctl::map_command{std::move(stack), from.has("json")});
  }
  if (name == "replay-log") return read_replay_log(from);
  if (name == "completion") {
    if (app.get_option("SHELL")->results().front() != "bash")
      return from.wrong("only bash is supported");
    return ctl::command(ctl::print_command{bash_completion()});
  }
  TRY(auto socket, from.once("socket"));
  ctl::client_target to{std::move(socket)};
  if (name == "ping") return ctl::command(ctl::ping_command{std::move(to)});
  if (name == "monitor") return ctl::command(ctl::monitor_command{std::move(to), from.has("json")});
  if (name == "shutdown") return ctl::command(ctl::shutdown_command{std::move(to)});
  return ctl::command(ctl::info_command{std::move(to), from.has("json")});
}

// The command that a word list asks for, as far as it is known; `app` itself if none is.
const CLI::App& find_command(const CLI::App& app, const std::vector<std::string>& words) {
  const CLI::App* at = &app;
  for (const std::string& word : words) {
    const auto below =
        at->get_subcommands([&word](const CLI::App* sub) { return sub->get_name() == word; });
    if (below.empty()) break;
    at = below.front();
  }
  return *at;
}

failure explain(const CLI::App& app, const std::vector<std::string>& words,
                const CLI::ParseError& e) {
  const CLI::App& command = find_command(app, words);
  const std::string title = title_of(command);
  const size_t depth = title.empty() ? 0 : 1 + size_t(std::count(title.begin(), title.end(), ' '));
  if (!command.get_subcommands({}).empty()) {
    if (words.size() <= depth) return usage(title, "a command is missing");
    return usage(title, "'" + words[depth] + "' is not a command");
  }
  if (dynamic_cast<const CLI::ExtrasError*>(&e) != nullptr) {
    const auto left = command.remaining();
    const std::string word = left.empty() ? "" : left.front();
    if (word.starts_with("-")) return usage(title, "unknown option '" + word + "'");
    if (command.get_option_no_throw("--expandable") == nullptr)
      return usage(title, "'" + word + "' is one word too many");
    return usage(title, "'" + word + "' stands alone: every layer needs its option, as in -E " +
                            word + " or -f " + word);
  }
  if (dynamic_cast<const CLI::ArgumentMismatch*>(&e) != nullptr) {
    // "--unix: 1 required SOCKET missing"
    const std::string text = e.what();
    return usage(title, text.substr(0, text.find(':')) + " needs a value");
  }
  return usage(title, e.what());
}

// Commands of commands are listed by both words.
void list_below(const CLI::App& above, std::vector<command_entry>& out) {
  for (const CLI::App* sub : above.get_subcommands({})) {
    if (!sub->get_subcommands({}).empty()) {
      list_below(*sub, out);
      continue;
    }
    command_entry entry{title_of(*sub), sub->get_description(), {}};
    for (const CLI::Option* option : sub->get_options()) {
      option_entry o;
      for (const auto& s : option->get_snames()) o.names.push_back("-" + s);
      for (const auto& l : option->get_lnames()) o.names.push_back("--" + l);
      if (o.names.empty()) continue;
      if (option->get_items_expected_max() > 0) o.takes = option->get_type_name();
      entry.options.push_back(std::move(o));
    }
    out.push_back(std::move(entry));
  }
}

}  // namespace

outcome<ctl::command> parse_command_line(const std::vector<std::string>& words) {
  auto app = make_app();
  std::vector<std::string> ours = words, program;
  if (const auto begin = find_program_words(words)) {
    program.assign(words.begin() + static_cast<ptrdiff_t>(*begin), words.end());
    ours.resize(std::max<size_t>(*begin, 1));
  }
  try {
    // The parser takes words from the back.
    app->parse(std::vector<std::string>(ours.rbegin(), ours.rend()));
  } catch (const CLI::CallForHelp&) {
    const CLI::App& command = find_command(*app, words);
    const CLI::App* above = command.get_parent();
    const std::string group = above == nullptr ? "" : title_of(*above);
    const std::string before = above == nullptr ? "" : group.empty() ? "lbd" : "lbd " + group;
    return ctl::command(ctl::print_command{command.help(before)});
  } catch (const CLI::CallForVersion& e) {
    return ctl::command(ctl::print_command{std::string(e.what()) + "\n"});
  } catch (const CLI::ParseError& e) {
    return explain(*app, words, e);
  }
  const CLI::App& command = *app->get_subcommands().front();
  if (find_program_words(words)) return read_run(reader(command), command.get_name(), program);
  return read_command(command);
}

std::vector<command_entry> list_commands() {
  std::vector<command_entry> out;
  list_below(*make_app(), out);
  return out;
}

}  // namespace lbd::app
