// SPDX-License-Identifier: MIT
#include "target/snapshot/params.h"

#include <string.h>
#include <strings.h>

#include "base/log.h"

namespace lbd::snapshot {

using base::errc;
using base::failure;
using base::outcome;

namespace {

constexpr size_t fixed_words = 4, features_most = 2;

}  // namespace

outcome<params> parse_params(const std::vector<std::string>& args) {
  if (args.size() < fixed_words) return failure{errc::inval, "requires 4 or more arguments"};
  params p;
  p.origin = args[0];
  p.store = args[1];
  p.type_word = args[2];
  p.chunk_word = args[3];
  if (args.size() == fixed_words) return p;
  const auto count = block::parse_u32(args[fixed_words]);
  const size_t left = args.size() - fixed_words - 1;
  if (!count || *count > features_most || *count > left)
    return failure{errc::inval, "Invalid number of feature arguments"};
  for (size_t i = 0; i < *count; ++i) {
    const char* word = args[fixed_words + 1 + i].c_str();
    if (::strcasecmp(word, "discard_zeroes_cow") == 0)
      p.discard_zeroes_cow = true;
    else if (::strcasecmp(word, "discard_passdown_origin") == 0)
      p.discard_passdown_origin = true;
    else
      return failure{errc::inval, "Unrecognised feature requested"};
  }
  if (p.discard_passdown_origin && !p.discard_zeroes_cow)
    return failure{errc::inval, "discard_passdown_origin feature depends on discard_zeroes_cow"};
  return p;
}

outcome<store_words> read_store_words(const params& p, uint32_t store_block_bytes,
                                      uint32_t origin_block_bytes, std::string& why) {
  auto refused = [&why](const char* part, std::string text) {
    base::log_error("device-mapper", part + (": " + text));
    why = std::move(text);
    return failure{errc::inval, "Couldn't create exception store"};
  };
  const char* stores = "snapshot exception stores";
  std::string error;
  const bool known = !p.type_word.empty() && ::strchr("PpNn", p.type_word[0]) != nullptr;
  if (!known) return refused(stores, "Exception store type is not P or N");
  const auto sectors = block::parse_kstrtouint(p.chunk_word);
  if (!sectors) return refused(stores, "Invalid chunk size");
  if (*sectors != 0)
    if (const char* wrong =
            dm_snapshot::chunk_size_error(*sectors, store_block_bytes, origin_block_bytes))
      return refused(stores, wrong);
  const auto type = dm_snapshot::parse_store_type(p.type_word, error);
  if (!type) return refused("persistent snapshot", error);
  return store_words{*type, *sectors};
}

}  // namespace lbd::snapshot
