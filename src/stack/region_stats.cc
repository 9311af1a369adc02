// SPDX-License-Identifier: MIT
#include "stack/region_stats.h"

#include <strings.h>

#include <algorithm>
#include <cstdint>
#include <deque>
#include <optional>

#include "block/target.h"

namespace lbd::stack {

using base::errc;
using base::failure;
using base::outcome;

namespace {

constexpr uint64_t ns_per_ms = 1'000'000;
// Areas of all regions of a device, and the regions: each request looks at all of them.
constexpr uint64_t most = uint64_t{1} << 18;
constexpr size_t most_regions = size_t{1} << 13;
enum : size_t { reads, writes, kinds };

bool same(std::string_view word, const char* name) {
  return ::strcasecmp(std::string(word).c_str(), name) == 0;
}

// "1,2,5": ascending, from 1 on.
std::optional<std::vector<uint64_t>> parse_bounds(std::string_view text) {
  std::vector<uint64_t> out;
  for (size_t at = 0; at <= text.size();) {
    const size_t comma = std::min(text.find(',', at), text.size());
    const auto n = block::parse_u64(text.substr(at, comma - at));
    if (!n || *n <= (out.empty() ? 0 : out.back())) return std::nullopt;
    out.push_back(*n);
    at = comma + 1;
  }
  return out;
}

// What is counted: "-" or START+LENGTH, and the size of areas or "/" and how many.
struct range {
  uint64_t start = 0, end = 0, step = 1;
};

std::optional<range> parse_range(const std::string& where, const std::string& step,
                                 uint64_t device_sectors) {
  range r{0, std::max<uint64_t>(device_sectors, 1), 1};
  if (where != "-") {
    const size_t plus = where.find('+');
    if (plus == std::string::npos) return std::nullopt;
    const auto start = block::parse_u64(where.substr(0, plus));
    const auto length = block::parse_u64(where.substr(plus + 1));
    if (!start || !length) return std::nullopt;
    r.start = *start;
    r.end = *start + *length;
  }
  if (r.start >= r.end) return std::nullopt;
  if (step.starts_with('/')) {
    const auto count = block::parse_u32(step.substr(1));
    if (!count) return std::nullopt;
    const uint64_t parts = std::max<uint64_t>(*count, 1);
    r.step = (r.end - r.start - 1) / parts + 1;
  } else {
    const auto size = block::parse_u64(step);
    if (!size || *size == 0) return std::nullopt;
    r.step = *size;
  }
  return r;
}

}  // namespace

// Times are in nanoseconds. Two reactors that count at the same moment may each take a part of the
// time that has passed, never both the same.
struct region_stats::area {
  std::atomic<uint64_t> requests[kinds]{}, merged[kinds]{}, sectors[kinds]{}, took[kinds]{};
  std::atomic<uint64_t> in_flight[kinds]{}, busy[kinds]{};
  std::atomic<uint64_t> any_busy{0}, queued{0}, looked{0};
  std::vector<std::atomic<uint64_t>> histogram;

  void pass_time(uint64_t now_ns) noexcept {
    const uint64_t before = looked.exchange(now_ns, std::memory_order_relaxed);
    if (now_ns <= before) return;
    const uint64_t passed = now_ns - before;
    uint64_t all = 0;
    for (const size_t k : {size_t{reads}, size_t{writes}}) {
      const uint64_t n = in_flight[k].load(std::memory_order_relaxed);
      if (n != 0) busy[k].fetch_add(passed, std::memory_order_relaxed);
      all += n;
    }
    if (all == 0) return;
    any_busy.fetch_add(passed, std::memory_order_relaxed);
    queued.fetch_add(passed * all, std::memory_order_relaxed);
  }
  void clear() noexcept {
    for (const size_t k : {size_t{reads}, size_t{writes}})
      for (auto* counter : {requests, merged, sectors, took, busy}) counter[k] = 0;
    any_busy = queued = 0;
    for (auto& count : histogram) count = 0;
  }
};

struct region_stats::region {
  explicit region(const range& r) : where(r) {}
  ~region() {
    if (all_costs != nullptr) *all_costs -= cost();
  }
  region(const region&) = delete;
  region& operator=(const region&) = delete;

