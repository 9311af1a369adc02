// SPDX-License-Identifier: MIT
#include "sim/runner.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <optional>

#include "block/segments.h"
#include "sim/oracle.h"

namespace lbd::sim {
namespace {

using base::errc;
using base::result;
using rt::task;

// A buffer cut into one to three segments.
class cut_buffer {
 public:
  cut_buffer(uint64_t bytes, random& r) : bytes_(bytes) {
    uint64_t done = 0;
    for (uint64_t pieces = r.between(1, 3); done < bytes; --pieces) {
      const uint64_t n = pieces <= 1 ? bytes - done : r.between(1, bytes - done);
      cuts_.push_back(iovec{bytes_.data() + done, n});
      done += n;
    }
  }
  rt::segments view() const noexcept { return cuts_; }
  base::bytes_span span() noexcept { return bytes_; }

 private:
  std::vector<std::byte> bytes_;
  std::vector<iovec> cuts_;
};

class runner {
 public:
  runner(const plan& p, subject& s, disk_observer* observer)
      : plan_(p),
        subject_(s),
        observer_(observer),
        world_(p.seed),
        disk_(p.seed, p.disk),
        model_(subject_.prepare(disk_)) {}

  verdict run();

 private:
  task<bool> client();
  task<void> perform(step s);
  task<void> do_read(step s);
  task<void> do_write(step s);
  task<void> do_zero(step s);
  task<void> do_flush(step s);
  task<void> do_extents(step s);
  task<void> do_change(step s);
  task<bool> epoch();
  task<bool> end_epoch();
  task<void> power_loss(uint64_t after_ns);
  task<std::optional<std::vector<std::byte>>> read_everything();
  task<bool> open();

  task<bool> open_and_lose_power(uint64_t after_ns);
  bool judge_files(const char* when);
  bool open_and_compare(bool crashed, bool first);
  bool prepare_again();
  void trace(const std::string& text) const {
    if (plan_.trace)
      std::printf("%12llu ns %s\n", static_cast<unsigned long long>(world_.reactor().now_ns()),
                  text.c_str());
  }
  void check_result(const step& s, errc code);
  void fail(const std::string& text) {
    if (verdict_.failure.empty()) verdict_.failure = text;
  }
  void fail_at(const step& s, const std::string& text) { fail(to_string(s) + ": " + text); }
  bool contents_known() const noexcept {
    return !off_ && !plan_.silent_faults && disk_.forgotten() == 0;
  }
  // Whether faults have happened since the device was opened.
  bool faulty() const noexcept { return disk_.faults() != faults_at_open_; }
  bool over() const noexcept {
    return !verdict_.ok() || stop_ || off_ || next_ >= plan_.steps.size();
  }

