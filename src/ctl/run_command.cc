// SPDX-License-Identifier: MIT
// With a daemon that runs: asks it for what the preloaded library needs, and becomes the program.
// Without one: is a daemon itself, for a second `lbd run` that it starts, as long as that runs.
#include "ctl/run_command.h"

#include <signal.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <climits>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/log.h"
#include "block/target.h"
#include "ctl/client.h"
#include "ctl/daemon.h"
#include "ctl/process.h"
#include "ctl/program.h"
#include "ctl/runtime_dir.h"
#include "ctl/say.h"
#include "export/fuse/mount_point.h"

extern char** environ;

namespace lbd::ctl {
namespace {

using base::errc;
using base::failure;
using base::outcome;
using nlohmann::json;
namespace fs = std::filesystem;

constexpr int exit_cannot_run = 126, exit_no_program = 127, exit_by_signal = 128;
constexpr uint64_t answer_ms = 60'000;

failure from_errno(const std::string& what) {
  const auto code = static_cast<errc>(errno);
  return failure{code, what + ": " + base::to_string(code)};
}

outcome<json> ask(const client_target& to, const char* method, const json& params) {
  TRY(const auto answer, call_server(to, method, params, after_answer::close, answer_ms));
  return *answer;
}

// "DEVICE:INODE:MAJOR:MINOR,..."
outcome<std::string> add_disks(const client_target& to, const std::vector<std::string>& disks) {
  std::string text;
  for (const std::string& disk : disks) {
    std::error_code error;
    const fs::path path = fs::canonical(disk, error);
    struct stat st {};
    if (error || ::stat(path.c_str(), &st) != 0) return from_errno("--disk " + disk);
    if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
      return failure{errc::inval, "--disk " + disk + ": it is neither a file nor a block device"};
    const json params = {{"path", path.string()}};
    TRY(const json number, ask(to, "dm.disk", params));
    if (!S_ISREG(st.st_mode)) continue;
    if (!text.empty()) text += ',';
    text += std::to_string(st.st_dev) + ":" + std::to_string(st.st_ino) + ":" +
            std::to_string(number.value("major", 0u)) + ":" +
            std::to_string(number.value("minor", 0u));
  }
  return text;
}

// Disks of an outer `lbd run` stay disks.
std::string joined(const char* outer, const std::string& inner) {
  if (outer == nullptr || *outer == '\0') return inner;
  return inner.empty() ? outer : std::string(outer) + "," + inner;
}

outcome<void> prepare_environment(const client_target& to, const run_command& what) {
  TRY(const std::string library, find_preload_library());
  TRY(const json facts, ask(to, "dm.socket", json::object()));
  TRY(const std::string disks, add_disks(to, what.disks));
  const char* loaded = std::getenv("LD_PRELOAD");
  std::string preload = library;
  if (loaded != nullptr && *loaded != '\0') {
    const std::string others = loaded;
    preload = others.find(library) == std::string::npos ? library + ":" + others : others;
  }
  ::setenv("LD_PRELOAD", preload.c_str(), 1);
  ::setenv("LBD_SOCKET", to.socket.c_str(), 1);
  ::setenv("LBD_RUN_SOCKET", facts.value("socket", "").c_str(), 1);
  ::setenv("LBD_RUN_VIEW", facts.value("view", "").c_str(), 1);
  ::setenv("LBD_RUN_MOUNT", facts.value("mount", "").c_str(), 1);
  ::setenv("LBD_RUN_DISKS", joined(std::getenv("LBD_RUN_DISKS"), disks).c_str(), 1);
  return {};
}

std::vector<char*> pointers_to(std::vector<std::string>& words) {
  std::vector<char*> out;
  for (std::string& w : words) out.push_back(w.data());
  out.push_back(nullptr);
  return out;
}

// Returns only when that fails.
int become(const std::string& program, const std::vector<std::string>& command) {
  std::vector<std::string> words = command;
  const auto argv = pointers_to(words);
  ::execv(program.c_str(), argv.data());
  // A script without a first line is the shell's.
  if (errno == ENOEXEC) {
    std::vector<std::string> shell = {"/bin/sh", program};
    shell.insert(shell.end(), command.begin() + 1, command.end());
    const auto shell_argv = pointers_to(shell);
    ::execv("/bin/sh", shell_argv.data());
  }
  fail("run", from_errno(program));
  return exit_cannot_run;
}

int run_with(const client_target& to, const run_command& what, const std::string& program) {
  const auto prepared = prepare_environment(to, what);
  if (!prepared) {
    fail("run", prepared.error());
    return exit_cannot_run;
  }
  return become(program, what.command);
}

// A folder of this process's own in the runtime folder; gone with the object.
class own_folder {
 public:
  static outcome<own_folder> make() {
    const runtime_environment env = current_environment();
    const std::string dir = runtime_dir(env);
    CHECK(prepare_runtime_dir(dir, env.uid));
    remove_leftovers(dir);
    own_folder made(dir + "/run-" + std::to_string(::getpid()));
    CHECK(prepare_runtime_dir(made.path_, env.uid));
    return made;
  }
  own_folder(own_folder&& o) noexcept : path_(std::exchange(o.path_, {})) {}
  own_folder& operator=(own_folder&&) = delete;
  ~own_folder() {
    std::error_code error;
    if (!path_.empty()) fs::remove_all(path_, error);
  }
  const std::string& path() const { return path_; }

