// SPDX-License-Identifier: MIT
#include <algorithm>
#include <cstdio>
#include <optional>

#include "wire/dm/ioctl.h"
#include "wire/dm/native.h"

namespace lbd::dm {

using base::bytes_view;
using base::errc;
using base::failure;
using base::outcome;

namespace {

failure refused(std::string text) { return failure{errc::inval, std::move(text)}; }

// A field of fixed size: up to its NUL, and never its last byte.
std::string fixed_text(bytes_view buffer, size_t offset, size_t size) {
  const std::string_view all = base::as_text(buffer.subspan(offset, size - 1));
  return std::string(all.substr(0, all.find('\0')));
}

// A text that ends inside the buffer.
std::optional<std::string> text_at(bytes_view buffer, size_t offset) {
  if (offset >= buffer.size()) return std::nullopt;
  const std::string_view rest = base::as_text(buffer.subspan(offset));
  const size_t end = rest.find('\0');
  if (end == std::string_view::npos) return std::nullopt;
  return std::string(rest.substr(0, end));
}

header decode_header(bytes_view buffer) {
  header h;
  for (size_t i = 0; i < 3; ++i) h.version[i] = load<uint32_t>(buffer, at_version + 4 * i);
  h.data_size = load<uint32_t>(buffer, at_data_size);
  h.data_start = load<uint32_t>(buffer, at_data_start);
  h.target_count = load<uint32_t>(buffer, at_target_count);
  h.open_count = load<int32_t>(buffer, at_open_count);
  h.flags = load<uint32_t>(buffer, at_flags);
  h.event_number = load<uint32_t>(buffer, at_event_number);
  h.device = load<uint64_t>(buffer, at_device);
  h.name = fixed_text(buffer, at_name, name_bytes);
  h.uuid = fixed_text(buffer, at_uuid, uuid_bytes);
  return h;
}

outcome<std::vector<target_line>> decode_targets(const header& head, bytes_view buffer) {
  const failure lost = refused("ioctl: unable to find target");
  std::vector<target_line> out;
  uint64_t last = 0, next = head.data_start;
  for (uint32_t i = 0; i < head.target_count; ++i) {
    // The first is found from the buffer's start, each other one from its predecessor.
    const uint64_t at = last + next;
    const uint64_t first_free = i == 0 ? plain_answer_bytes : last + spec_bytes;
    if (at < first_free || at > buffer.size() || buffer.size() - at < spec_bytes) return lost;
    const auto params = text_at(buffer, at + spec_bytes);
    if (!params) return lost;
    target_line line;
    line.start_sector = load<uint64_t>(buffer, at);
    line.length_sectors = load<uint64_t>(buffer, at + 8);
    line.type = fixed_text(buffer, at + 24, type_bytes + 1);
    line.text = *params;
    out.push_back(std::move(line));
    last = at;
    next = load<uint32_t>(buffer, at + 20);
  }
  return out;
}

outcome<void> decode_rename(request& r, bytes_view buffer) {
  const size_t most = (r.head.flags & flag::uuid) != 0 ? uuid_bytes - 1 : name_bytes - 1;
  const auto text = text_at(buffer, r.head.data_start);
  if (r.head.data_start < plain_answer_bytes || !text || text->empty() || text->size() > most)
    return refused("ioctl: Invalid new mapped device name or uuid string supplied.");
  r.text = *text;
  return {};
}

outcome<void> decode_message(request& r, bytes_view buffer) {
  const size_t at = r.head.data_start;
  const auto text = text_at(buffer, at + message_bytes);
  if (at < plain_answer_bytes || !text) return refused("ioctl: Invalid target message parameters.");
  r.sector = load<uint64_t>(buffer, at);
  r.text = *text;
  return {};
}

outcome<void> decode_geometry(request& r, bytes_view buffer) {
  const auto text = text_at(buffer, r.head.data_start);
  if (r.head.data_start < plain_answer_bytes || !text)
    return refused("ioctl: Invalid geometry supplied.");
  r.text = *text;
  return {};
}

// What does not depend on the command's data.
outcome<void> check_header(command c, header& h) {
  h.flags &= ~(flag::buffer_full | flag::uevent_generated | flag::secure_data | flag::data_out);
  if (c == command::remove_all || c == command::list_devices || c == command::list_versions)
    return {};
  if (c == command::create && h.name.empty())
    return refused("ioctl: name not supplied when creating device");
  if (c != command::create && !h.uuid.empty() && !h.name.empty())
    return refused("ioctl: only supply one of name or uuid, cmd(" +
                   std::to_string(static_cast<int>(c)) + ")");
  return {};
}

}  // namespace

bool takes_data(command c) noexcept {
  return c == command::load || c == command::rename || c == command::message ||
         c == command::set_geometry;
}

uint64_t encode_number(device_number n) noexcept {
  return (n.minor & 0xff) | uint64_t{n.major & 0xfff} << 8 | uint64_t{n.minor & 0xfff00} << 12;
}

device_number decode_number(uint64_t n) noexcept {
  return {static_cast<uint32_t>(n >> 8) & 0xfff,
          static_cast<uint32_t>((n & 0xff) | ((n >> 12) & 0xfff00))};
}

outcome<request> decode_request(command c, bytes_view buffer) {
  if (buffer.size() < at_data_size) return refused("");
  request r;
  r.what = c;
  std::array<uint32_t, 3> theirs{};
  for (size_t i = 0; i < 3; ++i) theirs[i] = load<uint32_t>(buffer, at_version + 4 * i);
  if (theirs[0] != interface_version[0] || theirs[1] > interface_version[1])
    return refused(
        "ioctl: ioctl interface mismatch: kernel(" + std::to_string(interface_version[0]) + "." +
        std::to_string(interface_version[1]) + "." + std::to_string(interface_version[2]) +
        "), user(" + std::to_string(theirs[0]) + "." + std::to_string(theirs[1]) + "." +
        std::to_string(theirs[2]) + "), cmd(" + std::to_string(static_cast<int>(c)) + ")");
  if (c == command::version) return r;
  if (buffer.size() < header_bytes) return refused("");
  r.head = decode_header(buffer);
  if (r.head.data_size < plain_answer_bytes)
    return refused("ioctl: Invalid data size in the ioctl structure: " +
                   std::to_string(r.head.data_size));
  CHECK(check_header(c, r.head));
  const bytes_view data = buffer.first(std::min<size_t>(buffer.size(), r.head.data_size));
  if (c == command::load) {
    TRY(r.targets, decode_targets(r.head, data));
  } else if (c == command::rename) {
    CHECK(decode_rename(r, data));
  } else if (c == command::message) {
    CHECK(decode_message(r, data));
  } else if (c == command::set_geometry) {
    CHECK(decode_geometry(r, data));
  }
  return r;
}

outcome<geometry> parse_geometry(const std::string& text) {
  geometry g;
  unsigned long in[4] = {};
  char rest = 0;
  if (std::sscanf(text.c_str(), "%lu %lu %lu %lu%c", &in[0], &in[1], &in[2], &in[3], &rest) != 4)
    return refused("ioctl: Unable to interpret geometry settings.");
  if (in[0] > 65535 || in[1] > 255 || in[2] > 255)
    return refused("ioctl: Geometry exceeds range limits.");
  g = {in[0], in[1], in[2], in[3]};
  if (g.start > g.cylinders * g.heads * g.sectors)
    return refused("Start sector is beyond the geometry limits.");
  return g;
}

}  // namespace lbd::dm
