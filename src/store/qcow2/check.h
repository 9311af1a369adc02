// SPDX-License-Identifier: MIT
// Walks a whole image and compares what its tables use with what its refcounts say, as
// `qemu-img check` does. For the repair of images that another program left dirty, and for tests.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "format/qcow2/header.h"
#include "format/qcow2/l2_entry.h"
#include "rt/file.h"

namespace lbd::store {

struct image_check {
  uint64_t errors = 0;                // would destroy data sooner or later
  uint64_t leaks = 0;                 // clusters that nobody uses: only space is lost
  std::vector<std::string> messages;  // the first few
  std::vector<uint32_t> uses;         // by host cluster: how many references there are
  std::vector<uint64_t> unused;       // counted clusters without any reference, ascending
  bool damaged = false;               // a table or an entry is broken: refcounts cannot repair that
};

// `file_bytes`: how much of the file there is. Errors: of the file, or a broken snapshot table.
rt::task<base::outcome<image_check>> check_image(rt::file& file, uint64_t file_bytes);

}  // namespace lbd::store
