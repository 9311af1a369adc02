// SPDX-License-Identifier: MIT
// What a device under test may answer. The oracle is told of every request when it starts and when
// it ends, and knows for each 512-byte sector the values that are allowed:
//   while running   what was there, or any write that no later answered one has replaced
//   after a crash   the same, but a write replaces another one only if it is durable: answered
//   before
//                   a flush was submitted that succeeded, or written through (FUA)
// A write that failed may have happened, or not, or in part. Writes of less than a sector are
// followed to the byte. Discard and write_zeroes are writes of zeros.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/bytes.h"

namespace lbd::sim {

// The bytes that write number `stamp` puts at `offset`: as unlike any other's as can be.
void fill_stamped(uint32_t stamp, uint64_t offset, base::bytes_span to) noexcept;

class oracle {
 public:
  // The device's content at the start. Its size is a multiple of 512.
  explicit oracle(std::vector<std::byte> content);

  uint64_t size_bytes() const noexcept { return base_.size(); }

  // A write of stamped bytes, or of zeros (stamp 0). The result goes to end_write().
  size_t begin_write(uint64_t offset, uint64_t length, uint32_t stamp);
  void end_write(size_t id, bool ok, bool durable);

  // The moment of a flush's or read's submission goes to its end.
  uint64_t begin() noexcept { return ++now_; }
  void end_flush(uint64_t began, bool ok);

  // "" or what is wrong. From the first failed flush on, values that a crash may bring back are
  // allowed at once: the kernel forgets what it could not write.
  std::string check_read(uint64_t began, uint64_t offset, base::bytes_view found) const;
  // The range was said to read as zeros.
  std::string check_zero(uint64_t began, uint64_t offset, uint64_t length) const;

  // After a crash and a reopening: checks every sector; what was found is the truth from now on.
  std::string check_after_crash(base::bytes_view found);
  // After an orderly end that succeeded: the same with the rules of a running device.
  std::string check_after_close(base::bytes_view found);

 private:
  static constexpr uint64_t never = UINT64_MAX;
  struct write {
    uint64_t offset, end;
    uint32_t stamp;
    uint64_t submitted;
    uint64_t answered = never;  // for good or bad
    bool ok = false;
    bool durable = false;
  };
  enum class rule { running, crashed };

  bool replaces(const write& newer, const write& older, rule how, uint64_t began) const noexcept;
  std::string check_sector(uint64_t sector, uint64_t offset, base::bytes_view found, rule how,
                           uint64_t began) const;
  std::string check_part(const std::vector<size_t>& here, uint64_t offset, base::bytes_view found,
                         rule how, uint64_t began) const;
  std::string check_range(uint64_t offset, base::bytes_view found, rule how, uint64_t began) const;
  std::string check_all(base::bytes_view found, rule how);
  std::string explain(const std::vector<size_t>& allowed, bool base_allowed, uint64_t offset,
                      base::bytes_view found) const;
  bool holds(const write& w, uint64_t offset, base::bytes_view found) const noexcept;

  std::vector<std::byte> base_;
  std::vector<write> writes_;
  std::vector<std::vector<size_t>> by_sector_;  // writes that touch it, oldest first
  uint64_t now_ = 1;
  bool flush_failed_ = false;
};

}  // namespace lbd::sim
