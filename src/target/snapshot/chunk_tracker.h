// SPDX-License-Identifier: MIT
// Who is inside a chunk: requests of any reactor enter and leave at the cost of one fence; the home
// reactor asks whether anybody is in a chunk, and waits for those who are. Chunks share counters,
// so that somebody in another chunk may be waited for in vain; newcomers are never waited for.
//
// Order: enter() comes before the look-up that it protects, and whoever asks has changed what is
// looked up before: then either the change is seen by the look-up, or the visit by who asks.
#pragma once

#include <array>
#include <atomic>
#include <bitset>
#include <cstdint>
#include <memory>
#include <vector>

#include "rt/runtime.h"
#include "rt/sync.h"

namespace lbd::snapshot {

class chunk_tracker {
 public:
  static constexpr uint64_t chunks_most = 64;  // of one visit

  // The calling reactor becomes the home.
  explicit chunk_tracker(rt::runtime& runtime);
  // REQUIRES: nobody is inside, and close() has returned if anybody ever was.
  ~chunk_tracker() = default;
  chunk_tracker(const chunk_tracker&) = delete;
  chunk_tracker& operator=(const chunk_tracker&) = delete;

  // The cookie goes to leave(), on the same reactor. REQUIRES: 0 < count <= chunks_most, chunks
  // below 2^57.
  uint64_t enter(uint64_t first, uint64_t count) noexcept;
  void leave(uint64_t cookie) noexcept;

  // Home reactor from here on.
  bool busy(uint64_t first, uint64_t count) const noexcept;
  // Returns when all who were inside these chunks at the call have left.
  rt::task<void> drain(uint64_t first, uint64_t count);
  // Nobody comes any more: waits for the last ones to be gone.
  rt::task<void> close();

 private:
  static constexpr size_t buckets = 256;
  using bucket_set = std::bitset<buckets>;
  struct slot;
  struct wake_message : rt::message {
    slot* owner = nullptr;
  };
  struct alignas(64) slot {
    // By parity, so that newcomers can be told from those who are waited for.
    std::array<std::array<std::atomic<uint32_t>, buckets>, 2> inside{};
    std::atomic<bool> posted{false};
    wake_message wake;
    chunk_tracker* tracker = nullptr;
  };
  struct round {
    bucket_set wanted;
    rt::event over;
  };
  static void add(bucket_set& to, uint64_t first, uint64_t count) noexcept;
  bool anybody(const bucket_set& in, unsigned parity) const noexcept;
  rt::task<void> wait_for(const bucket_set& in, unsigned parity);
  rt::task<void> run_rounds();

  rt::reactor& home_;
  std::vector<slot> slots_;
  std::atomic<unsigned> parity_{0};
  std::atomic<bool> waiting_{false};
  rt::event left_;
  std::shared_ptr<round> next_round_;
  bool running_ = false;
};

}  // namespace lbd::snapshot
