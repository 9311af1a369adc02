// SPDX-License-Identifier: MIT
#include "ctl/export_service.h"

#include <algorithm>
#include <filesystem>

#include "base/log.h"
#include "ctl/served_stack.h"
#include "stack/device_name.h"
#include "wire/uri/uri.h"

namespace lbd::ctl {

using base::errc;
using base::failure;
using base::outcome;
using rt::task;

namespace {

constexpr uint64_t look_again_ns = 1'000'000'000;
constexpr uint16_t nbd_port = 10809;
const std::string unix_prefix = "unix:", tcp_prefix = "tcp:";

// The one way to write an address. Errors: inval.
outcome<std::string> canonical(const std::string& address) {
  if (address.starts_with(unix_prefix)) {
    const std::filesystem::path path(address.substr(unix_prefix.size()));
    if (path.is_absolute()) return unix_prefix + path.lexically_normal().string();
    return failure{errc::inval, "'" + address + "': the path must begin with /"};
  }
  if (!address.starts_with(tcp_prefix))
    return failure{errc::inval,
                   "'" + address + "' is no address: write unix:PATH or tcp:HOST:PORT"};
  TRY(const uri::endpoint e,
      uri::parse_endpoint(address.substr(tcp_prefix.size()), "localhost", nbd_port));
  return tcp_prefix + uri::to_text(e);
}

std::string uri_of(const std::string& address, const std::string& name) {
  uri::nbd_source out;
  out.export_name = name;
  if (address.starts_with(unix_prefix))
    out.socket_path = address.substr(unix_prefix.size());
  else if (const auto e = uri::parse_endpoint(address.substr(tcp_prefix.size()), "", nbd_port))
    out.address = *e;
  return uri::to_text(out);
}

}  // namespace

export_service::export_service(daemon& owner) : daemon_(owner) {
  owner.events().listen([this](const stack::device_event& e) { device_changed(e); });
  look_.owner = this;
  look_.run = [](rt::timer& t) { static_cast<look&>(t).owner->look_for_leaving(); };
}

export_service::~export_service() = default;

std::string export_service::device_name(const one& e) const {
  stack::device_key key;
  key.number = e.device.number;
  const auto state = daemon_.devices().state(std::move(key));
  return state ? stack::shown_name(state->name) : std::string();
}

export_service::info export_service::describe(const place& at, const one& e) const {
  info out;
  out.device = device_name(e);
  out.name = e.name;
  out.address = at.address;
  out.uri = uri_of(at.address, e.name);
  out.read_only = e.read_only || e.device.device->limits().read_only;
  out.size_bytes = e.device.device->limits().size_bytes;
  for (const auto& shown : at.server.info().exports)
    if (shown.name == e.name) out.clients = shown.connections;
  return out;
}

// A host's name may mean several addresses ("localhost": IPv4 and IPv6); one that works is enough
// where the host lacks the other's protocol, but none may be taken.
outcome<void> export_service::listen(place& at) {
  if (rt::socket kept = daemon_.take_listener(at.address)) {
    at.server.adopt_listener(std::move(kept));
    return {};
  }
  if (at.address.starts_with(unix_prefix)) {
    const std::string path = at.address.substr(unix_prefix.size());
    if (daemon_.sources().refuses(path))
      return failure{errc::inval,
                     "'" + path + "' lies in a folder that this daemon shows its devices in"};
    TRY(const auto address, rt::socket_address::unix_path(path));
    CHECK(at.server.listen(address));
    return {};
  }
  TRY(const uri::endpoint e,
      uri::parse_endpoint(at.address.substr(tcp_prefix.size()), "localhost", nbd_port));
  TRY(const auto addresses, rt::socket_address::resolve(e.host, std::to_string(e.port), true));
  outcome<void> answer = failure{errc::noent, "no address for " + uri::to_text(e)};
  bool any = false;
  for (const rt::socket_address& address : addresses) {
    const auto done = at.server.listen(address);
    if (done) any = true;
    if (!done) answer = done.error();
    if (!done && done.error().code == static_cast<errc>(EADDRINUSE)) return done.error();
  }
  if (any) return {};
  return answer;
}

task<outcome<export_service::place*>> export_service::place_for(std::string address) {
  for (place& p : places_)
    if (p.address == address) co_return &p;
  place& made = places_.emplace_back(daemon_.runtime());
  made.address = std::move(address);
  const auto listening = listen(made);
  if (listening) co_return &made;
  (void)co_await made.server.stop();  // nothing was served yet
  places_.pop_back();
  co_return listening.error();
}

task<outcome<export_service::info>> export_service::add(spec what) {
  const auto held = co_await changing_.lock();
  if (closed_) co_return failure{errc::shutdown, "the daemon is shutting down"};
  CO_TRY(std::string address, canonical(what.address));
  CO_TRY(const auto state, daemon_.devices().state(what.device));
  if (!state.has_live)
    co_return failure{static_cast<errc>(ENXIO),
                      "device " + state.name + " has no table yet: load one and resume it"};
  one e;
  CO_TRY(e.device, daemon_.devices().open(what.device));
  e.name = what.name.empty() && !what.default_name ? stack::shown_name(state.name) : what.name;
  e.read_only = what.read_only;
  CO_TRY(place* const at, co_await place_for(std::move(address)));
  nbd_server::export_options options;
  options.name = e.name;
  options.device = e.device.device.get();
  options.read_only = e.read_only;
  const auto added = at->server.add_export(std::move(options));
  if (!added) {
    co_await drop_if_empty(at);
    co_return added.error();
  }
  at->exports.push_back(std::move(e));
  if (!look_.armed)
    rt::reactor::current().start_timer(look_, rt::reactor::current().now_ns() + look_again_ns);
  co_return describe(*at, at->exports.back());
}

std::vector<export_service::info> export_service::list() const {
  std::vector<info> out;
  for (const place& p : places_)
    for (const one& e : p.exports)
      if (!e.leaving) out.push_back(describe(p, e));
  return out;
}

// REQUIRES: changing_ is held.
task<void> export_service::remove_one(place* at, one* e) {
  const auto removed = co_await at->server.remove_export(e->name);
  if (!removed) base::log_warn("export", removed.error().message);
  // As when the last user closes a block device: what was written is not left in caches, also when
  // the device is read-only now.
  if (!e->read_only) {
    const auto flushed = co_await e->device.device->flush({});
    if (!flushed)
      base::log_error("export", "export '" + e->name + "' could not be flushed: " +
                                    base::to_string(flushed.error().code));
  }
  at->exports.remove_if([e](const one& other) { return &other == e; });
  co_await drop_if_empty(at);
}

task<void> export_service::drop_if_empty(place* at) {
  if (!at->exports.empty()) co_return;
  const auto stopped = co_await at->server.stop();
  if (!stopped) base::log_error("export", stopped.error().message);
  places_.remove_if([at](const place& other) { return &other == at; });
}

task<outcome<size_t>> export_service::remove(std::string device, std::string address,
                                             std::optional<std::string> name) {
  if (!address.empty()) {
    CO_TRY(address, canonical(address));
  }
  const auto held = co_await changing_.lock();
  std::vector<std::pair<place*, one*>> which;
  for (place& p : places_) {
    if (!address.empty() && p.address != address) continue;
    for (one& e : p.exports) {
      const bool meant = (!name || e.name == *name) && (device.empty() || device == device_name(e));
      if (meant) which.emplace_back(&p, &e);
    }
  }
  if (which.empty())
    co_return failure{errc::noent, "there is no such export (lbd export --list shows them)"};
  for (const auto& [p, e] : which) co_await remove_one(p, e);
  co_return which.size();
}

void export_service::device_changed(const stack::device_event& e) {
  if (e.action != "change") return;
  for (place& p : places_)
    for (one& x : p.exports)
      if (x.device.number == e.number) (void)p.server.resize_export(x.name);
}

void export_service::look_for_leaving() {
  std::vector<std::pair<place*, one*>> ended;
  bool any = false;
  for (place& p : places_) {
    for (one& e : p.exports) {
      any = true;
      stack::device_key key;
      key.number = e.device.number;
      const auto state = daemon_.devices().state(std::move(key));
      const bool waits = state && state->deferred_remove;
      if (waits && !e.leaving && describe(p, e).clients == 0) ended.emplace_back(&p, &e);
    }
  }
  if (any && !closed_)
    rt::reactor::current().start_timer(look_, rt::reactor::current().now_ns() + look_again_ns);
  for (const auto& [p, e] : ended) {
    e->leaving = true;
    if (++leaving_ == 1) left_.reset();
    rt::spawn(leave(p, e));
  }
}

task<void> export_service::leave(place* at, one* e) {
  {
    const auto held = co_await changing_.lock();
    // It may have been removed while this waited, and another be where it was.
    bool there = false;
    for (place& p : places_)
      for (one& other : p.exports) there = there || (&p == at && &other == e && other.leaving);
    if (there) co_await remove_one(at, e);
  }
  if (--leaving_ == 0) left_.set();
}

task<outcome<void>> export_service::close() {
  closed_ = true;
  rt::reactor::current().stop_timer(look_);
  if (leaving_ != 0) co_await left_.wait();
  const auto held = co_await changing_.lock();
  outcome<void> first;
  for (place& p : places_) {
    const auto stopped = co_await p.server.stop();
    if (first) first = stopped;
  }
  places_.clear();
  co_return first;
}

void export_service::add_to(server_report& report) {
  const uint64_t now = rt::reactor::current().now_ns();
  for (const place& p : places_) {
    const nbd_server::server_info told = p.server.info();
    for (const auto& a : told.addresses) report.addresses.push_back(a.text());
    report.accepted += told.accepted;
    report.refused += told.refused;
    for (const one& e : p.exports) {
      const std::string name = device_name(e);
      const auto device = std::find_if(report.devices.begin(), report.devices.end(),
                                       [&name](const device_report& d) { return d.name == name; });
      if (device == report.devices.end()) continue;
      if (device->export_name.empty()) device->export_name = e.name;
      for (const auto& c : told.connections)
        if (!c.handshaking && c.export_name == e.name)
          device->clients.push_back(to_client_report(c, now));
    }
  }
}

}  // namespace lbd::ctl
