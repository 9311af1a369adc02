// SPDX-License-Identifier: MIT
// The device-mapper's ioctl interface, version 4: what a program hands to /dev/mapper/control and
// gets back, as bytes in the host's order. A request is one buffer: a header of 312 bytes, then the
// command's data at `data_start`. Source: <linux/dm-ioctl.h>.
//
// decode_request() takes a buffer apart by the kernel's rules, `answer` puts one together. Neither
// knows devices.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"

namespace lbd::dm {

inline constexpr std::array<uint32_t, 3> interface_version = {4, 47, 0};
inline constexpr uint8_t ioctl_type = 0xfd;
inline constexpr size_t header_bytes = 312;
// What of the header is copied back when the answer has no data: all but the last, unused bytes.
inline constexpr size_t plain_answer_bytes = 305;
inline constexpr size_t name_bytes = 128, uuid_bytes = 129;  // with the final NUL
inline constexpr size_t type_bytes = 16;                     // with the final NUL

enum class command : uint8_t {
  version,
  remove_all,
  list_devices,
  create,
  remove,
  rename,
  suspend,  // and resume
  status,
  wait,
  load,
  clear,
  deps,
  table_status,
  list_versions,
  message,
  set_geometry,
  arm_poll,
  target_version,
};
inline constexpr unsigned command_count = 18;

// Whether bytes after the header belong to the request.
bool takes_data(command c) noexcept;

namespace flag {
enum : uint32_t {
  read_only = 1u << 0,
  suspended = 1u << 1,
  persistent_device = 1u << 3,
  status_table = 1u << 4,
  active_present = 1u << 5,
  inactive_present = 1u << 6,
  buffer_full = 1u << 8,
  skip_lockfs = 1u << 10,
  no_flush = 1u << 11,
  query_inactive = 1u << 12,
  uevent_generated = 1u << 13,
  uuid = 1u << 14,
  secure_data = 1u << 15,
  data_out = 1u << 16,
  deferred_remove = 1u << 17,
  internal_suspend = 1u << 18,
  measure = 1u << 19,
};
}  // namespace flag

// A device's number as it stands in headers and lists.
struct device_number {
  uint32_t major = 0, minor = 0;
  friend bool operator==(const device_number&, const device_number&) = default;
};
uint64_t encode_number(device_number n) noexcept;
device_number decode_number(uint64_t n) noexcept;

struct header {
  std::array<uint32_t, 3> version = interface_version;
  uint32_t data_size = 0;   // in: the whole buffer; out: the bytes copied back
  uint32_t data_start = 0;  // from the buffer's first byte
  uint32_t target_count = 0;
  int32_t open_count = 0;
  uint32_t flags = 0;
  uint32_t event_number = 0;
  uint64_t device = 0;  // an encoded number
  std::string name, uuid;
};

// A line of a table: with parameters, or in answers with the status or table text.
struct target_line {
  uint64_t start_sector = 0, length_sectors = 0;
  std::string type, text;
};

struct request {
  command what = command::version;
  header head;
  std::vector<target_line> targets;  // load
  std::string text;                  // rename: name or uuid; message; set_geometry
  uint64_t sector = 0;               // message
};

// Errors are the kernel's, with its log line as text ("" where it is silent): inval for another
// version, a bad size and bad data.
base::outcome<request> decode_request(command c, base::bytes_view buffer);

// What set_geometry asks for. Errors: inval.
struct geometry {
  uint64_t cylinders = 0, heads = 0, sectors = 0, start = 0;
};
base::outcome<geometry> parse_geometry(const std::string& text);

struct listed_device {
  device_number number;
  std::string name, uuid;
  uint32_t event_number = 0;
};
struct target_version {
  std::string name;
  std::array<uint32_t, 3> version;
};

// An answer in the making: the request's header, changed by the command, and at most one kind of
// data behind it. What does not fit the caller's buffer is left out and the buffer_full flag set.
class answer {
 public:
  explicit answer(const header& request);
  header& head() noexcept { return head_; }

  // uuids only if the request's uuid flag is set.
  void put_devices(const std::vector<listed_device>& all);
  void put_deps(const std::vector<device_number>& all);
  void put_status(const std::vector<target_line>& lines);
  void put_versions(const std::vector<target_version>& all);
  // A message's reply, not empty.
  void put_reply(std::string_view text);
  // Nothing at all is copied back (remove_all, set_geometry).
  void put_nothing() noexcept { nothing_ = true; }

  // What goes back over the beginning of the caller's buffer.
  std::vector<std::byte> finish();

 private:
  size_t room() const noexcept;
  // Makes `bytes` of zeros to be filled the data, if they fit.
  bool claim(size_t bytes);

  header head_;
  const size_t capacity_;
  std::vector<std::byte> data_;
  bool has_data_ = false, nothing_ = false;
};

// The version alone: all that goes back when a command fails, or asks for nothing else.
std::vector<std::byte> version_answer();

}  // namespace lbd::dm
