// SPDX-License-Identifier: MIT
#include "measure.h"

#include <gtest/gtest.h>
#include <unistd.h>

namespace lbd::bench {
namespace {

TEST(Histogram, PercentilesAreAtMostThreePercentAbove) {
  histogram h;
  for (std::uint64_t ns = 1; ns <= 1'000'000; ns++) h.add(ns);
  EXPECT_EQ(h.count(), 1'000'000U);
  EXPECT_EQ(h.max_ns(), 1'000'000U);
  EXPECT_DOUBLE_EQ(h.mean_ns(), 500'000.5);
  for (const double share : {0.001, 0.1, 0.5, 0.9, 0.99, 0.999, 1.0}) {
    const double exact = share * 1e6;
    EXPECT_GE(static_cast<double>(h.percentile_ns(share)), exact);
    EXPECT_LE(static_cast<double>(h.percentile_ns(share)), exact * 1.032);
  }
}

TEST(Histogram, HoldsTheWholeRange) {
  histogram h;
  h.add(0);
  h.add(UINT64_MAX);
  EXPECT_EQ(h.percentile_ns(0.5), 0U);
  EXPECT_EQ(h.percentile_ns(1.0), UINT64_MAX);
  h.clear();
  EXPECT_EQ(h.count(), 0U);
  EXPECT_EQ(h.percentile_ns(0.99), 0U);
}

TEST(ProcessTreeCpu, SeesWorkThatIsDone) {
  process_tree_cpu cpu(getpid());
  cpu.start();
  const std::uint64_t before = own_cpu_ns();
  while (own_cpu_ns() - before < 20'000'000) {
  }
  EXPECT_GE(cpu.elapsed_ns(), 20'000'000U);
  EXPECT_LT(cpu.elapsed_ns(), 2'000'000'000U);
  EXPECT_EQ(cpu.processes(), 1U);
}

}  // namespace
}  // namespace lbd::bench
