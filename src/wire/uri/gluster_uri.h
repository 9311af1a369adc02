// SPDX-License-Identifier: MIT
// Images on Gluster volumes, as people write them:
//
//   gluster[+tcp|+unix|+rdma]://[SERVER[:PORT]]/VOLUME/PATH[?OPTION=VALUE&...]
//   gluster:VOLUME/PATH                  (a server on this host)
//   VOLUME@SERVER:PATH                   (as iSCSI targets write it)
//
// Options: server=HOST[:PORT] (again and again: more servers to ask for the volume's layout),
// socket=PATH (gluster+unix), logfile=FILE, loglevel=N or debug=N (0 to 9), timeout=SECONDS,
// write-behind=on|off. The forms of QEMU's driver mean here what they mean there.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "wire/uri/endpoint.h"

namespace lbd::uri {

inline constexpr uint16_t gluster_port = 24007;
inline constexpr unsigned gluster_default_log_level = 4;  // errors
inline constexpr size_t gluster_most_servers = 16;

struct gluster_source {
  std::vector<endpoint> servers;  // at least one, in the order of asking, unless socket_path is set
  std::string socket_path;        // of the management daemon on this host
  std::string volume;
  std::string path;      // below the volume's root, without a leading '/'
  std::string log_file;  // of the client library; empty: standard error
  unsigned log_level = gluster_default_log_level;
  uint32_t timeout_s = 0;     // a request is given up after this time; 0: never
  bool write_behind = false;  // the client library answers writes before a server has them
  bool rdma = false;          // asked for; it is tcp all the same

  friend bool operator==(const gluster_source&, const gluster_source&) = default;
};

// What the path names: an image, or a folder (it may be the volume's root: an empty path).
enum class gluster_path { image, folder };

// Whether a text is meant as a Gluster source; if so parse_gluster() has the say.
bool looks_like_gluster(std::string_view text);
// Errors: inval; the message names the text and the remedy.
base::outcome<gluster_source> parse_gluster(std::string_view text,
                                            gluster_path what = gluster_path::image);
// Whether it begins as a Gluster URI does: what the options that take file names go by.
bool has_gluster_scheme(std::string_view text);
// For a text that something else was made of, or nothing: "" or what its writer may have meant
// ("HOST:/VOLUME/PATH", "VOLUME@SERVER:PATH").
std::string gluster_hint(std::string_view text);

// The canonical text, which parse_gluster() reads back.
std::string to_text(const gluster_source& s);
// Without what only LBD understands: for QEMU's tools.
std::string to_qemu_text(const gluster_source& s);

}  // namespace lbd::uri
