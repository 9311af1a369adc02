// SPDX-License-Identifier: MIT
#include "target/multipath/selectors.h"

#include <algorithm>
#include <array>
#include <limits>

#include "base/log.h"

namespace lbd::target {

using base::failure;
using base::outcome;
using block::errc;

namespace {

failure refused(std::string_view type, const char* what) {
  return failure{errc::inval, std::string(type) + " ps: " + what};
}

// `<repeat count>`, of which the kernel makes 1.
outcome<void> read_repeat_count(std::string_view type, multipath_path& p,
                                const std::vector<std::string>& words, size_t most_words) {
  if (words.size() > most_words) return refused(type, "incorrect number of arguments");
  if (words.empty()) return {};
  const auto count = block::parse_u32(words[0]);
  if (!count) return refused(type, "invalid repeat count");
  p.repeat_count = *count;
  if (*count <= 1) return {};
  base::log_warn("device-mapper", "multipath " + std::string(type) +
                                      ": repeat_count > 1 is deprecated, using 1 instead");
  p.repeat_count = 1;
  return {};
}

uint64_t load_of(const multipath_path& p) noexcept {
  return p.load.load(std::memory_order_relaxed);
}

// Each in turn.
class round_robin final : public path_selector {
 public:
  outcome<void> add_path(multipath_path& p, const std::vector<std::string>& words) override {
    return read_repeat_count("round-robin", p, words, 1);
  }
  bool reinstates_in_front() const noexcept override { return true; }
  unsigned info_words() const noexcept override { return 0; }
  std::string table_text(const multipath_path& p) const override {
    return std::to_string(p.repeat_count) + " ";
  }
  std::string info_text(const multipath_path&) const override { return {}; }

 private:
  path_list::iterator best_of(path_list& valid, uint64_t, block::moment&) noexcept override {
    return valid.begin();
  }
};

// The fewest requests in flight.
class queue_length final : public path_selector {
 public:
  outcome<void> add_path(multipath_path& p, const std::vector<std::string>& words) override {
    return read_repeat_count("queue-length", p, words, 1);
  }
  uint64_t start(multipath_path& p, uint64_t, block::moment&) noexcept override {
    p.load.fetch_add(1, std::memory_order_relaxed);
    return 0;
  }
  void end(multipath_path& p, uint64_t, block::moment&) noexcept override {
    p.load.fetch_sub(1, std::memory_order_relaxed);
  }
  std::string table_text(const multipath_path& p) const override {
    return std::to_string(p.repeat_count) + " ";
  }
  std::string info_text(const multipath_path& p) const override {
    return std::to_string(load_of(p)) + " ";
  }

 private:
  path_list::iterator best_of(path_list& valid, uint64_t, block::moment&) noexcept override {
    return std::min_element(
        valid.begin(), valid.end(),
        [](const multipath_path* a, const multipath_path* b) { return load_of(*a) < load_of(*b); });
  }
};

// The shortest time until the request would be done, by the bytes in flight and a weight.
class service_time final : public path_selector {
 public:
  outcome<void> add_path(multipath_path& p, const std::vector<std::string>& words) override {
    CHECK(read_repeat_count("service-time", p, words, 2));
    if (words.size() < 2) return {};
    const auto throughput = block::parse_u32(words[1]);
    if (!throughput || *throughput > 100)
      return refused("service-time", "invalid relative_throughput value");
    p.relative_throughput = *throughput;
    return {};
  }
  uint64_t start(multipath_path& p, uint64_t bytes, block::moment&) noexcept override {
    p.load.fetch_add(bytes, std::memory_order_relaxed);
    return bytes;
  }
  void end(multipath_path& p, uint64_t bytes, block::moment&) noexcept override {
    p.load.fetch_sub(bytes, std::memory_order_relaxed);
  }
  unsigned table_words() const noexcept override { return 2; }
  unsigned info_words() const noexcept override { return 2; }
  std::string table_text(const multipath_path& p) const override {
    return std::to_string(p.repeat_count) + " " + std::to_string(p.relative_throughput) + " ";
  }
  std::string info_text(const multipath_path& p) const override {
    return std::to_string(load_of(p)) + " " + std::to_string(p.relative_throughput) + " ";
  }

