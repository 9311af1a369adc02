// SPDX-License-Identifier: MIT
// Compressed clusters. Memory is bounded: a deflate window of 4 KiB, a zstd window of at most 8
// MiB.
#pragma once

#include "base/bytes.h"
#include "base/result.h"
#include "format/qcow2/header.h"

namespace lbd::qcow2 {

// Fills `cluster` entirely from `data`, which may be longer than the compressed stream (it ends
// with its sector). Errors: corruption::bad_compressed_data; errc::nomem. `cluster` is undefined
// then.
base::result<void> decompress_cluster(compression_type type, base::bytes_view data,
                                      base::bytes_span cluster) noexcept;

}  // namespace lbd::qcow2
