// SPDX-License-Identifier: MIT
#include "ctl/runtime_dir.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>

namespace lbd::ctl {
namespace {

using base::errc;
using base::failure;

std::string from_environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

failure dir_failure(const std::string& dir, int error, const char* what) {
  const auto code = static_cast<errc>(error);
  return failure{code, std::string(what) + " " + dir + " for management sockets: " +
                           base::to_string(code) + " (give another place with --socket)"};
}

// Whether the process that "serve-PID.sock" names is gone. A socket of a living one that does not
// answer is only about to listen, or about to end.
bool owner_is_gone(const std::string& socket_name) {
  const size_t from = socket_name.find('-') + 1;
  const pid_t pid = static_cast<pid_t>(std::atoi(socket_name.c_str() + from));
  return pid > 0 && ::kill(pid, 0) != 0 && errno == ESRCH;
}

}  // namespace

runtime_environment current_environment() {
  return {from_environment("LBD_RUNTIME_DIR"),
          from_environment("XDG_RUNTIME_DIR"),
          ::geteuid(),
          from_environment("LBD_SOCKET"),
          from_environment("LBD_STATE_DIR"),
          from_environment("XDG_STATE_HOME"),
          from_environment("HOME")};
}

std::string runtime_dir(const runtime_environment& env) {
  if (!env.override_dir.empty()) return env.override_dir;
  if (env.uid == 0) return "/run/lbd";
  if (!env.xdg_runtime_dir.empty()) return env.xdg_runtime_dir + "/lbd";
  return "/tmp/lbd-" + std::to_string(env.uid);
}

base::outcome<void> prepare_runtime_dir(const std::string& dir, uid_t uid) {
  if (::mkdir(dir.c_str(), 0700) != 0 && errno != EEXIST)
    return dir_failure(dir, errno, "cannot make");
  return check_runtime_dir(dir, uid);
}

base::outcome<void> check_runtime_dir(const std::string& dir, uid_t uid) {
  struct stat st {};
  if (::lstat(dir.c_str(), &st) != 0) return dir_failure(dir, errno, "cannot use");
  if (!S_ISDIR(st.st_mode)) return dir_failure(dir, ENOTDIR, "cannot use");
  // Somebody else's folder, or one that others may write, could be a trap.
  if (st.st_uid != uid || (st.st_mode & 0077) != 0)
    return failure{errc::perm, dir +
                                   " must belong to you alone (chmod 700, owner you) to hold "
                                   "management sockets; or give another place with --socket"};
  return {};
}

std::string state_dir(const runtime_environment& env) {
  if (!env.state_override.empty()) return env.state_override;
  if (!env.override_dir.empty()) return env.override_dir;
  if (env.uid == 0) return "/var/lib/lbd";
  if (!env.xdg_state_home.empty()) return env.xdg_state_home + "/lbd";
  if (!env.home.empty()) return env.home + "/.local/state/lbd";
  return runtime_dir(env);
}

base::outcome<void> prepare_state_dir(const std::string& dir) {
  std::error_code error;
  const auto above = std::filesystem::path(dir).parent_path();
  if (!above.empty()) std::filesystem::create_directories(above, error);
  if (!error && ::mkdir(dir.c_str(), 0700) != 0 && errno != EEXIST)
    error = {errno, std::generic_category()};
  if (!error) return {};
  const auto code = static_cast<errc>(error.value());
  return failure{code, "cannot make " + dir + " for the daemon's state: " + base::to_string(code) +
                           " (give another place with LBD_STATE_DIR)"};
}

// Where servers of this user are looked for, there or not. Whoever owns the folder decides which
// server answers there.
static base::outcome<std::string> trusted_runtime_dir(const runtime_environment& env) {
  const std::string dir = runtime_dir(env);
  const auto checked = check_runtime_dir(dir, env.uid);
  if (!checked && checked.error().code != errc::noent) return checked.error();
  return dir;
}

std::string daemon_socket_path(const std::string& dir) { return dir + "/lbd.sock"; }

base::outcome<std::string> find_daemon_socket(const std::string& given) {
  if (!given.empty()) return given;
  const runtime_environment env = current_environment();
  if (!env.socket.empty()) return env.socket;
  TRY(const std::string dir, trusted_runtime_dir(env));
  const std::string path = daemon_socket_path(dir);
  if (socket_lives(path)) return path;
  return failure{errc::noent, "no daemon runs here (looked for " + path +
                                  "): start one with lbd daemon, or name its socket with --socket"};
}

std::string serve_socket_path(const std::string& dir, pid_t pid) {
  return dir + "/serve-" + std::to_string(pid) + ".sock";
}

base::outcome<std::string> choose_serve_socket(const std::string& given) {
  if (!given.empty()) return given;
  const runtime_environment env = current_environment();
  if (!env.socket.empty()) return env.socket;
  const std::string dir = runtime_dir(env);
  CHECK(prepare_runtime_dir(dir, env.uid));
  return serve_socket_path(dir, ::getpid());
}

bool socket_lives(const std::string& path) {
  sockaddr_un address{};
  if (path.size() >= sizeof address.sun_path) return false;
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return false;
  const int rc = ::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address);
  // EAGAIN: its queue is full; EACCES: somebody else's, who may well live.
  const bool lives = rc == 0 || errno == EAGAIN || errno == EACCES;
  ::close(fd);
  return lives;
}

std::vector<std::string> living_sockets(const std::string& dir,
                                        const std::function<bool(const std::string&)>& lives) {
  std::vector<std::string> found;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(dir, error)) {
    const std::string name = entry.path().filename();
    if (name != "lbd.sock" && !(name.starts_with("serve-") && name.ends_with(".sock"))) continue;
    if (!entry.is_socket(error)) continue;
    if (lives(entry.path()))
      found.push_back(entry.path());
    else if (name != "lbd.sock" && owner_is_gone(name))
      std::filesystem::remove(entry.path(), error);
  }
  std::sort(found.begin(), found.end());
  return found;
}

base::outcome<std::string> find_socket(const std::string& given) {
  if (!given.empty()) return given;
  const runtime_environment env = current_environment();
  if (!env.socket.empty()) return env.socket;
  TRY(const std::string dir, trusted_runtime_dir(env));
  const std::vector<std::string> found = living_sockets(dir, socket_lives);
  if (found.size() == 1) return found.front();
  if (found.empty())
    return failure{errc::noent, "no server runs here (looked in " + dir +
                                    "): start one with lbd serve or lbd daemon, or name its "
                                    "management socket with --socket"};
  std::string list;
  for (const std::string& path : found) list += "\n  " + path;
  return failure{errc::inval, std::to_string(found.size()) +
                                  " servers run here: choose one with --socket" + list};
}

}  // namespace lbd::ctl
