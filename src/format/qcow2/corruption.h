// SPDX-License-Identifier: MIT
// What can be wrong with a pointer or an entry of an image. On the data path it travels as
// io_error{errc::io, detail = the reason}.
#pragma once

#include <cstdint>
#include <string_view>

#include "base/result.h"

namespace lbd::qcow2 {

enum class corruption : uint16_t {
  none = 0,
  unaligned = 0x5100,        // an offset that must lie on a cluster boundary does not
  outside_file,              // an offset beyond the end of the file
  overlaps_metadata,         // points into the header, the L1 table or the refcount table
  reserved_bits,             // bits that must be zero are set
  zero_flag_in_version_2,    // version 2 has no zero clusters
  subcluster_conflict,       // a subcluster is both allocated and zero
  allocated_without_offset,  // allocated subclusters or the COPIED flag without a host cluster
  bad_compressed_data,       // does not decompress to a cluster
  refcount_mismatch,         // a cluster in use has a refcount of 0
};

constexpr base::io_error corrupt(corruption reason) noexcept {
  return {base::errc::io, static_cast<uint16_t>(reason)};
}

// The reason in an error's detail, `none` when the detail is of another kind.
corruption corruption_of(base::io_error error) noexcept;

std::string_view describe(corruption reason) noexcept;

}  // namespace lbd::qcow2
