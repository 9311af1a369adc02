// SPDX-License-Identifier: MIT
#include "sim/disk.h"

#include <linux/falloc.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "base/checked_math.h"
#include "block/segments.h"

namespace lbd::sim {

using base::errc;
using base::failure;
using rt::io_op;

struct sim_disk::sector_data {
  std::array<std::byte, sector_bytes> bytes;
};

struct sim_disk::pending : rt::timer {
  sim_disk* disk = nullptr;
  rt::reactor* where = nullptr;
  inode_ref at;
  rt::io_request* request = nullptr;
  uint64_t covered = 0;  // a sync's: the changes that were answered when it was submitted
  bool stuck = false;
  pending_list::iterator self;
};

class sim_file final : public rt::file {
 public:
  sim_file(sim_disk& disk, sim_disk::inode_ref at, const std::string& path, bool writable)
      : disk_(disk), at_(std::move(at)), boot_(disk.boots_) {
    info_.path = path;
    info_.size_bytes = at_->size_bytes;
    info_.writable = writable;
    info_.device_id = 1;
    info_.inode = at_->number;
  }
  ~sim_file() override { drop_locks(0, UINT64_MAX); }

  rt::file_extent extent_at(uint64_t offset) noexcept override {
    const uint64_t size = at_->size_bytes;
    if (offset >= size) return {std::max(info_.size_bytes, offset + 1) - offset, true};
    auto i = at_->sectors.lower_bound(offset / sector_bytes);
    const auto is_data = [&](uint64_t index) {
      return i != at_->sectors.end() && i->first == index && i->second.visible != nullptr;
    };
    uint64_t index = offset / sector_bytes;
    if (is_data(index)) {
      for (; is_data(index); ++i) ++index;
      return {std::min(index * sector_bytes, size) - offset, false};
    }
    while (i != at_->sectors.end() && i->second.visible == nullptr) ++i;
    const uint64_t end = i == at_->sectors.end() ? size : i->first * sector_bytes;
    return {std::min(end, size) - offset, true};
  }

  base::result<void> lock(rt::lock_kind kind, uint64_t first, uint64_t count) noexcept override {
    if (boot_ != disk_.boots_) return base::io_error{errc::io, 0};
    if (would_block(kind, first, count)) return base::io_error{errc::again, 0};
    drop_locks(first, first + count);
    if (kind != rt::lock_kind::none) at_->locks.push_back({this, kind, first, first + count});
    return {};
  }

  bool would_block(rt::lock_kind kind, uint64_t first, uint64_t count) noexcept override {
    if (kind == rt::lock_kind::none) return false;
    return std::any_of(at_->locks.begin(), at_->locks.end(), [&](const auto& l) {
      return l.owner != this && l.begin < first + count && first < l.end &&
             (kind == rt::lock_kind::exclusive || l.kind == rt::lock_kind::exclusive);
    });
  }

  bool try_now(rt::io_request& r) noexcept override {
    if (boot_ != disk_.boots_) {
      r.result = -EIO;
      return true;
    }
    if (!info_.writable && r.op != io_op::read && r.op != io_op::sync_data) {
      r.result = -EBADF;
      return true;
    }
    const bool transfer = r.op == io_op::read || r.op == io_op::write;
    const bool now =
        r.op == io_op::resize || (transfer && disk_.random_.percent(disk_.options_.inline_percent));
    if (!now) return false;
    r.result = disk_.perform(*at_, r, 0);
    return true;
  }

  void start(rt::io_request& r) override { disk_.start(at_, r); }

 private:
  // OFD locks: an unlock or a new lock cuts what the same owner has there.
  void drop_locks(uint64_t begin, uint64_t end) noexcept {
    std::vector<sim_disk::lock_entry> kept;
    for (const auto& l : at_->locks) {
      if (l.owner != this || l.end <= begin || end <= l.begin) {
        kept.push_back(l);
        continue;
      }
      if (l.begin < begin) kept.push_back({this, l.kind, l.begin, begin});
      if (end < l.end) kept.push_back({this, l.kind, end, l.end});
    }
    at_->locks = std::move(kept);
  }

