// SPDX-License-Identifier: MIT
// What is counted in parts of a device because somebody asked for it: the kernel's `@stats_...`
// messages, which dmsetup stats and dmstats send. Source: the kernel's description of the
// device-mapper's statistics.
//
// Messages come on reactor 0, requests are counted on any. A list of regions never changes, it is
// replaced; a request ends in the list that it began in, so that an old one stays until nobody is
// in it: the next message that makes a list looks for such.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "block/device.h"

namespace lbd::stack {

class region_stats {
 public:
  struct list;
  // A request under way, as begin() has noted it; in sectors of 512 bytes.
  struct request {
    list* in = nullptr;  // null: nobody counts it
    uint64_t first = 0, last = 0, began_ns = 0;
    bool is_write = false, merged = false;
  };

  region_stats();
  ~region_stats();
  region_stats(const region_stats&) = delete;
  region_stats& operator=(const region_stats&) = delete;

  bool counts() const noexcept { return active_.load(std::memory_order_relaxed) != nullptr; }
  // Any reactor. Only what carries sectors is counted; discards and zeros are writes.
  request begin(block::op what, uint64_t offset, uint64_t bytes, uint64_t now_ns) noexcept;
  static void end(const request& r, uint64_t now_ns) noexcept;

  // Whether message() knows the word.
  static bool knows(std::string_view word) noexcept;
  // Its words, the first included. Errors: inval, noent (no such region), nomem (too many areas
  // or regions).
  base::outcome<std::string> message(std::vector<std::string> words, uint64_t device_sectors,
                                     uint64_t now_ns);
  // REQUIRES: no request is under way.
  void forget_old() noexcept;

 private:
  struct area;
  struct region;
  using words_left = std::vector<std::string>;
  using answer = base::outcome<std::string>;

  // The region that the second word means.
  base::outcome<std::shared_ptr<region>> find(const words_left& words) const;
  void replace(std::vector<std::shared_ptr<region>> regions);
  void forget_unused() noexcept;
  answer create(words_left words, uint64_t device_sectors, uint64_t now_ns);
  answer remove(const words_left& words);
  answer clear(const words_left& words);
  answer print(const words_left& words, bool clears);
  answer show(const words_left& words) const;
  answer set_aux(const words_left& words);

  uint64_t cost_ = 0;                         // of all regions that are kept
  std::vector<std::unique_ptr<list>> lists_;  // the last one is the present one
  std::atomic<list*> active_{nullptr};
  std::atomic<uint64_t> entering_{0};       // requests that are about to say which list they are in
  std::atomic<uint64_t> last_{UINT64_MAX};  // where the last request ended, for `merged`
};

}  // namespace lbd::stack
