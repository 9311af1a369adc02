// SPDX-License-Identifier: MIT
// Listens on a socket for a protocol of lines: one request a line, answered in order. Everything
// runs on the reactor that made the server.
#pragma once

#include <functional>
#include <list>
#include <memory>
#include <string>

#include "base/result.h"
#include "rt/socket.h"
#include "rt/sync.h"

namespace lbd::ctl {

struct line_reply {
  std::string text;    // complete with its line end; empty: no answer
  bool close = false;  // the connection ends after it
};

// The other side of a connection, for handlers. Lives as long as the handling of its line; whoever
// keeps it longer is told by on_end().
class line_peer {
 public:
  virtual ~line_peer() = default;
  // Sends a line (complete with its end) between answers. False when the peer is too slow: its
  // queue is full, and the line was not taken.
  virtual bool notify(std::string line) = 0;
  // Lines that it has not taken yet go unsent; this is its last one, and the connection ends.
  virtual void dismiss(std::string last_line) = 0;
  // Whether the other side has closed its end altogether: nobody waits for an answer any more.
  virtual bool is_gone() const = 0;
  // Called once, when the connection ends. One at a time; an empty function: nothing.
  virtual void on_end(std::function<void()> told) = 0;
};

class line_handler {
 public:
  virtual ~line_handler() = default;
  // A line without its end.
  virtual rt::task<line_reply> handle(std::string line, line_peer& from) = 0;
  // The answer to a line of more than max_line_bytes(); the connection ends after it.
  virtual std::string too_long() = 0;
  virtual size_t max_line_bytes() const = 0;
};

class line_server {
 public:
  // `handler` outlives the server. `scope` names the protocol in log lines.
  line_server(line_handler& handler, std::string scope);
  // REQUIRES: stop() has completed, or listen() was never called.
  ~line_server();

  // Errors name the address and the remedy. A Unix socket gets mode 0600; stop() removes its file.
  base::outcome<rt::socket_address> listen(const rt::socket_address& address);
  // The same with a listening socket made elsewhere (socket activation), whose file stays.
  void adopt_listener(rt::socket made);

  // Between the two, clients may connect and send; they are served from admit() on.
  void hold() { admitted_.reset(); }
  void admit() { admitted_.set(); }

  // Requests that are being handled are answered, then every connection is closed.
  rt::task<void> stop();

 private:
  class connection;
  static constexpr unsigned most_connections = 256;
  static constexpr uint64_t stop_grace_ns = 2'000'000'000;
  struct listener {
    rt::socket socket;
    rt::socket_file file;
  };
  void accept_on(rt::socket socket, rt::socket_file file);
  rt::task<void> accept_all(listener& from);
  rt::task<void> serve(std::list<connection>::iterator at);
  void gone();

  line_handler& handler_;
  const std::string scope_;
  std::list<listener> listeners_;
  std::list<connection> connections_;
  unsigned running_ = 0;  // coroutines of this server
  bool stopping_ = false;
  rt::event admitted_;
  rt::event idle_;
};

}  // namespace lbd::ctl
