// SPDX-License-Identifier: MIT
// Which chunk of the origin lies in which chunk of the store. The home reactor changes it; every
// reactor looks things up, without locks, inside an epoch of the owner: what growing has replaced
// is freed by the owner after a grace period.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

namespace lbd::snapshot {

class exception_map {
 public:
  exception_map() = default;
  ~exception_map();
  exception_map(const exception_map&) = delete;
  exception_map& operator=(const exception_map&) = delete;

  struct answer {
    uint64_t value = none;
    bool found() const noexcept { return value != none; }
    // The copy is there, but reads that were sent to the origin before may still be under way: who
    // wants to write to the origin has to wait.
    bool settling() const noexcept { return (value & settling_bit) != 0; }
    // REQUIRES: found().
    uint64_t new_chunk() const noexcept { return value & ~settling_bit; }
  };
  answer find(uint64_t old_chunk) const noexcept;

  // Home reactor. New chunks are below 2^62.
  void insert(uint64_t old_chunk, uint64_t new_chunk, bool settling);
  void settle(uint64_t old_chunk) noexcept;
  void erase(uint64_t old_chunk) noexcept;
  uint64_t size() const noexcept { return size_; }
  // The largest new chunk of all entries, 0 if there is none.
  uint64_t largest_new_chunk() const noexcept;

  struct table;
  bool has_retired() const noexcept { return !retired_.empty(); }
  std::vector<std::unique_ptr<table>> take_retired() noexcept { return std::move(retired_); }

 private:
  static constexpr uint64_t none = UINT64_MAX;
  static constexpr uint64_t settling_bit = uint64_t{1} << 63;
  static constexpr uint64_t free_key = UINT64_MAX;
  // Each grows by itself, so that no growth takes long.
  static constexpr size_t shard_count = 64;

  struct slot {
    std::atomic<uint64_t> key{free_key};
    std::atomic<uint64_t> value{none};
  };
  struct place {
    size_t shard;
    uint64_t index;
  };
  static place place_of(uint64_t chunk) noexcept;
  static slot& probe(const table& t, uint64_t index, uint64_t chunk) noexcept;
  slot* existing(uint64_t chunk) const noexcept;
  void grow(size_t shard);

  std::array<std::atomic<table*>, shard_count> shards_{};
  uint64_t size_ = 0;
  std::vector<std::unique_ptr<table>> retired_;
};

struct exception_map::table {
  explicit table(uint64_t slots) : mask(slots - 1), all(new slot[slots]) {}
  const uint64_t mask;
  uint64_t used = 0;  // keys
  std::unique_ptr<slot[]> all;
};

}  // namespace lbd::snapshot
