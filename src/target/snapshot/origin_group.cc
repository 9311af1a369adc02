// SPDX-License-Identifier: MIT
#include "target/snapshot/origin_group.h"

#include <algorithm>

namespace lbd::snapshot {

origin_group::origin_group(rt::runtime& runtime)
    : runtime_(runtime),
      home_(rt::reactor::current()),
      active_(new list),
      writes_(runtime),
      rounds_(runtime) {}

origin_group::~origin_group() { delete active_.load(); }

bool origin_group::needs_exception(uint64_t offset, uint64_t length,
                                   const snapshot_core* except) const noexcept {
  for (const auto& c : *active_.load(std::memory_order_acquire))
    if (c.get() != except && c->needs_exception(offset, length)) return true;
  return false;
}

task<uint32_t> origin_group::enter_when_kept(uint64_t offset, uint64_t length,
                                             const snapshot_core* except) {
  for (;;) {
    const uint32_t inside = enter_write();
    if (!needs_exception(offset, length, except)) co_return inside;
    leave_write(inside);
    auto work = [this, offset, length, except] { return keep(offset, length, except); };
    co_await rt::call_on(home_, work);
  }
}

// Makes exceptions in all snapshots, for the whole range or its first part.
task<bool> origin_group::keep(uint64_t offset, uint64_t length, const snapshot_core* except) {
  const uint32_t round = rounds_.enter();
  const list snapshots = *active_.load(std::memory_order_acquire);
  std::vector<keeping> mine;
  std::vector<pending_ref> waited_for;
  for (const auto& c : snapshots) {
    if (c.get() == except) continue;
    // The first chunk that is missing may lie far behind.
    uint64_t begin = offset;
    const uint64_t end = offset + length;
    while (end - begin > round_bytes && !c->needs_exception(begin, round_bytes))
      begin += round_bytes;
    std::vector<pending_ref> made;
    co_await c->begin_exceptions(begin, std::min(end - begin, round_bytes), made, waited_for);
    for (pending_ref& p : made) {
      const uint64_t at = p->run.old_chunk * c->chunk_bytes();
      waited_for.push_back(p);
      mine.push_back({c.get(), std::move(p), at, 0});
      mine.back().end = at + c->origin_bytes_of(mine.back().p->run);
    }
  }
  co_await copy_all(std::move(mine));
  for (const pending_ref& p : waited_for) co_await p->done.wait();
  rounds_.leave(round);
  co_return true;
}

// What lies together in the origin is read once, for whichever snapshots.
task<void> origin_group::copy_all(std::vector<keeping> all) {
  std::sort(all.begin(), all.end(),
            [](const keeping& a, const keeping& b) { return a.begin < b.begin; });
  std::vector<task<bool>> jobs;
  std::vector<keeping> part;
  uint64_t end = 0;
  for (keeping& k : all) {
    if (!part.empty() && (k.begin > end || part.size() == block::regions_most)) {
      jobs.push_back(copy_together(std::move(part)));
      part.clear();
      end = 0;
    }
    end = std::max(end, k.end);
    part.push_back(std::move(k));
  }
  if (!part.empty()) jobs.push_back(copy_together(std::move(part)));
  co_await rt::when_all(std::move(jobs));
}

task<bool> origin_group::copy_together(std::vector<keeping> part) {
  block::region from;
  from.device = part[0].core->origin().device.get();
  from.offset = part[0].begin;
  uint64_t end = from.offset;
  std::vector<block::copy_destination> to;
  for (const keeping& k : part) {
    const exception_store& store = k.core->store();
    to.push_back({&store.device(), store.place_of(k.p->run.new_chunk), k.begin - from.offset,
                  k.end - k.begin});
    end = std::max(end, k.end);
  }
  from.length = end - from.offset;
  block::copy_options how;
  how.keep_going = true;
  const block::copy_result r = co_await copies_.copy(from, std::move(to), std::move(how));
  if (r.read_error != errc::ok && part.size() > 1) {
    // Only those whose own chunks cannot be read are lost.
    for (keeping& k : part) {
      std::vector<keeping> one;
      one.push_back(std::move(k));
      co_await copy_together(std::move(one));
    }
    co_return true;
  }
  for (size_t i = 0; i < part.size(); ++i) {
    const bool copied = r.read_error == errc::ok && (r.failed >> i & 1) == 0;
    part[i].core->complete(part[i].p, copied);
  }
  co_return true;
}

bool origin_group::has(const snapshot_core* c) const noexcept {
  const list& now = *active_.load();
  return std::any_of(now.begin(), now.end(), [c](const auto& one) { return one.get() == c; });
}

task<void> origin_group::publish(std::unique_ptr<const list> next) {
  const std::unique_ptr<const list> old(active_.exchange(next.release()));
  co_await writes_.quiesce();
  co_await rounds_.quiesce();
}

task<void> origin_group::add(std::shared_ptr<snapshot_core> c) {
  const auto held = co_await publishing_.lock();
  if (has(c.get())) co_return;
  auto next = std::make_unique<list>(*active_.load());
  next->push_back(std::move(c));
  co_await publish(std::move(next));
}

task<void> origin_group::remove(const snapshot_core* c) {
  const auto held = co_await publishing_.lock();
  if (!has(c)) co_return;
  auto next = std::make_unique<list>();
  for (const auto& one : *active_.load())
    if (one.get() != c) next->push_back(one);
  co_await publish(std::move(next));
}

}  // namespace lbd::snapshot
