// SPDX-License-Identifier: MIT
// The daemon's exports: devices that are served over NBD, and the methods export.add, export.list
// and export.remove.
//
// An export is a user of its device: the device counts as open. It follows the device's size, and
// goes with its last client when the device waits for its removal. Exports at one address share a
// server, which listens as long as one of them is there; the first of them answers to the empty
// name too.
#pragma once

#include <list>
#include <memory>
#include <string>

#include "ctl/daemon.h"
#include "export/nbd/server.h"

namespace lbd::ctl {

class export_service final : public service {
 public:
  explicit export_service(daemon& owner);
  // REQUIRES: close() has completed.
  ~export_service() override;

  struct spec {
    stack::device_key device;
    std::string address;        // "unix:PATH" or "tcp:[HOST:]PORT"
    std::string name;           // of the export; empty: the device's
    bool default_name = false;  // the export has the empty name
    bool read_only = false;
  };
  struct info {
    std::string device, name, address, uri;
    bool read_only = false;
    uint64_t size_bytes = 0;
    unsigned clients = 0;
  };

  // Errors: ENXIO (no such device, or it has no table), exist, inval, and of listening.
  rt::task<base::outcome<info>> add(spec what);
  std::vector<info> list() const;
  // Those of a device, at an address, of a name: as many of the three as are not empty. Clients are
  // ended when their requests are answered. Returns how many went. Errors: noent.
  rt::task<base::outcome<size_t>> remove(std::string device, std::string address,
                                         std::optional<std::string> name);

  rt::task<base::outcome<void>> close() override;
  void add_to(server_report& report) override;

 private:
  struct one {
    std::string name;
    block::opened_device device;
    bool read_only = false;
    bool leaving = false;
  };
  struct place {
    explicit place(rt::runtime& runtime) : server(runtime) {}
    std::string address;  // canonical: "unix:/run/x", "tcp:localhost:10809"
    nbd_server::server server;
    std::list<one> exports;
  };
  struct look : rt::timer {
    export_service* owner = nullptr;
  };

  std::string device_name(const one& e) const;
  info describe(const place& at, const one& e) const;
  base::outcome<void> listen(place& at);
  rt::task<base::outcome<place*>> place_for(std::string address);
  rt::task<void> remove_one(place* at, one* e);
  rt::task<void> drop_if_empty(place* at);
  void device_changed(const stack::device_event& e);
  // Exports of devices that wait for their removal.
  void look_for_leaving();
  rt::task<void> leave(place* at, one* e);

  daemon& daemon_;
  std::list<place> places_;
  rt::mutex changing_;
  look look_;
  unsigned leaving_ = 0;
  rt::event left_;
  bool closed_ = false;
};

}  // namespace lbd::ctl