  const plan& plan_;
  subject& subject_;
  disk_observer* observer_;
  world world_;
  sim_disk disk_;
  oracle model_;
  verdict verdict_;
  size_t next_ = 0;
  bool open_ = false;
  bool stop_ = false;  // the epoch ends in good order
  bool off_ = false;   // the power is gone
  bool closed_well_ = false;
  bool was_full_ = false;  // the disk has been limited since the device was opened
  uint64_t lose_power_at_close_ns_ = 0;
  unsigned losses_coming_ = 0;
  unsigned faults_at_open_ = 0;
};

void runner::check_result(const step& s, errc code) {
  trace(to_string(s) + ": " + (code == errc::ok ? "ok" : base::to_string(code)));
  if (code == errc::ok || off_ || plan_.silent_faults) return;
  if (code == errc::notsup && (s.flags & block::io_fast_only) != 0) return;
  if (code == errc::nospc && was_full_) return;
  if (faulty()) return;
  fail_at(s, "failed without a cause: " + base::to_string(code));
}

task<void> runner::do_read(step s) {
  random r(plan_.seed, s.number);
  cut_buffer buffer(s.length, r);
  const uint64_t began = model_.begin();
  const auto done = co_await block::read(subject_.device(), s.offset, buffer.view(), {});
  check_result(s, base::code_of(done));
  if (!done || !contents_known()) co_return;
  const std::string wrong = model_.check_read(began, s.offset, buffer.span());
  if (!wrong.empty()) fail_at(s, wrong);
}

task<void> runner::do_write(step s) {
  random r(plan_.seed, s.number);
  cut_buffer buffer(s.length, r);
  fill_stamped(s.number, s.offset, buffer.span());
  const bool lost = subject_.sync_failed(disk_);
  const bool fua = (s.flags & block::io_fua) != 0;
  block::io_opts io;
  io.flags = s.flags;
  const size_t id = model_.begin_write(s.offset, s.length, s.number);
  const auto done = co_await block::write(subject_.device(), s.offset, buffer.view(), io);
  model_.end_write(id, done.has_value(), fua);
  check_result(s, base::code_of(done));
  if (done && fua && lost && !off_) fail_at(s, "succeeded although a sync had failed before");
}

task<void> runner::do_zero(step s) {
  const bool fua = (s.flags & block::io_fua) != 0;
  block::io_opts io;
  io.flags = s.flags;
  const size_t id = model_.begin_write(s.offset, s.length, 0);
  result<void> done;
  if (s.kind == step_kind::discard)
    done = co_await subject_.device().discard(s.offset, s.length, io);
  else
    done = co_await subject_.device().write_zeroes(s.offset, s.length, io);
  // What may have happened or not is told like a failure.
  const bool sure = s.kind != step_kind::discard || subject_.discard_zeroes();
  model_.end_write(id, done.has_value() && sure, fua);
  check_result(s, base::code_of(done));
}

task<void> runner::do_flush(step s) {
  const bool lost = subject_.sync_failed(disk_);
  const uint64_t began = model_.begin();
  const auto done = co_await subject_.device().flush({});
  model_.end_flush(began, done.has_value());
  check_result(s, base::code_of(done));
  if (done && lost && !off_) fail_at(s, "succeeded although a sync had failed before");
}

task<void> runner::do_extents(step s) {
  block::extent_list found;
  const uint64_t began = model_.begin();
  const auto done = co_await subject_.device().extents(s.offset, s.length, found, {});
  check_result(s, base::code_of(done));
  if (!done || !contents_known()) co_return;
  if (found.runs().empty()) fail_at(s, "no answer");
  uint64_t at = s.offset;
  for (const block::extent& e : found.runs()) {
    const uint64_t end = std::min(at + e.length_bytes, s.offset + s.length);
    const std::string wrong =
        e.zero && at < end ? model_.check_zero(began, at, end - at) : std::string();
    if (!wrong.empty()) fail_at(s, "said to be zeros: " + wrong);
    at = end;
  }
}

task<void> runner::do_change(step s) {
  base::outcome<void> done;
  if (s.kind == step_kind::add_layer)
    done = co_await subject_.add_layer();
  else
    done = co_await subject_.swap_table();
  if (!done && done.error().code != errc::notsup) check_result(s, done.error().code);
}

task<void> runner::perform(step s) {
  ++verdict_.requests;
  trace(to_string(s));
  switch (s.kind) {
    case step_kind::read:
      return do_read(s);
    case step_kind::write:
      return do_write(s);
    case step_kind::discard:
    case step_kind::write_zeroes:
      return do_zero(s);
    case step_kind::flush:
      return do_flush(s);
    case step_kind::extents:
      return do_extents(s);
    default:
      return do_change(s);
  }
}

task<void> runner::power_loss(uint64_t after_ns) {
  ++losses_coming_;
  if (after_ns != 0) co_await rt::sleep_for(std::chrono::nanoseconds(after_ns));
  --losses_coming_;
  if (off_) co_return;
  trace("the power is lost");
  off_ = true;
  ++verdict_.crashes;
  disk_.crash();
}

task<bool> runner::client() {
  while (!over()) {
    const step s = plan_.steps[next_++];
    switch (s.kind) {
      case step_kind::pause:
        co_await rt::sleep_for(std::chrono::nanoseconds(s.length));
        break;
      case step_kind::inject:
        disk_.inject(s.what, static_cast<uint32_t>(s.length));
        break;
      case step_kind::limit_space:
        was_full_ = true;
        disk_.set_space(disk_.used_bytes() + s.length);
        break;
      case step_kind::unlimit_space:
        disk_.set_space(UINT64_MAX);
        break;
      case step_kind::crash:
        rt::spawn(power_loss(s.length));
        break;
      case step_kind::reopen:
        stop_ = true;
        lose_power_at_close_ns_ = s.length;
        break;
      default:
        co_await perform(s);
    }
  }
  co_return true;
}

task<bool> runner::epoch() {
  std::vector<task<bool>> clients;
  for (unsigned i = 0; i < plan_.clients; ++i) clients.push_back(client());
  co_await rt::when_all(std::move(clients));
  while (losses_coming_ != 0) co_await rt::sleep_for(std::chrono::milliseconds(1));
  co_return true;
}

task<bool> runner::end_epoch() {
  if (lose_power_at_close_ns_ != 0) rt::spawn(power_loss(lose_power_at_close_ns_));
  const uint64_t began = model_.begin();
  const bool lost = subject_.sync_failed(disk_);
  const auto done = co_await subject_.close();
  open_ = false;
  model_.end_flush(began, done.has_value());
  closed_well_ = done.has_value();
  trace("closed: " + base::to_string(base::code_of(done)));
  if (!done && !off_ && !faulty() && !plan_.silent_faults &&
      !(was_full_ && done.error().code == errc::nospc))
    fail("close failed without a cause: " + base::to_string(done.error().code));
  if (done && lost && !off_) fail("close succeeded although a sync had failed before");
  while (losses_coming_ != 0) co_await rt::sleep_for(std::chrono::milliseconds(1));
  co_return true;
}

task<bool> runner::open() {
  const auto opened = co_await subject_.open(world_, disk_);
  if (!opened) {
    fail("open failed: " + opened.error().message);
    co_return false;
  }
  trace("opened");
  open_ = true;
  stop_ = off_ = was_full_ = false;
  lose_power_at_close_ns_ = 0;
  faults_at_open_ = disk_.faults();
  co_return true;
}

task<std::optional<std::vector<std::byte>>> runner::read_everything() {
  std::vector<std::byte> all(subject_.device().limits().size_bytes);
  constexpr size_t piece_bytes = 96 * 1024;
  for (size_t at = 0; at < all.size();) {
    const size_t n = std::min(all.size() - at, piece_bytes);
    const iovec v{all.data() + at, n};
    const auto done = co_await block::read(subject_.device(), at, rt::segments(&v, 1), {});
    if (!done) {
      fail("after the reopening, reading " + std::to_string(at) + "+" + std::to_string(n) +
           " failed: " + base::to_string(done.error().code));
      co_return std::nullopt;
    }
    at += n;
  }
  co_return all;
}

// The structure of the files as they are now.
bool runner::judge_files(const char* when) {
  if (plan_.silent_faults) return true;
  const std::string wrong = subject_.check_files(disk_);
  if (!wrong.empty()) fail(std::string("the files ") + when + ": " + wrong);
  const std::string other = observer_ != nullptr ? observer_->look(disk_) : std::string();
  if (!other.empty()) fail(std::string("another judge, ") + when + ": " + other);
  return verdict_.ok();
}

// The power goes while the device is being opened, or just after.
task<bool> runner::open_and_lose_power(uint64_t after_ns) {
  off_ = false;
  rt::spawn(power_loss(after_ns));
  const auto opened = co_await subject_.open(world_, disk_);
  while (losses_coming_ != 0) co_await rt::sleep_for(std::chrono::milliseconds(1));
  if (!opened) co_return true;
  const auto closed = co_await subject_.close();
  (void)closed;
  co_return true;
}

// Opens the device, now and then after an attempt without luck. `crashed`: the power was lost
// before.
bool runner::open_and_compare(bool crashed, bool first) {
  random r(plan_.seed, next_ + 0x6f70656e);
  const bool unlucky = r.percent(20);
  if (unlucky) {
    if (!world_.run(open_and_lose_power(r.below(6'000'000)))) return false;
    world_.settle();
    if (!judge_files("after a power loss while opening")) return false;
  }
  const auto opened = world_.run(open());
  if (plan_.silent_faults && opened && !*opened) verdict_.failure.clear();
  if (!opened || !*opened) return false;
  if (first && !unlucky) return true;
  const auto found = world_.run(read_everything());
  if (plan_.silent_faults && found && !*found) verdict_.failure.clear();
  if (!found || !*found || plan_.silent_faults) return found.has_value();
  const std::string wrong =
      crashed || unlucky ? model_.check_after_crash(**found) : model_.check_after_close(**found);
  if (!wrong.empty()) fail((crashed ? "after a crash: " : "after a reopening: ") + wrong);
  return verdict_.ok();
}

// Checks what the last epoch has left, and opens the device for the next one. False: the run is
// over.
bool runner::prepare_again() {
  disk_.clear_faults();
  disk_.set_space(UINT64_MAX);
  random r(plan_.seed, next_ + 0x656e64);
  if (!off_ && (!closed_well_ || r.coin())) {
    rt::reactor::scope here(world_.reactor());
    off_ = true;
    ++verdict_.crashes;
    disk_.crash();
  }
  return judge_files("after the end of an epoch") && open_and_compare(off_, false);
}

verdict runner::run() {
  bool going = open_and_compare(false, true);
  while (going && verdict_.ok()) {
    if (!world_.run(epoch()) || !verdict_.ok()) break;
    if (!world_.run(end_epoch())) break;
    world_.settle();
    const bool last = next_ >= plan_.steps.size();
    going = verdict_.ok() && prepare_again() && !last;
  }
  if (!world_.stuck().empty()) {
    fail(world_.stuck());
  } else if (verdict_.ok() && open_) {
    if (!world_.run(end_epoch())) fail(world_.stuck());
  }
  return verdict_;
}

}  // namespace

verdict run_plan(const plan& p, subject& s, disk_observer* observer) {
  runner r(p, s, observer);
  return r.run();
}

}  // namespace lbd::sim