 private:
  // Whether a request of that many bytes would be done sooner on `a`: the loads are divided by the
  // throughputs without a division.
  static bool sooner(const multipath_path& a, const multipath_path& b, uint64_t bytes) noexcept {
    uint64_t load_a = load_of(a), load_b = load_of(b);
    const uint64_t rate_a = a.relative_throughput, rate_b = b.relative_throughput;
    if (rate_a == rate_b) return load_a < load_b;
    if (load_a == load_b || rate_a == 0 || rate_b == 0) return rate_a > rate_b;
    load_a += bytes;
    load_b += bytes;
    constexpr unsigned shift = 7;  // rates are below 2^7
    constexpr uint64_t most = std::numeric_limits<uint64_t>::max() >> shift;
    if (load_a >= most || load_b >= most) {
      load_a >>= shift;
      load_b >>= shift;
    }
    const uint64_t time_a = load_a * rate_b, time_b = load_b * rate_a;
    return time_a != time_b ? time_a < time_b : rate_a > rate_b;
  }
  path_list::iterator best_of(path_list& valid, uint64_t bytes, block::moment&) noexcept override {
    return std::min_element(valid.begin(), valid.end(),
                            [bytes](const multipath_path* a, const multipath_path* b) {
                              return sooner(*a, *b, bytes);
                            });
  }
};

// The shortest time by what requests took so far. Numbers of 10 binary places; what two reactors
// write at once may lose one of the values, which a mean survives.
class historical_service_time final : public path_selector {
 public:
  static constexpr uint64_t one = 1024, default_weight = 972;
  static constexpr unsigned places = 10, bucket_shift = 24;

  historical_service_time(uint64_t base_weight, uint64_t threshold) : threshold_(threshold) {
    uint64_t power = one;
    for (uint64_t& w : weights_) {
      power = (power * base_weight + one / 2) >> places;
      w = power;
    }
    weights_.back() = 0;
  }
  outcome<void> add_path(multipath_path& p, const std::vector<std::string>& words) override {
    CHECK(read_repeat_count("historical-service-time", p, words, 1));
    p.service_time = one;
    return {};
  }
  // The start's time, in units of 16 ns, so that it goes round after days only.
  uint64_t start(multipath_path& p, uint64_t, block::moment& now) noexcept override {
    p.load.fetch_add(1, std::memory_order_relaxed);
    return (now.ns() >> tick_shift) & token_mask;
  }
  void end(multipath_path& p, uint64_t token, block::moment& end) noexcept override {
    p.load.fetch_sub(1, std::memory_order_relaxed);
    const uint64_t now = end.ns();
    const uint64_t age = (((now >> tick_shift) - token) & token_mask) << tick_shift;
    const uint64_t started = std::max(now - std::min(age, now), value(p.last_finish_ns));
    const uint64_t took = now > started ? now - started : 0;
    set(p.last_finish_ns, now);
    const uint64_t w = weights_[std::min<uint64_t>(took >> bucket_shift, weights_.size() - 1)];
    const uint64_t mean = (value(p.service_time) * w + took * one * (one - w) + one / 2) >> places;
    set(p.service_time, mean);
    set(p.stale_after_ns, now + value(valid_count_) * (mean >> places));
  }
  std::string group_text() const override {
    return "2 " + std::to_string(weights_[0]) + " " + std::to_string(threshold_) + " ";
  }
  unsigned info_words() const noexcept override { return 3; }
  std::string table_text(const multipath_path&) const override { return "0 "; }
  std::string info_text(const multipath_path& p) const override {
    return std::to_string(p.service_time) + " " + std::to_string(load_of(p)) + " " +
           std::to_string(p.stale_after_ns) + " ";
  }

 private:
  static constexpr unsigned tick_shift = 4;
  static constexpr uint64_t token_mask = (uint64_t{1} << token_bits) - 1;

  // No order between them is needed: each is a guess by itself.
  static uint64_t value(const std::atomic<uint64_t>& of) noexcept {
    return of.load(std::memory_order_relaxed);
  }
  static void set(std::atomic<uint64_t>& to, uint64_t v) noexcept {
    to.store(v, std::memory_order_relaxed);
  }

  bool better(const multipath_path& a, const multipath_path& b, uint64_t now) const noexcept {
    uint64_t time_a = value(a.service_time), time_b = value(b.service_time);
    const uint64_t out_a = load_of(a), out_b = load_of(b);
    const uint64_t stale_a = value(a.stale_after_ns), stale_b = value(b.stale_after_ns);
    if (std::max(time_a, time_b) <= threshold_ * std::min(time_a, time_b)) return out_a < out_b;
    const bool idle_a = out_a == 0, idle_b = out_b == 0;
    if ((idle_a && stale_a < now) || (idle_b && stale_b < now) || (idle_a && idle_b))
      return (idle_b ? stale_a : 0) < (idle_a ? stale_b : 0);
    if (out_a == out_b) return time_a < time_b;
    if (out_a >= one || out_b >= one) {
      time_a >>= places;
      time_b >>= places;
    }
    const uint64_t cost_a = (1 + out_a) * time_a, cost_b = (1 + out_b) * time_b;
    const bool loser_is_stale = cost_a < cost_b ? stale_b < now : stale_a < now;
    return loser_is_stale ? out_a < out_b : cost_a < cost_b;
  }
  path_list::iterator best_of(path_list& valid, uint64_t, block::moment& moment) noexcept override {
    if (value(valid_count_) != valid.size()) set(valid_count_, valid.size());
    const uint64_t now = moment.ns();
    auto best = valid.begin();
    for (auto i = std::next(best); i != valid.end(); ++i)
      if (better(**i, **best, now)) best = i;
    return best;
  }

