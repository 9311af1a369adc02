// SPDX-License-Identifier: MIT
// The NBD server: listening sockets, named exports, and the connections between them. Everything
// here is called on reactor 0 of the runtime; connections are spread over all of them.
//
// What is promised about a connection that is lost: the client closed it without a farewell, or
// gave it up and sends its requests again elsewhere. No old change lands after a newer one:
// - a new connection to the same device enters its transmission phase only after every lost one has
//   consumed its input and completed its requests;
// - on connections that are open already, a change waits for those changes of lost connections that
//   overlap it.
// A connection whose end has not reached this host (a cut network) cannot be told from one that
// lives; keep-alive finds it in time.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "block/bounds.h"
#include "block/device.h"
#include "rt/runtime.h"
#include "rt/socket.h"

namespace lbd::nbd_server {

struct export_options {
  std::string name;         // UTF-8 without NUL, at most 4096 bytes; may be empty
  std::string description;  // for people; the same rules
  // Outlives the export: until remove_export() or stop() has completed.
  block::block_device* device = nullptr;
  bool read_only = false;  // in addition to what the device's limits say
};

struct server_options {
  unsigned connections = block::bounds::connections;
  // Connections still in their handshake; the oldest gives way to a newcomer.
  unsigned handshakes = block::bounds::handshakes;
  uint64_t handshake_ns = block::bounds::handshake_ns;
  // A client that takes no byte of a reply (or sends none of a payload) for so long is dropped.
  uint64_t stalled_ns = block::bounds::stalled_send_ns;
  // What stop() and remove_export() leave to requests in flight before they cut connections.
  uint64_t stop_grace_ns = 10'000'000'000;
};

// Bytes are those of payloads. Errors are requests that were answered with one.
struct traffic {
  uint64_t requests = 0;
  uint64_t bytes_read = 0;     // by clients
  uint64_t bytes_written = 0;  // by clients
  uint64_t errors = 0;
};

struct connection_info {
  uint64_t id = 0;
  std::string peer;         // "127.0.0.1:40112" or "unix pid 4711 uid 1000"
  std::string export_name;  // empty during the handshake
  bool handshaking = false;
  unsigned reactor = 0;
  uint64_t connected_ns = 0;  // reactor clock
  uint64_t in_flight = 0;     // requests
  traffic counters;
};

struct export_info {
  std::string name, description;
  uint64_t size_bytes = 0;
  bool read_only = false;
  unsigned connections = 0;
};

struct server_info {
  std::vector<rt::socket_address> addresses;
  std::vector<export_info> exports;
  std::vector<connection_info> connections;
  traffic total;  // of all connections, also of those that are gone
  uint64_t accepted = 0, refused = 0;
};

class server {
 public:
  explicit server(rt::runtime& rt, server_options options = {});
  // REQUIRES: stop() has completed, or listen() and adopt() were never called.
  ~server();
  server(const server&) = delete;
  server& operator=(const server&) = delete;

  // Listens and accepts; returns the bound address (for port 0). Errors name the address and the
  // remedy. A Unix socket's file is removed by stop().
  base::outcome<rt::socket_address> listen(const rt::socket_address& address);
  // The same with a listening socket made elsewhere (socket activation).
  void adopt_listener(rt::socket listener);
  // Serves one connected socket (inetd, tests).
  void adopt_connection(rt::socket connected);

  // The first export added answers to the empty name too, unless one is named so. Errors: exist,
  // inval.
  base::outcome<void> add_export(export_options options);
  // New clients are refused, present ones are ended as by stop(). Errors: noent.
  rt::task<base::outcome<void>> remove_export(std::string name);
  // The device has another size: new connections are told, present ones may use it. Errors: noent.
  base::outcome<void> resize_export(const std::string& name);

  server_info info() const;

  // Graceful: no new connections; requests that have arrived are answered; connections are closed;
  // devices are flushed. Returns the first flush error. Takes little more than stop_grace_ns at
  // most, unless a device holds requests although they are canceled then: those are waited for.
  rt::task<base::outcome<void>> stop();

 private:
  class impl;
  std::unique_ptr<impl> impl_;
};

}  // namespace lbd::nbd_server
