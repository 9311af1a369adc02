// SPDX-License-Identifier: MIT
#include "sim/qcow2_check.h"

#include <cinttypes>
#include <cstdio>
#include <map>

namespace lbd::sim {
namespace {

constexpr uint64_t offset_mask = 0x00fffffffffffe00;
constexpr uint64_t copied_flag = uint64_t{1} << 63;
constexpr uint64_t compressed_flag = uint64_t{1} << 62;

std::string hex(uint64_t v) {
  char text[24];
  std::snprintf(text, sizeof text, "0x%" PRIx64, v);
  return text;
}

class checker {
 public:
  checker(base::bytes_view image, qcow2_findings& found) : image_(image), found_(found) {}

  void run() {
    if (!read_header()) return;
    count(0, 1, "header");
    count_table(refcount_table_, refcount_table_clusters_, "refcount table");
    count_table(l1_offset_, (l1_entries_ * 8 + cluster_ - 1) / cluster_, "L1 table");
    walk_refcount_blocks();
    for (uint64_t i = 0; i < l1_entries_; ++i) walk_l1_entry(i);
    compare();
  }

 private:
  void error(const std::string& text) {
    if (found_.errors.size() < 20) found_.errors.push_back(text);
  }
  // Beyond the end of the file there are zeros.
  uint64_t word(uint64_t offset) const noexcept {
    if (offset > image_.size() || image_.size() - offset < 8) return 0;
    return base::load_big<uint64_t>(image_, offset);
  }
  uint32_t half(uint64_t offset) const noexcept { return base::load_big<uint32_t>(image_, offset); }

  bool read_header() {
    if (image_.size() < 104 || half(0) != 0x514649fb) {
      error("no qcow2 header");
      return false;
    }
    const uint32_t version = half(4), cluster_bits = half(20);
    if (version < 2 || version > 3 || cluster_bits < 9 || cluster_bits > 21) {
      error("bad version or cluster size");
      return false;
    }
    cluster_bits_ = cluster_bits;
    cluster_ = uint64_t{1} << cluster_bits;
    size_ = word(24);
    l1_entries_ = half(36);
    l1_offset_ = word(40);
    refcount_table_ = word(48);
    refcount_table_clusters_ = half(56);
    if (half(60) != 0) error("internal snapshots");
    const uint64_t incompatible = version == 3 ? word(72) : 0;
    refcount_order_ = version == 3 ? half(96) : 4;
    extended_ = (incompatible & 16) != 0;
    if ((incompatible & 1) != 0) error("the dirty bit is set");
    if ((incompatible & 2) != 0) error("the corrupt bit is set");
    if (refcount_order_ > 6) error("bad refcount width");
    const uint64_t l2_entries = cluster_ / (extended_ ? 16 : 8);
    const uint64_t needed = (size_ + cluster_ * l2_entries - 1) / (cluster_ * l2_entries);
    if (l1_entries_ < needed) error("the L1 table is too short");
    return refcount_order_ <= 6;
  }

  void count(uint64_t offset, uint64_t length, const std::string& who) {
    if (offset + length > image_.size() && offset + length - image_.size() >= cluster_)
      error(who + " at " + hex(offset) + " lies beyond the end of the file");
    for (uint64_t c = offset / cluster_; c <= (offset + length - 1) / cluster_; ++c) ++uses_[c];
  }
  void count_table(uint64_t offset, uint64_t clusters, const std::string& who) {
    if (offset % cluster_ != 0) error(who + " is not aligned");
    if (clusters != 0) count(offset, clusters * cluster_, who);
  }

  void walk_refcount_blocks() {
    const uint64_t entries = refcount_table_clusters_ * cluster_ / 8;
    for (uint64_t i = 0; i < entries; ++i) {
      const uint64_t block = word(refcount_table_ + i * 8);
      if (block == 0) continue;
      if (block % cluster_ != 0 || block > image_.size()) {
        error("refcount block " + std::to_string(i) + " at " + hex(block));
        continue;
      }
      count(block, cluster_, "refcount block");
    }
  }

