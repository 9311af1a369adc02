// SPDX-License-Identifier: MIT
// What a new image looks like: header, refcount table, refcount blocks, L1 table, one after the
// other.
#pragma once

#include <vector>

#include "format/qcow2/header.h"
#include "rt/file.h"

namespace lbd::store {

struct new_change_file;

struct new_image {
  qcow2::header header;
  uint64_t blocks_offset = 0;  // of the refcount blocks, in bytes
  uint64_t clusters = 0;       // in use, from the start of the file
};

// Errors: inval, naming what does not fit.
base::outcome<new_image> lay_out(const new_change_file& what);

// Writes it to an empty file: the header last, when everything else is durable.
rt::task<base::result<void>> write_image(rt::file& file, const new_image& image);

// Clusters of a refcount table that can count every cluster the image will ever have, when it has
// `clusters` already.
uint64_t refcount_table_clusters(const qcow2::geometry& g, uint64_t clusters);

}  // namespace lbd::store
