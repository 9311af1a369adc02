// SPDX-License-Identifier: MIT
#include "target/multipath/params.h"

#include <strings.h>

#include <algorithm>

#include "base/log.h"

namespace lbd::target {

using base::failure;
using base::outcome;
using block::errc;
using rt::task;

namespace {

constexpr uint32_t feature_words_most = 8, groups_most = 1024, paths_most = 1024, args_most = 1024;
// Of probe_secs, which is LBD's own.
constexpr uint32_t own_feature_words = 2;

failure refused(const char* text) { return failure{errc::inval, text}; }
bool same(const std::string& word, const char* name) {
  return ::strcasecmp(word.c_str(), name) == 0;
}

// The words of a table line, taken one after the other.
class word_reader {
 public:
  explicit word_reader(const std::vector<std::string>& words) : words_(words) {}

  size_t left() const noexcept { return words_.size() - at_; }
  std::string next() { return words_[at_++]; }
  outcome<uint32_t> number(uint32_t least, uint32_t most, const char* error) {
    if (left() == 0) return refused(error);
    const auto n = block::parse_u32(next());
    if (!n || *n < least || *n > most) return refused(error);
    return *n;
  }
  // A count, and that many words.
  outcome<std::vector<std::string>> group(uint32_t most, const char* error) {
    TRY(const uint32_t count, number(0, most, error));
    if (count > left()) return refused(error);
    return take(count);
  }
  std::vector<std::string> take(size_t count) {
    const auto first = words_.begin() + static_cast<std::ptrdiff_t>(at_);
    at_ += count;
    return {first, first + static_cast<std::ptrdiff_t>(count)};
  }