 private:
  explicit own_folder(std::string path) : path_(std::move(path)) {}

  // Folders of processes that were killed, and what they have left mounted there.
  static void remove_leftovers(const std::string& dir) {
    std::error_code error;
    for (const auto& e : fs::directory_iterator(dir, error)) {
      const std::string name = e.path().filename();
      if (!name.starts_with("run-")) continue;
      const std::string number = name.substr(4);
      const auto pid = block::parse_u32(number);
      if (!pid || *pid == 0 || *pid > INT_MAX) continue;
      const auto process = static_cast<pid_t>(*pid);
      if (process != ::getpid() && (::kill(process, 0) == 0 || errno != ESRCH)) continue;
      const auto dropped = fuse::drop_dead_mount(e.path() / ("mount-" + number));
      if (dropped || dropped.error().code == errc::noent) fs::remove_all(e.path(), error);
    }
  }

  std::string path_;
};

// What this process ignores: the daemon outlives what the terminal sends to the program as well,
// and sees the other two as errors. The program gets these signals as they came to this process.
class ignored_signals {
 public:
  ignored_signals() {
    ::sigemptyset(&ours_);
    for (const int number : {SIGHUP, SIGQUIT, SIGPIPE, SIGXFSZ})
      if (::signal(number, SIG_IGN) != SIG_IGN) ::sigaddset(&ours_, number);
  }
  const sigset_t& ours() const { return ours_; }

