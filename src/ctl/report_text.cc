// SPDX-License-Identifier: MIT
#include <array>
#include <cstdio>

#include "base/size_text.h"
#include "ctl/report.h"

namespace lbd::ctl {
namespace {

using lines = std::vector<std::pair<std::string, std::string>>;

std::string scaled(double value, double unit, const char* const* names, size_t count) {
  size_t i = 0;
  while (i + 1 < count && value >= unit) {
    value /= unit;
    ++i;
  }
  char text[48];
  const bool whole = value >= 100 || value == static_cast<double>(static_cast<uint64_t>(value));
  std::snprintf(text, sizeof text, whole ? "%.0f %s" : "%.1f %s", value, names[i]);
  return text;
}

const char* yes_no(bool v) { return v ? "true" : "false"; }

void add_operation_lines(lines& out, const std::string& prefix,
                         const std::vector<operation_report>& operations) {
  for (const operation_report& o : operations) {
    // What clients call reads and writes; the rest only where it happened.
    const bool data = o.name == "read" || o.name == "write";
    if (!data && o.requests == 0) continue;
    out.emplace_back(prefix + o.name + "_requests", std::to_string(o.requests));
    if (data) out.emplace_back(prefix + o.name + "_bytes", std::to_string(o.bytes));
    out.emplace_back(prefix + o.name + "_errors", std::to_string(o.errors));
    if (o.latency.empty()) continue;
    const std::string latency = prefix + o.name + "_latency_";
    out.emplace_back(latency + "p50_ns", std::to_string(percentile_ns(o.latency, 0.5)));
    out.emplace_back(latency + "p99_ns", std::to_string(percentile_ns(o.latency, 0.99)));
    std::string histogram;
    for (const uint64_t n : o.latency)
      histogram += (histogram.empty() ? "" : " ") + std::to_string(n);
    out.emplace_back(latency + "log2_ns", std::move(histogram));
  }
}

std::string operations_text(const std::vector<operation_report>& operations,
                            const std::string& indent) {
  std::string out;
  for (const operation_report& o : operations) {
    if (o.requests == 0) continue;
    char line[160];
    std::snprintf(line, sizeof line, "%-13s %10llu requests %11s", o.name.c_str(),
                  static_cast<unsigned long long>(o.requests), human_bytes(o.bytes).c_str());
    out += indent + line;
    if (!o.latency.empty())
      out += ", half within " + human_ns(percentile_ns(o.latency, 0.5)) + ", 99 % within " +
             human_ns(percentile_ns(o.latency, 0.99));
    if (o.errors != 0) out += ", " + std::to_string(o.errors) + " errors";
    out += "\n";
  }
  return out;
}

std::string device_text(const device_report& d) {
  std::string out = "device " + d.name + ": " + base::format_size(d.size_bytes);
  const bool named = !d.export_name.empty() || d.name == "default";
  if (named && d.export_name != d.name) out += ", export '" + d.export_name + "'";
  if (d.read_only) out += ", read-only";
  out += "\n" + operations_text(d.operations, "  ");
  for (size_t i = 0; i < d.layers.size(); ++i) {
    const layer_report& l = d.layers[i];
    out += "  layer " + std::to_string(i) + ": " + l.kind;
    if (!l.path.empty()) out += " " + l.path;
    out += ", " + base::format_size(l.size_bytes);
    if (l.allocated_bytes) out += ", " + human_bytes(*l.allocated_bytes) + " used";
    if (l.writable) out += ", writable";
    out += "\n" + operations_text(l.operations, "    ");
  }
  for (const client_report& c : d.clients)
    out += "  client " + std::to_string(c.id) + ": " + c.peer + ", connected " +
           human_ns(c.connected_ms * 1'000'000) + ", " + std::to_string(c.requests) +
           " requests (" + std::to_string(c.in_flight) + " in flight), " +
           human_bytes(c.bytes_read) + " read, " + human_bytes(c.bytes_written) + " written" +
           (c.errors != 0 ? ", " + std::to_string(c.errors) + " errors" : "") + "\n";
  return out;
}

}  // namespace

uint64_t percentile_ns(const std::vector<uint64_t>& latency, double part) {
  uint64_t total = 0, seen = 0;
  for (const uint64_t n : latency) total += n;
  for (size_t i = 0; i < latency.size(); ++i) {
    seen += latency[i];
    if (total != 0 && static_cast<double>(seen) >= part * static_cast<double>(total))
      return uint64_t{2} << i;
  }
  return 0;
}

std::string human_bytes(uint64_t bytes) {
  static constexpr std::array names = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  return scaled(static_cast<double>(bytes), 1024, names.data(), names.size());
}

std::string human_ns(uint64_t ns) {
  static constexpr std::array names = {"ns", "us", "ms", "s"};
  return scaled(static_cast<double>(ns), 1000, names.data(), names.size());
}

std::string to_text(const server_report& r) {
  std::string out = "lbd " + r.version + ", pid " + std::to_string(r.pid) + ", up " +
                    human_ns(r.uptime_ms * 1'000'000) + ", " + std::to_string(r.reactors) +
                    (r.reactors == 1 ? " reactor (" : " reactors (") + r.io + ")\n";
  for (const std::string& a : r.addresses) out += "listens on " + a + "\n";
  for (const std::string& m : r.missing) out += "not restored: " + m + "\n";
  for (const device_report& d : r.devices) out += device_text(d);
  return out;
}

lines to_lines(const server_report& r) {
  lines out;
  for (const device_report& d : r.devices) {
    out.emplace_back("device", d.name);
    out.emplace_back("export", d.export_name);
    out.emplace_back("size_bytes", std::to_string(d.size_bytes));
    out.emplace_back("read_only", yes_no(d.read_only));
    add_operation_lines(out, "", d.operations);
    out.emplace_back("layers", std::to_string(d.layers.size()));
    for (size_t i = 0; i < d.layers.size(); ++i) {
      const layer_report& l = d.layers[i];
      const std::string prefix = "layer" + std::to_string(i) + "_";
      out.emplace_back(prefix + "kind", l.kind);
      out.emplace_back(prefix + "path", l.path);
      out.emplace_back(prefix + "size_bytes", std::to_string(l.size_bytes));
      if (l.allocated_bytes)
        out.emplace_back(prefix + "allocated_bytes", std::to_string(*l.allocated_bytes));
      out.emplace_back(prefix + "writable", yes_no(l.writable));
      add_operation_lines(out, prefix, l.operations);
    }
    out.emplace_back("clients", std::to_string(d.clients.size()));
    for (size_t i = 0; i < d.clients.size(); ++i) {
      const client_report& c = d.clients[i];
      const std::string prefix = "client" + std::to_string(i) + "_";
      out.emplace_back(prefix + "peer", c.peer);
      out.emplace_back(prefix + "requests", std::to_string(c.requests));
      out.emplace_back(prefix + "bytes_read", std::to_string(c.bytes_read));
      out.emplace_back(prefix + "bytes_written", std::to_string(c.bytes_written));
    }
  }
  return out;
}

}  // namespace lbd::ctl
