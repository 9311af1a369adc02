// SPDX-License-Identifier: MIT
#include <nlohmann/json.hpp>

#include "ctl/report.h"

namespace lbd::ctl {
namespace {

using nlohmann::json;

json operations_json(const std::vector<operation_report>& operations) {
  json out = json::object();
  for (const operation_report& o : operations)
    out[o.name] = {{"requests", o.requests},
                   {"bytes", o.bytes},
                   {"errors", o.errors},
                   {"latency_p50_ns", percentile_ns(o.latency, 0.5)},
                   {"latency_p99_ns", percentile_ns(o.latency, 0.99)},
                   {"latency_log2_ns", o.latency}};
  return out;
}

std::vector<operation_report> operations_from(const json& j) {
  std::vector<operation_report> out;
  for (const auto& [name, o] : j.items()) {
    operation_report r;
    r.name = name;
    r.requests = o.at("requests").get<uint64_t>();
    r.bytes = o.at("bytes").get<uint64_t>();
    r.errors = o.at("errors").get<uint64_t>();
    r.latency = o.at("latency_log2_ns").get<std::vector<uint64_t>>();
    out.push_back(std::move(r));
  }
  return out;
}

json layer_json(const layer_report& l) {
  json out = {{"kind", l.kind},
              {"path", l.path},
              {"size_bytes", l.size_bytes},
              {"writable", l.writable},
              {"operations", operations_json(l.operations)}};
  if (l.allocated_bytes) out["allocated_bytes"] = *l.allocated_bytes;
  return out;
}

layer_report layer_from(const json& j) {
  layer_report l;
  l.kind = j.at("kind").get<std::string>();
  l.path = j.at("path").get<std::string>();
  l.size_bytes = j.at("size_bytes").get<uint64_t>();
  l.writable = j.at("writable").get<bool>();
  l.operations = operations_from(j.at("operations"));
  if (j.contains("allocated_bytes")) l.allocated_bytes = j["allocated_bytes"].get<uint64_t>();
  return l;
}

json client_json(const client_report& c) {
  return {{"id", c.id},
          {"peer", c.peer},
          {"connected_ms", c.connected_ms},
          {"in_flight", c.in_flight},
          {"requests", c.requests},
          {"bytes_read", c.bytes_read},
          {"bytes_written", c.bytes_written},
          {"errors", c.errors}};
}

client_report client_from(const json& j) {
  client_report c;
  c.id = j.at("id").get<uint64_t>();
  c.peer = j.at("peer").get<std::string>();
  c.connected_ms = j.at("connected_ms").get<uint64_t>();
  c.in_flight = j.at("in_flight").get<uint64_t>();
  c.requests = j.at("requests").get<uint64_t>();
  c.bytes_read = j.at("bytes_read").get<uint64_t>();
  c.bytes_written = j.at("bytes_written").get<uint64_t>();
  c.errors = j.at("errors").get<uint64_t>();
  return c;
}

json device_json(const device_report& d) {
  json layers = json::array(), clients = json::array();
  for (const layer_report& l : d.layers) layers.push_back(layer_json(l));
  for (const client_report& c : d.clients) clients.push_back(client_json(c));
  return {{"name", d.name},
          {"export", d.export_name},
          {"size_bytes", d.size_bytes},
          {"read_only", d.read_only},
          {"operations", operations_json(d.operations)},
          {"layers", std::move(layers)},
          {"clients", std::move(clients)}};
}

device_report device_from(const json& j) {
  device_report d;
  d.name = j.at("name").get<std::string>();
  d.export_name = j.at("export").get<std::string>();
  d.size_bytes = j.at("size_bytes").get<uint64_t>();
  d.read_only = j.at("read_only").get<bool>();
  d.operations = operations_from(j.at("operations"));
  for (const json& l : j.at("layers")) d.layers.push_back(layer_from(l));
  for (const json& c : j.at("clients")) d.clients.push_back(client_from(c));
  return d;
}

}  // namespace

json to_json(const server_report& r) {
  json devices = json::array();
  for (const device_report& d : r.devices) devices.push_back(device_json(d));
  return {{"version", r.version},          {"pid", r.pid},
          {"uptime_ms", r.uptime_ms},      {"io", r.io},
          {"reactors", r.reactors},        {"addresses", r.addresses},
          {"accepted", r.accepted},        {"refused", r.refused},
          {"devices", std::move(devices)}, {"missing", r.missing}};
}

base::outcome<server_report> report_from_json(const json& j) {
  try {
    server_report r;
    r.version = j.at("version").get<std::string>();
    r.pid = j.at("pid").get<int64_t>();
    r.uptime_ms = j.at("uptime_ms").get<uint64_t>();
    r.io = j.at("io").get<std::string>();
    r.reactors = j.at("reactors").get<unsigned>();
    r.addresses = j.at("addresses").get<std::vector<std::string>>();
    r.accepted = j.at("accepted").get<uint64_t>();
    r.refused = j.at("refused").get<uint64_t>();
    for (const json& d : j.at("devices")) r.devices.push_back(device_from(d));
    r.missing = j.value("missing", std::vector<std::string>());
    return r;
  } catch (const json::exception& e) {
    return base::failure{base::errc::protocol,
                         std::string("the server's answer is not understood: ") + e.what()};
  }
}

}  // namespace lbd::ctl
