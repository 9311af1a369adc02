// SPDX-License-Identifier: MIT
#include "block/counters.h"

namespace lbd::block {

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

void op_counters::add_to(op_totals& sum) const noexcept {
  sum.requests += requests_.get();
  sum.bytes += bytes_.get();
  sum.errors += errors_.get();
  for (size_t i = 0; i < latency_buckets; ++i) sum.latency[i] += latency_[i].get();
}

}  // namespace lbd::block
