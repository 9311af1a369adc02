// SPDX-License-Identifier: MIT
// The parts of the daemon by themselves: numbers of sources, the registry, tables as text, the
// configuration, parameters, events, and the methods of a daemon without a socket.
#include "ctl/daemon.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "ctl/daemon_config.h"
#include "ctl/table_text.h"

namespace lbd::ctl {
namespace {

using base::errc;
using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;

class scratch {
 public:
  scratch() {
    char name[] = "/tmp/lbd-daemon-test-XXXXXX";
    path_ = ::mkdtemp(name);
  }
  ~scratch() { std::filesystem::remove_all(path_); }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  std::string file(const std::string& name, uint64_t size_bytes) const {
    std::ofstream(*this / name).put('\0');
    std::filesystem::resize_file(*this / name, size_bytes);
    return *this / name;
  }

 private:
  std::string path_;
};

void write(const std::string& path, const std::string& text) { std::ofstream(path) << text; }

TEST(source_numbers, are_kept_and_never_given_twice) {
  const scratch dir;
  const std::string odd = "/a b\\c\nd";
  {
    const auto numbers = *source_numbers::open(dir / "sources");
    EXPECT_EQ(numbers->number_of("/one")->text(), "512:0");
    EXPECT_EQ(numbers->number_of(odd)->text(), "512:1");
    EXPECT_EQ(numbers->number_of("/one")->text(), "512:0");
  }
  const auto numbers = *source_numbers::open(dir / "sources");
  EXPECT_EQ(numbers->find({512, 1}), odd);
  EXPECT_EQ(numbers->find({512, 2}), std::nullopt);
  EXPECT_EQ(numbers->number_of("/three")->text(), "512:2");
  const auto other = *source_numbers::open(dir / "sources");
  EXPECT_EQ(other->number_of("/four")->text(), "512:3");
  EXPECT_EQ(numbers->find({512, 3}), "/four") << "another daemon gave it";
  EXPECT_EQ(numbers->number_of("/five")->text(), "512:4");
}

TEST(source_numbers, a_line_that_a_crash_cut_off_is_forgotten_and_a_wrong_one_is_told) {
  const scratch dir;
  write(dir / "cut", "512:0 /a\n512:1 /b");
  const auto numbers = *source_numbers::open(dir / "cut");
  EXPECT_EQ(numbers->find({512, 1}), std::nullopt);
  EXPECT_EQ(numbers->number_of("/c")->text(), "512:1");
  const auto wrong = [&dir](const std::string& text) {
    write(dir / "wrong", text);
    const auto opened = source_numbers::open(dir / "wrong");
    return opened ? std::string() : opened.error().message;
  };
  EXPECT_THAT(wrong("512:0 /a\nx\n"), HasSubstr("line 2"));
  EXPECT_THAT(wrong("512:0 /a\n512:0 /b\n"), HasSubstr("twice"));
  EXPECT_THAT(wrong("512:0 /a\n512:1 /a\n"), HasSubstr("twice"));
  EXPECT_THAT(wrong("8:0 /a\n"), HasSubstr("line 1"));
  EXPECT_THAT(wrong("512:4294967295 /a\n"), HasSubstr("line 1"));
  EXPECT_EQ(wrong("4095:1048575 /a\n"), "");
}

TEST(source_numbers, a_file_that_becomes_shorter_is_told) {
  const scratch dir;
  const auto numbers = *source_numbers::open(dir / "sources");
  EXPECT_EQ(numbers->number_of("/one")->text(), "512:0");
  write(dir / "sources", "");
  const auto another = numbers->number_of("/two");
  ASSERT_FALSE(another);
  EXPECT_THAT(another.error().message, HasSubstr("has become shorter: restart the daemon"));
  EXPECT_EQ(numbers->find({512, 1}), std::nullopt);
  EXPECT_EQ(numbers->number_of("/one")->text(), "512:0") << "known already";
}

class registry : public testing::Test {
 protected:
  base::outcome<block::opened_device> open(const std::string& source, bool writable = true) {
    return runtime_->run_until(sources_.open(source, writable));
  }
  errc error(const std::string& source) {
    const auto opened = open(source);
    return opened ? errc::ok : opened.error().code;
  }
  scratch dir_;
  std::unique_ptr<rt::runtime> runtime_ = *rt::runtime::start({.reactors = 1});
  rt::reactor::scope here_{runtime_->at(0)};
  source_registry sources_{*runtime_, *source_numbers::open(dir_ / "sources")};
};

TEST_F(registry, one_file_is_one_source_by_whatever_name) {
  const std::string a = dir_.file("a", 8192);
  std::filesystem::create_symlink(a, dir_ / "link");
  auto one = open(a);
  ASSERT_TRUE(one);
  auto two = open(dir_ / "link", false), three = open("512:0"), four = open("file:" + a);
  ASSERT_TRUE(two && three && four);
  EXPECT_EQ(one->device.get(), two->device.get());
  EXPECT_EQ(one->device.get(), three->device.get());
  EXPECT_EQ(one->device.get(), four->device.get());
  EXPECT_EQ(two->number.text(), "512:0");
  EXPECT_EQ(*sources_.source_of({512, 0}), a);
  EXPECT_EQ(*runtime_->run_until(sources_.size_of(a)), 8192u);
  EXPECT_EQ(sources_.list_open().size(), 1u);
}

TEST_F(registry, one_text_is_one_memory_and_names_make_others) {
  const auto one = open("mem:1M"), same = open("mem:1024K");
  const auto left = open("mem:1M?name=left"), right = open("mem:1M?name=right");
  ASSERT_TRUE(one && same && left && right);
  EXPECT_EQ(one->device.get(), same->device.get());
  EXPECT_NE(one->device.get(), left->device.get());
  EXPECT_NE(left->device.get(), right->device.get());
  EXPECT_EQ(one->number.text(), "512:0");
  EXPECT_EQ(left->number.text(), "512:1");
  EXPECT_EQ(right->number.text(), "512:2");
  EXPECT_EQ(*sources_.source_of({512, 1}), "mem:1048576?name=left");
}

TEST_F(registry, says_what_is_no_source) {
  const auto opened = open(dir_ / "nosuch");
  ASSERT_FALSE(opened);
  EXPECT_EQ(opened.error().code, errc::nodev);
  EXPECT_THAT(opened.error().message, HasSubstr("nosuch"));
  EXPECT_EQ(error("relative"), errc::nodev);
  EXPECT_EQ(error("gopher:x"), errc::nodev);
  EXPECT_EQ(error("512:7"), static_cast<errc>(ENXIO));
  EXPECT_EQ(error("512:7x"), errc::nodev);
  EXPECT_EQ(error("/"), static_cast<errc>(ENOTBLK));
  EXPECT_TRUE(sources_.list_open().empty());
}

TEST_F(registry, a_reader_and_a_writer_share_a_file_and_no_other_program_gets_in) {
  const std::string a = dir_.file("a", 8192);
  auto reader = open(a, false);
  ASSERT_TRUE(reader && reader->device->limits().read_only);
  source_registry others{*runtime_, *source_numbers::open(dir_ / "others")};
  {
    auto other_reader = runtime_->run_until(others.open(a, false));
    EXPECT_TRUE(other_reader) << "readers do not disturb each other";
    EXPECT_EQ(error(a), errc::busy);
  }
  auto writer = open(a);
  ASSERT_TRUE(writer);
  EXPECT_FALSE(writer->device->limits().read_only);
  const auto refused = runtime_->run_until(others.open(a, false));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, errc::busy);
  writer->device.reset();
  EXPECT_TRUE(runtime_->run_until(others.open(a, false))) << "only a reader is left";
  EXPECT_EQ(runtime_->run_until(others.open(a, true)).error().code, errc::busy);
  reader->device.reset();
  EXPECT_TRUE(runtime_->run_until(others.open(a, true)));
}

TEST_F(registry, makes_paths_absolute_where_a_source_holds_one) {
  EXPECT_EQ(sources_.absolute("./a", "/d/e"), "/d/e/a");
  EXPECT_EQ(sources_.absolute("../a", "/d/e"), "/d/a");
  EXPECT_EQ(sources_.absolute("a", "/d"), "/d/a");
  EXPECT_EQ(sources_.absolute("/a", "/d"), "/a");
  EXPECT_EQ(sources_.absolute("qcow2:a", "/d"), "qcow2:/d/a");
  EXPECT_EQ(sources_.absolute("mem:1M", "/d"), "mem:1M");
  EXPECT_EQ(sources_.absolute("8:0", "/d"), "8:0");
  EXPECT_EQ(sources_.absolute("gluster://h/v/a?logfile=g.log", "/d"),
            "gluster://h:24007/v/a?logfile=/d/g.log");
  EXPECT_EQ(sources_.absolute("gluster://h/v/a?logfile=-", "/d"), "gluster://h/v/a?logfile=-");
}

TEST(table_text, follows_the_rules_of_dmsetup) {
  const auto lines = parse_table("# a table\n\n 0 8 linear  512:0 0 # end\r\n8 8\tzero", false);
  ASSERT_TRUE(lines);
  ASSERT_EQ(lines->size(), 2u);
  EXPECT_EQ(to_text((*lines)[0]), "0 8 linear 512:0 0");
  EXPECT_EQ(to_text((*lines)[1]), "8 8 zero ");
  EXPECT_EQ(parse_table("0 8 zero; 8 8 zero;", true)->size(), 2u);
  EXPECT_THAT(parse_table("0 8 zero\nx 8 zero", false).error().message, HasSubstr("line 2"));
  EXPECT_FALSE(parse_table("0 -8 zero", false));
  EXPECT_FALSE(parse_table("0 18446744073709551616 zero", false));
  EXPECT_FALSE(parse_table("0 8", false));
}

TEST(config, devices_come_after_those_that_they_stand_on) {
  const auto c = parse_config(
      "[[device]]\nname='c'\ntable='0 8 linear b 0'\n"
      "[[device]]\nname='a'\ntable='0 8 zero'\n"
      "[[device]]\nname='b'\ntable=['0 4 linear /dev/mapper/a 0', '4 4 zero']\n",
      "f");
  ASSERT_TRUE(c);
  std::vector<std::string> names;
  for (const auto& d : c->devices) names.push_back(d.name);
  EXPECT_THAT(names, ElementsAre("a", "b", "c"));
  EXPECT_EQ(c->devices[1].line, 7u);
}

TEST(uevents, have_the_kernels_variables_in_its_order) {
  const stack::device_event from{"change",
                                 "d",
                                 "U",
                                 {253, 3},
                                 {"DM_TARGET=multipath", "DM_ACTION=PATH_FAILED", "DM_PATH=8:32",
                                  "DM_NR_VALID_PATHS=0", "DM_SEQNUM=5"}};
  std::vector<std::string> names;
  for (const auto& [name, value] : to_uevent(from, 9).variables) names.push_back(name);
  EXPECT_THAT(names, ElementsAre("ACTION", "DEVPATH", "SUBSYSTEM", "DM_TARGET", "DM_ACTION",
                                 "DM_SEQNUM", "DM_PATH", "DM_NR_VALID_PATHS", "DM_NAME", "DM_UUID",
                                 "MAJOR", "MINOR", "DEVNAME", "DEVTYPE", "SEQNUM"));
}

// A daemon without a management socket.
class methods : public testing::Test {
 protected:
  methods() {
    std::filesystem::create_directory(dir_ / "run");
    std::filesystem::permissions(dir_ / "run", std::filesystem::perms::owner_all);
    daemon_ = *daemon::make(*runtime_, {dir_ / "run", dir_ / "run"});
  }
  ~methods() override { EXPECT_TRUE(runtime_->run_until(daemon_->close())); }
  base::outcome<std::shared_ptr<const json>> ask(const std::string& method, json params) {
    auto given = std::make_shared<const json>(std::move(params));
    return runtime_->run_until(daemon_->call(method, std::move(given)));
  }
  scratch dir_;
  std::unique_ptr<rt::runtime> runtime_ = *rt::runtime::start({.reactors = 2});
  rt::reactor::scope here_{runtime_->at(0)};
  std::unique_ptr<daemon> daemon_;
};

TEST_F(methods, a_device_that_cannot_start_does_not_stay) {
  const auto failed = ask("device.create", {{"name", "d"}, {"table", "0 8 linear /nosuch 0"}});
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().code, errc::nodev);
  EXPECT_THAT(failed.error().message, HasSubstr("linear: Device lookup failed (-ENODEV): "));
  EXPECT_THAT(failed.error().message, HasSubstr("'/nosuch'"));
  EXPECT_TRUE((*ask("device.list", json::object()))->empty());
}

