// SPDX-License-Identifier: MIT
// What a server has to do with its process: signals that stop it, the service manager, sockets that
// were opened before it started, its pid file.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "rt/reactor.h"
#include "rt/socket.h"

namespace lbd::ctl {

// SIGTERM and SIGINT as an event. Make it before the process has other threads: it blocks the
// signals.
class stop_signals {
 public:
  static base::outcome<std::unique_ptr<stop_signals>> make();
  ~stop_signals();
  stop_signals(const stop_signals&) = delete;
  stop_signals& operator=(const stop_signals&) = delete;

  // Returns the number of a signal that came, or 0 after cancel(), for good. One waiter at a time.
  rt::task<int> wait();
  void cancel();

 private:
  explicit stop_signals(int fd) : fd_(fd) {}
  class readable;
  const int fd_;
  rt::io_request* waiting_ = nullptr;
  bool canceled_ = false;
};

// Tells the service manager (NOTIFY_SOCKET), if there is one: "READY=1", "STOPPING=1".
void notify_service_manager(const std::string& state);

// The listening sockets that a service manager hands over (LISTEN_PID, LISTEN_FDS). Errors: inval,
// when one of them is no listening stream socket.
base::outcome<std::vector<rt::socket>> inherited_listeners();

// Standard input as a connected socket; standard error is kept away from the client. Errors: inval.
base::outcome<rt::socket> standard_input_socket();

// As many descriptors as the system allows: layers and clients need one each.
void raise_descriptor_limit();

// The pid file, removed with the object. Errors name the path.
class pid_file {
 public:
  pid_file() = default;
  ~pid_file();
  pid_file(const pid_file&) = delete;
  pid_file& operator=(const pid_file&) = delete;
  base::outcome<void> write(const std::string& path);

 private:
  std::string path_;
};

}  // namespace lbd::ctl
