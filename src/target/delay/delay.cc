// SPDX-License-Identifier: MIT
// delay: requests wait before they go on, `delay <device> <sector> <ms> [<device> <sector> <ms>
// [...]]` for reads, writes and flushes. State: the requests that wait, on the reactor that they
// came on. After a crash: as the devices below; a request that waited was not done.
#include <algorithm>
#include <array>
#include <atomic>

#include "block/segments.h"
#include "block/target.h"
#include "rt/waiting_room.h"

namespace lbd::target {
namespace {

using base::failure;
using base::outcome;
using base::result;
using block::errc;
using block::io_error;
using block::io_opts;
using rt::segments;
using rt::task;

constexpr uint64_t ns_per_ms = 1'000'000;

enum kind : unsigned { reads, writes, flushes };
constexpr unsigned kinds = 3;

struct delay_class {
  block::opened_device device;
  uint64_t start_sector = 0;
  uint32_t delay_ms = 0;

  uint64_t at(uint64_t offset) const noexcept {
    return start_sector * block::sector_bytes + offset;
  }
};

class delay final : public block::target {
 public:
  // `given`: how many classes the table line had; the others are copies.
  delay(std::array<delay_class, kinds> classes, unsigned given, uint64_t length_sectors,
        rt::runtime& runtime)
      : classes_(std::move(classes)),
        given_(given),
        runtime_(runtime),
        rooms_(runtime.reactor_count()) {
    const block::limits& r = classes_[reads].device.device->limits();
    limits_ = classes_[writes].device.device->limits();
    for (const delay_class& c : classes_) block::stack_io_sizes(limits_, c.device.device->limits());
    limits_.preferred_bytes = std::max(limits_.preferred_bytes, r.preferred_bytes);
    limits_.max_transfer_bytes = std::min(limits_.max_transfer_bytes, r.max_transfer_bytes);
    limits_.size_bytes = length_sectors * block::sector_bytes;
  }
  const block::limits& limits() const noexcept override { return limits_; }
  bool refuses_writes() const override {
    return classes_[writes].device.device->limits().read_only;
  }

  block::routed route(block::op what, uint64_t offset, uint64_t, block::path&) noexcept override {
    const delay_class& c = classes_[what == block::op::read ? reads : writes];
    if (c.delay_ms != 0) return {};
    return {c.device.device.get(), c.at(offset)};
  }

  task<result<void>> read(uint64_t offset, segments to, io_opts io) override {
    CO_CHECK(co_await hold(reads, io));
    const delay_class& c = classes_[reads];
    co_return co_await block::read(*c.device.device, c.at(offset), to, io);
  }
  task<result<void>> write(uint64_t offset, segments from, io_opts io) override {
    CO_CHECK(co_await hold(writes, io));
    const delay_class& c = classes_[writes];
    co_return co_await block::write(*c.device.device, c.at(offset), from, io);
  }
  task<result<void>> flush(io_opts io) override {
    CO_CHECK(co_await hold(flushes, io));
    // A flush has a device of its own, but what was written lies on the device of the writes.
    if (classes_[flushes].device.number != classes_[writes].device.number)
      CO_CHECK(co_await classes_[writes].device.device->flush(io));
    co_return co_await classes_[flushes].device.device->flush(io);
  }
  task<result<void>> discard(uint64_t offset, uint64_t length, io_opts io) override {
    CO_CHECK(co_await hold(writes, io));
    const delay_class& c = classes_[writes];
    co_return co_await c.device.device->discard(c.at(offset), length, io);
  }
  task<result<void>> write_zeroes(uint64_t offset, uint64_t length, io_opts io) override {
    CO_CHECK(co_await hold(writes, io));
    const delay_class& c = classes_[writes];
    co_return co_await c.device.device->write_zeroes(c.at(offset), length, io);
  }
  // What reads would find; an answer from memory is not delayed.
  task<result<void>> extents(uint64_t offset, uint64_t length, block::extent_list& out,
                             io_opts io) override {
    const delay_class& c = classes_[reads];
    return c.device.device->extents(c.at(offset), length, out, io);
  }