  std::array<uint64_t, 64> weights_{};
  const uint64_t threshold_;
  std::atomic<uint64_t> valid_count_{1};
};

// Each reactor has paths of its own, as the kernel's processors have.
class io_affinity final : public path_selector {
 public:
  explicit io_affinity(unsigned reactors) : taken_(reactors) {}

  outcome<void> add_path(multipath_path& p, const std::vector<std::string>& words) override {
    if (words.size() != 1) return refused("io-affinity", "invalid number of arguments");
    p.reactors.assign(taken_.size(), false);
    bool any = false;
    size_t bit = 0;
    for (auto c = words[0].rbegin(); c != words[0].rend(); ++c) {
      if (*c == ',') continue;
      const size_t digit = std::string_view("0123456789abcdef").find(lower(*c));
      if (digit == std::string_view::npos) return refused("io-affinity", "invalid cpumask");
      for (unsigned i = 0; i < 4; ++i, ++bit) {
        // Processors that another path has already, or that there are none of, do not count.
        if ((digit >> i & 1) == 0 || bit >= taken_.size() || taken_[bit]) continue;
        p.reactors[bit] = taken_[bit] = any = true;
      }
    }
    if (!any) return refused("io-affinity", "No new/valid CPU mapping found");
    return {};
  }
  std::string table_text(const multipath_path& p) const override {
    std::string text;
    for (size_t digit = 0; digit * 4 < p.reactors.size(); ++digit) {
      unsigned value = 0;
      for (size_t i = 0; i < 4 && digit * 4 + i < p.reactors.size(); ++i)
        if (p.reactors[digit * 4 + i]) value |= 1u << i;
      if (digit != 0 && digit % 8 == 0) text += ',';
      text += "0123456789abcdef"[value];
    }
    std::reverse(text.begin(), text.end());
    return text + " ";
  }
  std::string info_text(const multipath_path&) const override {
    return std::to_string(misses_.load()) + " ";
  }

 private:
  static char lower(char c) noexcept {
    return c >= 'A' && c <= 'F' ? static_cast<char>(c + 32) : c;
  }

  path_list::iterator best_of(path_list& valid, uint64_t, block::moment&) noexcept override {
    const unsigned here = rt::reactor::current().index();
    const auto own = std::find_if(valid.begin(), valid.end(), [here](const multipath_path* p) {
      return here < p->reactors.size() && p->reactors[here];
    });
    if (own != valid.end()) return own;
    misses_.fetch_add(1, std::memory_order_relaxed);
    return valid.begin();
  }

  std::vector<bool> taken_;
  std::atomic<uint64_t> misses_{0};
};

outcome<std::unique_ptr<path_selector>> make_historical(const std::vector<std::string>& args) {
  const failure wrong{errc::inval, "path selector constructor failed"};
  uint64_t weight = historical_service_time::default_weight, threshold = 0;
  if (!args.empty()) {
    const auto given = block::parse_u32(args[0]);
    if (!given || *given >= historical_service_time::one) return wrong;
    weight = *given;
  }
  if (args.size() > 1) {
    const auto given = block::parse_u32(args[1]);
    if (!given) return wrong;
    threshold = *given;
  }
  return std::unique_ptr<path_selector>(
      std::make_unique<historical_service_time>(weight, threshold));
}

}  // namespace

outcome<std::unique_ptr<path_selector>> make_path_selector(std::string_view type,
                                                           const std::vector<std::string>& args,
                                                           unsigned reactors) {
  std::unique_ptr<path_selector> made;
  if (type == "round-robin")
    made = std::make_unique<round_robin>();
  else if (type == "queue-length")
    made = std::make_unique<queue_length>();
  else if (type == "service-time")
    made = std::make_unique<service_time>();
  else if (type == "historical-service-time")
    return make_historical(args);
  else if (type == "io-affinity")
    made = std::make_unique<io_affinity>(reactors);
  else
    return failure{errc::inval, "unknown path selector type"};
  return made;
}

}  // namespace lbd::target
