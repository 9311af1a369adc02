// SPDX-License-Identifier: MIT
// A device that is being served: its layers, the overlay that makes one of them, and the gate in
// front. Reactor 0 only.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "ctl/report.h"
#include "ctl/stack_builder.h"
#include "export/nbd/server.h"
#include "stack/device.h"

namespace lbd::ctl {

class served_stack {
 public:
  // Errors name the layer and the remedy; nothing stays open then. Fails soon (canceled) after
  // `*abandoned`, if given, has become true.
  static rt::task<base::outcome<std::unique_ptr<served_stack>>> open(
      rt::runtime& runtime, stack_spec spec, change_file_options options,
      const std::atomic<bool>* abandoned = nullptr);
  // REQUIRES: close() has returned.
  ~served_stack();

  stack::device& device() noexcept { return *device_; }
  const std::string& name() const noexcept { return device_->name(); }
  const std::string& export_name() const noexcept { return export_name_; }
  bool read_only() const noexcept { return device_->limits().read_only; }

  // A new change file becomes the topmost, writable layer while clients read and write. On failure
  // everything is as before, except that a stack whose old top could not be made durable stays
  // read-only. Errors: exist, rofs (a read-only device), of the file system.
  rt::task<base::outcome<void>> add_layer(std::string path);

  // Writes everything out. REQUIRES: no request is in flight and none will come.
  rt::task<base::outcome<void>> close();

  // Without clients, which the export knows.
  device_report report() const;

 private:
  served_stack(rt::runtime& runtime, std::string export_name, open_layers opened, bool read_only,
               change_file_options options);
  std::unique_ptr<stack::table> make_table();
  rt::task<base::outcome<void>> seal_top(bool for_good);
  rt::task<base::outcome<std::unique_ptr<stack::table>>> put_on_top(open_layer added);

  rt::runtime& runtime_;
  const std::string export_name_;
  const uint64_t size_bytes_;
  const bool read_only_;
  const change_file_options options_;
  std::vector<open_layer> layers_;            // topmost first
  std::shared_ptr<overlay::device> overlay_;  // nullptr: layers_[0] is served as it is
  std::unique_ptr<stack::device> device_;
  rt::mutex changing_;
  bool closed_ = false;
  // What layers counted under earlier overlays; parallel to layers_.
  std::vector<overlay::layer_totals> earlier_;
};

// An NBD client as reports carry it; `now` of the reactor's clock.
client_report to_client_report(const nbd_server::connection_info& c, uint64_t now_ns);

// The counters of a device as reports carry them.
std::vector<operation_report> to_operations(const stack::device_totals& totals);

}  // namespace lbd::ctl
