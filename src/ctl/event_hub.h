// SPDX-License-Identifier: MIT
// Events of devices, for everybody inside the daemon who listens, and for subscribers on the
// management socket (events.subscribe). Reactor 0 only.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <string>
#include <utility>
#include <vector>

#include "ctl/rpc.h"
#include "stack/device_manager.h"

namespace lbd::ctl {

// An event as the kernel's uevent of a block device: variables in the kernel's order.
struct uevent {
  std::string action;  // add, change, remove
  std::string devpath;
  uint64_t sequence = 0;
  std::vector<std::pair<std::string, std::string>> variables;  // with ACTION, DEVPATH, ...
};
uevent to_uevent(const stack::device_event& from, uint64_t sequence);
nlohmann::json to_json(const uevent& e);

class event_hub {
 public:
  using listener = std::function<void(const stack::device_event&)>;
  // Takes the manager's events from now on; the manager tells none after the hub has gone.
  explicit event_hub(stack::device_manager& from);

  // A listener stays until the hub goes. It must not add listeners.
  void listen(listener told) { listeners_.push_back(std::move(told)); }
  // The connection gets each event as a notification "event", until it ends or is too slow: then a
  // notification "events.lost" is its last line.
  void subscribe(line_peer& peer);
  size_t subscriber_count() const noexcept { return subscribers_.size(); }

 private:
  void tell(const stack::device_event& e);

  uint64_t sequence_ = 0;
  std::vector<listener> listeners_;
  std::list<line_peer*> subscribers_;
};

void add_event_methods(rpc_methods& to, event_hub& hub);

}  // namespace lbd::ctl
