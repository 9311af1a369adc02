// SPDX-License-Identifier: MIT
// Whether a thread that has nothing to do should look for work a moment longer before it sleeps.
#pragma once

#include <algorithm>
#include <cstdint>

namespace lbd::rt {

// Remembers how long a thread was idle between pieces of work. What counts is what most of its idle
// time is made of, so each gap counts with its own length: short gaps between long ones (a client's
// next request, after an answer that took a while) would win nothing that matters, and looking for
// work during the long ones takes the processor from whoever works for the answer.
class idle_pace {
 public:
  // `most_ns`: the longest look; 0 is never.
  explicit idle_pace(uint64_t most_ns) noexcept : most_ns_(most_ns) {}

  // How long to look for work now; 0: sleep at once. Of use after work has come quickly a few
  // times.
  uint64_t look_ns() const noexcept {
    const uint64_t usual_ns = squares_ / std::max<uint64_t>(gaps_ns_, 1);
    return usual_ns > most_ns_ ? 0 : std::min(most_ns_, usual_ns * 2 + 2'000);
  }

  // Work came after `gap_ns` without any. One long gap is no reason to forget all that was before.
  void note(uint64_t gap_ns) noexcept {
    gap_ns = std::min(gap_ns, most_ns_ * 8);
    gaps_ns_ = gaps_ns_ - gaps_ns_ / 8 + gap_ns;
    squares_ = squares_ - squares_ / 8 + gap_ns * gap_ns;
  }

 private:
  const uint64_t most_ns_;
  // Sums that fade; at first as if there had been one very long gap.
  uint64_t gaps_ns_ = most_ns_ * 8;
  uint64_t squares_ = gaps_ns_ * gaps_ns_;
};

}  // namespace lbd::rt
