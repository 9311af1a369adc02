// SPDX-License-Identifier: MIT
// What a server tells about itself: a snapshot as plain values, and its three forms (text for
// people, JSON, and the lines of the text protocol).
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"

namespace lbd::ctl {

// Of one kind of operation.
struct operation_report {
  std::string name;  // "read", "write", "flush", "discard", "write_zeroes", "extents"
  uint64_t requests = 0, bytes = 0, errors = 0;
  // latency[i] requests took 2^i up to 2^(i+1) nanoseconds; zeros at the end are left out.
  std::vector<uint64_t> latency;
  friend bool operator==(const operation_report&, const operation_report&) = default;
};
// The latency below which the part (0..1) of the requests lies, rounded up to a power of two; 0:
// none.
uint64_t percentile_ns(const std::vector<uint64_t>& latency, double part);

struct layer_report {
  std::string kind;  // "expandable", "flat", "nbd", "memory", "qcow2", "null"
  std::string path;  // or URI
  uint64_t size_bytes = 0;
  std::optional<uint64_t> allocated_bytes;  // where the layer can tell
  bool writable = false;
  std::vector<operation_report> operations;
  friend bool operator==(const layer_report&, const layer_report&) = default;
};

struct client_report {
  uint64_t id = 0;
  std::string peer;
  uint64_t connected_ms = 0;  // for how long
  uint64_t in_flight = 0, requests = 0, bytes_read = 0, bytes_written = 0, errors = 0;
  friend bool operator==(const client_report&, const client_report&) = default;
};

struct device_report {
  std::string name;
  std::string export_name;
  uint64_t size_bytes = 0;
  bool read_only = false;
  std::vector<operation_report> operations;
  std::vector<layer_report> layers;  // topmost first
  std::vector<client_report> clients;
  friend bool operator==(const device_report&, const device_report&) = default;
};

struct server_report {
  std::string version;
  int64_t pid = 0;
  uint64_t uptime_ms = 0;
  std::string io;  // "uring" or "threads"
  unsigned reactors = 0;
  std::vector<std::string> addresses;
  uint64_t accepted = 0, refused = 0;  // connections since the start
  std::vector<device_report> devices;
  // What its configuration has and it could not make: where that stands, and why.
  std::vector<std::string> missing;
  friend bool operator==(const server_report&, const server_report&) = default;
};

nlohmann::json to_json(const server_report& r);
// Errors: protocol, when a member is missing or of another type.
base::outcome<server_report> report_from_json(const nlohmann::json& j);

// For people, several lines.
std::string to_text(const server_report& r);

// For DEVICE_INFO_STRINGS: each device begins with the key "device".
std::vector<std::pair<std::string, std::string>> to_lines(const server_report& r);

// "12.3 MiB", "1.5 us": two or three digits that a person can read.
std::string human_bytes(uint64_t bytes);
std::string human_ns(uint64_t ns);

}  // namespace lbd::ctl
