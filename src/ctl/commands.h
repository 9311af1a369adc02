// SPDX-License-Identifier: MIT
// The commands of `lbd` as plain values: what app/ makes of a command line and ctl/ carries out.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "base/log.h"
#include "rt/runtime.h"
#include "wire/uri/uri.h"

namespace lbd::ctl {

// What a process ends with.
enum exit_code : int {
  exit_ok = 0,
  exit_failed = 1,  // the operation failed; one line on standard error says why
  exit_usage = 2,   // the command line is wrong
};

enum class layer_option { expandable, flat, nbd, source };

// One layer as the user named it.
struct layer_spec {
  layer_option how = layer_option::source;
  std::string text;
  friend bool operator==(const layer_spec&, const layer_spec&) = default;
};
// As on the command line: "-E", "-f", "-n" or "--source".
const char* to_option(layer_option how) noexcept;

// A stack of layers, topmost first; below the last one lies a null layer.
struct stack_spec {
  std::string name;  // the export's; may be empty
  std::optional<uint64_t> size_bytes;
  bool read_only = false;
  std::vector<layer_spec> layers;
};

// How change files that do not exist yet are made.
struct change_file_options {
  uint64_t cluster_bytes = 0;  // 0: the default (64 KiB)
};

struct runtime_choice {
  rt::backend how = rt::backend::automatic;
  unsigned reactors = 0;  // 0: one per CPU
};

struct serve_command {
  std::vector<uri::endpoint> listen;      // TCP
  std::vector<std::string> unix_sockets;  // paths
  std::optional<uri::endpoint> admin;     // the text protocol
  std::string control_socket;             // empty: LBD_SOCKET or the default place
  std::string pid_file;
  bool standard_input = false;      // serve one client on descriptor 0
  std::vector<stack_spec> devices;  // at least one
  // Instead of layers, the table of the only device (lines end with ';' too).
  std::optional<std::string> table;
  change_file_options change_files;
  runtime_choice runtime;
  base::log_level log_level = base::log_level::warn;
};

struct daemon_command {
  std::string socket;   // empty: LBD_SOCKET or the default place
  std::string config;   // a file with what is to be there from the start; empty: nothing
  bool strict = false;  // all of it, or no daemon
  std::string pid_file;
  runtime_choice runtime;
  base::log_level log_level = base::log_level::warn;
};

// Commands to a running server; an empty socket means: find it.
struct client_target {
  std::string socket;
};
struct ping_command {
  client_target to;
};
struct info_command {
  client_target to;
  bool json = false;
};
struct shutdown_command {
  client_target to;
};
struct add_layer_command {
  client_target to;
  std::string file;
  std::string device;  // empty: the only one
};

// `lbd device VERB`: the device-mapper's verbs, asked of a daemon.
enum class device_verb {
  create,
  load,
  clear,
  suspend,
  resume,
  rename,
  remove,
  message,
  status,
  table,
  info,
  list,
  deps,
  wait,
  targets,
};
struct device_command {
  client_target to;
  device_verb verb = device_verb::list;
  std::vector<std::string> names;  // devices; where the verb allows it none means all
  bool json = false;
  // create, load: the table as text, or a file with it ("-": standard input); create may do
  // without.
  std::optional<std::string> table_text;
  std::string table_file;
  bool no_table = false, read_only = false;
  std::string uuid;                    // create, and rename: what it gets
  std::optional<uint32_t> minor;       // create
  std::string new_name;                // rename
  bool no_flush = false;               // suspend, resume, status
  bool deferred = false, all = false;  // remove
  uint64_t sector = 0;                 // message
  std::vector<std::string> words;
  bool inactive = false, show_keys = false;  // queries
  uint32_t event_number = 0;                 // wait
};

// Prints the events of a daemon's devices as they come.
struct monitor_command {
  client_target to;
  bool json = false;
};

// Shows a daemon's devices as files of a folder, ends that, or lists such folders.
struct mount_command {
  client_target to;
  std::string folder;  // empty: list
  bool unmount = false, force = false, others = false, json = false;
};

// Offers a daemon's device over NBD, ends that, or lists what is offered.
struct export_command {
  enum class action { add, remove, list };
  client_target to;
  action how = action::list;
  std::string device;
  std::string nbd;                  // unix:PATH or tcp:HOST:PORT
  std::optional<std::string> name;  // of the export
  bool read_only = false, json = false;
};

// Commands on files at rest.
struct commit_command {
  stack_spec stack;
  bool remove = false;  // remove the committed file afterwards
};
struct flatten_command {
  stack_spec stack;
  std::string output;  // a new flat file; empty: the topmost layer takes everything in
};
struct map_command {
  stack_spec stack;
  bool json = false;
};

// `lbd replay-log`: what a log of log-writes holds, and replaying it.
enum class replay_check { never, entries, flush, fua };
struct replay_log_command {
  std::string log;     // a source
  std::string device;  // the source to replay onto; empty: entries are listed
  // From an entry, or behind a mark, to the first of these, all of them inclusive; none: to the
  // end.
  uint64_t start_entry = 0;
  std::optional<std::string> start_mark, end_mark;
  uint64_t limit = 0;  // entries; 0: any number
  bool next_flush = false, next_fua = false;
  bool count = false, find = false;  // print how many entries there are, the number of the last one
  bool no_discard = false;
  std::string fsck;  // a shell command, after each flush, FUA write, or so many entries
  replay_check check = replay_check::never;
  uint64_t check_every = 0;
  bool json = false;
};

// `lbd run`: a program for which LBD is the kernel's device-mapper.
struct run_command {
  client_target to;  // the daemon; empty: the one that runs, or one for the program alone
  std::vector<std::string> disks;                    // files that are block devices to the program
  std::vector<std::string> command;                  // the program and its arguments
  base::log_level log_level = base::log_level::off;  // of such a daemon
};

// `lbd image VERB`: images on Gluster volumes at rest.
enum class image_verb { create, info, resize, remove, list };
struct image_command {
  image_verb verb = image_verb::info;
  std::string image;        // URI; list: of a folder
  uint64_t size_bytes = 0;  // create, resize
  bool shrink = false;      // resize: smaller is meant
  bool json = false;        // info, list
};

// Text that the command line asked for (--help, --version, completion).
struct print_command {
  std::string text;
};

using command =
    std::variant<serve_command, daemon_command, device_command, monitor_command, mount_command,
                 export_command, ping_command, info_command, shutdown_command, add_layer_command,
                 commit_command, flatten_command, map_command, image_command, replay_log_command,
                 run_command, print_command>;

// Carries a command out; returns the process's exit code. Errors are told on standard error.
int run(const command& what);

}  // namespace lbd::ctl
