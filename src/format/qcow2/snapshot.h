// SPDX-License-Identifier: MIT
// The table of internal snapshots. Source: QEMU's docs/interop/qcow2 ("Snapshots").
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "format/qcow2/header.h"

namespace lbd::qcow2 {

struct snapshot {
  uint64_t l1_offset = 0;
  uint32_t l1_entries = 0;
  std::string id;
  std::string name;
  uint64_t time_s = 0;  // since the Epoch
  uint32_t time_ns = 0;
  uint64_t vm_state_bytes = 0;
  uint64_t size_bytes = 0;  // of the guest disk when it was taken; the image's where not recorded
};

struct snapshot_table {
  std::vector<snapshot> snapshots;
  uint64_t bytes = 0;  // of the whole table
};

// `table` starts at snapshots_offset. errc::overflow: the table needs more bytes than given (the
// caller reads on, up to max_snapshot_table_bytes). Every L1 table is checked to be aligned, inside
// a file of `file_bytes`, and within its limit.
base::outcome<snapshot_table> parse_snapshot_table(const header& h, base::bytes_view table,
                                                   uint64_t file_bytes);

}  // namespace lbd::qcow2
