// SPDX-License-Identifier: MIT
#include "sim/snapshot.h"

#include <algorithm>
#include <set>

#include "base/checked_math.h"
#include "block/segments.h"
#include "format/dm_snapshot/dm_snapshot.h"
#include "sim/oracle.h"
#include "stack/device_manager.h"
#include "store/file/file.h"

namespace lbd::sim {
namespace {

using base::errc;
using base::outcome;
using base::result;
using block::io_opts;
using rt::segments;
using rt::task;

// Devices of one size, one after the other. Those that cannot discard keep what they have.
class joined_device final : public block::block_device {
 public:
  joined_device(std::vector<std::shared_ptr<block::block_device>> parts, uint64_t part_bytes)
      : parts_(std::move(parts)), part_bytes_(part_bytes) {
    limits_.size_bytes = parts_.size() * part_bytes;
  }
  const block::limits& limits() const noexcept override { return limits_; }

  task<result<void>> read(uint64_t offset, segments to, io_opts io) override {
    const uint64_t length = block::total_bytes(to);
    for (uint64_t done = 0; done < length;) {
      const piece p = piece_at(offset + done, length - done);
      const block::segment_list part(to, done, p.length);
      CO_CHECK(co_await block::read(*p.device, p.offset, part.view(), io));
      done += p.length;
    }
    co_return result<void>{};
  }
  task<result<void>> write(uint64_t offset, segments from, io_opts io) override {
    const uint64_t length = block::total_bytes(from);
    for (uint64_t done = 0; done < length;) {
      const piece p = piece_at(offset + done, length - done);
      const block::segment_list part(from, done, p.length);
      CO_CHECK(co_await block::write(*p.device, p.offset, part.view(), io));
      done += p.length;
    }
    co_return result<void>{};
  }
  task<result<void>> flush(io_opts io) override {
    for (const auto& p : parts_) CO_CHECK(co_await p->flush(io));
    co_return result<void>{};
  }
  task<result<void>> discard(uint64_t offset, uint64_t length, io_opts io) override {
    for (uint64_t done = 0; done < length;) {
      const piece p = piece_at(offset + done, length - done);
      const auto r = co_await p.device->discard(p.offset, p.length, io);
      if (!r && r.error().code != errc::notsup) co_return r;
      done += p.length;
    }
    co_return result<void>{};
  }
  task<result<void>> write_zeroes(uint64_t offset, uint64_t length, io_opts io) override {
    for (uint64_t done = 0; done < length;) {
      const piece p = piece_at(offset + done, length - done);
      CO_CHECK(co_await p.device->write_zeroes(p.offset, p.length, io));
      done += p.length;
    }
    co_return result<void>{};
  }
  task<result<void>> extents(uint64_t offset, uint64_t length, block::extent_list& out,
                             io_opts io) override {
    const piece p = piece_at(offset, length);
    return p.device->extents(p.offset, p.length, out, io);
  }

 private:
  struct piece {
    block::block_device* device;
    uint64_t offset, length;
  };
  piece piece_at(uint64_t offset, uint64_t length) const noexcept {
    const uint64_t inside = offset % part_bytes_;
    return {parts_[offset / part_bytes_].get(), inside, std::min(length, part_bytes_ - inside)};
  }

  const std::vector<std::shared_ptr<block::block_device>> parts_;
  const uint64_t part_bytes_;
  block::limits limits_;
};

class lying_device final : public block::block_device {
 public:
  lying_device(std::shared_ptr<block::block_device> below, store_bug bug)
      : below_(std::move(below)), bug_(bug) {}
  const block::limits& limits() const noexcept override { return below_->limits(); }
  task<result<void>> read(uint64_t offset, segments to, io_opts io) override {
    return below_->read(offset, to, io);
  }
  task<result<void>> write(uint64_t offset, segments from, io_opts io) override {
    if (bug_ == store_bug::ignores_all) io.flags &= ~block::io_fua;
    return below_->write(offset, from, io);
  }
  task<result<void>> flush(io_opts) override { co_return result<void>{}; }

