// SPDX-License-Identifier: MIT
#pragma once

#include "format/qcow2/header.h"
#include "rt/file.h"

namespace lbd::store {

// The header of an image, parsed and found to be supported, its tables in place. Errors: as a
// clause to be put after the file's name.
rt::task<base::outcome<qcow2::header>> read_header(rt::file& file, uint64_t file_bytes);

}  // namespace lbd::store
