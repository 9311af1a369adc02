// SPDX-License-Identifier: MIT
#include "target/flakey/params.h"

#include <strings.h>

#include "block/target.h"

namespace lbd::target {
namespace {

using base::errc;
using base::failure;
using base::outcome;

constexpr uint32_t words_most = 11;
constexpr uint32_t probability_most = 1'000'000'000;

failure refused(std::string text) { return failure{errc::inval, std::move(text)}; }

// The feature words. Their announced number counts down and wraps around, as the kernel's does: a
// number that ends inside of a feature makes it look for words that are not there.
class feature_reader {
 public:
  feature_reader(const std::vector<std::string>& args, size_t next, flakey_params& p)
      : args_(args), next_(next), p_(p) {}

  outcome<void> read_all() {
    if (next_ >= args_.size()) return {};
    const auto count = block::parse_u32(args_[next_++]);
    if (!count || *count > words_most || *count > args_.size() - next_)
      return refused("Invalid number of feature args");
    left_ = *count;
    while (left_ != 0) {
      const std::string* word = take();
      if (word == nullptr) return refused("Insufficient feature arguments");
      CHECK(read_feature(*word));
    }
    if (p_.corrupt_byte != 0 && p_.corrupt_writes && (p_.drop_writes || p_.error_writes))
      return refused(std::string(p_.drop_writes ? "drop_writes" : "error_writes") +
                     " is incompatible with corrupt_bio_byte with the WRITE flag set");
    return {};
  }

 private:
  const std::string* take() {
    if (next_ >= args_.size()) return nullptr;
    --left_;
    return &args_[next_++];
  }
  static bool same(const std::string& word, const char* name) {
    return ::strcasecmp(word.c_str(), name) == 0;
  }

  outcome<void> read_feature(const std::string& word) {
    if (same(word, "error_reads")) return set(p_.error_reads, "error_reads", nullptr, false);
    if (same(word, "drop_writes"))
      return set(p_.drop_writes, "drop_writes", "error_writes", p_.error_writes);
    if (same(word, "error_writes"))
      return set(p_.error_writes, "error_writes", "drop_writes", p_.drop_writes);
    if (same(word, "corrupt_bio_byte")) return read_corrupt_byte();
    if (same(word, "random_read_corrupt"))
      return read_random("random_read_corrupt", p_.random_read_corrupt);
    if (same(word, "random_write_corrupt"))
      return read_random("random_write_corrupt", p_.random_write_corrupt);
    return refused("Unrecognised flakey feature requested");
  }

  static outcome<void> set(bool& flag, std::string name, const char* other, bool other_is_set) {
    if (std::exchange(flag, true)) return refused("Feature " + name + " duplicated");
    if (other_is_set)
      return refused("Feature " + name + " conflicts with feature " + std::string(other));
    return {};
  }

  outcome<void> number(uint32_t least, uint32_t most, const char* error, uint32_t& out) {
    const std::string* word = take();
    const auto n = word != nullptr ? block::parse_u32(*word) : std::nullopt;
    if (!n || *n < least || *n > most) return refused(error);
    out = *n;
    return {};
  }

  outcome<void> read_corrupt_byte() {
    if (left_ == 0) return refused("Feature corrupt_bio_byte requires parameters");
    CHECK(number(1, UINT32_MAX, "Invalid corrupt bio byte", p_.corrupt_byte));
    const std::string* direction = take();
    if (direction == nullptr || (!same(*direction, "r") && !same(*direction, "w")))
      return refused("Invalid corrupt bio direction (r or w)");
    p_.corrupt_writes = same(*direction, "w");
    uint32_t value = 0;
    CHECK(number(0, 255, "Invalid corrupt value to write into bio byte (0-255)", value));
    p_.corrupt_value = static_cast<uint8_t>(value);
    return number(0, UINT32_MAX, "Invalid corrupt bio flags mask", p_.corrupt_flags);
  }

  outcome<void> read_random(std::string name, uint32_t& out) {
    if (left_ == 0) return refused("Feature " + name + " requires a parameter");
    return number(0, probability_most, "Invalid random corrupt argument", out);
  }

  const std::vector<std::string>& args_;
  size_t next_;
  uint32_t left_ = 0;
  flakey_params& p_;
};

}  // namespace

outcome<flakey_params> parse_flakey(const std::vector<std::string>& args) {
  flakey_params p;
  const auto start = block::parse_u64(args[1]);
  if (!start) return refused("Invalid device sector");
  p.start_sector = *start;
  // The kernel has one text for both intervals.
  const auto up = block::parse_u32(args[2]), down = block::parse_u32(args[3]);
  if (!up || !down) return refused("Invalid up interval");
  p.up_s = *up;
  p.down_s = *down;
  if (p.up_s + p.down_s == 0) return refused("Total (up + down) interval is zero");
  if (p.up_s + p.down_s < p.up_s) return refused("Interval overflow");
  CHECK(feature_reader(args, 4, p).read_all());
  return p;
}

std::string flakey_text(const flakey_params& p) {
  std::string words;
  unsigned count = 0;
  auto add = [&](unsigned n, const std::string& text) {
    count += n;
    words += text + " ";
  };
  if (p.error_reads) add(1, "error_reads");
  if (p.drop_writes) add(1, "drop_writes");
  if (p.error_writes) add(1, "error_writes");
  if (p.corrupt_byte != 0)
    add(5, "corrupt_bio_byte " + std::to_string(p.corrupt_byte) +
               (p.corrupt_writes ? " w " : " r ") + std::to_string(p.corrupt_value) + " " +
               std::to_string(p.corrupt_flags));
  if (p.random_read_corrupt != 0)
    add(2, "random_read_corrupt " + std::to_string(p.random_read_corrupt));
  if (p.random_write_corrupt != 0)
    add(2, "random_write_corrupt " + std::to_string(p.random_write_corrupt));
  return std::to_string(p.start_sector) + " " + std::to_string(p.up_s) + " " +
         std::to_string(p.down_s) + " " + std::to_string(count) + " " + words;
}

}  // namespace lbd::target