 private:
  const std::shared_ptr<block::block_device> below_;
  const store_bug bug_;
};

// Files by their names; each has a number for good.
class file_sources final : public stack::source_opener {
 public:
  file_sources(sim_disk& disk, store_bug bug) : disk_(disk), bug_(bug) {}
  task<outcome<block::opened_device>> open(std::string source, bool) override {
    auto known = open_.find(source);
    if (known == open_.end()) {
      store::file_options options;
      options.writable = true;
      auto opened = store::open_file_store(disk_, source, options);
      if (!opened) co_return opened.error();
      std::shared_ptr<block::block_device> d = *std::move(opened);
      if (bug_ != store_bug::none && source.starts_with("/cow"))
        d = std::make_shared<lying_device>(std::move(d), bug_);
      known = open_.emplace(source, std::move(d)).first;
    }
    const auto minor = static_cast<uint32_t>(source.back());
    co_return block::opened_device{known->second, {700, minor}};
  }

 private:
  sim_disk& disk_;
  const store_bug bug_;
  std::map<std::string, std::shared_ptr<block::block_device>> open_;
};

// What has to hold for every store, whenever it is looked at.
std::string check_store(base::bytes_view bytes) {
  const dm_snapshot::header h = dm_snapshot::load_header(bytes);
  if (h.is_none()) return "";
  if (h.magic != dm_snapshot::header_magic || h.valid != 1) return "its header is not valid";
  const dm_snapshot::geometry g{h.chunk_sectors};
  std::set<uint64_t> olds, news;
  for (uint64_t k = 0;; ++k) {
    const uint64_t at = g.area_chunk(k) * g.chunk_bytes();
    if (!base::range_fits(at, g.chunk_bytes(), bytes.size())) return "an area is missing";
    const base::bytes_view area = bytes.subspan(at, g.chunk_bytes());
    const uint64_t count = dm_snapshot::count_entries(g, area);
    for (uint64_t i = 0; i < count; ++i) {
      const dm_snapshot::entry e = dm_snapshot::load_entry(area, i);
      if (!dm_snapshot::is_sound(g, e, g.chunks_on(bytes.size()))) return "an entry is not sound";
      if (!olds.insert(e.old_chunk).second) return "a chunk has two exceptions";
      if (!news.insert(e.new_chunk).second) return "a chunk of the store has two owners";
    }
    if (count < g.entries_per_area()) return "";
  }
}

struct store_shape {
  std::string path;  // "/cow0"
  uint32_t chunk_sectors = 8;
  std::string type;  // "P 8" and features
};

class snapshot_subject : public subject {
 public:
  snapshot_subject(random& shape, store_bug bug)
      : bug_(bug),
        part_bytes_(512 * shape.between(64, 600)),
        content_(static_cast<uint32_t>(UINT32_MAX - shape.below(2))) {}

  uint64_t size_bytes() const override { return part_bytes_ * parts(); }
  bool discard_zeroes() const override { return false; }
  bool survives_errors() const override { return false; }
  block::block_device& device() override { return *device_; }

  task<result<void>> close() override {
    const auto r = co_await device_->flush({});
    device_.reset();
    co_await manager_->remove_all(false);
    manager_.reset();
    sources_.reset();
    co_return r;
  }

  std::string check_files(const sim_disk& disk) const override {
    for (const store_shape& s : stores_) {
      const std::string wrong = check_store(disk.bytes_of(s.path));
      if (!wrong.empty()) return s.path + ": " + wrong;
    }
    return "";
  }

 protected:
  virtual size_t parts() const = 0;

  store_shape draw_store(random& shape, size_t index) {
    store_shape s;
    s.path = "/cow" + std::to_string(index);
    s.chunk_sectors = 1u << shape.below(6);
    s.type = (shape.coin() ? "P " : "PO ") + std::to_string(s.chunk_sectors);
    if (shape.coin()) s.type += " 1 discard_zeroes_cow";
    return s;
  }
  // Room for every chunk, and as much again.
  uint64_t store_bytes(const store_shape& s) const {
    const dm_snapshot::geometry g{s.chunk_sectors};
    const uint64_t chunks = base::div_up(part_bytes_, g.chunk_bytes());
    return (2 * chunks + base::div_up(2 * chunks, g.entries_per_area()) + 4) * g.chunk_bytes();
  }
  // A new store: nothing but its first bytes has to be zero.
  void put_new_store(sim_disk& disk, const store_shape& s) const {
    std::vector<std::byte> bytes(store_bytes(s));
    fill_stamped(77, 0, bytes);
    std::fill_n(bytes.begin(), 4096, std::byte{0});
    disk.put(s.path, bytes);
  }
  std::vector<std::byte> put_origin(sim_disk& disk) const {
    std::vector<std::byte> content(part_bytes_);
    fill_stamped(content_, 0, content);
    disk.put("/origin", content);
    return content;
  }

