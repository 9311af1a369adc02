// SPDX-License-Identifier: MIT
// Status, messages, suspension and probing. Everything here runs on the home reactor.
#include <strings.h>

#include <algorithm>

#include "base/log.h"
#include "rt/buffer_pool.h"
#include "target/multipath/multipath.h"

namespace lbd::target {

using base::failure;
using base::outcome;
using block::errc;
using block::io_opts;
using rt::segments;
using rt::task;

namespace {

constexpr uint64_t second_ns = 1'000'000'000;
constexpr uint64_t probe_bytes = 4096;

failure refused(std::string text) {
  base::log_warn("device-mapper", "multipath: " + text);
  return failure{errc::inval, std::move(text)};
}
bool same(const std::string& word, const char* name) {
  return ::strcasecmp(word.c_str(), name) == 0;
}

// "254:0"
std::optional<block::device_number> parse_number(const std::string& text) {
  const size_t colon = text.find(':');
  if (colon == std::string::npos) return {};
  const auto major = block::parse_u32(text.substr(0, colon));
  const auto minor = block::parse_u32(text.substr(colon + 1));
  if (!major || !minor) return {};
  return block::device_number{*major, *minor};
}

}  // namespace

// From 1; 0 when there are no groups.
uint32_t multipath::shown_group() const noexcept {
  const uint32_t next = next_.load(), current = current_.load();
  if (next != none) return next + 1;
  if (current != none) return current + 1;
  return groups_.empty() ? 0 : 1;
}

char multipath::state_of_group(uint32_t index) const noexcept {
  return groups_[index]->bypassed.load() ? 'D' : current_.load() == index ? 'A' : 'E';
}

std::string multipath::info_text() const {
  std::string text = "2 " + std::to_string(int{choosing_.load()}) + " 0 0 " +
                     std::to_string(groups_.size()) + " " + std::to_string(shown_group()) + " ";
  for (uint32_t i = 0; i < groups_.size(); ++i) {
    const multipath_group& g = *groups_[i];
    const path_selector& s = *g.selector;
    text += std::string(1, state_of_group(i)) + " " + s.group_text() +
            std::to_string(g.paths.size()) + " " + std::to_string(s.info_words()) + " ";
    for (const auto& p : g.paths)
      text += p->device.number.text() + (p->active.load() ? " A " : " F ") +
              std::to_string(p->fail_count.load()) + " " + s.info_text(*p);
  }
  return text;
}

std::string multipath::table_text() const {
  std::string text = features_.text(queueing_.load());
  text += hw_handler_.empty() ? "0 " : "1 " + hw_handler_ + " ";
  text += std::to_string(groups_.size()) + " " + std::to_string(shown_group()) + " ";
  for (const auto& g : groups_) {
    text += g->selector_type + " " + g->selector->group_text() + std::to_string(g->paths.size()) +
            " " + std::to_string(g->selector->table_words()) + " ";
    for (const auto& p : g->paths)
      text += p->device.number.text() + " " + g->selector->table_text(*p);
  }
  return text;
}

task<std::string> multipath::status(block::status_request q) {
  co_return q.kind == block::status_kind::table ? table_text() : info_text();
}

std::string multipath::measured() const {
  std::string text = ",nr_priority_groups=" + std::to_string(groups_.size());
  for (uint32_t i = 0; i < groups_.size(); ++i) {
    const multipath_group& g = *groups_[i];
    const std::string group = "_" + std::to_string(i) + "=";
    text += ",pg_state" + group + state_of_group(i);
    text += ",nr_pgpaths" + group + std::to_string(g.paths.size());
    text += ",path_selector_name" + group + g.selector_type;
    for (size_t j = 0; j < g.paths.size(); ++j) {
      const multipath_path& p = *g.paths[j];
      const std::string path = "_" + std::to_string(i) + "_" + std::to_string(j) + "=";
      text += ",path_name" + path + p.device.number.text();
      text += ",is_active" + path + (p.active.load() ? "A" : "F");
      text += ",fail_count" + path + std::to_string(p.fail_count.load());
      text += ",path_selector_status" + path;  // the selectors measure nothing
    }
  }
  return text;
}

void multipath::for_each_child(
    const std::function<void(const block::opened_device&)>& visit) const {
  for (const multipath_path* p : paths_) visit(p->device);
}

// Requests that wait look again whether there is a path, and whether they still wait.
task<void> multipath::wake() {
  struct release {
    static task<bool> all(rt::waiting_room& room) {
      room.release_all();
      co_return true;
    }
  };
  for (unsigned i = 0; i < rooms_.size(); ++i) {
    auto work = [this, i] { return release::all(rooms_[i]); };
    co_await rt::call_on(runtime_.at(i), work);
  }
}

task<void> multipath::set_queueing(bool on) {
  queueing_ = on;
  if (!on) co_await wake();
}

task<void> multipath::reinstate(multipath_path& p) {
  if (p.active.load()) co_return;
  log_path("Reinstating path ", p);
  p.failed_by_message = false;
  p.joined = ++reinstatements_;
  // Before the flag: who fails the path at once counts it down.
  const uint32_t working = working_.fetch_add(1) + 1;
  p.active = true;
  changes_.fetch_add(1, std::memory_order_release);
  tell(p, "PATH_REINSTATED", working);
  co_await wake();
}

task<outcome<std::string>> multipath::message(std::vector<std::string> words) {
  if (suspended_) co_return failure{errc::busy, "the device is suspended"};
  if (words.size() == 1 && same(words[0], "queue_if_no_path")) {
    co_await set_queueing(true);
    co_return std::string();
  }
  if (words.size() == 1 && same(words[0], "fail_if_no_path")) {
    co_await set_queueing(false);
    co_return std::string();
  }
  if (words.size() != 2)
    co_return refused("Invalid multipath message arguments. Expected 2 arguments, got " +
                      std::to_string(words.size()) + ".");
  for (const char* action : {"disable_group", "enable_group", "switch_group"})
    if (same(words[0], action)) co_return co_await group_message(action, words[1]);
  for (const char* action : {"reinstate_path", "fail_path"})
    if (same(words[0], action)) co_return co_await path_message(action, words[1]);
  co_return refused("Unrecognised multipath message received: " + words[0]);
}

task<outcome<std::string>> multipath::group_message(std::string action, std::string number) {
  const bool switching = action == "switch_group";
  const auto n = block::parse_u32(number);
  if (!n || *n == 0 || *n > groups_.size())
    co_return refused(std::string("invalid PG number supplied to ") +
                      (switching ? "switch_pg_num" : "bypass_pg"));
  const uint32_t group = *n - 1;
  if (switching) {
    for (uint32_t g = 0; g <= group; ++g) groups_[g]->bypassed = false;
    next_ = group;
  } else {
    groups_[group]->bypassed = action == "disable_group";
  }
  current_ = none;
  told_({});
  co_return std::string();
}

// The number behind a name. Errors: nodev.
task<outcome<block::device_number>> multipath::number_of(std::string device) {
  if (const auto number = parse_number(device)) co_return *number;
  for (const multipath_path* p : paths_)
    if (p->source == device) co_return p->device.number;
  const auto opened = co_await open_(device);
  if (!opened) co_return refused("message: error getting device " + device);
  co_return opened->number;
}

task<outcome<std::string>> multipath::path_message(std::string action, std::string device) {
  const auto number = co_await number_of(std::move(device));
  if (!number) co_return failure{errc::nodev, number.error().message};
  bool found = false;
  for (multipath_path* p : paths_) {
    if (p->device.number != *number) continue;
    found = true;
    if (action == "reinstate_path") {
      co_await reinstate(*p);
    } else {
      p->failed_by_message = true;
      fail(*p);
    }
  }
  if (!found) co_return failure{errc::inval, number->text() + " is none of the paths"};
  co_return std::string();
}

// With a flush, what waits fails; without one it is given back, and goes on with the next table.
task<void> multipath::presuspend(bool no_flush) {
  home_.stop_timer(probe_timer_);
  saved_queueing_ = queueing_.load();
  if (no_flush && saved_queueing_) giving_back_ = true;
  if (features_.bio || !no_flush) queueing_ = false;
  co_await wake();
}

task<void> multipath::presuspend_undone() { return resumed(); }

task<void> multipath::postsuspend() {
  suspended_ = true;
  co_return;
}

task<void> multipath::resumed() {
  if (std::exchange(saved_queueing_, false)) queueing_ = true;
  giving_back_ = false;
  suspended_ = false;
  if (!probing_) start_probing();
  co_return;
}

task<void> multipath::closed() {
  closed_ = true;
  home_.stop_timer(probe_timer_);
  probe_over_.cancel();
  if (probing_) co_await probe_ended_.wait();
}

void multipath::start_probing() {
  if (features_.probe_secs == 0 || closed_ || suspended_) return;
  home_.start_timer(probe_timer_, home_.now_ns() + features_.probe_secs * second_ns);
}

// Reads the beginning of what failed. Paths that somebody failed by hand stay so.
task<void> multipath::probe() {
  probing_ = true;
  probe_ended_.reset();
  for (multipath_path* p : paths_) {
    if (closed_ || suspended_ || p->active.load() || p->failed_by_message) continue;
    const errc code = co_await probe_path(*p);
    if (code == errc::ok && !closed_ && !suspended_ && !p->failed_by_message)
      co_await reinstate(*p);
  }
  probing_ = false;
  probe_ended_.set();
  start_probing();
}

task<errc> multipath::probe_path(const multipath_path& p) {
  const uint64_t size = std::min(limits_.size_bytes, p.device.device->limits().size_bytes);
  rt::buffer bytes(std::min(size, probe_bytes));
  if (bytes.size() == 0) co_return errc::nodev;
  const iovec v{bytes.data(), bytes.size()};
  io_opts io;
  io.cancel = &probe_over_;
  io.deadline_ns = home_.now_ns() + features_.probe_secs * second_ns;
  const segments to(&v, 1);
  co_return base::code_of(co_await block::read(*p.device.device, 0, to, io));
}

task<outcome<std::shared_ptr<block::target>>> multipath::create(block::target_context& context,
                                                                std::vector<std::string> args) {
  auto params = co_await parse_multipath(context, std::move(args));
  if (!params) co_return params.error();
  co_return std::shared_ptr<block::target>(
      std::make_shared<multipath>(*std::move(params), context));
}

extern const block::target_type multipath_type;
const block::target_type multipath_type = {
    "multipath",
    {1, 14, 0},
    block::target_type::singleton | block::target_type::immutable,
    &multipath::create};

}  // namespace lbd::target