 private:
  sigset_t ours_{};
};

// The second `lbd run`.
outcome<pid_t> start_inner(const std::string& socket, const run_command& what,
                           const ignored_signals& ignored) {
  std::vector<std::string> words = {"lbd", "run", "--socket", socket};
  for (const std::string& disk : what.disks) {
    words.push_back("--disk");
    words.push_back(disk);
  }
  words.push_back("--");
  words.insert(words.end(), what.command.begin(), what.command.end());
  const auto argv = pointers_to(words);
  posix_spawnattr_t attributes;
  ::posix_spawnattr_init(&attributes);
  sigset_t none;
  ::sigemptyset(&none);
  ::posix_spawnattr_setsigmask(&attributes, &none);
  ::posix_spawnattr_setsigdefault(&attributes, &ignored.ours());
  ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  pid_t pid = 0;
  errno = ::posix_spawn(&pid, "/proc/self/exe", nullptr, &attributes, argv.data(), environ);
  ::posix_spawnattr_destroy(&attributes);
  if (errno != 0) return from_errno("cannot start lbd");
  return pid;
}

// SIGTERM goes on to the program; SIGINT comes from the terminal, to both.
rt::task<void> pass_signals(stop_signals& signals, pid_t to, rt::event& done) {
  while (true) {
    const int number = co_await signals.wait();
    if (number == 0) break;
    if (number == SIGTERM) ::kill(to, number);
  }
  done.set();
}

rt::task<outcome<int>> wait_for(pid_t pid) {
  rt::socket ended(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (!ended) co_return from_errno("cannot wait for the program");
  rt::io_request readable;
  readable.op = rt::io_op::wait_readable;
  readable.fd = ended.fd();
  (void)co_await rt::os_request(readable);
  int status = 0;
  if (::waitpid(pid, &status, 0) < 0) co_return from_errno("cannot wait for the program");
  co_return WIFEXITED(status) ? WEXITSTATUS(status) : exit_by_signal + WTERMSIG(status);
}

rt::task<outcome<int>> run_alone(rt::runtime& runtime, const run_command& what,
                                 stop_signals& signals, const ignored_signals& ignored) {
  CO_TRY(const own_folder folder, own_folder::make());
  daemon_places places{folder.path(), state_dir(current_environment())};
  CO_CHECK(prepare_state_dir(places.state_folder));
  const std::string socket = daemon_socket_path(folder.path());
  CO_TRY(const auto d, daemon::make(runtime, std::move(places)));
  outcome<int> status = exit_cannot_run;
  const auto listening = d->listen(socket);
  if (!listening) status = listening.error();
  const auto child = listening ? start_inner(socket, what, ignored) : outcome<pid_t>(pid_t{0});
  if (!child) status = child.error();
  if (status && child) {
    rt::event passed;
    rt::spawn(pass_signals(signals, *child, passed));
    status = co_await wait_for(*child);
    signals.cancel();
    co_await passed.wait();
  }
  const auto closed = co_await d->close();
  if (!closed && status) fail("run", closed.error());
  co_return status;
}

int run_with_own_daemon(const run_command& what) {
  base::set_log_level(what.log_level);
  const ignored_signals ignored;  // before stop_signals, which ignores some of them
  auto signals = stop_signals::make();
  if (!signals) return fail("run", signals.error());
  const auto runtime = rt::runtime::start({});
  if (!runtime) return fail("run", runtime.error());
  const auto status = (*runtime)->run_until(run_alone(**runtime, what, **signals, ignored));
  if (status) return *status;
  fail("run", status.error());
  return exit_cannot_run;
}

// The daemon that is meant; empty: none runs.
outcome<std::string> running_daemon(const std::string& given) {
  if (!given.empty()) return given;
  const runtime_environment env = current_environment();
  if (!env.socket.empty()) return env.socket;
  const std::string dir = runtime_dir(env);
  const auto checked = check_runtime_dir(dir, env.uid);
  if (!checked && checked.error().code == errc::noent) return std::string();
  CHECK(checked);
  std::string path = daemon_socket_path(dir);
  return socket_lives(path) ? path : std::string();
}

}  // namespace

int run_program(const run_command& what) {
  const auto program = find_program(what.command.front());
  if (!program) {
    fail("run", program.error());
    return program.error().code == errc::noent ? exit_no_program : exit_cannot_run;
  }
  const std::string why_not = why_not_preloaded(*program);
  if (!why_not.empty()) {
    fail("run", {errc::inval, why_not});
    return exit_cannot_run;
  }
  const auto socket = running_daemon(what.to.socket);
  if (!socket) {
    fail("run", socket.error());
    return exit_cannot_run;
  }
  if (socket->empty()) return run_with_own_daemon(what);
  return run_with({*socket}, what, *program);
}

}  // namespace lbd::ctl
