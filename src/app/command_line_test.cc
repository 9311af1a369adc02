// SPDX-License-Identifier: MIT
#include "app/command_line.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

namespace lbd::app {
namespace {

using ctl::layer_option;
using ctl::layer_spec;
using testing::ElementsAre;
using testing::HasSubstr;

base::outcome<ctl::command> parse(const std::string& line) {
  std::istringstream in(line);
  std::vector<std::string> words;
  for (std::string word; in >> word;) words.push_back(word);
  return parse_command_line(words);
}

template <class Command>
Command get(const std::string& line) {
  auto parsed = parse(line);
  EXPECT_TRUE(parsed) << line << ": " << (parsed ? "" : parsed.error().message);
  if (!parsed || !std::holds_alternative<Command>(*parsed)) std::abort();
  return std::get<Command>(*parsed);
}

std::string error_of(const std::string& line) {
  const auto parsed = parse(line);
  EXPECT_FALSE(parsed) << line;
  return parsed ? "" : parsed.error().message;
}

TEST(command_line, documented_examples) {
  const auto one = get<ctl::serve_command>("serve -a6666 -l7777 -s 1G -E /path/test.expandable");
  EXPECT_THAT(one.listen, ElementsAre(uri::endpoint{"localhost", 7777}));
  EXPECT_EQ(one.admin, (uri::endpoint{"localhost", 6666}));
  ASSERT_EQ(one.devices.size(), 1u);
  EXPECT_EQ(one.devices[0].size_bytes, uint64_t{1} << 30);
  EXPECT_THAT(one.devices[0].layers,
              ElementsAre(layer_spec{layer_option::expandable, "/path/test.expandable"}));
  const auto two = get<ctl::serve_command>(
      "serve -a8888 -l9999 -s 1G -E /path/test2.expandable -n localhost:7777");
  EXPECT_THAT(two.devices[0].layers,
              ElementsAre(layer_spec{layer_option::expandable, "/path/test2.expandable"},
                          layer_spec{layer_option::nbd, "localhost:7777"}));
}

TEST(command_line, layers_keep_their_order) {
  const auto c = get<ctl::serve_command>(
      "serve -f 1 -E 2 --source mem:1G -f 3 -n h:1 --flat=4 -E5 --expandable 6");
  std::string order;
  for (const auto& l : c.devices[0].layers) order += l.text + " ";
  EXPECT_EQ(order, "1 2 mem:1G 3 h:1 4 5 6 ");
}

TEST(command_line, defaults) {
  const auto c = get<ctl::serve_command>("serve -f x");
  EXPECT_TRUE(c.listen.empty());
  EXPECT_FALSE(c.admin);
  EXPECT_FALSE(c.devices[0].size_bytes);
  EXPECT_FALSE(c.devices[0].read_only);
  EXPECT_EQ(c.devices[0].name, "");
  EXPECT_EQ(c.log_level, base::log_level::warn);
}

TEST(command_line, admin_without_a_value) {
  const uri::endpoint standard{"localhost", 6666};
  EXPECT_EQ(get<ctl::serve_command>("serve -a -f x").admin, standard);
  EXPECT_EQ(get<ctl::serve_command>("serve -f x -a").admin, standard);
  EXPECT_EQ(get<ctl::serve_command>("serve --admin -f x").admin, standard);
  EXPECT_EQ(get<ctl::serve_command>("serve -a [::1]:5 -f x").admin, (uri::endpoint{"::1", 5}));
}

TEST(command_line, addresses_may_repeat) {
  const auto c = get<ctl::serve_command>("serve -l 1 -l 0.0.0.0:2 -l [::]:3 -u a -u b -f x");
  EXPECT_THAT(c.listen, ElementsAre(uri::endpoint{"localhost", 1}, uri::endpoint{"0.0.0.0", 2},
                                    uri::endpoint{"::", 3}));
  EXPECT_THAT(c.unix_sockets, ElementsAre("a", "b"));
}

TEST(command_line, one_name_belongs_to_all_several_begin_exports) {
  const auto one = get<ctl::serve_command>("serve -E a -r -s 1M --name disk -f b");
  ASSERT_EQ(one.devices.size(), 1u);
  EXPECT_EQ(one.devices[0].name, "disk");
  EXPECT_EQ(one.devices[0].layers.size(), 2u);
  EXPECT_TRUE(one.devices[0].read_only);
  const auto two = get<ctl::serve_command>("serve --name x -E a -f b -s 1M --name y -f c -r");
  ASSERT_EQ(two.devices.size(), 2u);
  EXPECT_EQ(two.devices[0].layers.size(), 2u);
  EXPECT_FALSE(two.devices[0].read_only);
  EXPECT_EQ(two.devices[1].name, "y");
  EXPECT_TRUE(two.devices[1].read_only);
  EXPECT_FALSE(two.devices[1].size_bytes);
  EXPECT_THAT(error_of("serve -f a --name x -f b --name y -f c"), HasSubstr("-f"));
  EXPECT_THAT(error_of("serve --name x -f a --name x -f b"), HasSubstr("twice"));
  EXPECT_THAT(error_of("serve --name x --name y -f b"), HasSubstr("'x'"));
}

TEST(command_line, other_serve_options) {
  const auto c = get<ctl::serve_command>(
      "serve -f x --io threads --reactors 3 --log-level debug --cluster-size 128K --socket s "
      "--pid-file p");
  EXPECT_EQ(c.runtime.how, rt::backend::threads);
  EXPECT_EQ(c.runtime.reactors, 3u);
  EXPECT_EQ(c.log_level, base::log_level::debug);
  EXPECT_EQ(c.change_files.cluster_bytes, 128u << 10);
  EXPECT_EQ(c.control_socket, "s");
  EXPECT_EQ(c.pid_file, "p");
  EXPECT_TRUE(get<ctl::serve_command>("serve --stdin -f x").standard_input);
}

TEST(command_line, sizes) {
  const auto size = [](const std::string& text) {
    return *get<ctl::serve_command>("serve -f x -s " + text).devices[0].size_bytes;
  };
  EXPECT_EQ(size("512"), 512u);
  EXPECT_EQ(size("1K"), 1024u);
  EXPECT_EQ(size("3MiB"), 3u << 20);
  EXPECT_EQ(size("1T"), uint64_t{1} << 40);
  EXPECT_THAT(error_of("serve -f x -s 1KB"), HasSubstr("1KB"));
  EXPECT_THAT(error_of("serve -f x -s -1"), HasSubstr("-s"));
  EXPECT_THAT(error_of("serve -f x -s 0"), HasSubstr("0 bytes"));
}

TEST(command_line, client_commands) {
  EXPECT_EQ(get<ctl::ping_command>("ping").to.socket, "");
  EXPECT_EQ(get<ctl::ping_command>("ping --socket p").to.socket, "p");
  EXPECT_TRUE(get<ctl::info_command>("info --json").json);
  EXPECT_EQ(get<ctl::shutdown_command>("shutdown --socket=q").to.socket, "q");
  const auto add = get<ctl::add_layer_command>("add-layer new --device d");
  EXPECT_EQ(add.file, "new");
  EXPECT_EQ(add.device, "d");
  EXPECT_THAT(error_of("add-layer"), HasSubstr("FILE"));
}

TEST(command_line, offline_commands) {
  EXPECT_TRUE(get<ctl::commit_command>("commit -E a -f b --remove").remove);
  EXPECT_THAT(error_of("commit -E a"), HasSubstr("two layers"));
  EXPECT_EQ(get<ctl::flatten_command>("flatten -E a -f b -o c").output, "c");
  EXPECT_TRUE(get<ctl::map_command>("map --json -E a").json);
  EXPECT_THAT(error_of("map"), HasSubstr("no layer"));
}

TEST(command_line, image_commands) {
  const auto made = get<ctl::image_command>("image create gluster://h/v/a 1G");
  EXPECT_EQ(made.verb, ctl::image_verb::create);
  EXPECT_EQ(made.image, "gluster://h/v/a");
  EXPECT_EQ(made.size_bytes, 1u << 30);
  EXPECT_TRUE(get<ctl::image_command>("image resize --shrink gluster://h/v/a 512").shrink);
  EXPECT_TRUE(get<ctl::image_command>("image ls gluster://h/v --json").json);
  EXPECT_EQ(get<ctl::image_command>("image rm gluster://h/v/a").verb, ctl::image_verb::remove);
  EXPECT_THAT(error_of("image create gluster://h/v/a 1x"), HasSubstr("SIZE"));
  EXPECT_THAT(error_of("image create gluster://h/v/a 513"), HasSubstr("multiple of 512"));
  EXPECT_THAT(error_of("image create gluster://h/v/a"), HasSubstr("SIZE"));
  EXPECT_THAT(error_of("image"), HasSubstr("--help"));
}

TEST(command_line, replaying_logs) {
  const auto all = get<ctl::replay_log_command>("replay-log --log l");
  EXPECT_EQ(all.log, "l");
  EXPECT_TRUE(all.device.empty());
  const auto some = get<ctl::replay_log_command>(
      "replay-log --log l --replay d --start-mark a --end-mark b --limit 7 --no-discard "
      "--fsck check --check flush");
  EXPECT_EQ(some.device, "d");
  EXPECT_EQ(some.start_mark, "a");
  EXPECT_EQ(some.end_mark, "b");
  EXPECT_EQ(some.limit, 7u);
  EXPECT_TRUE(some.no_discard);
  EXPECT_EQ(some.check, ctl::replay_check::flush);
  const auto every =
      get<ctl::replay_log_command>("replay-log --log l --replay d --fsck true --check 20");
  EXPECT_EQ(every.check, ctl::replay_check::entries);
  EXPECT_EQ(every.check_every, 20u);
  EXPECT_TRUE(get<ctl::replay_log_command>("replay-log --log l --find --next-fua").find);
  EXPECT_THAT(error_of("replay-log"), HasSubstr("--log is missing"));
  EXPECT_THAT(error_of("replay-log --log l --find"), HasSubstr("--next-flush"));
  EXPECT_THAT(error_of("replay-log --log l --limit 0"), HasSubstr("at least 1"));
  EXPECT_THAT(error_of("replay-log --log l --fsck true"), HasSubstr("give both"));
  EXPECT_THAT(error_of("replay-log --log l --fsck true --check 3"), HasSubstr("--replay"));
  EXPECT_THAT(error_of("replay-log --log l --replay d --find --limit 1"), HasSubstr("only print"));
}

TEST(command_line, errors_are_one_line_that_names_the_option_and_the_help) {
  for (const char* line :
       {"", "frob", "serve", "serve --frob", "serve x", "serve -l", "serve -l x:y -f z",
        "serve -s 1 -s 2 -f x", "serve -f x --io y", "serve -f x --reactors 0", "serve -u",
        "serve -f x --log-level loud", "serve -f x --cluster-size 3K", "serve -a 1 -a 2 -f x",
        "serve --stdin -l 1 -f x", "ping extra", "completion fish", "map --bad",
        "serve --expandable="}) {
    const std::string text = error_of(line);
    EXPECT_EQ(text.find('\n'), std::string::npos) << text;
    EXPECT_THAT(text, HasSubstr("--help")) << line;
    EXPECT_TRUE(text.starts_with("lbd")) << text;
  }
  EXPECT_THAT(error_of("serve --frob -f x"), HasSubstr("'--frob'"));
  EXPECT_THAT(error_of("serve disk.img"), HasSubstr("-f disk.img"));
}

TEST(command_line, help_and_version) {
  EXPECT_THAT(get<ctl::print_command>("--help").text, HasSubstr("serve"));
  EXPECT_THAT(get<ctl::print_command>("serve --help").text, HasSubstr("--expandable"));
  EXPECT_THAT(get<ctl::print_command>("--version").text, HasSubstr("lbd 0"));
}

TEST(command_line, a_program_and_its_words_stay_as_they_are) {
  const auto run = get<ctl::run_command>("run --disk a --disk=b --socket s -- sh -c --disk --help");
  EXPECT_THAT(run.disks, ElementsAre("a", "b"));
  EXPECT_EQ(run.to.socket, "s");
  EXPECT_THAT(run.command, ElementsAre("sh", "-c", "--disk", "--help"));
  EXPECT_EQ(run.log_level, base::log_level::off);
  EXPECT_THAT(get<ctl::run_command>("run blkid -p x").command, ElementsAre("blkid", "-p", "x"));
  EXPECT_THAT(get<ctl::run_command>("dmsetup ls --tree").command,
              ElementsAre("dmsetup", "ls", "--tree"));
  EXPECT_THAT(get<ctl::run_command>("dmsetup --help").command, ElementsAre("dmsetup", "--help"));
  EXPECT_EQ(error_of("run --disk a"), "lbd run: which program? (see lbd run --help)");
  EXPECT_EQ(error_of("run --disk"), "lbd run: --disk needs a value (see lbd run --help)");
  EXPECT_THAT(get<ctl::print_command>("run --help").text, HasSubstr("--disk FILE"));
}

std::string page_of(const std::string& command) {
  // The commands of a command share its page.
  const std::string first = command.substr(0, command.find(' '));
  std::ifstream in(std::string(LBD_MAN_DIR) + "/lbd-" + first + ".1");
  std::stringstream text;
  text << in.rdbuf();
  std::string out = text.str();
  for (size_t at = 0; (at = out.find("\\-", at)) != std::string::npos;) out.erase(at, 1);
  return out;
}

TEST(command_line, every_option_is_in_its_man_page) {
  for (const command_entry& command : list_commands()) {
    const std::string page = page_of(command.name);
    ASSERT_FALSE(page.empty()) << "no page lbd-" << command.name << ".1";
    for (const option_entry& option : command.options)
      for (const std::string& name : option.names) {
        if (name == "-h" || name == "--help") continue;
        EXPECT_THAT(page, HasSubstr(name)) << "lbd-" << command.name << ".1";
      }
  }
}

TEST(command_line, completion_knows_every_command_and_option) {
  const std::string script = get<ctl::print_command>("completion bash").text;
  for (const command_entry& command : list_commands()) {
    EXPECT_THAT(script, testing::ContainsRegex("    '?" + command.name + "'?\\)\n"));
    for (const option_entry& option : command.options)
      for (const std::string& name : option.names) EXPECT_THAT(script, HasSubstr(name));
  }
}

}  // namespace
}  // namespace lbd::app
