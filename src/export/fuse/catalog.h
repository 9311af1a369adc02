// SPDX-License-Identifier: MIT
// The devices that a mounted folder shows, as the folder sees them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "block/target.h"

namespace lbd::fuse {

// A device as a file.
struct entry {
  uint64_t id = 0;  // of this device as long as the catalog lives, never of another; not 0
  std::string name;
  uint64_t size_bytes = 0;
  uint32_t preferred_bytes = 4096;
  bool read_only = false;
};

// The inode numbers of a mounted folder and of a device's file in it.
inline constexpr uint64_t folder_inode = 1;
constexpr uint64_t inode_of(uint64_t id) noexcept { return id + folder_inode; }
constexpr uint64_t id_of(uint64_t inode) noexcept { return inode - folder_inode; }

// Reactor 0 only.
class catalog {
 public:
  virtual ~catalog() = default;

  virtual std::vector<entry> list() const = 0;
  virtual std::optional<entry> find(const std::string& name) const = 0;
  virtual std::optional<entry> find(uint64_t id) const = 0;
  // The device is in use as long as the result lives; it is dropped on reactor 0. Errors: those of
  // the device's own.
  virtual base::outcome<block::opened_device> open(uint64_t id, bool writable) = 0;
};

}  // namespace lbd::fuse
