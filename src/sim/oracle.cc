// SPDX-License-Identifier: MIT
#include "sim/oracle.h"

#include <algorithm>
#include <cstring>

#include "sim/disk.h"
#include "sim/random.h"

namespace lbd::sim {

void fill_stamped(uint32_t stamp, uint64_t offset, base::bytes_span to) noexcept {
  if (stamp == 0) {
    std::fill(to.begin(), to.end(), std::byte{0});
    return;
  }
  const uint64_t salt = mix(stamp);
  for (size_t done = 0; done < to.size();) {
    const uint64_t at = offset + done;
    const uint64_t word = mix(salt ^ (at / 8));
    const size_t skip = at % 8, n = std::min(8 - skip, to.size() - done);
    std::memcpy(to.data() + done, reinterpret_cast<const std::byte*>(&word) + skip, n);
    done += n;
  }
}

oracle::oracle(std::vector<std::byte> content)
    : base_(std::move(content)), by_sector_(base_.size() / sector_bytes) {}

size_t oracle::begin_write(uint64_t offset, uint64_t length, uint32_t stamp) {
  const size_t id = writes_.size();
  write w{};
  w.offset = offset;
  w.end = offset + length;
  w.stamp = stamp;
  w.submitted = ++now_;
  w.answered = never;
  writes_.push_back(w);
  for (uint64_t s = offset / sector_bytes; s * sector_bytes < w.end; ++s)
    by_sector_[s].push_back(id);
  return id;
}

void oracle::end_write(size_t id, bool ok, bool durable) {
  writes_[id].answered = ++now_;
  writes_[id].ok = ok;
  writes_[id].durable = ok && durable;
  // A write through that failed is a failed flush as well.
  if (!ok && durable) flush_failed_ = true;
}

void oracle::end_flush(uint64_t began, bool ok) {
  ++now_;
  if (!ok) {
    flush_failed_ = true;
    return;
  }
  for (write& w : writes_)
    if (w.ok && w.answered < began) w.durable = true;
}

// Whether bytes of `older` can no longer be seen where `newer` has written.
bool oracle::replaces(const write& newer, const write& older, rule how,
                      uint64_t began) const noexcept {
  if (!newer.ok || newer.submitted < older.answered) return false;
  if (how == rule::crashed) return newer.durable;
  return newer.answered < began && (newer.durable || !flush_failed_);
}

bool oracle::holds(const write& w, uint64_t offset, base::bytes_view found) const noexcept {
  if (w.stamp == 0) return base::is_zero(found);
  std::byte expected[sector_bytes];
  fill_stamped(w.stamp, offset, {expected, found.size()});
  return std::memcmp(expected, found.data(), found.size()) == 0;
}

// A part of a sector that every write in `here` covers wholly.
std::string oracle::check_part(const std::vector<size_t>& here, uint64_t offset,
                               base::bytes_view found, rule how, uint64_t began) const {
  std::vector<size_t> allowed;
  bool base_allowed = true;
  write nothing{};
  nothing.answered = 0;
  for (const size_t id : here) {
    const write& w = writes_[id];
    const auto gone = [&](const write& old) {
      return std::any_of(here.begin(), here.end(),
                         [&](size_t other) { return replaces(writes_[other], old, how, began); });
    };
    if (replaces(w, nothing, how, began)) base_allowed = false;
    if (gone(w)) continue;
    if (holds(w, offset, found)) return "";
    allowed.push_back(id);
  }
  if (base_allowed && std::memcmp(base_.data() + offset, found.data(), found.size()) == 0)
    return "";
  return explain(allowed, base_allowed, offset, found);
}

std::string oracle::explain(const std::vector<size_t>& allowed, bool base_allowed, uint64_t offset,
                            base::bytes_view found) const {
  std::string text = "byte " + std::to_string(offset) + " (sector " +
                     std::to_string(offset / sector_bytes) + ", " + std::to_string(found.size()) +
                     " bytes): found ";
  std::string what;
  if (base::is_zero(found)) what = "zeros";
  if (std::memcmp(base_.data() + offset, found.data(), found.size()) == 0)
    what += what.empty() ? "the content at the start" : " (as at the start)";
  for (const write& w : writes_)
    if (w.stamp != 0 && w.offset <= offset && offset < w.end && holds(w, offset, found))
      what = "write #" + std::to_string(w.stamp);
  text += what.empty() ? "bytes that nobody wrote there" : what;
  text += "; allowed:";
  if (base_allowed) text += " the content at the start,";
  for (const size_t id : allowed)
    text += (writes_[id].stamp == 0 ? std::string(" zeros")
                                    : " write #" + std::to_string(writes_[id].stamp)) +
            (writes_[id].answered == never ? " (in flight),"
             : writes_[id].ok              ? ","
                                           : " (failed),");
  text.pop_back();
  return text;
}

// The part of one sector that `found` is; cut where writes begin or end.
std::string oracle::check_sector(uint64_t sector, uint64_t offset, base::bytes_view found, rule how,
                                 uint64_t began) const {
  const std::vector<size_t>& all = by_sector_[sector];
  const uint64_t end = offset + found.size();
  std::vector<uint64_t> cuts{offset, end};
  for (const size_t id : all)
    for (const uint64_t cut : {writes_[id].offset, writes_[id].end})
      if (cut > offset && cut < end) cuts.push_back(cut);
  std::sort(cuts.begin(), cuts.end());
  std::vector<size_t> here;
  for (size_t i = 0; i + 1 < cuts.size(); ++i) {
    if (cuts[i] == cuts[i + 1]) continue;
    here.clear();
    for (const size_t id : all)
      if (writes_[id].offset <= cuts[i] && cuts[i + 1] <= writes_[id].end) here.push_back(id);
    const auto part = found.subspan(cuts[i] - offset, cuts[i + 1] - cuts[i]);
    if (std::string wrong = check_part(here, cuts[i], part, how, began); !wrong.empty())
      return wrong;
  }
  return "";
}

std::string oracle::check_range(uint64_t offset, base::bytes_view found, rule how,
                                uint64_t began) const {
  while (!found.empty()) {
    const uint64_t sector = offset / sector_bytes;
    const size_t n = std::min<uint64_t>((sector + 1) * sector_bytes - offset, found.size());
    if (std::string wrong = check_sector(sector, offset, found.first(n), how, began);
        !wrong.empty())
      return wrong;
    offset += n;
    found = found.subspan(n);
  }
  return "";
}

std::string oracle::check_read(uint64_t began, uint64_t offset, base::bytes_view found) const {
  return check_range(offset, found, rule::running, began);
}

std::string oracle::check_zero(uint64_t began, uint64_t offset, uint64_t length) const {
  const std::vector<std::byte> zeros(length);
  return check_range(offset, zeros, rule::running, began);
}

std::string oracle::check_all(base::bytes_view found, rule how) {
  if (found.size() != base_.size()) return "the device's size has changed";
  std::string wrong = check_range(0, found, how, now_ + 1);
  base_.assign(found.begin(), found.end());
  writes_.clear();
  for (auto& list : by_sector_) list.clear();
  flush_failed_ = false;
  return wrong;
}

std::string oracle::check_after_crash(base::bytes_view found) {
  return check_all(found, rule::crashed);
}
std::string oracle::check_after_close(base::bytes_view found) {
  return check_all(found, rule::running);
}

}  // namespace lbd::sim
