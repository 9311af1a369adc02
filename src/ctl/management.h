// SPDX-License-Identifier: MIT
// What a server can be asked to do while it runs, and the two protocols that ask: JSON-RPC 2.0 on a
// Unix socket (docs/management.md) and the text protocol on TCP (wire/text). Reactor 0 only.
#pragma once

#include <string>

#include "base/result.h"
#include "ctl/line_server.h"
#include "ctl/report.h"
#include "rt/task.h"

namespace lbd::ctl {

class management {
 public:
  virtual ~management() = default;

  virtual server_report report() = 0;
  // Makes a new change file the topmost layer. An empty device name means the only one. Errors:
  // noent (no such device), inval, and what making the file gives.
  virtual rt::task<base::outcome<void>> add_layer(std::string device, std::string file) = 0;
  // Begins a graceful end; returns at once.
  virtual void shutdown() = 0;
};

class rpc_handler final : public line_handler {
 public:
  explicit rpc_handler(management& what) : management_(what) {}
  rt::task<line_reply> handle(std::string line) override;
  std::string too_long() override;
  size_t max_line_bytes() const override;

 private:
  management& management_;
};

class text_handler final : public line_handler {
 public:
  explicit text_handler(management& what) : management_(what) {}
  rt::task<line_reply> handle(std::string line) override;
  std::string too_long() override;
  size_t max_line_bytes() const override;

 private:
  management& management_;
};

}  // namespace lbd::ctl