TEST_F(methods, refuse_what_they_do_not_know) {
  const json far = {{"name", "d"}, {"table", "0 8 zero"}, {"directory", std::string(5000, '/')}};
  EXPECT_EQ(ask("device.create", far).error().message, "directory is too long");
  for (const json& params :
       {json::object(), json{{"name", "a"}, {"number", "253:0"}}, json{{"name", 3}},
        json{{"number", "253"}}, json{{"name", "a"}, {"what", 1}}, json::array({1})}) {
    const auto refused = ask("device.info", params);
    ASSERT_FALSE(refused) << params;
    EXPECT_EQ(refused.error().code, errc::inval) << params;
  }
  EXPECT_EQ(ask("device.info", {{"name", "a"}}).error().code, static_cast<errc>(ENXIO));
  EXPECT_FALSE(ask("device.nosuch", json::object()));
}

TEST_F(methods, a_table_prints_what_loads_again) {
  const std::string a = dir_.file("a", 65536);
  ASSERT_TRUE(
      ask("device.create", {{"name", "d"}, {"table", "0 8 linear a 0"}, {"directory", dir_ / ""}}));
  const auto lines = *ask("device.table", {{"number", daemon_->devices().list()[0].number.text()}});
  EXPECT_EQ((*lines)[0]["text"], "512:0 0");
  ASSERT_TRUE(ask("device.load", {{"name", "d"}, {"table", "0 8 linear 512:0 0"}}));
  EXPECT_EQ((*ask("device.deps", {{"name", "d"}, {"inactive", true}}))->at(0)["source"], a);
  EXPECT_EQ((*ask("device.remove_all", json::object()))->at("left"), 0);
}

