// SPDX-License-Identifier: MIT
// What is tried out in a simulation: something that keeps its bytes in files of a simulated disk
// and offers them as a block device.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "block/device.h"
#include "sim/disk.h"
#include "sim/random.h"
#include "sim/reactor.h"

namespace lbd::sim {

class subject {
 public:
  virtual ~subject() = default;

  // For people: the kind and the shape that was drawn.
  virtual std::string describe() const = 0;

  // Of the device; a multiple of 512, at least 64 KiB.
  virtual uint64_t size_bytes() const = 0;
  // Whether a discarded range reads as zeros from then on; otherwise it may keep its content.
  virtual bool discard_zeroes() const { return true; }

  // Whether it can be used again after an I/O error; otherwise there are none.
  virtual bool survives_errors() const { return true; }

  // Puts the files on the disk that exist beforehand; returns the device's content.
  virtual std::vector<std::byte> prepare(sim_disk& disk) = 0;
  // Opens the device; the first time it makes the files that are missing.
  virtual rt::task<base::outcome<void>> open(world& w, sim_disk& disk) = 0;
  // REQUIRES: open.
  virtual block::block_device& device() = 0;
  // The orderly end: afterwards everything is durable, if it says so. Also called after the power
  // was lost; it only has to come to an end then.
  virtual rt::task<base::result<void>> close() = 0;

  // Changes under load. notsup: this one has nothing of the kind.
  virtual rt::task<base::outcome<void>> add_layer() {
    co_return base::failure{base::errc::notsup, ""};
  }
  virtual rt::task<base::outcome<void>> swap_table() {
    co_return base::failure{base::errc::notsup, ""};
  }

  // Whether a sync of something that holds answered writes has failed since the device was opened:
  // no later flush may succeed.
  virtual bool sync_failed(const sim_disk& disk) const { return disk.failed_syncs() != 0; }

  // The structure of the files, when closed or after a crash: "" or what is wrong with it.
  virtual std::string check_files(const sim_disk&) const { return ""; }
};

}  // namespace lbd::sim
