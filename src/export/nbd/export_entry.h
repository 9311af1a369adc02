// SPDX-License-Identifier: MIT
// An export as connections see it.
#pragma once

#include <atomic>
#include <cstdint>

#include "export/nbd/lost_changes.h"
#include "export/nbd/server.h"
#include "wire/nbd/protocol.h"

namespace lbd::nbd_server {

// Made and changed on reactor 0; connections on other reactors read what is const or atomic.
struct export_entry {
  export_entry(export_options o, std::shared_ptr<lost_changes> l)
      : options(std::move(o)),
        lost(std::move(l)),
        size_bytes(options.device->limits().size_bytes) {}

  const export_options options;
  const std::shared_ptr<lost_changes> lost;  // shared by the exports of one device
  std::atomic<uint64_t> size_bytes;
  bool removed = false;  // reactor 0

  block::block_device& device() const noexcept { return *options.device; }
  // May change with the device's table.
  bool read_only() const noexcept { return options.read_only || device().limits().read_only; }

  // The same in every answer about the export, except for DF, which needs structured replies.
  uint16_t transmission_flags(bool structured_replies) const noexcept {
    namespace tf = nbd::transmission_flag;
    const block::limits& l = options.device->limits();
    unsigned flags =
        tf::has_flags | tf::send_flush | tf::send_fua | tf::send_cache | tf::can_multi_conn;
    if (structured_replies) flags |= tf::send_df;
    if (l.rotational) flags |= tf::rotational;
    if (read_only()) return static_cast<uint16_t>(flags | tf::read_only);
    // A device that cannot be fast says so to each FAST_ZERO request.
    flags |= tf::send_write_zeroes | tf::send_fast_zero;
    if (l.can_discard) flags |= tf::send_trim;
    return static_cast<uint16_t>(flags);
  }

  nbd::block_sizes block_sizes() const noexcept {
    nbd::block_sizes s;
    s.minimum = 1;
    s.preferred = options.device->limits().preferred_bytes;
    if (s.preferred < 4096) s.preferred = 4096;
    s.maximum_payload = nbd::max_payload_bytes;
    return s;
  }
};

}  // namespace lbd::nbd_server