class configurations : public methods {
 protected:
  // The messages of what is missing, without the place of the file.
  std::vector<std::string> restore_from(const std::string& text) {
    const auto c = parse_config(text, dir_ / "c");
    EXPECT_TRUE(c) << (c ? "" : c.error().message);
    std::vector<std::string> out;
    if (!c) return out;
    for (const auto& f : runtime_->run_until(restore(*daemon_, *c, false)))
      out.push_back(f.message.substr((dir_ / "c:").size()));
    return out;
  }
  std::vector<std::string> devices() {
    std::vector<std::string> out;
    for (const auto& s : daemon_->devices().list()) out.push_back(s.name + " " + s.number.text());
    return out;
  }
  static std::string device(const std::string& name, const std::string& table) {
    return "[[device]]\nname='" + name + "'\ntable='" + table + "'\n";
  }
};

TEST_F(configurations, a_missing_snapshot_keeps_its_origin_back) {
  const std::string a = dir_.file("a", 65536), b = dir_.file("b", 65536);
  const std::string text = device("org", "0 128 snapshot-origin file:" + a) +
                           device("snap", "0 128 snapshot a cow P 8") +
                           device("other", "0 128 snapshot a cow2 P 8") +
                           device("free", "0 128 snapshot-origin b");
  dir_.file("cow2", 65536);
  const auto told = restore_from(text);
  ASSERT_EQ(told.size(), 2u);
  EXPECT_THAT(told[0], HasSubstr("4: device 'snap'"));
  EXPECT_THAT(told[1],
              HasSubstr("1: device 'org': it writes to the origin of snapshot 'snap' (line 4)"));
  EXPECT_THAT(devices(), ElementsAre("free 253:3", "other 253:2"));
  EXPECT_TRUE(ask("device.remove_all", json::object()));
  dir_.file("cow", 65536);
  EXPECT_THAT(restore_from(text), ElementsAre());
  EXPECT_THAT(devices(), ElementsAre("free 253:3", "org 253:0", "other 253:2", "snap 253:1"));
  EXPECT_TRUE(ask("device.remove_all", json::object()));
}

