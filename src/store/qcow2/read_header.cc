// SPDX-License-Identifier: MIT
#include "store/qcow2/read_header.h"

#include <algorithm>

namespace lbd::store {

using base::failure;
using base::outcome;
using rt::task;

namespace {

task<outcome<std::vector<std::byte>>> read_start(rt::file& file, uint64_t length) {
  std::vector<std::byte> bytes(length);
  auto r = co_await file.read_all(0, bytes);
  if (!r) co_return failure{r.error().code, "cannot be read: " + base::to_string(r.error().code)};
  co_return bytes;
}

}  // namespace

task<outcome<qcow2::header>> read_header(rt::file& file, uint64_t file_bytes) {
  constexpr uint64_t probe_bytes = 24;
  CO_TRY(const auto probe, co_await read_start(file, std::min(file_bytes, probe_bytes)));
  CO_TRY(const uint64_t cluster_size, qcow2::probe_cluster_size(probe));
  CO_TRY(const auto start, co_await read_start(file, std::min(file_bytes, cluster_size)));
  CO_TRY(qcow2::header h, qcow2::parse_header(start));
  CO_CHECK(qcow2::check_supported(h));
  CO_CHECK(qcow2::check_layout(h, file_bytes));
  co_return h;
}

}  // namespace lbd::store