  sim_disk& disk_;
  const sim_disk::inode_ref at_;
  const uint64_t boot_;
};

namespace {

rt::segments segments_of(const rt::io_request& r) noexcept { return {r.iov, r.iov_count}; }

std::vector<std::byte> flatten(const rt::io_request& r) {
  std::vector<std::byte> out(block::total_bytes(segments_of(r)));
  block::copy_from(segments_of(r), out);
  return out;
}

}  // namespace

sim_disk::sim_disk(uint64_t seed, disk_options options)
    : options_(options), random_(seed, 0x6469736b) {}
sim_disk::~sim_disk() = default;

base::outcome<std::unique_ptr<rt::file>> sim_disk::open(const std::string& path,
                                                        rt::open_options options) {
  auto i = inodes_.find(path);
  if (i == inodes_.end()) {
    if (!options.create) return failure{errc::noent, "cannot open '" + path + "': no such file"};
    auto made = std::make_shared<inode>();
    made->number = next_inode_++;
    i = inodes_.emplace(path, std::move(made)).first;
  } else if (options.create && options.exclusive) {
    return failure{errc::exist, "cannot create '" + path + "': it exists"};
  }
  return std::unique_ptr<rt::file>(
      std::make_unique<sim_file>(*this, i->second, path, options.writable));
}

void sim_disk::clear_faults() noexcept {
  std::fill(std::begin(chance_), std::end(chance_), 0);
  std::fill(std::begin(planned_), std::end(planned_), 0);
}

bool sim_disk::happens(fault f) {
  const auto k = static_cast<size_t>(f);
  bool yes = chance_[k] != 0 && random_.below(1'000'000) < chance_[k];
  if (planned_[k] != 0 && --planned_[k] == 0) yes = true;
  if (yes) ++faults_;
  return yes;
}

void sim_disk::start(const inode_ref& at, rt::io_request& r) {
  auto p = std::make_unique<pending>();
  p->disk = this;
  p->where = &rt::reactor::current();
  p->at = at;
  p->request = &r;
  p->covered = changes_;
  p->stuck = happens(fault::stuck);
  p->run = [](rt::timer& t) {
    auto& due = static_cast<pending&>(t);
    due.disk->finish(due);
  };
  const uint64_t wait_ns = p->stuck
                               ? random_.between(10, 100) * 1'000'000'000
                               : random_.between(1, std::max<uint64_t>(options_.latency_ns, 1));
  p->where->start_timer(*p, p->where->now_ns() + wait_ns);
  flying_.push_back(std::move(p));
  flying_.back()->self = std::prev(flying_.end());
}

void sim_disk::finish(pending& p) { answer(p, perform(*p.at, *p.request, p.covered)); }

void sim_disk::answer(pending& p, int64_t result) {
  p.where->stop_timer(p);
  p.request->result = result;
  p.request->done = true;
  p.where->schedule(p.request->waiter);
  flying_.erase(p.self);
}

void sim_disk::release_stuck() {
  for (auto& p : flying_)
    if (p->stuck) p->where->start_timer(*p, p->where->now_ns());
}

int64_t sim_disk::perform(inode& at, rt::io_request& r, uint64_t covered) {
  switch (r.op) {
    case io_op::read:
      return do_read(at, r);
    case io_op::write:
      return do_write(at, r);
    case io_op::sync_data:
      return do_sync(at, covered);
    case io_op::fallocate:
      return do_allocate(at, r);
    case io_op::resize:
      return do_resize(at, r.length);
    default:
      return -EINVAL;
  }
}

// Never cuts a sector: the rest of it would be a request of its own, and the sector torn.
uint64_t sim_disk::maybe_short(uint64_t offset, uint64_t length) {
  if (length < 2 || !random_.percent(options_.short_percent)) return length;
  const uint64_t end = base::round_down(offset + random_.between(1, length - 1), sector_bytes);
  return end > offset ? end - offset : length;
}

int64_t sim_disk::do_read(inode& at, const rt::io_request& r) {
  if (happens(fault::read_error)) return -EIO;
  let_writes_shine_through(at, r);
  uint64_t n = block::total_bytes(segments_of(r));
  if (r.offset >= at.size_bytes) return 0;
  n = std::min(n, at.size_bytes - r.offset);
  n = maybe_short(r.offset, n);
  if (happens(fault::bit_rot)) {
    const auto i = at.sectors.find((r.offset + random_.below(n)) / sector_bytes);
    if (i != at.sectors.end() && i->second.visible != nullptr) {
      auto rotten = std::make_shared<sector_data>(*i->second.visible);
      rotten->bytes[random_.below(sector_bytes)] ^= std::byte(1u << random_.below(8));
      i->second.visible = i->second.durable = rotten;
    }
  }
  std::vector<std::byte> out(n);
  auto i = at.sectors.lower_bound(r.offset / sector_bytes);
  for (; i != at.sectors.end() && i->first * sector_bytes < r.offset + n; ++i) {
    if (i->second.visible == nullptr) continue;
    const uint64_t begin = std::max(i->first * sector_bytes, r.offset);
    const uint64_t end = std::min((i->first + 1) * sector_bytes, r.offset + n);
    std::memcpy(out.data() + (begin - r.offset),
                i->second.visible->bytes.data() + begin % sector_bytes, end - begin);
  }
  block::copy_to(segments_of(r), out);
  return static_cast<int64_t>(n);
}

// Bytes of [offset, offset + length) that there is room for.
uint64_t sim_disk::write_room(const inode& at, uint64_t offset, uint64_t length) const {
  if (options_.space_bytes == UINT64_MAX) return length;
  const uint64_t budget = options_.space_bytes / sector_bytes;
  uint64_t used = used_sectors_;
  for (uint64_t index = offset / sector_bytes; index * sector_bytes < offset + length; ++index) {
    const auto i = at.sectors.find(index);
    if (i != at.sectors.end() && i->second.visible != nullptr) continue;
    if (used >= budget) return index * sector_bytes > offset ? index * sector_bytes - offset : 0;
    ++used;
  }
  return length;
}

namespace {
// `content` where it lies in the sector, the old bytes elsewhere.
template <class Block, class Ref>
std::shared_ptr<const Block> overlaid(const Ref& old, uint64_t index, uint64_t offset,
                                      base::bytes_view content) {
  auto made = std::make_shared<Block>();
  const uint64_t begin = std::max(index * sector_bytes, offset);
  const uint64_t end = std::min((index + 1) * sector_bytes, offset + content.size());
  if (end - begin < sector_bytes) {
    if (old != nullptr)
      made->bytes = old->bytes;
    else
      made->bytes.fill(std::byte{0});
  }
  std::memcpy(made->bytes.data() + begin % sector_bytes, content.data() + (begin - offset),
              end - begin);
  return made;
}
}  // namespace

void sim_disk::set_sector(inode& at, uint64_t index, data_ref content, uint64_t change) {
  sector& s = at.sectors[index];
  if ((s.visible != nullptr) != (content != nullptr)) used_sectors_ += content ? 1 : uint64_t(-1);
  s.visible = content;
  s.unflushed.push_back({std::move(content), change});
  at.dirty.insert(index);
}

void sim_disk::set_size(inode& at, uint64_t bytes, uint64_t change) {
  if (bytes == at.size_bytes) return;
  at.size_bytes = bytes;
  at.unflushed_sizes.push_back({bytes, change});
}

void sim_disk::put_bytes(inode& at, uint64_t offset, base::bytes_view content, bool torn) {
  if (content.empty()) return;
  const uint64_t change = ++changes_;
  for (uint64_t index = offset / sector_bytes; index * sector_bytes < offset + content.size();
       ++index) {
    if (torn && random_.coin()) continue;
    const auto i = at.sectors.find(index);
    const data_ref old = i == at.sectors.end() ? nullptr : i->second.visible;
    set_sector(at, index, overlaid<sector_data>(old, index, offset, content), change);
  }
  set_size(at, std::max(at.size_bytes, offset + content.size()), change);
}

int64_t sim_disk::do_write(inode& at, const rt::io_request& r) {
  const std::vector<std::byte> all = flatten(r);
  uint64_t n = write_room(at, r.offset, all.size());
  if (n == 0 && !all.empty()) return -ENOSPC;
  n = maybe_short(r.offset, n);
  const base::bytes_view content = base::bytes_view(all).first(n);
  if (happens(fault::lost_write)) return static_cast<int64_t>(n);
  const bool failing = happens(fault::write_error);
  const uint64_t away = happens(fault::misdirected) ? random_.between(1, 64) * sector_bytes : 0;
  put_bytes(at, r.offset + away, content, failing);
  if (failing || happens(fault::false_alarm)) return -EIO;
  return static_cast<int64_t>(n);
}

void sim_disk::make_durable(inode& at, uint64_t index, uint64_t covered) {
  const auto i = at.sectors.find(index);
  if (i == at.sectors.end()) return;
  auto& list = i->second.unflushed;
  const auto last = std::find_if(list.rbegin(), list.rend(),
                                 [&](const version& v) { return v.change <= covered; });
  if (last == list.rend()) return;
  i->second.durable = last->content;
  list.erase(list.begin(), last.base());
  if (list.empty()) at.dirty.erase(index);
}

void sim_disk::make_size_durable(inode& at, uint64_t covered) {
  auto& list = at.unflushed_sizes;
  at.created_durably = true;
  const auto last = std::find_if(list.rbegin(), list.rend(),
                                 [&](const size_version& v) { return v.change <= covered; });
  if (last == list.rend()) return;
  at.durable_size_bytes = last->bytes;
  list.erase(list.begin(), last.base());
}

int64_t sim_disk::do_sync(inode& at, uint64_t covered) {
  if (happens(fault::sync_error)) {
    fail_sync(at, covered);
    return -EIO;
  }
  const std::set<uint64_t> dirty = at.dirty;
  for (const uint64_t index : dirty) make_durable(at, index, covered);
  make_size_durable(at, covered);
  return 0;
}

void sim_disk::count_failed_sync(inode& at) noexcept {
  ++failed_syncs_;
  ++at.failed_syncs;
}

unsigned sim_disk::failed_syncs(const std::string& path) const {
  const auto i = inodes_.find(path);
  return i == inodes_.end() ? 0 : i->second->failed_syncs;
}

void sim_disk::fail_sync(inode& at, uint64_t covered) {
  count_failed_sync(at);
  if (random_.coin()) return;                // all stays dirty
  const bool forgets = random_.percent(25);  // what is clean may leave the cache
  const std::set<uint64_t> dirty = at.dirty;
  for (const uint64_t index : dirty) {
    if (random_.coin()) {
      make_durable(at, index, covered);
      continue;
    }
    sector& s = at.sectors[index];
    std::erase_if(s.unflushed, [&](const version& v) { return v.change <= covered; });
    if (!s.unflushed.empty()) continue;
    at.dirty.erase(index);
    if (!forgets || s.visible == s.durable) continue;
    ++forgotten_;
    if ((s.visible != nullptr) != (s.durable != nullptr))
      used_sectors_ += s.durable ? 1 : uint64_t(-1);
    s.visible = s.durable;
  }
  if (random_.coin()) make_size_durable(at, covered);
}

int64_t sim_disk::do_allocate(inode& at, const rt::io_request& r) {
  const bool punch = (r.flags & FALLOC_FL_PUNCH_HOLE) != 0;
  const bool zero = (r.flags & FALLOC_FL_ZERO_RANGE) != 0;
  const bool keep_size = (r.flags & FALLOC_FL_KEEP_SIZE) != 0;
  if (r.length == 0) return -EINVAL;
  if ((punch || zero) && !options_.can_punch) return -EOPNOTSUPP;
  if (punch && !keep_size) return -EOPNOTSUPP;
  uint64_t end = r.offset + r.length;
  if (punch || keep_size) end = std::min(end, at.size_bytes);
  if (!punch && end > r.offset && write_room(at, r.offset, end - r.offset) < end - r.offset)
    return -ENOSPC;
  if (happens(fault::write_error)) return -EIO;
  const uint64_t change = ++changes_;
  if (end > r.offset)
    fill_range(at, r.offset, end, punch ? fill::hole : zero ? fill::zero : fill::keep, change);
  if (!keep_size) set_size(at, std::max(at.size_bytes, end), change);
  return 0;
}

void sim_disk::fill_range(inode& at, uint64_t begin, uint64_t end, fill how, uint64_t change) {
  static const auto zeros = std::make_shared<sector_data>(sector_data{});
  for (uint64_t index = begin / sector_bytes; index * sector_bytes < end; ++index) {
    const auto i = at.sectors.find(index);
    const data_ref old = i == at.sectors.end() ? nullptr : i->second.visible;
    const uint64_t from = std::max(index * sector_bytes, begin);
    const uint64_t to = std::min((index + 1) * sector_bytes, end);
    if (how == fill::keep) {
      if (old == nullptr) set_sector(at, index, zeros, change);
    } else if (to - from == sector_bytes) {
      if (how == fill::hole && old == nullptr) continue;
      set_sector(at, index, how == fill::hole ? nullptr : zeros, change);
    } else if (old != nullptr || how == fill::zero) {
      const base::bytes_view part = base::bytes_view(zeros->bytes).first(to - from);
      set_sector(at, index, overlaid<sector_data>(old, index, from, part), change);
    }
  }
}

int64_t sim_disk::do_resize(inode& at, uint64_t size_bytes) {
  if (happens(fault::write_error)) return -EIO;
  const uint64_t change = ++changes_;
  if (size_bytes < at.size_bytes) fill_range(at, size_bytes, at.size_bytes, fill::hole, change);
  set_size(at, size_bytes, change);
  return 0;
}

void sim_disk::let_writes_shine_through(inode& at, const rt::io_request& reading) {
  const uint64_t read_end = reading.offset + block::total_bytes(segments_of(reading));
  for (const auto& p : flying_) {
    const rt::io_request& w = *p->request;
    if (p->at.get() != &at || w.op != io_op::write || p->stuck) continue;
    if (w.offset >= read_end || reading.offset >= w.offset + block::total_bytes(segments_of(w)))
      continue;
    const std::vector<std::byte> content = flatten(w);
    const uint64_t change = ++changes_;
    const uint64_t end = std::min({w.offset + content.size(), read_end, at.size_bytes});
    for (uint64_t index = std::max(w.offset, reading.offset) / sector_bytes;
         index * sector_bytes < end; ++index) {
      const auto i = at.sectors.find(index);
      // Holes stay: filling one needs room, which only the write itself asks for.
      if (i == at.sectors.end() || i->second.visible == nullptr || random_.coin()) continue;
      set_sector(at, index, overlaid<sector_data>(i->second.visible, index, w.offset, content),
                 change);
    }
  }
}

void sim_disk::crash() {
  const unsigned style = static_cast<unsigned>(random_.below(6));
  // What is in flight may have been done.
  for (const auto& p : flying_) {
    rt::io_request& r = *p->request;
    if (random_.coin()) continue;
    if (r.op == io_op::write) put_bytes(*p->at, r.offset, flatten(r), random_.coin());
    if (r.op == io_op::fallocate) do_allocate(*p->at, r);
  }
  for (auto i = inodes_.begin(); i != inodes_.end();) {
    const bool gone = !i->second->created_durably && random_.percent(30);
    crash_inode(*i->second, style);
    i->second->created_durably = true;
    i = gone ? inodes_.erase(i) : std::next(i);
  }
  ++boots_;
  failed_syncs_ = forgotten_ = 0;
  used_sectors_ = 0;
  for (const auto& [path, at] : inodes_)
    for (const auto& [index, s] : at->sectors) used_sectors_ += s.visible != nullptr;
  while (!flying_.empty()) answer(*flying_.front(), -EIO);
}

// The styles of survival: nothing, everything, each sector for itself, whole requests (some of them
// torn), only the newest changes, only the oldest.
bool sim_disk::survives(unsigned style, uint64_t salt, uint64_t cut, uint64_t change) {
  switch (style) {
    case 0:
      return false;
    case 1:
      return true;
    case 3:
      return (mix(salt ^ change) & 1) != 0 ? !random_.percent(5) : random_.percent(5);
    case 4:
      return change >= cut;
    case 5:
      return change <= cut;
    default:
      return random_.coin();
  }
}

void sim_disk::crash_inode(inode& at, unsigned style) {
  uint64_t oldest = changes_;
  for (const uint64_t index : at.dirty)
    oldest = std::min(oldest, at.sectors[index].unflushed.front().change);
  const uint64_t cut = random_.between(oldest, changes_);
  const uint64_t salt = random_.next();
  for (const uint64_t index : at.dirty) {
    sector& s = at.sectors[index];
    if (style == 2) {
      const uint64_t pick = random_.below(s.unflushed.size() + 1);
      if (pick < s.unflushed.size()) s.durable = s.unflushed[pick].content;
    } else {
      for (const version& v : s.unflushed)
        if (survives(style, salt, cut, v.change)) s.durable = v.content;
    }
    s.unflushed.clear();
  }
  for (auto& [index, s] : at.sectors) s.visible = s.durable;
  at.dirty.clear();
  // The size goes with its change, or its own way.
  const bool own_way = random_.coin();
  for (const size_version& v : at.unflushed_sizes)
    if (own_way ? random_.coin() : survives(style, salt, cut, v.change))
      at.durable_size_bytes = v.bytes;
  at.unflushed_sizes.clear();
  at.size_bytes = at.durable_size_bytes;
  const auto first_gone = at.sectors.lower_bound(base::div_up(at.size_bytes, sector_bytes));
  at.sectors.erase(first_gone, at.sectors.end());
  const uint64_t tail = at.size_bytes % sector_bytes;
  const auto last = at.sectors.find(at.size_bytes / sector_bytes);
  if (tail != 0 && last != at.sectors.end() && last->second.visible != nullptr) {
    auto cut_off = std::make_shared<sector_data>(*last->second.visible);
    std::fill(cut_off->bytes.begin() + static_cast<ptrdiff_t>(tail), cut_off->bytes.end(),
              std::byte{0});
    last->second.visible = last->second.durable = std::move(cut_off);
  }
  at.locks.clear();
  at.failed_syncs = 0;
}

std::vector<std::string> sim_disk::paths() const {
  std::vector<std::string> out;
  for (const auto& [path, at] : inodes_) out.push_back(path);
  return out;
}

std::vector<std::byte> sim_disk::gather(const inode& at, uint64_t size_bytes,
                                        data_ref sector::*which) {
  std::vector<std::byte> out(size_bytes);
  for (const auto& [index, s] : at.sectors) {
    const uint64_t offset = index * sector_bytes;
    if (s.*which == nullptr || offset >= out.size()) continue;
    std::memcpy(out.data() + offset, (s.*which)->bytes.data(),
                std::min<uint64_t>(sector_bytes, out.size() - offset));
  }
  return out;
}

std::vector<std::byte> sim_disk::bytes_of(const std::string& path) const {
  const auto found = inodes_.find(path);
  if (found == inodes_.end()) return {};
  return gather(*found->second, found->second->size_bytes, &sector::visible);
}

std::vector<std::byte> sim_disk::durable_bytes_of(const std::string& path) const {
  const auto found = inodes_.find(path);
  if (found == inodes_.end()) return {};
  return gather(*found->second, found->second->durable_size_bytes, &sector::durable);
}

void sim_disk::put(const std::string& path, base::bytes_view bytes) {
  auto made = std::make_shared<inode>();
  made->number = next_inode_++;
  inodes_[path] = made;
  if (!bytes.empty()) put_bytes(*made, 0, bytes, false);
  const std::set<uint64_t> dirty = made->dirty;
  for (const uint64_t index : dirty) make_durable(*made, index, changes_);
  make_size_durable(*made, changes_);
}

}  // namespace lbd::sim