  task<std::string> status(block::status_request q) override {
    std::string text;
    for (unsigned i = 0; i < (q.kind == block::status_kind::table ? given_ : kinds); ++i) {
      const delay_class& c = classes_[i];
      if (i != 0) text += ' ';
      if (q.kind == block::status_kind::table)
        text += c.device.number.text() + " " + std::to_string(c.start_sector) + " " +
                std::to_string(c.delay_ms);
      else
        text += std::to_string(pending_[i].load(std::memory_order_relaxed));
    }
    co_return text;
  }

  task<void> presuspend(bool) override {
    delaying_.store(false);
    for (unsigned i = 0; i < rooms_.size(); ++i) {
      auto work = [this, i] { return release(rooms_[i]); };
      co_await rt::call_on(runtime_.at(i), work);
    }
  }
  task<void> presuspend_undone() override { return resumed(); }
  task<void> resumed() override {
    delaying_.store(true);
    co_return;
  }

  void for_each_child(
      const std::function<void(const block::opened_device&)>& visit) const override {
    for (unsigned i = 0; i < given_; ++i) visit(classes_[i].device);
  }

 private:
  static task<bool> release(rt::waiting_room& room) {
    room.release_all();
    co_return true;
  }
  static result<void> wanted(const io_opts& io, uint64_t now_ns) {
    if (io.cancel != nullptr && io.cancel->canceled()) return io_error{errc::canceled, 0};
    if (io.deadline_ns != 0 && now_ns >= io.deadline_ns) return io_error{errc::timed_out, 0};
    return {};
  }
  // Returns when the request may go on; fails when nobody waits for it any more.
  task<result<void>> hold(kind k, io_opts io) {
    rt::reactor& here = rt::reactor::current();
    const uint64_t due = here.now_ns() + classes_[k].delay_ms * ns_per_ms;
    result<void> answer;
    pending_[k].fetch_add(1, std::memory_order_relaxed);
    while (delaying_.load()) {
      const uint64_t now = here.now_ns();
      answer = wanted(io, now);
      if (!answer || now >= due) break;
      uint64_t next = due;
      if (io.deadline_ns != 0) next = std::min(next, io.deadline_ns);
      co_await rooms_[here.index()].until(next, io.cancel);
    }
    pending_[k].fetch_sub(1, std::memory_order_relaxed);
    co_return answer;
  }

  const std::array<delay_class, kinds> classes_;
  const unsigned given_;
  rt::runtime& runtime_;
  block::limits limits_;
  std::vector<rt::waiting_room> rooms_;  // one per reactor
  std::array<std::atomic<uint64_t>, kinds> pending_{};
  // False around a suspension: what comes then goes on at once.
  std::atomic<bool> delaying_{true};
};

task<outcome<delay_class>> make_class(block::target_context& context,
                                      const std::vector<std::string>& args, size_t first) {
  delay_class c;
  const auto start = block::parse_u64(args[first + 1]);
  if (!start) co_return failure{errc::inval, "Invalid device sector"};
  const auto ms = block::parse_u32(args[first + 2]);
  if (!ms) co_return failure{errc::inval, "Invalid delay"};
  auto device = co_await context.open(args[first]);
  if (!device) co_return failure{device.error().code, "Device lookup failed"};
  CO_CHECK(context.check_area(*device, *start, context.length_sectors()));
  c.device = *std::move(device);
  c.start_sector = *start;
  c.delay_ms = *ms;
  co_return std::move(c);
}

task<outcome<std::shared_ptr<block::target>>> create_delay(block::target_context& context,
                                                           std::vector<std::string> args) {
  if (args.size() != 3 && args.size() != 6 && args.size() != 9)
    co_return failure{errc::inval, "Requires exactly 3, 6 or 9 arguments"};
  const auto given = static_cast<unsigned>(args.size() / 3);
  std::array<delay_class, kinds> classes;
  for (unsigned i = 0; i < kinds; ++i) {
    if (i >= given) {
      classes[i] = classes[i - 1];
      continue;
    }
    auto made = co_await make_class(context, args, size_t{i} * 3);
    if (!made) co_return made.error();
    classes[i] = *std::move(made);
  }
  co_return std::shared_ptr<block::target>(std::make_shared<delay>(
      std::move(classes), given, context.length_sectors(), context.runtime()));
}

}  // namespace

extern const block::target_type delay_type;
const block::target_type delay_type = {"delay", {1, 3, 0}, 0, &create_delay};

}  // namespace lbd::target
