// SPDX-License-Identifier: MIT
#include "format/qcow2/corruption.h"

namespace lbd::qcow2 {

corruption corruption_of(base::io_error error) noexcept {
  if (error.code != base::errc::io) return corruption::none;
  auto first = static_cast<uint16_t>(corruption::unaligned);
  auto last = static_cast<uint16_t>(corruption::refcount_mismatch);
  if (error.detail < first || error.detail > last) return corruption::none;
  return static_cast<corruption>(error.detail);
}

std::string_view describe(corruption reason) noexcept {
  switch (reason) {
    case corruption::none:
      return "no corruption";
    case corruption::unaligned:
      return "an offset is not on a cluster boundary";
    case corruption::outside_file:
      return "an offset lies beyond the end of the file";
    case corruption::overlaps_metadata:
      return "an offset points into the image's own tables";
    case corruption::reserved_bits:
      return "reserved bits are set";
    case corruption::zero_flag_in_version_2:
      return "a zero flag in a version 2 image";
    case corruption::subcluster_conflict:
      return "a subcluster is both allocated and zero";
    case corruption::allocated_without_offset:
      return "an allocated entry has no host offset";
    case corruption::bad_compressed_data:
      return "a compressed cluster does not decompress";
    case corruption::refcount_mismatch:
      return "a cluster in use has a refcount of 0";
  }
  return "unknown corruption";
}

}  // namespace lbd::qcow2