TEST_F(configurations, a_missing_device_leaves_the_numbers_of_others) {
  dir_.file("a", 65536);
  const std::string text =
      device("on", "0 8 linear 253:2 0") + device("bad", "0 8 linear x 0") +
      device("good", "0 8 linear a 0") + device("on-bad", "0 8 linear /dev/dm-1 0") +
      device("a b", "0 8 linear y 0") + device("on-a", "0 8 linear /dev/mapper/a\\\\x20b 0");
  const auto told = restore_from(text);
  ASSERT_EQ(told.size(), 4u);
  EXPECT_THAT(told[1], HasSubstr("device 'on-bad': it stands on device 'bad'"));
  EXPECT_THAT(told[3], HasSubstr("device 'on-a': it stands on device 'a b'"));
  EXPECT_THAT(devices(), ElementsAre("good 253:2", "on 253:0"));
  EXPECT_TRUE(ask("device.remove_all", json::object()));
}

rt::task<rt::socket> ask_for_life(std::string path) {
  const rt::socket_address at = *rt::socket_address::unix_path(path);
  auto client = *co_await rt::socket::connect(at);
  const std::string request = R"({"jsonrpc":"2.0","id":1,"method":"ping"})"
                              "\n";
  EXPECT_TRUE(co_await client.send_all(base::as_bytes(request)));
  co_await rt::sleep_for(std::chrono::milliseconds(50));
  co_return std::move(client);
}

