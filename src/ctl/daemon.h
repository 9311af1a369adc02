// SPDX-License-Identifier: MIT
// The daemon: named devices with tables, the sources they stand on, and the management socket over
// which everything is asked and changed. Other parts hang on to it: they add methods to its table,
// and services that end before the devices do (exports, mounts, the ioctl server); the list of them
// is daemon_parts.cc. Reactor 0 only.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "ctl/event_hub.h"
#include "ctl/management.h"
#include "ctl/rpc.h"
#include "ctl/source_registry.h"
#include "rt/runtime.h"
#include "rt/sync.h"
#include "stack/device_manager.h"

namespace lbd::ctl {

class mounts;

// A part of the daemon that uses devices.
class service {
 public:
  virtual ~service() = default;
  // Ends what it does, and lets go of its devices. Called once, on reactor 0, while devices and
  // sources still work; methods may be called until the end. The failure is logged.
  virtual rt::task<base::outcome<void>> close() = 0;
  // What `lbd info` shows of it.
  virtual void add_to(server_report& /*report*/) {}
};

struct daemon_places {
  std::string runtime_folder;  // sockets of the daemon's parts; exists
  std::string state_folder;    // what outlives a restart; exists
};

class daemon final : private server_control {
 public:
  // Errors name the file and the remedy.
  static base::outcome<std::unique_ptr<daemon>> make(rt::runtime& runtime, daemon_places places);
  // REQUIRES: close() has completed.
  ~daemon() override;

  rt::runtime& runtime() noexcept { return runtime_; }
  stack::device_manager& devices() noexcept { return devices_; }
  source_registry& sources() noexcept { return sources_; }
  rpc_methods& methods() noexcept { return methods_; }
  event_hub& events() noexcept { return events_; }
  // For sockets and the like: private to the user.
  const std::string& runtime_folder() const noexcept { return places_.runtime_folder; }
  // Closed in reverse order.
  void add_service(std::unique_ptr<service> s) { services_.push_back(std::move(s)); }

  // The management socket; several are possible. Errors name the address and the remedy.
  base::outcome<void> listen(const std::string& path);
  void adopt_listener(rt::socket made) { control_.adopt_listener(std::move(made)); }
  // Between the two, those who ask on these sockets wait.
  void hold_clients() { control_.hold(); }
  void admit_clients() { control_.admit(); }

  // Listening sockets that came with the process, for who is to listen at their addresses:
  // "unix:PATH" or "tcp:HOST:PORT". Errors: inval, it has no such address.
  base::outcome<std::string> keep_listener(rt::socket made);
  // An invalid socket: none is kept for that address.
  rt::socket take_listener(const std::string& address);

  // A method, asked from inside the daemon. Errors: what the method answers.
  rt::task<base::outcome<std::shared_ptr<const nlohmann::json>>> call(
      std::string method, std::shared_ptr<const nlohmann::json> params);

  // Something of the configuration that could not be made; `lbd info` shows it.
  void note_missing(std::string what) { missing_.push_back(std::move(what)); }

  // Begins the end; also what `shutdown` on the socket does. Sources that are being opened fail.
  void shutdown() override {
    sources_.abandon();
    stop_.set();
  }
  rt::event& stopped() noexcept { return stop_; }

  // Ends the services, removes the devices, closes the sources, and the management socket last.
  // Returns the first failure.
  rt::task<base::outcome<void>> close();

 private:
  daemon(rt::runtime& runtime, daemon_places places, std::unique_ptr<source_numbers> numbers);
  server_report report() override;
  rt::task<void> close_services(base::outcome<void>& first);
  rt::task<void> let_requests_go(const rt::event& until);
  rt::task<void> remove_devices();

  rt::runtime& runtime_;
  const daemon_places places_;
  const uint64_t started_ns_;
  source_registry sources_;
  stack::device_manager devices_;
  event_hub events_{devices_};
  rpc_methods methods_;
  rpc_handler rpc_{methods_};
  line_server control_{rpc_, "control"};
  std::map<std::string, rt::socket> kept_listeners_;
  std::vector<std::unique_ptr<service>> services_;
  std::vector<std::string> missing_;
  rt::event stop_;
};

// Adds every part that this program has.
void add_parts(daemon& to);

// The export.* methods.
void add_export_service(daemon& to);

// The device.* methods.
void add_device_methods(daemon& to);
// The ioctl server, and the dm.* methods.
void add_dm_service(daemon& to, mounts& folders);
// Mounted folders, and the mount.* methods.
mounts& add_mounts(daemon& to);

}  // namespace lbd::ctl
