// SPDX-License-Identifier: MIT
#include "target/multipath/multipath.h"

#include <algorithm>

#include "base/log.h"
#include "block/segments.h"

namespace lbd::target {

using base::result;
using block::errc;
using block::io_error;
using block::io_opts;
using rt::segments;
using rt::task;

namespace {

// A crossing's cookie: the path's index, and above it what the selector wants to know at the end.
constexpr unsigned index_bits = 64 - path_selector::token_bits;
constexpr uint64_t index_mask = (uint64_t{1} << index_bits) - 1;
constexpr uint64_t routed_most_bytes = uint64_t{1} << 32;

// Whether another path may do better. As in the kernel, except that what no path could do (inval,
// a read-only source) or nobody wants any more is not the path's fault either.
bool is_path_error(errc code) noexcept {
  switch (static_cast<int>(code)) {
    case 0:
    case EOPNOTSUPP:
    case ENOSPC:
    case EDQUOT:
    case EREMOTEIO:  // target
    case EBADE:      // nexus: a reservation
    case ENODATA:    // medium
    case EILSEQ:     // protection
    case EINVAL:
    case EPERM:
    case EACCES:
    case EROFS:
    case EAGAIN:
    case ECANCELED:
      return false;
    default:
      return true;
  }
}

bool is_over(const io_opts& io) noexcept {
  return io.deadline_ns != 0 && rt::reactor::current().now_ns() >= io.deadline_ns;
}

result<void> still_wanted(const io_opts& io) noexcept {
  if (io.cancel != nullptr && io.cancel->canceled()) return io_error{errc::canceled, 0};
  if (is_over(io)) return io_error{errc::timed_out, 0};
  return {};
}

}  // namespace

multipath::multipath(multipath_params params, block::target_context& context)
    : features_(params.features),
      hw_handler_(std::move(params.hw_handler)),
      groups_(std::move(params.groups)),
      runtime_(context.runtime()),
      home_(rt::reactor::current()),
      number_(context.number()),
      told_(context.event_sink()),
      open_(context.opener()),
      queueing_(features_.queue_if_no_path),
      views_(runtime_.reactor_count()),
      rooms_(runtime_.reactor_count()) {
  for (const auto& g : groups_)
    for (const auto& p : g->paths) paths_.push_back(p.get());
  working_ = static_cast<uint32_t>(paths_.size());
  if (params.initial_group != 0 && params.initial_group <= groups_.size())
    next_ = params.initial_group - 1;
  for (view& v : views_) {
    v.fail_counts.assign(paths_.size(), 0);
    v.listed.assign(paths_.size(), 1);
    for (const auto& g : groups_) {
      path_list& all = v.working.emplace_back();
      for (const auto& p : g->paths) all.push_back(p.get());
    }
  }
  if (!paths_.empty()) limits_ = paths_[0]->device.device->limits();
  for (const multipath_path* p : paths_) {
    const block::limits& l = p->device.device->limits();
    block::stack_io_sizes(limits_, l);
    limits_.preferred_bytes = std::max(limits_.preferred_bytes, l.preferred_bytes);
    limits_.max_transfer_bytes = std::min(limits_.max_transfer_bytes, l.max_transfer_bytes);
    limits_.discard_granularity_bytes =
        std::max(limits_.discard_granularity_bytes, l.discard_granularity_bytes);
    limits_.read_only |= l.read_only;
    limits_.can_discard &= l.can_discard;
    limits_.can_write_zeroes &= l.can_write_zeroes;
    limits_.fast_zero &= l.fast_zero;
  }
  limits_.size_bytes = context.length_sectors() * block::sector_bytes;
  probe_timer_.of = this;
  probe_timer_.run = [](rt::timer& t) { rt::spawn(static_cast<probe_timer&>(t).of->probe()); };
}

// Paths that failed since the last look leave the group's list, also those that are back; who is
// back joins in the order of the reinstatements.
void multipath::look_again(view& v, uint32_t group) const {
  path_list& list = v.working[group];
  list.remove_if([&v](const multipath_path* p) {
    const bool stays = p->active.load() && p->fail_count.load() == v.fail_counts[p->index];
    v.listed[p->index] = stays;
    return !stays;
  });
  std::vector<multipath_path*> back;
  for (const auto& p : groups_[group]->paths)
    if (v.listed[p->index] == 0 && p->active.load()) back.push_back(p.get());
  std::sort(back.begin(), back.end(), [](const multipath_path* a, const multipath_path* b) {
    return a->joined.load() < b->joined.load();
  });
  for (multipath_path* p : back) {
    v.listed[p->index] = 1;
    v.fail_counts[p->index] = p->fail_count.load();
    if (groups_[group]->selector->reinstates_in_front())
      list.push_front(p);
    else
      list.push_back(p);
  }
}

void multipath::look_again(view& v) const {
  // Before the flags: what changes after this is seen at the next look.
  v.seen = changes_.load(std::memory_order_acquire);
  for (uint32_t g = 0; g < groups_.size(); ++g) look_again(v, g);
}

multipath_path* multipath::choose_in(view& v, uint32_t group, uint64_t bytes,
                                     block::moment& now) noexcept {
  path_list& list = v.working[group];
  if (list.empty()) return nullptr;
  multipath_path& p = groups_[group]->selector->choose(list, bytes, now);
  if (current_.load(std::memory_order_relaxed) != group) current_ = group;
  if (choosing_.load(std::memory_order_relaxed)) choosing_ = false;
  return &p;
}

multipath_path* multipath::choose(uint64_t bytes, block::moment& now) noexcept {
  view& v = views_[rt::reactor::current().index()];
  if (v.seen != changes_.load(std::memory_order_acquire)) look_again(v);
  if (working_.load(std::memory_order_relaxed) != 0) {
    if (next_.load(std::memory_order_relaxed) != none) {
      const uint32_t next = next_.exchange(none);
      multipath_path* p = next != none ? choose_in(v, next, bytes, now) : nullptr;
      if (p != nullptr) return p;
    }
    // A group is used until it has no path left.
    const uint32_t current = current_.load(std::memory_order_relaxed);
    multipath_path* p = current != none ? choose_in(v, current, bytes, now) : nullptr;
    if (p != nullptr) return p;
    for (const bool bypassed : {false, true})
      for (uint32_t g = 0; g < groups_.size(); ++g) {
        if (groups_[g]->bypassed.load(std::memory_order_relaxed) != bypassed) continue;
        p = choose_in(v, g, bytes, now);
        if (p != nullptr) return p;
      }
  }
  choosing_ = false;
  current_ = none;
  return nullptr;
}

block::routed multipath::route(block::op what, uint64_t offset, uint64_t length,
                               block::path& way) noexcept {
  if ((what != block::op::read && what != block::op::write) || length >= routed_most_bytes)
    return {};
  multipath_path* p = choose(length, way.begin());
  if (p == nullptr) return {};
  const uint64_t token = groups_[p->group]->selector->start(*p, length, way.begin());
  way.push(*this, token << index_bits | p->index);
  return {p->device.device.get(), offset};
}

void multipath::leave(uint64_t cookie, errc code) noexcept {
  block::moment end;
  leave_at(cookie, code, end);
}

void multipath::leave_at(uint64_t cookie, errc code, block::moment& end) noexcept {
  multipath_path& p = *paths_[cookie & index_mask];
  groups_[p.group]->selector->end(p, cookie >> index_bits, end);
  if (is_path_error(code)) fail(p);
}

bool multipath::may_go_on() const noexcept {
  return working_.load() != 0 || queueing_.load() || giving_back_.load();
}

// The walk that follows finds another path, or ends here.
bool multipath::again(uint64_t cookie, errc code) noexcept {
  if (!is_path_error(code)) return false;
  fail(*paths_[cookie & index_mask]);
  return may_go_on();
}

void multipath::log_path(const char* what, const multipath_path& p) const {
  base::log_warn("device-mapper",
                 "multipath: " + number_.text() + ": " + what + p.device.number.text() + ".");
}

void multipath::fail(multipath_path& p) noexcept {
  if (!p.active.exchange(false)) return;
  p.fail_count.fetch_add(1);
  const uint32_t working = working_.fetch_sub(1) - 1;
  changes_.fetch_add(1, std::memory_order_release);
  log_path("Failing path ", p);
  tell(p, "PATH_FAILED", working);
}

void multipath::tell(const multipath_path& p, const char* action, uint32_t working) const {
  std::vector<std::string> variables = {"DM_TARGET=multipath", std::string("DM_ACTION=") + action,
                                        "DM_PATH=" + p.device.number.text(),
                                        "DM_NR_VALID_PATHS=" + std::to_string(working)};
  rt::tell(home_, [told = told_, variables = std::move(variables)]() mutable {
    told(std::move(variables));
  });
}

// A path, or why there will be none.
task<result<multipath_path*>> multipath::wait_for_path(uint64_t bytes, io_opts io) {
  rt::waiting_room& room = rooms_[rt::reactor::current().index()];
  for (;;) {
    block::moment now;
    multipath_path* p = choose(bytes, now);
    if (p != nullptr) co_return p;
    if (giving_back_.load()) co_return io_error{errc::again, 0};
    if (!queueing_.load()) co_return io_error{errc::io, 0};
    CO_CHECK(still_wanted(io));
    const uint64_t until = io.deadline_ns != 0 ? io.deadline_ns : rt::waiting_room::no_end;
    co_await room.until(until, io.cancel);
  }
}

// Sends a request on one path after the other until it ends for another reason than the path.
template <class Send>
task<result<void>> multipath::on_a_path(uint64_t bytes, io_opts io, Send send) {
  for (;;) {
    block::moment begin, end;
    multipath_path* p = choose(bytes, begin);
    if (p == nullptr) {
      CO_TRY(p, co_await wait_for_path(bytes, io));
      begin = block::moment();
    }
    path_selector& selector = *groups_[p->group]->selector;
    const uint64_t token = selector.start(*p, bytes, begin);
    const result<void> r = co_await send(*p->device.device);
    selector.end(*p, token, end);
    const errc code = base::code_of(r);
    // Who gives up first is not the path.
    if (!is_path_error(code) || (code == errc::timed_out && is_over(io))) co_return r;
    fail(*p);
    if (!may_go_on()) co_return io_error{errc::io, 0};
  }
}

task<result<void>> multipath::read(uint64_t offset, segments to, io_opts io) {
  return on_a_path(block::total_bytes(to), io, [offset, to, io](block::block_device& d) {
    return block::read(d, offset, to, io);
  });
}
task<result<void>> multipath::write(uint64_t offset, segments from, io_opts io) {
  return on_a_path(block::total_bytes(from), io, [offset, from, io](block::block_device& d) {
    return block::write(d, offset, from, io);
  });
}
task<result<void>> multipath::flush(io_opts io) {
  return on_a_path(0, io, [io](block::block_device& d) { return d.flush(io); });
}
task<result<void>> multipath::discard(uint64_t offset, uint64_t length, io_opts io) {
  return on_a_path(length, io, [offset, length, io](block::block_device& d) {
    return d.discard(offset, length, io);
  });
}
task<result<void>> multipath::write_zeroes(uint64_t offset, uint64_t length, io_opts io) {
  return on_a_path(length, io, [offset, length, io](block::block_device& d) {
    return d.write_zeroes(offset, length, io);
  });
}
task<result<void>> multipath::extents(uint64_t offset, uint64_t length, block::extent_list& out,
                                      io_opts io) {
  return on_a_path(0, io, [this, offset, length, &out, io](block::block_device& d) {
    return extents_on(d, offset, length, out, io);
  });
}

// What a path has told before it failed is an answer.
task<result<void>> multipath::extents_on(block::block_device& d, uint64_t offset, uint64_t length,
                                         block::extent_list& out, io_opts io) {
  const uint64_t before = out.total_bytes();
  const auto r = co_await d.extents(offset, length, out, io);
  if (!r && out.total_bytes() == before) co_return r;
  co_return result<void>{};
}

}  // namespace lbd::target
