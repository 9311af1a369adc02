// SPDX-License-Identifier: MIT
// Source URIs and endpoints as people write them. Wrong forms are refused with errc::inval and one
// sentence that names the text and the remedy. Percent-encoding is undone once, here; a decoded NUL
// is refused. Source: RFC 3986; the NBD URI specification of the reference implementation (uri.md).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/result.h"
#include "wire/uri/endpoint.h"
#include "wire/uri/gluster_uri.h"

namespace lbd::uri {

// scheme:path[?key=value&...] or scheme://[host[:port]]/path[?...], decoded.
struct parts {
  std::string scheme;  // lower case
  bool has_authority = false;
  std::string host;   // without brackets; empty when left out
  uint16_t port = 0;  // 0: left out
  std::string path;   // with its leading slash after an authority
  std::vector<std::pair<std::string, std::string>> query;

  // The first value of a key, or nullptr.
  const std::string* find(std::string_view key) const noexcept;
};
base::outcome<parts> parse(std::string_view text);

// "[HOST:]PORT" or, where `default_port` is not 0, "HOST" alone. HOST is a name, an IPv4 address or
// an IPv6 address in brackets.
base::outcome<endpoint> parse_endpoint(std::string_view text, std::string_view default_host,
                                       uint16_t default_port);

// ---- Sources
// ----------------------------------------------------------------------------------------

// A path as written, or file:PATH[?direct=0|1].
struct file_source {
  std::string path;
  bool direct = false;
  friend bool operator==(const file_source&, const file_source&) = default;
};
// qcow2:PATH
struct qcow2_source {
  std::string path;
  friend bool operator==(const qcow2_source&, const qcow2_source&) = default;
};
// nbd://HOST[:PORT][/EXPORT] or nbd+unix:///[EXPORT]?socket=PATH
struct nbd_source {
  endpoint address;  // when socket_path is empty
  std::string socket_path;
  std::string export_name;
  friend bool operator==(const nbd_source&, const nbd_source&) = default;
};
// mem:SIZE[?name=NAME]
struct memory_source {
  uint64_t size_bytes = 0;
  std::string name;  // tells memories of one size apart; may be empty
  friend bool operator==(const memory_source&, const memory_source&) = default;
};
// null:SIZE
struct null_source {
  uint64_t size_bytes = 0;
  friend bool operator==(const null_source&, const null_source&) = default;
};
using source = std::variant<file_source, qcow2_source, nbd_source, memory_source, null_source,
                            gluster_source>;  // gluster_uri.h

// Any source. A text that begins with '/' or '.' or holds no ':' is a path and taken as it stands.
base::outcome<source> parse_source(std::string_view text);

// What --nbd takes: an NBD URI, or HOST:PORT or HOST (the default export).
base::outcome<nbd_source> parse_nbd(std::string_view text);

// The canonical text, which parse_source() reads back and QEMU's tools understand (files: the
// path).
std::string to_text(const nbd_source& s);
std::string to_text(const source& s);

}  // namespace lbd::uri
