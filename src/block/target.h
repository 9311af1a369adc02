// SPDX-License-Identifier: MIT
// Targets: one kind of mapping each, as in the kernel's device-mapper. A target is a block device
// over its part of a table, which also knows its table line, its status, its messages, and what to
// do around a suspension. Targets know neither tables nor devices nor stores: they get what they
// need from target_context.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "block/device.h"
#include "rt/runtime.h"

namespace lbd::block {

inline constexpr uint64_t sector_bytes = 512;

// What the kernel prints as "253:0".
struct device_number {
  uint32_t major = 0;
  uint32_t minor = 0;
  friend auto operator<=>(const device_number&, const device_number&) = default;
  std::string text() const { return std::to_string(major) + ":" + std::to_string(minor); }
};

// A device that a target works on, held open as long as this exists.
struct opened_device {
  std::shared_ptr<block_device> device;
  device_number number;
  std::string name = {};  // the kernel's word for it in log lines: "vda", "dm-0"; may be empty
};

// What a target's constructor gets beside its arguments.
class target_context {
 public:
  virtual ~target_context() = default;

  // Opens what a table names: a path, MAJ:MIN, a source URI. Errors (the table's error text is the
  // target's affair): nodev, ENXIO, busy, access. Read-only when the table is.
  virtual rt::task<base::outcome<opened_device>> open(std::string source) = 0;
  // Says which area of a device the target works on. Whether it lies there is checked when the
  // table is whole: at a device's first load, later at resume. The answer is always success.
  virtual base::outcome<void> check_area(const opened_device& d, uint64_t start_sector,
                                         uint64_t sectors) = 0;
  // What people should know of the failure that the constructor is about to return, beside the
  // kernel's text for it. After a failed open() they know why already.
  virtual void explain(std::string why) = 0;

  virtual rt::runtime& runtime() noexcept = 0;
  // Of the device that the table belongs to.
  virtual device_number number() const noexcept = 0;
  // The line's place in the table.
  virtual uint64_t begin_sector() const noexcept = 0;
  virtual uint64_t length_sectors() const noexcept = 0;
  virtual bool read_only() const noexcept = 0;
  // The state that targets of one family share inside a daemon (a snapshot's exceptions, a thin
  // pool), by a key that the family makes up; made by `make` if there is none. Lives as long as
  // somebody holds it.
  virtual std::shared_ptr<void> shared_state(
      const std::string& key, const std::function<std::shared_ptr<void>()>& make) = 0;
  // Raises an event of the device this table belongs to (its event counter, waiters, uevents with
  // these variables). To be called on reactor 0; copied and destroyed anywhere; may outlive the
  // context, the device and its manager, and does nothing then.
  virtual std::function<void(std::vector<std::string> variables)> event_sink() = 0;
  // open() for later (devices named in messages). To be called on reactor 0; may outlive the
  // context like an event sink, and fails with nodev then.
  virtual std::function<rt::task<base::outcome<opened_device>>(std::string source)> opener() = 0;
};

enum class status_kind { info, table };

struct status_request {
  status_kind kind = status_kind::info;
  bool show_keys = false;  // table: secrets in plain
  bool no_flush = false;   // info: do not commit first
};

// All control calls come on reactor 0, one after the other per device.
class target : public block_device {
 public:
  // The smallest request, and what all are multiples of. A power of two, at least a sector.
  virtual uint64_t unit_bytes() const noexcept { return sector_bytes; }

  // Of the kernel's two kinds of devices the one that takes requests instead of bios: a device
  // keeps its kind.
  virtual bool request_based() const noexcept { return false; }

  // Whether writes fail now because of what it stands on, which may change while it lives: what its
  // limits said of that when it was made. Default: one of its devices is read-only.
  virtual bool refuses_writes() const;

  // The text after the target's name, with the kernel's blanks.
  virtual rt::task<std::string> status(status_request q) = 0;
  // What the kernel's integrity measurement would record beside the type and its version:
  // ",NAME=VALUE" for each attribute; empty if it records nothing of this kind.
  virtual std::string measured() const { return {}; }

  // A message's words. The reply may be empty. Errors: inval with the kernel's log text.
  virtual rt::task<base::outcome<std::string>> message(std::vector<std::string> words);

  // Around a suspension, in this order: presuspend (before new requests are held: targets that hold
  // requests let go of them, or with `no_flush` may keep them for the next table by failing them
  // with errc::again: the device sends them again when it is resumed), postsuspend (nothing is in
  // flight), preresume (may refuse), resumed.
  virtual rt::task<void> presuspend(bool no_flush);
  // The suspension was given up before its end: requests go on as before presuspend().
  virtual rt::task<void> presuspend_undone();
  virtual rt::task<void> postsuspend();
  virtual rt::task<base::result<void>> preresume();
  virtual rt::task<void> resumed();
  // The last call, when the table goes, live or not: nothing is in flight and nothing will come.
  // For what a destructor cannot wait for.
  virtual rt::task<void> closed();

  // The devices it works on, in the order of opening; for deps.
  virtual void for_each_child(const std::function<void(const opened_device&)>& visit) const = 0;
};

// What a folder registers. `create` runs on reactor 0 and may block on files.
struct target_type {
  enum : uint32_t {
    singleton = 1u << 0,         // alone in its table
    immutable = 1u << 1,         // cannot be replaced by another type
    wildcard = 1u << 2,          // may replace an immutable one (error)
    always_writeable = 1u << 3,  // refused in a read-only table
  };
  std::string_view name;
  uint32_t version[3];
  uint32_t features;
  rt::task<base::outcome<std::shared_ptr<target>>> (*create)(target_context& context,
                                                             std::vector<std::string> args);
};

// Numbers as the kernel's constructors read them: decimal digits only, wrapped modulo 2^bits.
// nullopt for anything else.
std::optional<uint64_t> parse_u64(std::string_view word) noexcept;
std::optional<uint32_t> parse_u32(std::string_view word) noexcept;
// kstrtouint: no wrapping, a leading '+' is taken.
std::optional<uint32_t> parse_kstrtouint(std::string_view word) noexcept;

}  // namespace lbd::block
