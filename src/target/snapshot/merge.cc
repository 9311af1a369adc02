// SPDX-License-Identifier: MIT
// snapshot-merge: a snapshot whose changes go back to the origin, in the background, newest first.
// State: snapshot_core, and the chunks that are being merged (home reactor). After a crash: as a
// snapshot; what has been merged is on the origin for good before the store forgets it, and merging
// goes on with the next resume.
#include <algorithm>

#include "base/log.h"
#include "block/segments.h"
#include "target/snapshot/store_user.h"

namespace lbd::snapshot {

merge_target::merge_target(making m) : store_user(std::move(m)), home_(made_.group->home()) {
  idle_.set();
}

// A snapshot that can no longer be used has nothing to say: all is on the origin.
block::routed merge_target::route(block::op what, uint64_t offset, uint64_t length,
                                  block::path& way) noexcept {
  if (what != block::op::read) return {};
  if (!usable()) return {&origin(), at(offset)};
  return core()->route_read(at(offset), length, way);
}

task<result<void>> merge_target::read(uint64_t offset, segments to, io_opts io) {
  if (!usable()) co_return co_await block::read(origin(), at(offset), to, io);
  co_return co_await core()->read(at(offset), to, io);
}

task<result<void>> merge_target::extents(uint64_t offset, uint64_t length, block::extent_list& out,
                                         io_opts io) {
  if (!usable()) co_return co_await origin().extents(at(offset), length, out, io);
  co_return co_await core()->extents(at(offset), length, out, io);
}

task<result<void>> merge_target::flush(io_opts io) {
  auto r = co_await origin().flush(io);
  const auto s = co_await store_device().flush(io);
  if (r && !s) r = s;
  co_return r;
}

task<result<void>> merge_target::discard(uint64_t, uint64_t, io_opts) {
  if (!made_.words.discard_zeroes_cow) co_return io_error{errc::notsup, 0};
  co_return result<void>{};
}

task<result<void>> merge_target::write(uint64_t offset, segments from, io_opts io) {
  const uint64_t place = at(offset);
  auto work = [this, place, from, io] { return write_at_home(place, from, io); };
  co_return co_await rt::call_on(home_, work);
}

task<result<void>> merge_target::write_at_home(uint64_t offset, segments from, io_opts io) {
  const uint64_t length = block::total_bytes(from);
  for (uint64_t done = 0; done < length;) {
    const block::segment_list rest(from, done, length - done);
    CO_TRY(const uint64_t n, co_await write_some(offset + done, rest.view(), io));
    done += n;
  }
  co_return result<void>{};
}

task<result<void>> merge_target::write_origin(uint64_t offset, segments from, io_opts io) {
  const uint64_t n = block::total_bytes(from);
  const uint32_t inside = co_await made_.group->enter_when_kept(offset, n, core());
  const auto r = co_await block::write(origin(), offset, from, io);
  made_.group->leave_write(inside);
  co_return r;
}

// The beginning of a range that lies in one place; returns how many bytes, 0 to look again.
task<result<uint64_t>> merge_target::write_some(uint64_t offset, segments from, io_opts io) {
  const uint64_t length = block::total_bytes(from);
  if (!usable()) {
    CO_CHECK(co_await write_origin(offset, from, io));
    co_return length;
  }
  snapshot_core& c = *core();
  const uint64_t unit = c.chunk_bytes();
  const uint64_t most = chunk_tracker::chunks_most * unit - offset % unit;
  const snapshot_core::span s = c.find_span(offset, std::min(length, most));
  uint64_t n = s.length;
  if (!s.in_store) {
    const block::segment_list part(from, 0, n);
    CO_CHECK(co_await write_origin(offset, part.view(), io));
    co_return n;
  }
  if (const std::shared_ptr<step> now = step_) {
    const uint64_t begin = now->run.old_chunk * unit, end = begin + now->run.count * unit;
    if (offset >= begin && offset < end) {
      co_await now->over.wait();
      if (now->failed) co_return io_error{errc::io, 0};
      co_return uint64_t{0};
    }
    if (offset < begin) n = std::min(n, begin - offset);
  }
  const chunk_run doubt = c.store().in_doubt();
  if (doubt.count != 0) {
    const uint64_t begin = doubt.old_chunk * unit, end = begin + doubt.count * unit;
    if (offset < begin) n = std::min(n, begin - offset);
    if (offset >= begin && offset < end) {
      const block::segment_list part(from, 0, std::min(n, end - offset));
      co_return co_await write_twice(offset, s.place, part.view(), io);
    }
  }
  const block::segment_list part(from, 0, n);
  const uint64_t first = offset / unit, count = (offset + n - 1) / unit - first + 1;
  const uint64_t visit = c.tracker().enter(first, count);
  const auto r = co_await block::write(store_device(), s.place, part.view(), io);
  c.tracker().leave(visit);
  if (!r) co_return r.error();
  co_return n;
}

// Where nobody knows whether the store still has the exception, a crash may bring back either
// place: both get the bytes, one request after the other, so that both have the same at the end.
task<result<uint64_t>> merge_target::write_twice(uint64_t offset, uint64_t place, segments from,
                                                 io_opts io) {
  snapshot_core& c = *core();
  const uint64_t length = block::total_bytes(from), unit = c.chunk_bytes();
  const auto held = co_await writing_twice_.lock();
  // Merging may have gone on meanwhile.
  if (step_ != nullptr || c.store().in_doubt().count == 0) co_return uint64_t{0};
  const uint64_t first = offset / unit, count = (offset + length - 1) / unit - first + 1;
  const uint64_t visit = c.tracker().enter(first, count);
  auto r = co_await block::write(store_device(), place, from, io);
  if (r) r = co_await write_origin(offset, from, io);
  c.tracker().leave(visit);
  if (!r) co_return r.error();
  co_return length;
}

// --- merging ---

void merge_target::started() {
  if (!idle_.is_set()) return;
  stopping_ = false;
  idle_.reset();
  rt::spawn(merge_all());
}

task<void> merge_target::stopped() {
  stopping_ = true;
  co_await idle_.wait();
}

task<void> merge_target::presuspend(bool) { co_await stopped(); }
task<void> merge_target::presuspend_undone() {
  started();
  co_return;
}

task<void> merge_target::merge_all() {
  while (!stopping_) {
    if (!usable()) {
      base::log_error("device-mapper", "snapshots: Snapshot is invalid: can't merge");
      break;
    }
    const auto newest = co_await core()->store().newest_run();
    if (!newest) {
      base::log_error("device-mapper",
                      "snapshots: Read error in exception store: shutting down merge");
      core()->set_merge_failed();
      break;
    }
    chunk_run run = *newest;
    if (run.count == 0) break;
    const uint64_t n =
        std::min(run.count, std::max<uint64_t>(step_bytes / core()->chunk_bytes(), 1));
    run.old_chunk += run.count - n;
    run.new_chunk += run.count - n;
    run.count = n;
    const bool merged = co_await merge_run(run);
    if (!merged) break;
  }
  idle_.set();
}

task<bool> merge_target::merge_run(chunk_run run) {
  snapshot_core& c = *core();
  const uint64_t offset = run.old_chunk * c.chunk_bytes();
  // Other snapshots of the origin keep its content first.
  const uint32_t inside = co_await made_.group->enter_when_kept(offset, c.origin_bytes_of(run), &c);
  step_ = std::make_shared<step>();
  step_->run = run;
  co_await c.tracker().drain(run.old_chunk, run.count);
  const char* wrong = co_await move_run(run);
  made_.group->leave_write(inside);
  if (wrong == nullptr) {
    const auto forgotten = co_await c.store().forget_newest(run.count);
    if (!forgotten) wrong = "Write error in exception store: shutting down merge";
  }
  if (wrong == nullptr) {
    for (uint64_t i = 0; i < run.count; ++i) c.exceptions().erase(run.old_chunk + i);
  } else {
    base::log_error("device-mapper", std::string("snapshots: ") + wrong);
    step_->failed = true;
    c.set_merge_failed();
  }
  step_->over.set();
  step_ = nullptr;
  co_return wrong == nullptr;
}

// Returns what went wrong. The data is durable on the origin afterwards.
task<const char*> merge_target::move_run(const chunk_run& run) {
  snapshot_core& c = *core();
  const uint64_t n = c.origin_bytes_of(run);
  const block::region from{&store_device(), c.store().place_of(run.new_chunk), n};
  std::vector<block::copy_destination> to;
  to.push_back({&origin(), run.old_chunk * c.chunk_bytes(), 0, n});
  const block::copy_result r = co_await made_.group->copies().copy(from, std::move(to));
  if (r.read_error != errc::ok) co_return "Read error: shutting down merge.";
  if (r.failed != 0) co_return "Write error: shutting down merge.";
  const auto flushed = co_await origin().flush({});
  if (!flushed) co_return "Flush after merge failed: shutting down merge";
  co_return nullptr;
}

namespace {

task<base::outcome<std::shared_ptr<block::target>>> create_merge(block::target_context& context,
                                                                 std::vector<std::string> args) {
  return store_user::create(context, std::move(args), true);
}

}  // namespace
}  // namespace lbd::snapshot

namespace lbd::target {

extern const block::target_type snapshot_merge_type;
const block::target_type snapshot_merge_type = {
    "snapshot-merge", {1, 5, 0}, 0, &snapshot::create_merge};

}  // namespace lbd::target
