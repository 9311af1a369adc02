// SPDX-License-Identifier: MIT
#include "stack/counters.h"

namespace lbd::stack {

uint64_t op_totals::percentile_ns(double part) const noexcept {
  uint64_t all = 0;
  for (const uint64_t n : latency) all += n;
  if (all == 0) return 0;
  const auto wanted = static_cast<uint64_t>(part * static_cast<double>(all));
  uint64_t seen = 0;
  for (size_t i = 0; i < latency.size(); ++i) {
    seen += latency[i];
    if (seen > wanted || seen == all) return uint64_t{2} << i;
  }
  return uint64_t{2} << (latency_buckets - 1);
}

device_totals device_counters::totals() const noexcept {
  device_totals sum{};
  for (const slot& s : slots_)
    for (size_t op = 0; op < block::op_count; ++op) {
      const per_op& from = s.ops[op];
      op_totals& to = sum[op];
      to.requests += from.requests.get();
      to.bytes += from.bytes.get();
      to.errors += from.errors.get();
      for (size_t i = 0; i < latency_buckets; ++i) to.latency[i] += from.latency[i].get();
    }
  return sum;
}

}  // namespace lbd::stack
