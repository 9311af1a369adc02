// SPDX-License-Identifier: MIT
#include <algorithm>

#include "wire/dm/ioctl.h"
#include "wire/dm/native.h"

namespace lbd::dm {

answer::answer(const header& request) : head_(request), capacity_(request.data_size) {
  head_.version = interface_version;
}

size_t answer::room() const noexcept {
  return capacity_ > header_bytes ? capacity_ - header_bytes : 0;
}

bool answer::claim(size_t bytes) {
  has_data_ = true;
  if (room() < bytes) {
    head_.flags |= flag::buffer_full;
    has_data_ = false;
    return false;
  }
  data_.resize(bytes);
  return true;
}

void answer::put_devices(const std::vector<listed_device>& all) {
  head_.data_start = header_bytes;
  const bool with_uuids = (head_.flags & flag::uuid) != 0;
  size_t needed = 0;
  for (const auto& d : all) {
    needed += align(name_list_bytes + d.name.size() + 1) + 8;
    if (with_uuids && !d.uuid.empty()) needed += align(d.uuid.size() + 1);
  }
  // An empty list is one entry without a number.
  if (room() < sizeof(uint64_t) || !claim(std::max(needed, sizeof(uint64_t)))) {
    head_.flags |= flag::buffer_full;
    return;
  }
  size_t at = 0, last = 0;
  for (const auto& d : all) {
    if (at != 0) store(data_, last + 8, static_cast<uint32_t>(at - last));
    store(data_, at, encode_number(d.number));
    store_text(data_, at + name_list_bytes, d.name);
    last = at;
    at += align(name_list_bytes + d.name.size() + 1);
    store(data_, at, d.event_number);
    if (with_uuids) store(data_, at + 4, uint32_t{d.uuid.empty() ? 2u : 1u});
    at += 8;
    if (!with_uuids || d.uuid.empty()) continue;
    store_text(data_, at, d.uuid);
    at += align(d.uuid.size() + 1);
  }
}

void answer::put_deps(const std::vector<device_number>& all) {
  head_.data_start = header_bytes;
  if (!claim(deps_bytes + 8 * all.size())) return;
  store(data_, 0, static_cast<uint32_t>(all.size()));
  for (size_t i = 0; i < all.size(); ++i) store(data_, deps_bytes + 8 * i, encode_number(all[i]));
}

void answer::put_status(const std::vector<target_line>& lines) {
  head_.data_start = header_bytes;
  has_data_ = true;
  for (const auto& line : lines) {
    const size_t at = align(data_.size());
    // A text that would fill the last byte may have been cut: the caller comes again with more.
    if (room() <= at + spec_bytes || room() - at - spec_bytes <= line.text.size() + 1) {
      head_.flags |= flag::buffer_full;
      break;
    }
    data_.resize(at + spec_bytes + line.text.size() + 1);
    store(data_, at, line.start_sector);
    store(data_, at + 8, line.length_sectors);
    store(data_, at + 20, static_cast<uint32_t>(align(data_.size())));
    store_text(data_, at + 24, std::string_view(line.type).substr(0, type_bytes - 1));
    store_text(data_, at + spec_bytes, line.text);
  }
  has_data_ = !data_.empty();
  head_.target_count = static_cast<uint32_t>(lines.size());
}

void answer::put_versions(const std::vector<target_version>& all) {
  head_.data_start = header_bytes;
  size_t needed = 0;
  for (const auto& v : all) needed += align(versions_bytes + v.name.size() + 1);
  if (!claim(needed)) return;
  size_t at = 0, last = 0;
  for (const auto& v : all) {
    if (at != 0) store(data_, last, static_cast<uint32_t>(at - last));
    for (size_t i = 0; i < 3; ++i) store(data_, at + 4 + 4 * i, v.version[i]);
    store_text(data_, at + versions_bytes, v.name);
    last = at;
    at += align(versions_bytes + v.name.size() + 1);
  }
}

void answer::put_reply(std::string_view text) {
  head_.data_start = header_bytes;
  head_.flags |= flag::data_out;
  // As for a status, a text that just fits is taken for one that was cut.
  if (room() < 2 || text.size() + 1 >= room()) {
    head_.flags |= flag::buffer_full;
    return;
  }
  if (claim(text.size() + 1)) store_text(data_, 0, text);
}

std::vector<std::byte> answer::finish() {
  if (nothing_) return version_answer();
  std::vector<std::byte> out(header_bytes);
  head_.data_size =
      static_cast<uint32_t>(has_data_ ? header_bytes + data_.size() : plain_answer_bytes);
  for (size_t i = 0; i < 3; ++i) store(out, at_version + 4 * i, head_.version[i]);
  store(out, at_data_size, head_.data_size);
  store(out, at_data_start, head_.data_start);
  store(out, at_target_count, head_.target_count);
  store(out, at_open_count, head_.open_count);
  store(out, at_flags, head_.flags);
  store(out, at_event_number, head_.event_number);
  store(out, at_device, head_.device);
  store_text(out, at_name, std::string_view(head_.name).substr(0, name_bytes - 1));
  store_text(out, at_uuid, std::string_view(head_.uuid).substr(0, uuid_bytes - 1));
  out.insert(out.end(), data_.begin(), data_.end());
  out.resize(head_.data_size);
  return out;
}

std::vector<std::byte> version_answer() {
  std::vector<std::byte> out(at_data_size);
  for (size_t i = 0; i < 3; ++i) store(out, at_version + 4 * i, interface_version[i]);
  return out;
}

}  // namespace lbd::dm
