// SPDX-License-Identifier: MIT
// Integers in the host's byte order at offsets of a buffer; REQUIRES: they lie inside.
#pragma once

#include <cstdlib>
#include <cstring>
#include <string_view>

#include "base/bytes.h"

namespace lbd::dm {

template <class T>
T load(base::bytes_view from, size_t offset) noexcept {
  if (offset > from.size() || from.size() - offset < sizeof(T)) std::abort();
  T v;
  std::memcpy(&v, from.data() + offset, sizeof v);
  return v;
}
template <class T>
void store(base::bytes_span to, size_t offset, T v) noexcept {
  if (offset > to.size() || to.size() - offset < sizeof(T)) std::abort();
  std::memcpy(to.data() + offset, &v, sizeof v);
}
inline void store_text(base::bytes_span to, size_t offset, std::string_view text) noexcept {
  if (offset > to.size() || to.size() - offset < text.size()) std::abort();
  if (!text.empty()) std::memcpy(to.data() + offset, text.data(), text.size());
}
// Everything here begins at multiples of eight.
constexpr size_t align(size_t n) noexcept { return (n + 7) & ~size_t{7}; }

// Places in the header.
inline constexpr size_t at_version = 0, at_data_size = 12, at_data_start = 16, at_target_count = 20,
                        at_open_count = 24, at_flags = 28, at_event_number = 32, at_device = 40,
                        at_name = 48, at_uuid = 176;
// Sizes of what stands before a text: a table's line, a listed device, a version, a message, deps.
inline constexpr size_t spec_bytes = 40, name_list_bytes = 12, versions_bytes = 16,
                        message_bytes = 8, deps_bytes = 8;

}  // namespace lbd::dm
