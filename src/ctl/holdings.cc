// SPDX-License-Identifier: MIT
#include "ctl/holdings.h"

#include <algorithm>

namespace lbd::ctl {

const char* to_string(held_kind kind) noexcept {
  switch (kind) {
    case held_kind::data:
      return "data";
    case held_kind::compressed:
      return "compressed";
    case held_kind::zero:
      return "zero";
    case held_kind::nothing:
      break;
  }
  return "nothing";
}

rt::task<base::result<held_run>> find_holder(overlay::device& over,
                                             const std::vector<open_layer>& layers, uint64_t offset,
                                             uint64_t length) {
  CO_TRY(const auto holding, co_await over.resolve(offset, length));
  held_run out;
  out.offset = offset;
  out.length_bytes = holding.length_bytes;
  if (holding.layer >= layers.size()) co_return out;
  out.layer = holding.layer;
  out.kind = holding.kind == overlay::run_kind::zero   ? held_kind::zero
             : holding.kind == overlay::run_kind::data ? held_kind::data
                                                       : held_kind::compressed;
  const open_layer& layer = layers[holding.layer];
  if (layer.flat == nullptr) co_return out;
  // A flat layer holds all its bytes; it may know which of them were never written.
  block::extent_list found(1);
  CO_CHECK(co_await layer.flat->extents(offset, out.length_bytes, found, {}));
  const block::extent& first = found.runs().front();
  out.length_bytes = std::min(out.length_bytes, first.length_bytes);
  if (first.zero) out.kind = held_kind::zero;
  co_return out;
}

void append_run(std::vector<held_run>& to, const held_run& next) {
  if (!to.empty() && to.back().kind == next.kind && to.back().layer == next.layer)
    to.back().length_bytes += next.length_bytes;
  else
    to.push_back(next);
}

}  // namespace lbd::ctl
