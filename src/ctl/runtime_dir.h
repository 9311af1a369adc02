// SPDX-License-Identifier: MIT
// Where management sockets lie and how a client command finds the server it means.
#pragma once

#include <sys/types.h>

#include <functional>
#include <string>
#include <vector>

#include "base/result.h"

namespace lbd::ctl {

// What the choice of the folder depends on.
struct runtime_environment {
  std::string override_dir;     // LBD_RUNTIME_DIR
  std::string xdg_runtime_dir;  // XDG_RUNTIME_DIR
  uid_t uid = 0;
  std::string socket{};          // LBD_SOCKET
  std::string state_override{};  // LBD_STATE_DIR
  std::string xdg_state_home{};  // XDG_STATE_HOME
  std::string home{};            // HOME
};
runtime_environment current_environment();

// LBD_RUNTIME_DIR if set; for root /run/lbd; otherwise $XDG_RUNTIME_DIR/lbd, or /tmp/lbd-UID where
// that is not set.
std::string runtime_dir(const runtime_environment& env);

// Makes the folder if it is missing (mode 0700) and checks it.
base::outcome<void> prepare_runtime_dir(const std::string& dir, uid_t uid);

// Checks that the folder is the user's own, nobody else's, and no symbolic link. Errors name the
// folder and the remedy; noent: there is none.
base::outcome<void> check_runtime_dir(const std::string& dir, uid_t uid);

// What outlives a restart: LBD_STATE_DIR or LBD_RUNTIME_DIR if set; for root /var/lib/lbd;
// otherwise $XDG_STATE_HOME/lbd or ~/.local/state/lbd, or the runtime folder where there is no
// home.
std::string state_dir(const runtime_environment& env);

// Makes the folder, and those above it, if it is missing (mode 0700). Errors name it and the
// remedy.
base::outcome<void> prepare_state_dir(const std::string& dir);

// "DIR/serve-PID.sock".
std::string serve_socket_path(const std::string& dir, pid_t pid);

// Where a server of this process listens: `given`, LBD_SOCKET, or serve-PID.sock in the runtime
// folder, which is made. Errors name the folder and the remedy.
base::outcome<std::string> choose_serve_socket(const std::string& given);

// The management sockets of a folder that answer, in the order of their names; those whose
// process is gone are removed. `lives` connects to a path.
std::vector<std::string> living_sockets(const std::string& dir,
                                        const std::function<bool(const std::string&)>& lives);

// The socket a command means: `given`, LBD_SOCKET, or the only living one of the folder, which must
// pass check_runtime_dir(). Errors say where nothing runs, or list what does.
base::outcome<std::string> find_socket(const std::string& given);

// The socket of the daemon: "DIR/lbd.sock".
std::string daemon_socket_path(const std::string& dir);

// The socket of the daemon that a command means: `given`, LBD_SOCKET, or that of the runtime
// folder, which must pass check_runtime_dir(). Errors say where nothing runs.
base::outcome<std::string> find_daemon_socket(const std::string& given);

// Whether somebody accepts connections at a Unix socket path (does not wait).
bool socket_lives(const std::string& path);

}  // namespace lbd::ctl
