// SPDX-License-Identifier: MIT
// Serves the programs that run under `lbd run`: the device-mapper's ioctls and the look-ups that
// their preloaded library makes (wire/dm/face.h), on a Unix socket. Reactor 0 only.
#pragma once

#include <list>
#include <memory>
#include <string>
#include <vector>

#include "ctl/dm_commands.h"
#include "ctl/dm_view.h"
#include "rt/socket.h"
#include "rt/sync.h"

namespace lbd::ctl {

class dm_server {
 public:
  // All outlive this. `folder` is the server's own (dm_view.h).
  dm_server(stack::device_manager& devices, disk_directory& disks, const device_folder& files,
            std::string folder);
  // REQUIRES: stop() has completed, or listen() was never called.
  ~dm_server();

  // Errors name the path and the remedy.
  base::outcome<void> listen(const std::string& socket_path);
  // A file becomes a disk; its number. Errors: ENXIO, nodev.
  base::outcome<block::device_number> add_disk(const std::string& path);
  // Everybody's devices may have changed: told to who watches.
  void changed();
  // Waits for commands in progress; waits are canceled.
  rt::task<void> stop();

 private:
  struct connection;
  using connection_ptr = std::shared_ptr<connection>;

  rt::task<void> accept_all();
  rt::task<void> serve(connection_ptr c);
  rt::task<void> serve_watcher(connection_ptr c);
  rt::task<void> send_news(connection_ptr c);
  rt::task<void> notice_end(connection_ptr c);
  rt::task<bool> receive(connection_ptr c);
  rt::task<dm_answer> answer(connection_ptr c);
  rt::task<dm_answer> run_ioctl(connection_ptr c);
  dm_answer look_up(const connection& c);
  dm_answer set_read_ahead(const connection& c);
  static dm_answer told(const base::outcome<dm_view::node>& n);
  rt::task<void> reply(connection_ptr c, dm_answer a);
  void gone();

  dm_attributes attributes_;
  dm_commands commands_;
  dm_view view_;
  rt::socket listener_;
  rt::socket_file socket_file_;
  std::list<connection_ptr> connections_;
  unsigned running_ = 0;  // coroutines of this server
  bool stopping_ = false;
  rt::event idle_;
};

}  // namespace lbd::ctl
