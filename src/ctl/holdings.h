// SPDX-License-Identifier: MIT
// Which layer holds what of an open stack, as runs.
#pragma once

#include <optional>
#include <vector>

#include "ctl/stack_builder.h"

namespace lbd::ctl {

enum class held_kind {
  data,
  compressed,  // data that the layer unpacks
  zero,        // a layer says that it reads as zeros (a hole of a flat file, too)
  nothing,     // no layer holds it: zeros
};
const char* to_string(held_kind kind) noexcept;

struct held_run {
  uint64_t offset = 0, length_bytes = 0;
  held_kind kind = held_kind::nothing;
  std::optional<size_t> layer;  // index, 0 is the topmost
};

// The run at `offset`, at most `length` bytes and at least 1; neighbours may be of one kind.
rt::task<base::result<held_run>> find_holder(overlay::device& over,
                                             const std::vector<open_layer>& layers, uint64_t offset,
                                             uint64_t length);

// Joins `next` to the last run if it goes on where that ends.
void append_run(std::vector<held_run>& to, const held_run& next);

}  // namespace lbd::ctl