  // What stands behind the range and the step; false when it is wrong.
  bool read_words(const std::vector<std::string>& words);
  // In areas without a histogram, each bucket of which counts as one more; above `most` it only
  // says that it is too much.
  uint64_t cost() const noexcept {
    const uint64_t areas_wanted = (where.end - where.start - 1) / where.step + 1;
    return areas_wanted > most ? most + 1 : areas_wanted * (bounds.size() + 1);
  }
  void make_areas(uint64_t& costs, uint64_t now_ns);

  // Calls `work` for each area that the sectors touch, with how many they are there.
  template <class Work>
  void for_each(uint64_t first, uint64_t last, Work work) noexcept {
    first = std::max(first, where.start);
    last = std::min(last, where.end);
    while (first < last) {
      const uint64_t index = (first - where.start) / where.step;
      // The step may be anything: where the next area would begin need not be a number.
      const uint64_t begin = where.start + index * where.step;
      const uint64_t end = std::min(last, begin + std::min(where.step, where.end - begin));
      work(areas[index], end - first);
      first = end;
    }
  }

  const range where;
  uint64_t* all_costs = nullptr;
  uint32_t id = 0;
  std::string program = "-", aux = "-";
  bool precise = false;
  std::vector<uint64_t> bounds;  // of the histogram, in the region's unit of time
  std::deque<area> areas;

