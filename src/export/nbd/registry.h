// SPDX-License-Identifier: MIT
// The exports and the connections of a server. Reactor 0 only.
#pragma once

#include <list>
#include <memory>
#include <string_view>
#include <vector>

#include "export/nbd/connection.h"

namespace lbd::nbd_server {

class registry {
 public:
  // nullptr when there is none. The empty name is also the first export's.
  std::shared_ptr<export_entry> find(std::string_view name) const;
  std::shared_ptr<export_entry> find_exactly(std::string_view name) const;
  const std::vector<std::shared_ptr<export_entry>>& exports() const noexcept { return exports_; }
  // Those of a device that is exported already, or nullptr.
  std::shared_ptr<lost_changes> lost_changes_of(const block::block_device& device) const;
  void add(std::shared_ptr<export_entry> e) { exports_.push_back(std::move(e)); }
  void remove(const export_entry& e);

  const std::list<std::shared_ptr<connection>>& connections() const noexcept {
    return connections_;
  }
  void add(std::shared_ptr<connection> c) { connections_.push_back(std::move(c)); }
  void remove(const connection& c);

  bool stopping() const noexcept { return stopping_; }
  void stop() noexcept { stopping_ = true; }

  // Waits until the lost connections to the device (closed or hung up) have completed what they had
  // taken in: what they wrote is old. False when that lasts longer than `limit_ns`, or the server
  // stops.
  rt::task<bool> lost_ones_done(const block::block_device& device, uint64_t limit_ns);

 private:
  bool lost_one_runs(const block::block_device& device, bool cut_off) const noexcept;

  std::vector<std::shared_ptr<export_entry>> exports_;
  std::list<std::shared_ptr<connection>> connections_;  // oldest first
  bool stopping_ = false;
};

}  // namespace lbd::nbd_server
