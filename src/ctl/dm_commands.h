// SPDX-License-Identifier: MIT
// The kernel's face of the control plane: the commands of the device-mapper's ioctl interface,
// carried out on a device manager.
#pragma once

#include <string>
#include <vector>

#include "stack/device_manager.h"
#include "wire/dm/ioctl.h"

namespace lbd::ctl {

// Settings of devices that only the ioctl interface and the block ioctls know.
class dm_attributes {
 public:
  struct values {
    dm::geometry geometry;
    std::optional<uint32_t> read_ahead_sectors;
  };
  values& of(block::device_number n) { return all_[n]; }
  void forget(block::device_number n) { all_.erase(n); }

 private:
  std::map<block::device_number, values> all_;
};

// What goes back to the caller: an errno value and the bytes for its buffer.
struct dm_answer {
  int error = 0;
  std::vector<std::byte> bytes;
};

// Names in /dev that only the programs under `lbd run` see.
class dm_names {
 public:
  virtual ~dm_names() = default;
  // The number, as text, that a path below /dev stands for; the same where it is nothing special.
  virtual std::string meaning_of(const std::string& path) = 0;
};

struct dm_caller {
  std::string directory;    // where the relative paths of its tables begin
  stack::waiting* waiting;  // outlives the call; canceled when the caller is gone
  dm_names* names;          // outlives the call
};

class dm_commands {
 public:
  // Both outlive this.
  dm_commands(stack::device_manager& devices, dm_attributes& attributes)
      : devices_(devices), attributes_(attributes) {}

  // The buffer as the caller has it: whole for commands that take data, at least the header for
  // others. Log lines of refusals are the kernel's.
  rt::task<dm_answer> run(unsigned command, std::vector<std::byte> buffer, dm_caller caller);

 private:
  using result = base::outcome<std::vector<std::byte>>;
  rt::task<result> dispatch(dm::request r, dm_caller caller);
  rt::task<result> of_device(dm::request r, dm_caller caller);
  rt::task<result> load(dm::request r, stack::device_key key, dm_caller caller);
  rt::task<result> suspend_or_resume(dm::request r, stack::device_key key, stack::waiting* caller);
  rt::task<result> remove(dm::request r, stack::device_key key);
  rt::task<result> table_status(dm::request r, stack::device_key key);
  rt::task<result> wait(dm::request r, stack::device_key key, dm_caller caller);
  rt::task<result> message(dm::request r, stack::device_key key);
  result create(const dm::request& r);
  result rename(const dm::request& r);
  result list(const dm::request& r) const;
  result versions(const dm::request& r) const;
  result set_geometry(const dm::request& r, const stack::device_key& key);
  result deps(const dm::request& r, const stack::device_key& key) const;

  stack::device_manager& devices_;
  dm_attributes& attributes_;
};

}  // namespace lbd::ctl
