// SPDX-License-Identifier: MIT
// The control plane without a server process: the runtime folder, reports, progress, and the two
// management protocols over a fake server.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "ctl/holdings.h"
#include "ctl/management.h"
#include "ctl/progress.h"
#include "ctl/report.h"
#include "ctl/runtime_dir.h"

namespace lbd::ctl {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Pair;

class scratch {
 public:
  scratch() {
    char name[] = "/tmp/lbd-ctl-test-XXXXXX";
    path_ = ::mkdtemp(name);
  }
  ~scratch() { std::filesystem::remove_all(path_); }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

// A listening Unix socket; its file stays when it is closed, as after a crash.
int listen_at(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  const int fd = ::socket(AF_UNIX, SOCK_STREAM, 0);
  EXPECT_EQ(::bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  EXPECT_EQ(::listen(fd, 4), 0);
  return fd;
}

TEST(runtime_dir, follows_the_environment) {
  EXPECT_EQ(runtime_dir({"", "", 0}), "/run/lbd");
  EXPECT_EQ(runtime_dir({"", "/run/user/0", 0}), "/run/lbd");
  EXPECT_EQ(runtime_dir({"", "/run/user/7", 7}), "/run/user/7/lbd");
  EXPECT_EQ(runtime_dir({"", "", 7}), "/tmp/lbd-7");
  EXPECT_EQ(runtime_dir({"/x", "/run/user/7", 7}), "/x");
  EXPECT_EQ(serve_socket_path("/run/lbd", 42), "/run/lbd/serve-42.sock");
}

TEST(runtime_dir, is_made_private_and_refused_if_others_may_enter) {
  const scratch dir;
  const std::string path = dir / "lbd";
  ASSERT_TRUE(prepare_runtime_dir(path, ::geteuid()));
  struct stat st {};
  ASSERT_EQ(::stat(path.c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 07777, 0700u);
  EXPECT_TRUE(prepare_runtime_dir(path, ::geteuid()));
  ::chmod(path.c_str(), 0755);
  EXPECT_FALSE(prepare_runtime_dir(path, ::geteuid()));
  ::chmod(path.c_str(), 0700);
  EXPECT_FALSE(prepare_runtime_dir(path, ::geteuid() + 1));
  std::filesystem::create_directory_symlink(path, dir / "link");
  const auto through_link = prepare_runtime_dir(dir / "link", ::geteuid());
  ASSERT_FALSE(through_link);
  EXPECT_THAT(through_link.error().message, HasSubstr("--socket"));
}

TEST(runtime_dir, lists_living_sockets_and_removes_those_of_dead_servers) {
  const scratch dir;
  const int alive = listen_at(dir / "serve-1.sock");
  ::close(listen_at(dir / "serve-999999999.sock"));  // no such process
  const std::string starting = dir / ("serve-" + std::to_string(::getpid()) + ".sock");
  ::close(listen_at(starting));
  ::close(listen_at(dir / "other.sock"));
  EXPECT_THAT(living_sockets(dir / "", socket_lives), ElementsAre(dir / "serve-1.sock"));
  EXPECT_FALSE(std::filesystem::exists(dir / "serve-999999999.sock"));
  EXPECT_TRUE(std::filesystem::exists(starting));
  EXPECT_TRUE(std::filesystem::exists(dir / "other.sock"));
  ::close(alive);
}

TEST(runtime_dir, finds_the_only_server_or_lists_them) {
  const scratch dir;
  ::unsetenv("LBD_SOCKET");
  ::setenv("LBD_RUNTIME_DIR", (dir / "").c_str(), 1);
  const auto none = find_socket("");
  ASSERT_FALSE(none);
  EXPECT_THAT(none.error().message, HasSubstr("lbd serve"));
  const int one = listen_at(dir / "serve-1.sock");
  const auto only = find_socket("");
  ASSERT_TRUE(only);
  EXPECT_THAT(*only, HasSubstr("serve-1.sock"));
  const int two = listen_at(dir / "lbd.sock");
  const auto several = find_socket("");
  ASSERT_FALSE(several);
  EXPECT_THAT(several.error().message, HasSubstr("serve-1.sock"));
  EXPECT_THAT(several.error().message, HasSubstr("lbd.sock"));
  EXPECT_EQ(*find_socket("/given"), "/given");
  ::setenv("LBD_SOCKET", "/set", 1);
  EXPECT_EQ(*find_socket(""), "/set");
  ::unsetenv("LBD_SOCKET");
  ::unsetenv("LBD_RUNTIME_DIR");
  ::close(one);
  ::close(two);
}

server_report sample_report() {
  operation_report reads{"read", 3, 12288, 1, {0, 0, 1, 2}};
  layer_report top{"expandable", "/a/top", 1 << 20, 4096, true, {reads}};
  layer_report base{"nbd", "nbd://h:1/x", 1 << 20, std::nullopt, false, {}};
  client_report client{7, "127.0.0.1:4000", 1500, 1, 3, 12288, 0, 0};
  device_report device{"disk", "disk", 1 << 20, false, {reads}, {top, base}, {client}};
  return {"0.1.0",  4711,
          90'000,   "uring",
          2,        {"127.0.0.1:10809"},
          5,        1,
          {device}, {"/a/lbd.toml:3: device 'x': gone"}};
}

TEST(report, json_reads_back_the_same) {
  const server_report r = sample_report();
  const auto back = report_from_json(nlohmann::json::parse(to_json(r).dump()));
  ASSERT_TRUE(back);
  EXPECT_EQ(*back, r);
  EXPECT_FALSE(report_from_json(nlohmann::json::object()));
  EXPECT_FALSE(report_from_json(nlohmann::json::array()));
}

TEST(report, text_and_lines_tell_layers_clients_and_counters) {
  const std::string text = to_text(sample_report());
  for (const char* part : {"lbd 0.1.0", "127.0.0.1:10809", "device disk: 1 MiB", "/a/top",
                           "nbd://h:1/x", "4 KiB used", "127.0.0.1:4000", "3 requests", "1 errors",
                           "not restored: /a/lbd.toml:3: device 'x': gone\n"})
    EXPECT_THAT(text, HasSubstr(part));
  const auto lines = to_lines(sample_report());
  EXPECT_THAT(
      lines,
      testing::IsSupersetOf(
          {Pair("device", "disk"), Pair("size_bytes", "1048576"), Pair("read_requests", "3"),
           Pair("layers", "2"), Pair("layer0_kind", "expandable"), Pair("layer0_path", "/a/top"),
           Pair("layer0_allocated_bytes", "4096"), Pair("layer0_read_bytes", "12288"),
           Pair("layer1_kind", "nbd"), Pair("read_latency_p50_ns", "16"),
           Pair("layer0_read_latency_p99_ns", "16"), Pair("layer0_read_latency_log2_ns", "0 0 1 2"),
           Pair("clients", "1"), Pair("client0_peer", "127.0.0.1:4000")}));
}

TEST(report, percentiles_are_upper_bounds_of_their_buckets) {
  EXPECT_EQ(percentile_ns({}, 0.5), 0u);
  EXPECT_EQ(percentile_ns({1}, 0.5), 2u);
  EXPECT_EQ(percentile_ns({0, 0, 98, 0, 2}, 0.5), 8u);
  EXPECT_EQ(percentile_ns({0, 0, 98, 0, 2}, 0.99), 32u);
}

TEST(report, numbers_for_people) {
  EXPECT_EQ(human_bytes(0), "0 B");
  EXPECT_EQ(human_bytes(1536), "1.5 KiB");
  EXPECT_EQ(human_bytes(uint64_t{10} << 40), "10 TiB");
  EXPECT_EQ(human_ns(999), "999 ns");
  EXPECT_EQ(human_ns(1'500'000), "1.5 ms");
}

TEST(progress, tells_rate_and_time_left) {
  EXPECT_EQ(progress_line("commit", 1 << 20, 4 << 20, 1'000'000'000),
            "commit: 25 %, 1 MiB of 4 MiB, 1 MiB/s, 0:03 left");
  EXPECT_EQ(progress_line("commit", 4 << 20, 4 << 20, 2'000'000'000),
            "commit: 100 %, 4 MiB of 4 MiB, 2 MiB/s");
  EXPECT_THAT(progress_line("map", 1, 7200, 1'000'000'000), HasSubstr("1:59:59 left"));
  EXPECT_THAT(progress_line("map", 0, 10, 0), HasSubstr("0 %"));
}

TEST(holdings, joins_neighbours_of_one_kind_and_layer) {
  std::vector<held_run> runs;
  append_run(runs, {0, 512, held_kind::data, 0});
  append_run(runs, {512, 512, held_kind::data, 0});
  append_run(runs, {1024, 512, held_kind::data, 1});
  append_run(runs, {1536, 512, held_kind::nothing, std::nullopt});
  append_run(runs, {2048, 512, held_kind::nothing, std::nullopt});
  ASSERT_EQ(runs.size(), 3u);
  EXPECT_EQ(runs[0].length_bytes, 1024u);
  EXPECT_EQ(runs[2].length_bytes, 1024u);
}

const std::string refusal =
    "cannot make 'bad': File exists (choose a name that is free, or remove it)";

class fake_server final : public management {
 public:
  server_report report() override { return sample_report(); }
  rt::task<base::outcome<void>> add_layer(std::string device, std::string file) override {
    added.push_back(device + ":" + file);
    if (file == "bad") co_return base::failure{base::errc::exist, refusal};
    co_return base::outcome<void>{};
  }
  void shutdown() override { stopped = true; }
  std::vector<std::string> added;
  bool stopped = false;
};

// Whoever asks in tests: it is always there, and takes no lines but answers.
class test_peer final : public line_peer {
 public:
  bool notify(std::string) override { return false; }
  void dismiss(std::string) override {}
  bool is_gone() const override { return false; }
  void on_end(std::function<void()>) override {}
};

class protocols : public testing::Test {
 protected:
  protocols() { add_management_methods(methods_, server_); }
  line_reply ask(line_handler& handler, const std::string& line) {
    rt::runtime_options options;
    options.reactors = 1;
    options.how = rt::backend::threads;
    if (runtime_ == nullptr) runtime_ = *rt::runtime::start(options);
    return runtime_->run_until(handler.handle(line, nobody_));
  }
  nlohmann::json ask_rpc(const std::string& line) {
    return nlohmann::json::parse(ask(rpc_, line).text);
  }
  std::unique_ptr<rt::runtime> runtime_;
  test_peer nobody_;
  fake_server server_;
  rpc_methods methods_;
  rpc_handler rpc_{methods_};
  text_handler text_{server_};
};

TEST_F(protocols, json_rpc_answers_its_methods) {
  EXPECT_EQ(ask_rpc(R"({"jsonrpc":"2.0","id":1,"method":"ping"})"),
            nlohmann::json::parse(R"({"jsonrpc":"2.0","id":1,"result":true})"));
  EXPECT_EQ(ask_rpc(R"({"jsonrpc":"2.0","id":"a","method":"info"})")["result"]["pid"], 4711);
  EXPECT_EQ(ask_rpc(R"({"jsonrpc":"2.0","id":2,"method":"add_layer",)"
                    R"("params":{"file":"/x","device":"d"}})")["result"],
            true);
  EXPECT_THAT(server_.added, ElementsAre("d:/x"));
  EXPECT_FALSE(server_.stopped);
  EXPECT_EQ(ask_rpc(R"({"jsonrpc":"2.0","id":3,"method":"shutdown"})")["result"], true);
  EXPECT_TRUE(server_.stopped);
}

TEST_F(protocols, json_rpc_refuses_what_it_does_not_know) {
  EXPECT_EQ(ask_rpc("{")["error"]["code"], -32700);
  EXPECT_EQ(ask_rpc("{}")["error"]["code"], -32600);
  EXPECT_EQ(ask_rpc(R"({"jsonrpc":"2.0","id":1,"method":"frob"})")["error"]["code"], -32601);
  EXPECT_EQ(
      ask_rpc(R"({"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":1}})")["error"]["code"],
      -32602);
  EXPECT_EQ(ask_rpc(R"({"jsonrpc":"2.0","id":1,"method":"add_layer"})")["error"]["code"], -32602);
  EXPECT_EQ(
      ask_rpc(
          R"({"jsonrpc":"2.0","id":1,"method":"add_layer","params":{"file":3}})")["error"]["code"],
      -32602);
  const auto refused =
      ask_rpc(R"({"jsonrpc":"2.0","id":1,"method":"add_layer","params":{"file":"bad"}})");
  EXPECT_EQ(refused["error"]["code"], EEXIST);
  EXPECT_EQ(refused["error"]["message"], refusal);
  EXPECT_EQ(ask(rpc_, R"({"jsonrpc":"2.0","method":"ping"})").text, "");
}

TEST_F(protocols, text_answers_and_closes_after_the_unknown) {
  EXPECT_EQ(ask(text_, "PING").text, "true\n");
  EXPECT_THAT(ask(text_, "DEVICE_INFO_STRINGS").text, HasSubstr("layer0_kind: expandable\n"));
  EXPECT_EQ(ask(text_, "LIVE_ADD_LAYER /a b").text, "true\n");
  EXPECT_THAT(server_.added, ElementsAre(":/a b"));
  const line_reply failed = ask(text_, "LIVE_ADD_LAYER bad");
  EXPECT_EQ(failed.text, "ERROR " + refusal + "\n");
  EXPECT_FALSE(failed.close);
  const line_reply unknown = ask(text_, "FROB");
  EXPECT_TRUE(unknown.text.starts_with("ERROR "));
  EXPECT_TRUE(unknown.close);
  EXPECT_EQ(ask(text_, "SHUTDOWN").text, "true\n");
  EXPECT_TRUE(server_.stopped);
}

// What the answers of the documentation leave out of an example's variable parts: only the members
// and their types are compared.
void expect_same_shape(const nlohmann::json& shown, const nlohmann::json& real,
                       const std::string& where) {
  ASSERT_EQ(shown.is_number(), real.is_number()) << where;
  ASSERT_EQ(shown.is_object(), real.is_object()) << where;
  if (shown.is_object())
    for (const auto& [name, value] : shown.items()) {
      ASSERT_TRUE(real.contains(name)) << where << "." << name;
      expect_same_shape(value, real[name], where + "." + name);
    }
  if (shown.is_array() && !shown.empty()) {
    ASSERT_TRUE(real.is_array() && !real.empty()) << where;
    expect_same_shape(shown[0], real[0], where + "[0]");
  }
}

TEST_F(protocols, examples_of_the_documentation) {
  std::ifstream in(LBD_DOCS_DIR "/management.md");
  unsigned examples = 0;
  nlohmann::json answer;
  for (std::string line; std::getline(in, line) && line != "## The daemon";) {
    if (line.starts_with("--> ")) answer = ask_rpc(line.substr(4));
    if (!line.starts_with("<-- ")) continue;
    const auto shown = nlohmann::json::parse(line.substr(4));
    ++examples;
    if (shown.contains("result") && shown["result"].is_object())
      expect_same_shape(shown, answer, "answer");
    else
      EXPECT_EQ(shown, answer);
  }
  EXPECT_EQ(examples, 6u);
  EXPECT_THAT(server_.added, ElementsAre("disk:/data/today.qcow2", ":bad"));
}

}  // namespace
}  // namespace lbd::ctl