  uint64_t unit_ns() const noexcept { return precise ? 1 : ns_per_ms; }
  std::string line(const area& a, uint64_t index) const;
};

bool region_stats::region::read_words(const std::vector<std::string>& words) {
  static constexpr std::string_view histogram = "histogram:";
  auto at = words.begin();
  auto take = [&] { return at == words.end() ? std::string() : *at++; };
  if (const auto options = at == words.end() ? std::nullopt : block::parse_u32(*at)) {
    ++at;
    for (uint32_t i = 0; i < *options; ++i) {
      const std::string option = take();
      if (same(option, "precise_timestamps")) {
        precise = true;
      } else if (same(option.substr(0, histogram.size()), "histogram:")) {
        auto read = parse_bounds(option.substr(histogram.size()));
        if (!read) return false;
        bounds = *std::move(read);
      } else {
        return false;
      }
    }
  }
  if (at != words.end()) program = take();
  if (at != words.end()) aux = take();
  return at == words.end();
}

void region_stats::region::make_areas(uint64_t& costs, uint64_t now_ns) {
  all_costs = &costs;
  costs += cost();
  for (uint64_t begin = where.start; begin < where.end;) {
    area& a = areas.emplace_back();
    a.looked = now_ns;
    if (!bounds.empty()) a.histogram = std::vector<std::atomic<uint64_t>>(bounds.size() + 1);
    if (where.end - begin <= where.step) break;
    begin += where.step;
  }
}

struct region_stats::list {
  explicit list(std::vector<std::shared_ptr<region>> all) : regions(std::move(all)) {}
  const std::vector<std::shared_ptr<region>> regions;  // by id
  std::atomic<uint64_t> inside{0};                     // requests
};

region_stats::region_stats() = default;
region_stats::~region_stats() = default;

region_stats::request region_stats::begin(block::op what, uint64_t offset, uint64_t bytes,
                                          uint64_t now_ns) noexcept {
  request r;
  if (bytes == 0 || what == block::op::extents || what == block::op::flush || !counts()) return r;
  // See forget_unused().
  entering_.fetch_add(1, std::memory_order_seq_cst);
  r.in = active_.load(std::memory_order_seq_cst);
  if (r.in != nullptr) r.in->inside.fetch_add(1, std::memory_order_relaxed);
  entering_.fetch_sub(1, std::memory_order_release);
  if (r.in == nullptr) return r;
  r.is_write = what != block::op::read;
  r.first = offset / block::sector_bytes;
  r.last = (offset + bytes - 1) / block::sector_bytes + 1;
  r.began_ns = now_ns;
  const uint64_t kind = r.is_write ? 1 : 0;
  r.merged = last_.exchange(r.last << 1 | kind, std::memory_order_relaxed) == (r.first << 1 | kind);
  for (const auto& one : r.in->regions)
    one->for_each(r.first, r.last, [&](area& a, uint64_t) {
      a.pass_time(now_ns);
      a.in_flight[kind].fetch_add(1, std::memory_order_relaxed);
    });
  return r;
}

void region_stats::end(const request& r, uint64_t now_ns) noexcept {
  if (r.in == nullptr) return;
  const size_t kind = r.is_write ? writes : reads;
  const uint64_t took = now_ns - r.began_ns;
  for (const auto& one : r.in->regions) {
    const auto bucket =
        std::upper_bound(one->bounds.begin(), one->bounds.end(), took / one->unit_ns()) -
        one->bounds.begin();
    one->for_each(r.first, r.last, [&](area& a, uint64_t sectors) {
      a.pass_time(now_ns);
      a.in_flight[kind].fetch_sub(1, std::memory_order_relaxed);
      a.requests[kind].fetch_add(1, std::memory_order_relaxed);
      a.merged[kind].fetch_add(r.merged ? 1 : 0, std::memory_order_relaxed);
      a.sectors[kind].fetch_add(sectors, std::memory_order_relaxed);
      a.took[kind].fetch_add(took, std::memory_order_relaxed);
      if (!a.histogram.empty())
        a.histogram[static_cast<size_t>(bucket)].fetch_add(1, std::memory_order_relaxed);
    });
  }
  r.in->inside.fetch_sub(1, std::memory_order_release);
}

// The kernel's order: what /proc/diskstats has, then the time with reads and with writes under way.
std::string region_stats::region::line(const area& a, uint64_t index) const {
  const uint64_t begin = where.start + index * where.step, unit = unit_ns();
  // The last one is as long as the others, also where the region ends before.
  std::string out = std::to_string(begin) + "+" + std::to_string(where.step);
  auto add = [&out](uint64_t n) { out += " " + std::to_string(n); };
  for (const size_t k : {size_t{reads}, size_t{writes}}) {
    add(a.requests[k]);
    add(a.merged[k]);
    add(a.sectors[k]);
    add(a.took[k] / unit);
  }
  add(a.in_flight[reads] + a.in_flight[writes]);
  add(a.any_busy / unit);
  add(a.queued / unit);
  add(a.busy[reads] / unit);
  add(a.busy[writes] / unit);
  for (size_t i = 0; i < a.histogram.size(); ++i)
    out += (i == 0 ? " " : ":") + std::to_string(a.histogram[i]);
  return out + "\n";
}

bool region_stats::knows(std::string_view word) noexcept {
  for (const char* name : {"@stats_create", "@stats_delete", "@stats_clear", "@stats_list",
                           "@stats_print", "@stats_print_clear", "@stats_set_aux"})
    if (same(word, name)) return true;
  return false;
}

outcome<std::string> region_stats::message(std::vector<std::string> words, uint64_t device_sectors,
                                           uint64_t now_ns) {
  const std::string what = words[0];
  if (same(what, "@stats_create")) return create(std::move(words), device_sectors, now_ns);
  if (same(what, "@stats_delete")) return remove(words);
  if (same(what, "@stats_clear")) return clear(words);
  if (same(what, "@stats_print")) return print(words, false);
  if (same(what, "@stats_print_clear")) return print(words, true);
  if (same(what, "@stats_set_aux")) return set_aux(words);
  return show(words);
}

namespace {

failure invalid(const std::string& message) {
  return failure{errc::inval, "stats: Invalid parameters for message " + message};
}
failure no_region(const std::string& id) {
  return failure{errc::noent, "there is no statistics region " + id};
}

}  // namespace

void region_stats::replace(std::vector<std::shared_ptr<region>> regions) {
  lists_.push_back(std::make_unique<list>(std::move(regions)));
  list* const now = lists_.back().get();
  active_.store(now->regions.empty() ? nullptr : now, std::memory_order_seq_cst);
  forget_unused();
}

// A request that enters after this has looked finds the present list; one that has entered before
// has said where it is.
void region_stats::forget_unused() noexcept {
  if (lists_.empty() || entering_.load(std::memory_order_seq_cst) != 0) return;
  const list* const now = lists_.back().get();
  std::erase_if(lists_, [now](const std::unique_ptr<list>& l) {
    return l.get() != now && l->inside.load(std::memory_order_acquire) == 0;
  });
}

void region_stats::forget_old() noexcept {
  if (lists_.size() > 1) lists_.erase(lists_.begin(), lists_.end() - 1);
}

outcome<std::shared_ptr<region_stats::region>> region_stats::find(const words_left& words) const {
  const auto number = block::parse_u32(words[1]);
  if (!number) return invalid(words[0]);
  if (!lists_.empty())
    for (const auto& r : lists_.back()->regions)
      if (r->id == *number) return r;
  return no_region(words[1]);
}

region_stats::answer region_stats::create(words_left words, uint64_t device_sectors,
                                          uint64_t now_ns) {
  const failure wrong = invalid(words[0]);
  if (words.size() < 3) return wrong;
  const auto where = parse_range(words[1], words[2], device_sectors);
  if (!where) return wrong;
  const auto made = std::make_shared<region>(*where);
  words.erase(words.begin(), words.begin() + 3);
  if (!made->read_words(words)) return wrong;
  forget_unused();
  if (!lists_.empty() && lists_.back()->regions.size() >= most_regions)
    return failure{errc::nomem, "the device has " + std::to_string(most_regions) +
                                    " statistics regions: delete one first"};
  if (made->cost() > most - cost_)
    return failure{errc::nomem,
                   "the areas of the device's statistics regions take too much memory"};
  made->make_areas(cost_, now_ns);
  std::vector<std::shared_ptr<region>> all;
  if (!lists_.empty()) all = lists_.back()->regions;
  auto at = all.begin();
  for (; at != all.end() && (*at)->id == made->id; ++at) ++made->id;
  all.insert(at, made);
  replace(std::move(all));
  return std::to_string(made->id);
}

region_stats::answer region_stats::remove(const words_left& words) {
  if (words.size() != 2) return invalid(words[0]);
  TRY(const auto gone, find(words));
  auto all = lists_.back()->regions;
  std::erase(all, gone);
  replace(std::move(all));
  return std::string();
}

region_stats::answer region_stats::clear(const words_left& words) {
  if (words.size() != 2) return invalid(words[0]);
  TRY(const auto r, find(words));
  for (area& a : r->areas) a.clear();
  return std::string();
}

region_stats::answer region_stats::print(const words_left& words, bool clears) {
  if (words.size() != 2 && words.size() != 4) return invalid(words[0]);
  uint64_t first = 0, count = UINT64_MAX;
  if (words.size() == 4) {
    const auto from = block::parse_u64(words[2]), lines = block::parse_u64(words[3]);
    if (!from || !lines) return invalid(words[0]);
    first = *from;
    count = *lines;
  }
  TRY(const auto r, find(words));
  std::string out;
  for (uint64_t i = first; i < r->areas.size() && i - first < count; ++i) {
    out += r->line(r->areas[i], i);
    if (clears) r->areas[i].clear();
  }
  return out;
}

region_stats::answer region_stats::show(const words_left& words) const {
  if (words.size() > 2) return invalid(words[0]);
  std::string out;
  if (lists_.empty()) return out;
  for (const auto& r : lists_.back()->regions) {
    if (words.size() == 2 && r->program != words[1]) continue;
    out += std::to_string(r->id) + ": " + std::to_string(r->where.start) + "+" +
           std::to_string(r->where.end - r->where.start) + " " + std::to_string(r->where.step) +
           " " + r->program + " " + r->aux;
    if (r->precise) out += " precise_timestamps";
    for (size_t i = 0; i < r->bounds.size(); ++i)
      out += (i == 0 ? " histogram:" : ",") + std::to_string(r->bounds[i]);
    out += "\n";
  }
  return out;
}

region_stats::answer region_stats::set_aux(const words_left& words) {
  if (words.size() != 3) return invalid(words[0]);
  TRY(const auto r, find(words));
  r->aux = words[2];
  return std::string();
}

}  // namespace lbd::stack
