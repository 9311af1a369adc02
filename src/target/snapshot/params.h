// SPDX-License-Identifier: MIT
// The words of snapshot and snapshot-merge:
//   <origin> <store> <P|PO|N> <chunk sectors> [<#features> <feature>...]
// Without the feature words it is the syntax of kernels before 5.3.
#pragma once

#include <string>
#include <vector>

#include "block/target.h"
#include "format/dm_snapshot/dm_snapshot.h"

namespace lbd::snapshot {

struct params {
  std::string origin, store;
  std::string type_word, chunk_word;  // read_store_words() looks at them
  bool discard_zeroes_cow = false;
  bool discard_passdown_origin = false;
};

// Errors in the kernel's words.
base::outcome<params> parse_params(const std::vector<std::string>& args);

struct store_words {
  dm_snapshot::store_type type;
  uint32_t chunk_sectors = 0;  // 0: as the store says
};
// What is wrong with them is logged, and in `why`; the table's error names only the store.
base::outcome<store_words> read_store_words(const params& p, uint32_t store_block_bytes,
                                            uint32_t origin_block_bytes, std::string& why);

}  // namespace lbd::snapshot