 private:
  const std::vector<std::string>& words_;
  size_t at_ = 0;
};

outcome<void> parse_feature(word_reader& in, multipath_features& f) {
  const std::string name = in.next();
  if (same(name, "queue_if_no_path")) {
    f.queue_if_no_path = true;
  } else if (same(name, "retain_attached_hw_handler")) {
    f.retain_attached_hw_handler = true;
  } else if (same(name, "pg_init_retries") && in.left() != 0) {
    TRY(f.pg_init_retries, in.number(1, 50, "pg_init_retries must be between 1 and 50"));
  } else if (same(name, "pg_init_delay_msecs") && in.left() != 0) {
    TRY(f.pg_init_delay_msecs,
        in.number(0, 60000, "pg_init_delay_msecs must be between 0 and 60000"));
  } else if (same(name, "queue_mode") && in.left() != 0) {
    const std::string mode = in.next();
    if (!same(mode, "bio") && !same(mode, "rq") && !same(mode, "mq"))
      return refused("Unknown 'queue_mode' requested");
    f.bio = same(mode, "bio");
  } else if (same(name, "probe_secs") && in.left() != 0) {
    TRY(f.probe_secs, in.number(1, 3600, "probe_secs must be between 1 and 3600"));
  } else {
    return refused("Unrecognised multipath feature request");
  }
  return {};
}

outcome<multipath_features> parse_features(word_reader& in) {
  const char* wrong = "invalid number of feature args";
  multipath_features f;
  TRY(const std::vector<std::string> words,
      in.group(feature_words_most + own_feature_words, wrong));
  const bool own = std::any_of(words.begin(), words.end(),
                               [](const std::string& w) { return same(w, "probe_secs"); });
  if (words.size() > feature_words_most && !own) return refused(wrong);
  word_reader features(words);
  while (features.left() != 0) CHECK(parse_feature(features, f));
  f.retain_attached_hw_handler |= f.bio;
  return f;
}

// One path. `words`: its device, and what its selector wants to know.
task<outcome<std::unique_ptr<multipath_path>>> parse_path(block::target_context& context,
                                                          std::vector<std::string> words,
                                                          bool handled, path_selector& selector) {
  auto p = std::make_unique<multipath_path>();
  p->source = words[0];
  auto device = co_await context.open(words[0]);
  if (!device) co_return failure{device.error().code, "error getting device"};
  p->device = *std::move(device);
  // Handlers belong to the kernel's SCSI disks.
  if (handled) co_return failure{errc::nodev, "error attaching hardware handler"};
  words.erase(words.begin());
  CO_CHECK(selector.add_path(*p, words));
  CO_CHECK(context.check_area(p->device, context.begin_sector(), context.length_sectors()));
  co_return std::move(p);
}

task<outcome<std::unique_ptr<multipath_group>>> parse_group(block::target_context& context,
                                                            word_reader& in, bool handled) {
  if (in.left() < 2) co_return refused("not enough priority group arguments");
  auto g = std::make_unique<multipath_group>();
  g->selector_type = in.next();
  const unsigned reactors = context.runtime().reactor_count();
  if (!make_path_selector(g->selector_type, {}, reactors))
    co_return refused("unknown path selector type");
  CO_TRY(const std::vector<std::string> args,
         in.group(args_most, "invalid number of path selector args"));
  CO_TRY(g->selector, make_path_selector(g->selector_type, args, reactors));
  CO_TRY(const uint32_t count, in.number(1, paths_most, "invalid number of paths"));
  CO_TRY(g->path_words, in.number(0, args_most, "invalid number of selector args"));
  for (uint32_t i = 0; i < count; ++i) {
    if (in.left() < size_t{1} + g->path_words) co_return refused("not enough path parameters");
    auto p =
        co_await parse_path(context, in.take(size_t{1} + g->path_words), handled, *g->selector);
    if (!p) co_return p.error();
    g->paths.push_back(*std::move(p));
  }
  co_return std::move(g);
}

outcome<std::string> parse_hw_handler(word_reader& in, bool bio) {
  TRY(const std::vector<std::string> words,
      in.group(args_most, "invalid number of hardware handler args"));
  if (words.empty()) return std::string();
  if (bio) {
    base::log_error("device-mapper",
                    "multipath: bio-based multipath doesn't allow hardware handler args");
    return std::string();
  }
  return words[0];
}

}  // namespace

std::string multipath_features::text(bool queueing) const {
  std::string words;
  unsigned count = 0;
  auto add = [&](const std::string& text, unsigned n) {
    words += text + " ";
    count += n;
  };
  if (queueing) add("queue_if_no_path", 1);
  if (pg_init_retries) add("pg_init_retries " + std::to_string(*pg_init_retries), 2);
  if (pg_init_delay_msecs) add("pg_init_delay_msecs " + std::to_string(*pg_init_delay_msecs), 2);
  if (retain_attached_hw_handler) add("retain_attached_hw_handler", 1);
  if (bio) add("queue_mode bio", 2);
  if (probe_secs != 0) add("probe_secs " + std::to_string(probe_secs), 2);
  return std::to_string(count) + " " + words;
}

task<outcome<multipath_params>> parse_multipath(block::target_context& context,
                                                std::vector<std::string> args) {
  word_reader in(args);
  multipath_params p;
  CO_TRY(p.features, parse_features(in));
  CO_TRY(p.hw_handler, parse_hw_handler(in, p.features.bio));
  CO_TRY(const uint32_t count, in.number(0, groups_most, "invalid number of priority groups"));
  CO_TRY(p.initial_group, in.number(0, groups_most, "invalid initial priority group number"));
  if ((count == 0) != (p.initial_group == 0)) co_return refused("invalid initial priority group");
  uint32_t paths = 0;
  while (in.left() != 0) {
    auto g = co_await parse_group(context, in, !p.hw_handler.empty());
    if (!g) co_return g.error();
    for (const auto& path : (*g)->paths) {
      path->index = paths++;
      path->group = static_cast<uint32_t>(p.groups.size());
    }
    p.groups.push_back(*std::move(g));
  }
  if (p.groups.size() != count) co_return refused("priority group count mismatch");
  co_return std::move(p);
}

}  // namespace lbd::target