  void begin_open(world& w, sim_disk& disk) {
    sources_ = std::make_unique<file_sources>(disk, bug_);
    manager_ = std::make_unique<stack::device_manager>(w.runtime(), *sources_);
  }
  stack::table_line line(const std::string& type, const std::string& args) const {
    return {0, part_bytes_ / 512, type, args};
  }
  task<outcome<void>> load_and_resume(std::string name, stack::table_line l) {
    stack::device_key key{name, {}, {}};
    std::vector<stack::table_line> lines;
    lines.push_back(std::move(l));
    const auto loaded = co_await manager_->load(key, std::move(lines), false);
    if (!loaded) co_return loaded.error();
    const stack::suspend_options how;
    const auto resumed = co_await manager_->resume(key, how);
    if (!resumed) co_return resumed.error();
    co_return outcome<void>{};
  }
  task<outcome<void>> make(std::string name, std::string type, std::string args) {
    const auto created = manager_->create(name, "", {});
    if (!created) co_return created.error();
    stack::table_line l = line(type, args);
    co_return co_await load_and_resume(std::move(name), std::move(l));
  }
  outcome<void> join(const std::vector<std::string>& names) {
    std::vector<std::shared_ptr<block::block_device>> all;
    for (const std::string& n : names) {
      TRY(auto opened, manager_->open(stack::device_key{n, {}, {}}));
      all.push_back(std::move(opened.device));
    }
    device_ = std::make_unique<joined_device>(std::move(all), part_bytes_);
    return {};
  }

  const store_bug bug_;
  const uint64_t part_bytes_;
  const uint32_t content_;  // stamp of the origin's content at the start
  std::vector<store_shape> stores_;
  std::unique_ptr<file_sources> sources_;
  std::unique_ptr<stack::device_manager> manager_;
  std::unique_ptr<joined_device> device_;
  rt::mutex changing_;
};

class origin_and_snapshots final : public snapshot_subject {
 public:
  origin_and_snapshots(random& shape, store_bug bug) : snapshot_subject(shape, bug) {
    const size_t count = shape.between(1, 3);
    for (size_t i = 0; i < count; ++i) stores_.push_back(draw_store(shape, i));
  }
  std::string describe() const override {
    std::string text = "origin of " + std::to_string(part_bytes_) + " bytes, snapshots";
    for (const store_shape& s : stores_) text += " (" + s.type + ")";
    return text;
  }
  std::vector<std::byte> prepare(sim_disk& disk) override {
    const std::vector<std::byte> content = put_origin(disk);
    std::vector<std::byte> all = content;
    for (const store_shape& s : stores_) {
      put_new_store(disk, s);
      all.insert(all.end(), content.begin(), content.end());
    }
    return all;
  }
  task<outcome<void>> open(world& w, sim_disk& disk) override {
    begin_open(w, disk);
    std::vector<std::string> names{"o"};
    for (size_t i = 0; i < stores_.size(); ++i) {
      names.push_back("s" + std::to_string(i));
      CO_CHECK(co_await make(names.back(), "snapshot", args_of(i)));
    }
    CO_CHECK(co_await make("o", "snapshot-origin", "/origin"));
    co_return join(names);
  }
  // Another table takes over the store of one of them.
  task<outcome<void>> swap_table() override {
    const auto held = co_await changing_.lock();
    const size_t i = ++swaps_ % stores_.size();
    stack::table_line l = line("snapshot", args_of(i));
    co_return co_await load_and_resume("s" + std::to_string(i), std::move(l));
  }

