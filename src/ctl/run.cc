// SPDX-License-Identifier: MIT
#include "ctl/client_commands.h"
#include "ctl/commands.h"
#include "ctl/daemon_command.h"
#include "ctl/device_command.h"
#include "ctl/export_command.h"
#include "ctl/image_command.h"
#include "ctl/mount_command.h"
#include "ctl/offline.h"
#include "ctl/replay_log.h"
#include "ctl/run_command.h"
#include "ctl/say.h"
#include "ctl/serve.h"

namespace lbd::ctl {
namespace {

struct runner {
  int operator()(const serve_command& c) const { return run_serve(c); }
  int operator()(const daemon_command& c) const { return run_daemon(c); }
  int operator()(const device_command& c) const { return run_device(c); }
  int operator()(const monitor_command& c) const { return run_monitor(c); }
  int operator()(const mount_command& c) const { return run_mount(c); }
  int operator()(const export_command& c) const { return run_export(c); }
  int operator()(const ping_command& c) const { return run_ping(c); }
  int operator()(const info_command& c) const { return run_info(c); }
  int operator()(const shutdown_command& c) const { return run_shutdown(c); }
  int operator()(const add_layer_command& c) const { return run_add_layer(c); }
  int operator()(const commit_command& c) const { return run_commit(c); }
  int operator()(const flatten_command& c) const { return run_flatten(c); }
  int operator()(const map_command& c) const { return run_map(c); }
  int operator()(const run_command& c) const { return run_program(c); }
  int operator()(const image_command& c) const { return run_image(c); }
  int operator()(const replay_log_command& c) const { return run_replay_log(c); }
  int operator()(const print_command& c) const { return print(c.text) ? exit_ok : exit_failed; }
};

}  // namespace

int run(const command& what) { return std::visit(runner{}, what); }

}  // namespace lbd::ctl
