// SPDX-License-Identifier: MIT
// The manager's records, private to its two source files.
#pragma once

#include "stack/device_manager.h"

namespace lbd::stack {

// ENXIO: no device of that name or number.
inline constexpr auto no_device = static_cast<base::errc>(ENXIO);

// A table whose targets exist.
struct device_manager::live_table {
  // What a target said that it works on.
  struct area {
    block::opened_device device;
    uint64_t start_sector = 0, length_sectors = 0;
  };
  struct line {
    uint64_t start_sector = 0, length_sectors = 0;
    const block::target_type* type = nullptr;
    std::shared_ptr<block::target> target;
    std::vector<area> areas;
  };
  std::map<device_number, block::opened_device> opened;  // each once
  std::vector<line> lines;
  std::unique_ptr<table> io;  // moves into the device when the table goes live
  bool read_only = false;
  std::string why;  // it could not be built, for people
};

struct device_manager::entry {
  entry(rt::runtime& runtime, std::string device_name, std::string device_uuid, device_number n)
      : name(std::move(device_name)),
        uuid(std::move(device_uuid)),
        number(n),
        core(runtime, name, table::none()) {}

  void wake_waiters() {
    for (rt::event* w : std::exchange(waiters, {})) w->set();
  }
  // REQUIRES: suspended.
  rt::task<void> drop_live() {
    device::builder none = [](const table&) { return no_table(); };
    (void)co_await core.replace_table(std::move(none));
  }
  static rt::task<base::outcome<std::unique_ptr<table>>> no_table() { co_return table::none(); }

  std::string name, uuid;
  const device_number number;
  device core;
  std::unique_ptr<live_table> live, inactive;
  const live_table* coming = nullptr;  // while it takes the live one's place
  bool suspended = false, deferred_remove = false, gone = false;
  bool loaded = false, resumed = false;
  bool was_loaded = false;       // the kernel takes what it does not check from then on at resume
  io_kind kind = io_kind::none;  // by its first table
  uint32_t open_count = 0, event_number = 0;
  uint64_t event_sequence = 0;  // of its events that carry variables
  std::vector<rt::event*> waiters;
  rt::mutex control;
};

}  // namespace lbd::stack