  uint64_t refcount(uint64_t cluster) const noexcept {
    const uint64_t bits = uint64_t{1} << refcount_order_;
    const uint64_t per_block = cluster_ * 8 / bits;
    if (cluster / per_block >= refcount_table_clusters_ * cluster_ / 8) return 0;
    const uint64_t block = word(refcount_table_ + cluster / per_block * 8);
    if (block == 0) return 0;
    uint64_t value = 0;
    const uint64_t first_bit = cluster % per_block * bits;
    if (bits < 8) {
      const uint64_t at = block + first_bit / 8;
      const auto byte = at < image_.size() ? static_cast<uint64_t>(image_[at]) : 0;
      return byte >> (first_bit % 8) & ((uint64_t{1} << bits) - 1);
    }
    for (uint64_t i = 0; i < bits / 8; ++i) {
      const uint64_t at = block + first_bit / 8 + i;
      value = value << 8 | (at < image_.size() ? static_cast<uint64_t>(image_[at]) : 0);
    }
    return value;
  }

  void check_copied(bool copied, uint64_t offset, const std::string& who) {
    const uint64_t n = refcount(offset / cluster_);
    if (copied != (n == 1))
      error(who + " at " + hex(offset) + ": the COPIED flag is " + (copied ? "set" : "clear") +
            ", the refcount " + std::to_string(n));
  }

  void walk_l1_entry(uint64_t i) {
    const uint64_t entry = word(l1_offset_ + i * 8), table = entry & offset_mask;
    if ((entry & ~(offset_mask | copied_flag)) != 0)
      error("L1 entry " + std::to_string(i) + " has reserved bits: " + hex(entry));
    if (table == 0) return;
    if (table % cluster_ != 0) return error("L2 table " + std::to_string(i) + " is not aligned");
    count(table, cluster_, "L2 table");
    check_copied((entry & copied_flag) != 0, table, "L2 table");
    const uint64_t entry_bytes = extended_ ? 16 : 8;
    for (uint64_t k = 0; k < cluster_ / entry_bytes; ++k) {
      const uint64_t guest = (i * (cluster_ / entry_bytes) + k) * cluster_;
      walk_l2_entry(guest, word(table + k * entry_bytes),
                    extended_ ? word(table + k * entry_bytes + 8) : 0);
    }
  }

  void walk_l2_entry(uint64_t guest, uint64_t entry, uint64_t bitmap) {
    const std::string who = "guest cluster " + hex(guest);
    if ((entry & compressed_flag) != 0) {
      const uint32_t shift = 62 - (cluster_bits_ - 8);
      const uint64_t offset = entry & ((uint64_t{1} << shift) - 1);
      const uint64_t sectors = ((entry & ~(copied_flag | compressed_flag)) >> shift) + 1;
      count(offset / 512 * 512, sectors * 512, who);
      if ((entry & copied_flag) != 0) error(who + ": compressed and COPIED");
      return;
    }
    const uint64_t offset = entry & offset_mask;
    if (extended_) {
      if ((entry & 1) != 0) error(who + ": reserved zero flag");
      if (((bitmap >> 32) & bitmap & 0xffffffff) != 0)
        error(who + ": subclusters both allocated and zero");
      if (offset == 0 && (bitmap & 0xffffffff) != 0)
        error(who + ": subclusters allocated without a cluster");
    }
    if (offset == 0) {
      if ((entry & copied_flag) != 0) error(who + ": COPIED without a cluster");
      return;
    }
    if (offset % cluster_ != 0) return error(who + ": not aligned: " + hex(offset));
    ++found_.data_clusters;
    count(offset, cluster_, who);
    check_copied((entry & copied_flag) != 0, offset, who);
  }

  void compare() {
    const uint64_t clusters = (image_.size() + cluster_ - 1) / cluster_;
    const uint64_t end = uses_.empty() ? clusters : std::max(clusters, uses_.rbegin()->first + 1);
    for (uint64_t c = 0; c < end; ++c) {
      const auto i = uses_.find(c);
      const uint64_t wanted = i == uses_.end() ? 0 : i->second, has = refcount(c);
      if (has > wanted) ++found_.leaked_clusters;
      if (has < wanted)
        error("cluster " + hex(c * cluster_) + ": refcount " + std::to_string(has) + ", used " +
              std::to_string(wanted) + " times");
    }
  }

  base::bytes_view image_;
  qcow2_findings& found_;
  uint64_t cluster_ = 0, size_ = 0, l1_entries_ = 0, l1_offset_ = 0;
  uint64_t refcount_table_ = 0, refcount_table_clusters_ = 0;
  uint32_t cluster_bits_ = 0, refcount_order_ = 4;
  bool extended_ = false;
  std::map<uint64_t, uint64_t> uses_;
};

}  // namespace

qcow2_findings check_qcow2(base::bytes_view image) {
  qcow2_findings found;
  checker c(image, found);
  c.run();
  return found;
}

}  // namespace lbd::sim