rt::task<std::string> what_comes(rt::socket& client) {
  std::vector<std::byte> buffer(4096);
  const auto got = co_await client.recv_some(buffer);
  co_return got ? std::string(base::as_text(base::bytes_view(buffer).first(*got))) : std::string();
}

TEST_F(methods, clients_that_come_early_wait) {
  daemon_->hold_clients();
  ASSERT_TRUE(daemon_->listen(dir_ / "s"));
  rt::socket client = runtime_->run_until(ask_for_life(dir_ / "s"));
  char none = 0;
  EXPECT_LT(::recv(client.fd(), &none, 1, MSG_DONTWAIT), 0) << "answered while it starts";
  daemon_->admit_clients();
  EXPECT_THAT(runtime_->run_until(what_comes(client)), HasSubstr("\"result\""));
}

class nobody final : public line_peer {
 public:
  bool notify(std::string) override { return false; }
  void dismiss(std::string) override {}
  bool is_gone() const override { return false; }
  void on_end(std::function<void()>) override {}
};

// What an example shows is there; numbers may be others, and more members.
void expect_shown(const json& shown, const json& real, const std::string& where) {
  ASSERT_EQ(shown.is_number(), real.is_number()) << where;
  if (shown.is_object()) {
    for (const auto& [name, value] : shown.items()) {
      ASSERT_TRUE(real.contains(name)) << where << "." << name << " in " << real;
      expect_shown(value, real[name], where + "." + name);
    }
  } else if (shown.is_array()) {
    ASSERT_TRUE(real.is_array() && shown.empty() == real.empty()) << where;
    if (!shown.empty()) expect_shown(shown[0], real[0], where + "[0]");
  } else if (!shown.is_number() && where.find("[0].name") == std::string::npos) {
    EXPECT_EQ(shown, real) << where;
  }
}

TEST_F(methods, examples_of_the_documentation) {
  std::ifstream in(LBD_DOCS_DIR "/management.md");
  rpc_handler rpc(daemon_->methods());
  nobody peer;
  unsigned examples = 0;
  json answer;
  std::string line;
  while (std::getline(in, line) && line != "## The daemon") continue;
  for (; std::getline(in, line);) {
    if (line.starts_with("--> "))
      answer = json::parse(runtime_->run_until(rpc.handle(line.substr(4), peer)).text);
    if (!line.starts_with("<-- ")) continue;
    ++examples;
    const json shown = json::parse(line.substr(4));
    expect_shown(shown, answer, "example " + shown["id"].dump());
    if (shown.contains("error")) {
      EXPECT_EQ(shown["error"], answer["error"]);
    }
  }
  EXPECT_EQ(examples, 20u);
}

}  // namespace
}  // namespace lbd::ctl
