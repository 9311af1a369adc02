// SPDX-License-Identifier: MIT
// What a server can be asked to do while it runs, and the two protocols that ask: JSON-RPC 2.0 on a
// Unix socket (docs/management.md) and the text protocol on TCP (wire/text). Reactor 0 only.
#pragma once

#include <string>

#include "base/result.h"
#include "ctl/line_server.h"
#include "ctl/report.h"
#include "ctl/rpc.h"
#include "rt/task.h"

namespace lbd::ctl {

// What every server can be asked.
class server_control {
 public:
  virtual ~server_control() = default;

  virtual server_report report() = 0;
  // Begins a graceful end; returns at once.
  virtual void shutdown() = 0;
};

// A server of stacks of layers.
class management : public server_control {
 public:
  // Makes a new change file the topmost layer. An empty device name means the only one. Errors:
  // noent (no such device), inval, and what making the file gives.
  virtual rt::task<base::outcome<void>> add_layer(std::string device, std::string file) = 0;
};

// ping, info and shutdown; with a server of stacks, add_layer besides. `what` outlives the methods.
void add_server_methods(rpc_methods& to, server_control& what);
void add_management_methods(rpc_methods& to, management& what);

class text_handler final : public line_handler {
 public:
  explicit text_handler(management& what) : management_(what) {}
  rt::task<line_reply> handle(std::string line, line_peer& from) override;
  std::string too_long() override;
  size_t max_line_bytes() const override;

 private:
  management& management_;
};

}  // namespace lbd::ctl