 private:
  size_t parts() const override { return 1 + stores_.size(); }
  std::string args_of(size_t i) const {
    return "/origin " + stores_[i].path + " " + stores_[i].type;
  }
  size_t swaps_ = 0;
};

class merging final : public snapshot_subject {
 public:
  // `errors`: the disk fails now and then. A merge survives that, other snapshots do not.
  merging(random& shape, bool errors)
      : snapshot_subject(shape, store_bug::none),
        errors_(errors),
        faults_(errors ? shape.next() : 0) {
    stores_.push_back(draw_store(shape, 0));
    if (!errors && shape.coin()) stores_.push_back(draw_store(shape, 1));
    const uint64_t chunks = base::div_up(part_bytes_, stores_[0].chunk_sectors * 512);
    for (uint64_t i = shape.below(chunks + 1); i > 0; --i) {
      const uint64_t first = shape.below(chunks), run = shape.coin() ? 1 : shape.between(2, 20);
      for (uint64_t c = first; c < std::min(first + run, chunks); ++c)
        if (std::find(changed_.begin(), changed_.end(), c) == changed_.end()) changed_.push_back(c);
    }
  }
  bool survives_errors() const override { return errors_; }
  // A write that goes through to one of the files says nothing of the other.
  bool sync_failed(const sim_disk& disk) const override {
    return disk.failed_syncs("/origin") != 0 && disk.failed_syncs(stores_[0].path) != 0;
  }
  std::string describe() const override {
    return "merge of " + std::to_string(changed_.size()) + " chunks (" + stores_[0].type +
           ") into an origin of " + std::to_string(part_bytes_) + " bytes" +
           (stores_.size() > 1 ? " that has a snapshot (" + stores_[1].type + ")" : "");
  }
  std::vector<std::byte> prepare(sim_disk& disk) override {
    const std::vector<std::byte> origin = put_origin(disk);
    std::vector<std::byte> all = put_store(disk, origin);
    if (stores_.size() > 1) {
      put_new_store(disk, stores_[1]);
      all.insert(all.end(), origin.begin(), origin.end());
    }
    return all;
  }
  task<outcome<void>> open(world& w, sim_disk& disk) override {
    if (errors_) disk.clear_faults();  // those that the last run did not come to
    begin_open(w, disk);
    std::vector<std::string> names{"m"};
    if (stores_.size() > 1) {
      names.push_back("s");
      CO_CHECK(
          co_await make("s", "snapshot", "/origin " + stores_[1].path + " " + stores_[1].type));
    }
    CO_CHECK(
        co_await make("m", "snapshot-merge", "/origin " + stores_[0].path + " " + stores_[0].type));
    if (errors_ && faults_.coin())
      disk.inject(fault::false_alarm, static_cast<uint32_t>(faults_.below(12)));
    co_return join(names);
  }
  // Merging stops and goes on.
  task<outcome<void>> swap_table() override {
    const auto held = co_await changing_.lock();
    stack::device_key key{"m", {}, {}};
    const stack::suspend_options how;
    const auto suspended = co_await manager_->suspend(key, how);
    if (!suspended) co_return suspended.error();
    const auto resumed = co_await manager_->resume(key, how);
    if (!resumed) co_return resumed.error();
    co_return outcome<void>{};
  }

 private:
  size_t parts() const override { return stores_.size(); }

  // Returns what the snapshot holds.
  std::vector<std::byte> put_store(sim_disk& disk, std::vector<std::byte> content) const {
    const dm_snapshot::geometry g{stores_[0].chunk_sectors};
    std::vector<std::byte> bytes(store_bytes(stores_[0]));
    const uint64_t unit = g.chunk_bytes();
    dm_snapshot::header h;
    h.chunk_sectors = g.chunk_sectors;
    dm_snapshot::store_header(base::bytes_span(bytes).first(unit), h);
    uint64_t next = dm_snapshot::first_data_chunk;
    for (uint64_t i = 0; i < changed_.size(); ++i) {
      const uint64_t area = g.area_chunk(i / g.entries_per_area()) * unit;
      dm_snapshot::store_entry(base::bytes_span(bytes).subspan(area, unit),
                               i % g.entries_per_area(), {changed_[i], next});
      const uint64_t at = changed_[i] * unit, n = std::min(unit, content.size() - at);
      const auto data = base::bytes_span(bytes).subspan(next * unit, n);
      fill_stamped(1'000'000, at, data);
      std::copy(data.begin(), data.end(), content.begin() + static_cast<ptrdiff_t>(at));
      next = g.skip_area(next + 1);
    }
    disk.put(stores_[0].path, bytes);
    return content;
  }

  const bool errors_;
  random faults_;
  std::vector<uint64_t> changed_;  // chunks, in the order of their exceptions
};

}  // namespace

std::unique_ptr<subject> make_snapshot(random& shape) {
  return make_broken_snapshot(shape, store_bug::none);
}
std::unique_ptr<subject> make_broken_snapshot(random& shape, store_bug bug) {
  return std::make_unique<origin_and_snapshots>(shape, bug);
}
std::unique_ptr<subject> make_merge(random& shape) {
  return std::make_unique<merging>(shape, false);
}
std::unique_ptr<subject> make_failing_merge(random& shape) {
  return std::make_unique<merging>(shape, true);
}

}  // namespace lbd::sim
