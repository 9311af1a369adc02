// SPDX-License-Identifier: MIT
// Tables: building, swapping, asking.
#include <string.h>

#include <algorithm>

#include "base/log.h"
#include "block/target_registry.h"
#include "stack/device_manager_parts.h"
#include "stack/device_name.h"

namespace lbd::stack {

using base::errc;
using base::failure;
using base::outcome;
using block::target_type;
using rt::task;

namespace {

// The kernel's LLONG_MAX / 512.
constexpr uint64_t largest_sectors = uint64_t{INT64_MAX} / 512;

std::string errno_name(errc code) {
  const char* name = strerrorname_np(static_cast<int>(code));
  return name != nullptr ? name : std::to_string(static_cast<int>(code));
}

// "table: 253:0: linear: Gap in table (-EINVAL)"
failure table_failure(device_number n, const std::string& type, errc code,
                      const std::string& text) {
  return failure{code,
                 "table: " + n.text() + ": " + type + ": " + text + " (-" + errno_name(code) + ")"};
}
failure plain_failure(device_number n, const std::string& text) {
  return failure{errc::inval, "table: " + n.text() + ": " + text};
}

task<outcome<std::unique_ptr<table>>> adopt(table* t) { co_return std::unique_ptr<table>(t); }

// Empty when the area is on the device, or the device has no size yet.
template <class Area>
std::string error_of(const Area& a, uint64_t unit_sectors) {
  const std::string where = a.device.name.empty() ? a.device.number.text() : a.device.name;
  const std::string start = std::to_string(a.start_sector),
                    length = std::to_string(a.length_sectors);
  const uint64_t size = a.device.device->limits().size_bytes / block::sector_bytes;
  if (size == 0) return {};
  if (a.start_sector >= size || a.length_sectors > size - a.start_sector)
    return where + " too small for target: start=" + start + ", len=" + length +
           ", dev_size=" + std::to_string(size);
  const std::string unit = " not aligned to h/w logical block size " +
                           std::to_string(unit_sectors * 512) + " of " + where;
  if (a.start_sector % unit_sectors != 0) return "start=" + start + unit;
  if (a.length_sectors % unit_sectors != 0) return "len=" + length + unit;
  return {};
}

// Of a line: whether it may stand in for all kinds of targets.
constexpr auto is_wild = [](const auto& line) {
  return (line.type->features & target_type::wildcard) != 0;
};

const target_type* find_type(const std::string& name) {
  for (const target_type* t : block::all_target_types())
    if (t->name == name) return t;
  return nullptr;
}

}  // namespace

std::vector<std::string> split_args(const std::string& text) {
  std::vector<std::string> words;
  std::string word;
  bool in_word = false;
  for (size_t i = 0; i < text.size(); ++i) {
    char c = text[i];
    const bool blank = c == ' ' || (c >= '\t' && c <= '\r');
    if (blank) {
      if (std::exchange(in_word, false)) words.push_back(std::exchange(word, {}));
      continue;
    }
    if (c == '\\' && i + 1 < text.size()) c = text[++i];
    word += c;
    in_word = true;
  }
  if (in_word) words.push_back(std::move(word));
  return words;
}

// What a constructor sees of its surroundings.
class device_manager::context final : public block::target_context {
 public:
  // `built` and `areas`, the line's, outlive the context.
  context(device_manager& m, entry_ptr e, const table_line& l, live_table& built,
          std::vector<live_table::area>& areas)
      : manager_(m),
        entry_(std::move(e)),
        begin_(l.start_sector),
        length_(l.length_sectors),
        directory_(l.directory),
        names_(l.names),
        built_(built),
        areas_(areas) {}

  // A device that a table names several times is one user of it.
  task<outcome<block::opened_device>> open(std::string source) override {
    auto opened =
        co_await manager_.open_source(std::move(source), directory_, names_, !built_.read_only);
    if (!opened) {
      built_.why = opened.error().message;
      co_return opened;
    }
    if (opened->number.major == 0) co_return opened;
    co_return built_.opened.emplace(opened->number, *opened).first->second;
  }
  void explain(std::string why) override { built_.why = std::move(why); }

  outcome<void> check_area(const block::opened_device& d, uint64_t start_sector,
                           uint64_t sectors) override {
    areas_.push_back({d, start_sector, sectors});
    return {};
  }

  rt::runtime& runtime() noexcept override { return manager_.runtime_; }
  block::device_number number() const noexcept override { return entry_->number; }
  uint64_t begin_sector() const noexcept override { return begin_; }
  uint64_t length_sectors() const noexcept override { return length_; }
  bool read_only() const noexcept override { return built_.read_only; }

  std::shared_ptr<void> shared_state(const std::string& key,
                                     const std::function<std::shared_ptr<void>()>& make) override {
    std::weak_ptr<void>& slot = manager_.shared_[key];
    if (auto alive = slot.lock()) return alive;
    auto made = make();
    slot = made;
    return made;
  }

  std::function<void(std::vector<std::string>)> event_sink() override {
    return [manager = std::weak_ptr<device_manager>(manager_.self_),
            where = std::weak_ptr<entry>(entry_),
            home = &manager_.runtime_.at(0)](std::vector<std::string> variables) {
      auto raise = [manager, where, v = std::move(variables)]() mutable {
        const auto to = manager.lock();
        const entry_ptr which = where.lock();
        if (to && which && !which->gone) to->raise_event(*which, std::move(v));
      };
      if (&rt::reactor::current() == home) return raise();
      rt::tell(*home, std::move(raise));
    };
  }

  std::function<task<outcome<block::opened_device>>(std::string)> opener() override {
    return [manager = std::weak_ptr<device_manager>(manager_.self_), directory = directory_,
            names = names_, writable = !built_.read_only](std::string source) {
      const auto m = manager.lock();
      if (!m) return nothing_to_open();
      return m->open_source(std::move(source), directory, names, writable);
    };
  }

 private:
  static task<outcome<block::opened_device>> nothing_to_open() {
    co_return failure{errc::nodev, "the device manager is gone"};
  }

  device_manager& manager_;
  entry_ptr entry_;
  const uint64_t begin_, length_;
  const std::string directory_;
  const bool names_;
  live_table& built_;
  std::vector<live_table::area>& areas_;
};

task<outcome<block::opened_device>> device_manager::open_source(std::string source,
                                                                std::string directory, bool names,
                                                                bool writable) {
  const std::string prefix = "/dev/mapper/";
  if (source.starts_with(prefix)) {
    std::string name = source.substr(prefix.size());
    if (names) name = kept_name(name);
    const auto e = find(device_key{std::move(name), {}, {}});
    if (e && (*e)->resumed) co_return open(device_key{(*e)->name, {}, {}});
    co_return failure{errc::nodev, "no mapped device '" + source + "'"};
  }
  for (const auto& [name, e] : by_name_)
    if (source == e->number.text() || source == "/dev/dm-" + std::to_string(e->number.minor))
      co_return open(device_key{name, {}, {}});
  if (names)
    if (const auto at = by_name_.find(kept_name(source)); at != by_name_.end())
      co_return open(device_key{at->first, {}, {}});
  if (!directory.empty()) source = sources_.absolute(std::move(source), directory);
  co_return co_await sources_.open(std::move(source), writable);
}

outcome<void> device_manager::check_line(const entry& e, const table_line& l,
                                         uint64_t expected_start, const live_table& built) const {
  const target_type* type = find_type(l.type);
  const auto is_alone = [](const target_type& t) {
    return (t.features & target_type::singleton) != 0;
  };
  if (!built.lines.empty() && is_alone(*built.lines[0].type))
    return plain_failure(e.number, "target type " + std::string(built.lines[0].type->name) +
                                       " must appear alone in table");
  if (l.length_sectors == 0) return plain_failure(e.number, "zero-length target");
  if (l.length_sectors > largest_sectors || l.start_sector + l.length_sectors < l.start_sector ||
      l.start_sector + l.length_sectors > largest_sectors)
    return plain_failure(e.number, "too large device");
  if (type == nullptr) return plain_failure(e.number, l.type + ": unknown target type");
  if (!built.lines.empty() && is_alone(*type))
    return table_failure(e.number, l.type, errc::inval,
                         "singleton target type must appear alone in table");
  if (l.start_sector != expected_start)
    return table_failure(e.number, l.type, errc::inval, "Gap in table");
  return {};
}

task<outcome<void>> device_manager::construct(entry_ptr e, table_line l, live_table& built) {
  const target_type* type = find_type(l.type);
  if (built.read_only && (type->features & target_type::always_writeable) != 0)
    co_return table_failure(e->number, l.type, errc::inval,
                            "target type may not be included in a read-only table");
  live_table::line line{l.start_sector, l.length_sectors, type, nullptr, {}};
  context c(*this, e, l, built, line.areas);
  auto made = co_await type->create(c, split_args(l.args));
  if (!made) co_return table_failure(e->number, l.type, made.error().code, made.error().message);
  line.target = *std::move(made);
  built.lines.push_back(std::move(line));
  co_return outcome<void>{};
}

task<outcome<void>> device_manager::build(entry_ptr e, std::vector<table_line> lines,
                                          bool read_only, live_table& built) {
  if (lines.empty()) {
    const char* text = "ioctl: populate_table: no targets specified";
    base::log_error("device-mapper", text);
    co_return failure{errc::inval, text};
  }
  built.read_only = read_only;
  uint64_t expected = 0;
  for (const table_line& l : lines) {
    outcome<void> added = check_line(*e, l, expected, built);
    if (added) added = co_await construct(e, l, built);
    if (!added) {
      base::log_error("device-mapper", added.error().message);
      base::log_error("device-mapper", "ioctl: error adding target to table");
      co_return added;
    }
    expected = l.start_sector + l.length_sectors;
  }
  std::vector<table::segment> segments;
  for (const auto& l : built.lines)
    segments.push_back({l.start_sector * block::sector_bytes,
                        l.length_sectors * block::sector_bytes, l.target, l.target->unit_bytes()});
  auto io = table::make(std::move(segments), read_only);
  if (!io) co_return io.error();
  built.io = *std::move(io);
  outcome<void> fits = check_stackable(*e, built);
  if (fits) fits = check_replacement(*e, built);
  if (!fits) base::log_error("device-mapper", fits.error().message);
  if (!fits || e->was_loaded) co_return fits;
  fits = check_limits(*e, built);
  if (!fits) {
    base::log_error("device-mapper", fits.error().message);
    base::log_error("device-mapper", "core: Cannot calculate initial queue limits");
    base::log_error("device-mapper", "ioctl: unable to set up device queue for new table.");
  }
  co_return fits;
}

task<void> device_manager::close_table(std::unique_ptr<live_table> t) {
  if (!t) co_return;
  for (const auto& l : t->lines) co_await l.target->closed();
}

outcome<void> device_manager::check_limits(const entry& e, const live_table& next) const {
  for (const auto& l : next.lines) {
    const uint64_t unit = std::max<uint64_t>(l.target->limits().block_bytes, block::sector_bytes);
    for (const auto& a : l.areas) {
      const std::string error = error_of(a, unit / block::sector_bytes);
      if (!error.empty()) return plain_failure(e.number, error);
    }
  }
  return check_units(e, next);
}

outcome<void> device_manager::check_units(const entry& e, const live_table& next) const {
  const uint64_t unit = next.io->unit_bytes();
  for (size_t i = 0; i < next.lines.size(); ++i) {
    const auto& l = next.lines[i];
    if ((l.start_sector | l.length_sectors) * block::sector_bytes % unit == 0) continue;
    return plain_failure(
        e.number, "table line " + std::to_string(i) + " (start sect " +
                      std::to_string(l.start_sector) + " len " + std::to_string(l.length_sectors) +
                      ") not aligned to h/w logical block size " + std::to_string(unit));
  }
  return {};
}

// Requests cannot be passed to devices that take bios, as ours do.
outcome<void> device_manager::check_stackable(const entry& e, const live_table& next) const {
  if (kind_of(e, next) != io_kind::request_based) return {};
  if (next.lines.size() > 1) {
    base::log_error("device-mapper", "table: request-based DM doesn't support multiple targets");
    return failure{errc::inval, "table: unable to determine table type"};
  }
  bool bios = false;
  next.lines[0].target->for_each_child([&](const block::opened_device& d) {
    for (const auto& [name, other] : by_name_)
      bios |= other->number == d.number && other->kind != io_kind::request_based;
  });
  if (!bios) return {};
  base::log_error("device-mapper",
                  "table: table load rejected: including non-request-stackable devices");
  return failure{errc::inval, "table: unable to determine table type"};
}

// A table of wildcards alone takes the device's kind.
device_manager::io_kind device_manager::kind_of(const entry& e, const live_table& t) {
  const bool wild = std::all_of(t.lines.begin(), t.lines.end(), is_wild);
  if (wild && e.kind != io_kind::none) return e.kind;
  return t.lines[0].target->request_based() ? io_kind::request_based : io_kind::bio;
}

outcome<void> device_manager::check_replacement(const entry& e, const live_table& next) const {
  const bool wild = std::any_of(next.lines.begin(), next.lines.end(), is_wild);
  if (e.live && !e.live->lines.empty() && !wild) {
    const target_type& old = *e.live->lines[0].type;
    if ((old.features & target_type::immutable) != 0 && &old != next.lines[0].type)
      return failure{errc::inval,
                     "ioctl: can't replace immutable target type " + std::string(old.name)};
  }
  const auto kind = kind_of(e, next);
  if (e.kind == io_kind::none || e.kind == kind) return {};
  auto number = [](io_kind k) { return std::to_string(static_cast<unsigned>(k)); };
  return failure{errc::inval, "ioctl: can't change device type (old=" + number(e.kind) +
                                  " vs new=" + number(kind) + ") after initial table load."};
}

outcome<void> device_manager::check_circle(const entry& e, const live_table& next) const {
  const bool on_devices = std::any_of(next.opened.begin(), next.opened.end(), [&e](const auto& o) {
    return o.first.major == e.number.major;
  });
  if (!on_devices) return {};
  std::map<device_number, const entry*> devices;
  for (const auto& [name, other] : by_name_) devices.emplace(other->number, other.get());
  std::vector<const live_table*> below{&next};
  while (!below.empty()) {
    const live_table& t = *below.back();
    below.pop_back();
    for (const auto& [number, opened] : t.opened) {
      if (number == e.number)
        return failure{static_cast<errc>(ELOOP),
                       "table: " + e.number.text() + ": the device would stand on itself"};
      const auto at = devices.find(number);
      if (at == devices.end()) continue;
      if (at->second->live) below.push_back(at->second->live.get());
      if (at->second->coming != nullptr) below.push_back(at->second->coming);
      devices.erase(at);
    }
  }
  return {};
}

task<outcome<device_state>> device_manager::load(device_key key, std::vector<table_line> lines,
                                                 bool read_only, std::string* why) {
  auto found = find(key);
  if (!found) co_return found.error();
  const entry_ptr e = *std::move(found);
  const auto held = co_await e->control.lock();
  if (e->gone) co_return failure{no_device, "No such device or address"};
  auto next = std::make_unique<live_table>();
  const auto built = co_await build(e, std::move(lines), read_only, *next);
  if (!built) {
    if (why != nullptr) *why = std::move(next->why);
    co_await close_table(std::move(next));
    co_return built.error();
  }
  e->kind = kind_of(*e, *next);
  if (!std::exchange(e->was_loaded, true)) tell(*e, "add", {});
  std::swap(e->inactive, next);
  e->loaded = true;
  // Tables that are loaded above it now are for what it will be.
  if (!e->live) e->core.expect_limits(e->inactive->io->limits());
  co_await close_table(std::move(next));
  co_return state_of(*e);
}

task<outcome<device_state>> device_manager::clear(device_key key) {
  auto found = find(key);
  if (!found) co_return found.error();
  const entry_ptr e = *std::move(found);
  const auto held = co_await e->control.lock();
  co_await close_table(std::move(e->inactive));
  co_return state_of(*e);
}

// When its wait has begun: the caller may have gone before.
task<void> device_manager::give_up(entry_ptr e) {
  co_await rt::yield_now{};
  co_await e->core.give_up_suspension();
}

// Until nothing is in flight, or the caller gives up.
task<outcome<void>> device_manager::drain(entry_ptr e, waiting* caller) {
  if (caller != nullptr) caller->give_up_ = [e] { rt::spawn(give_up(e)); };
  if (caller != nullptr && caller->canceled_) rt::spawn(give_up(e));
  const auto drained = co_await e->core.suspend(false);
  if (caller != nullptr) caller->give_up_ = nullptr;
  if (!drained) co_return failure{drained.error().code, "the suspension was given up"};
  co_return outcome<void>{};
}

task<outcome<void>> device_manager::suspend_locked(entry_ptr e, suspend_options how) {
  if (e->suspended) co_return outcome<void>{};
  if (how.caller != nullptr && how.caller->canceled_)
    co_return failure{errc::canceled, "the caller is gone"};
  if (how.no_flush) e->core.keep_given_back();
  if (e->live)
    for (const auto& l : e->live->lines) co_await l.target->presuspend(how.no_flush);
  const auto done = co_await drain(e, how.caller);
  if (!done) {
    if (e->live)
      for (const auto& l : e->live->lines) co_await l.target->presuspend_undone();
    co_await e->core.resume();
    co_return done;
  }
  if (e->live)
    for (const auto& l : e->live->lines) co_await l.target->postsuspend();
  e->suspended = true;
  co_return outcome<void>{};
}

task<outcome<device_state>> device_manager::suspend(device_key key, suspend_options how) {
  auto found = find(key);
  if (!found) co_return found.error();
  const entry_ptr e = *std::move(found);
  const auto held = co_await e->control.lock();
  const auto done = co_await suspend_locked(e, how);
  if (!done) co_return done.error();
  co_return state_of(*e);
}

task<outcome<device_state>> device_manager::resume(device_key key, suspend_options how) {
  auto found = find(key);
  if (!found) co_return found.error();
  const entry_ptr e = *std::move(found);
  const auto held = co_await e->control.lock();
  const auto resumed = co_await resume_locked(e, how);
  if (!resumed) co_return resumed.error();
  e->resumed = true;
  co_return state_of(*e);
}

task<outcome<void>> device_manager::swap_tables(entry_ptr e, suspend_options how,
                                                std::unique_ptr<live_table>& old) {
  CO_CHECK(check_circle(*e, *e->inactive));
  std::unique_ptr<live_table> next = std::move(e->inactive);
  e->coming = next.get();
  const auto suspended = co_await suspend_locked(e, how);
  if (!suspended) {
    e->coming = nullptr;
    e->inactive = std::move(next);
    co_return suspended;
  }
  const auto fits = check_limits(*e, *next);
  if (!fits) {
    e->coming = nullptr;
    co_await close_table(std::move(next));
    co_return fits;
  }
  table* io = next->io.release();
  device::builder swap_in = [io](const table&) { return adopt(io); };
  (void)co_await e->core.replace_table(std::move(swap_in));
  old = std::exchange(e->live, std::move(next));
  e->coming = nullptr;
  settle_read_only();
  const bool was_read_only = old != nullptr && old->read_only;
  if (was_read_only != e->live->read_only)
    tell(*e, "change", {was_read_only ? "DISK_RO=0" : "DISK_RO=1"});
  co_return outcome<void>{};
}

void device_manager::settle_read_only() {
  for (bool changed = true; changed;) {
    changed = false;
    for (const auto& [name, e] : by_name_) {
      if (!e->live) continue;
      bool now = e->live->read_only;
      for (const auto& l : e->live->lines) now = now || l.target->refuses_writes();
      changed |= e->core.set_read_only(now);
    }
  }
}

task<outcome<void>> device_manager::resume_locked(entry_ptr e, suspend_options how) {
  if (!e->live && !e->inactive) {
    if (e->suspended) co_return failure{errc::inval, "the device has no table"};
    co_return outcome<void>{};
  }
  const uint64_t size_before = e->core.limits().size_bytes;
  std::unique_ptr<live_table> old;
  if (e->inactive) {
    const auto swapped = co_await swap_tables(e, how, old);
    if (!swapped) {
      if (swapped.error().code != errc::canceled)
        base::log_error("device-mapper", swapped.error().message);
      co_return swapped;
    }
  }
  // The new table may take things over from the old one.
  const auto started = co_await start_live(e, size_before);
  co_await close_table(std::move(old));
  co_return started;
}

task<outcome<void>> device_manager::start_live(entry_ptr e, uint64_t size_before) {
  if (!e->suspended) co_return outcome<void>{};
  for (const auto& l : e->live->lines) {
    const auto ready = co_await l.target->preresume();
    if (ready) continue;
    const int error = static_cast<int>(ready.error().code);
    const std::string text = "table: " + e->number.text() + ": " + std::string(l.type->name) +
                             ": preresume failed, error = -" + std::to_string(error);
    base::log_error("device-mapper", text);
    co_return failure{ready.error().code, text};
  }
  for (const auto& l : e->live->lines) co_await l.target->resumed();
  e->suspended = false;
  co_await e->core.resume();
  const uint64_t size_now = e->core.limits().size_bytes;
  const bool resized = size_before != 0 && size_now != 0 && size_now != size_before;
  tell(*e, "change", resized ? std::vector<std::string>{"RESIZE=1"} : std::vector<std::string>{});
  co_return outcome<void>{};
}

task<outcome<std::string>> device_manager::message(device_key key, uint64_t sector,
                                                   std::vector<std::string> words) {
  auto found = find(key);
  if (!found) co_return found.error();
  const entry_ptr e = *std::move(found);
  const auto held = co_await e->control.lock();
  auto refuse = [](const char* text) {
    base::log_warn("device-mapper", std::string("ioctl: ") + text);
    return failure{errc::inval, std::string("ioctl: ") + text};
  };
  if (words.empty()) co_return refuse("Empty message received.");
  if (words[0] == "@cancel_deferred_remove") {
    if (words.size() != 1) co_return refuse("Invalid arguments for @cancel_deferred_remove");
    e->deferred_remove = false;
    co_return std::string();
  }
  if (region_stats::knows(words[0])) {
    const uint64_t sectors = e->core.limits().size_bytes / block::sector_bytes;
    auto reply =
        e->core.regions().message(std::move(words), sectors, rt::reactor::current().now_ns());
    if (!reply && reply.error().code == errc::inval)
      base::log_error("device-mapper", reply.error().message);
    co_return reply;
  }
  if (words[0].starts_with("@"))
    co_return refuse(("Unsupported message sent to DM core: " + words[0]).c_str());
  if (!e->live) co_return refuse("The device has no table.");
  for (const auto& l : e->live->lines)
    if (sector >= l.start_sector && sector - l.start_sector < l.length_sectors)
      co_return co_await l.target->message(std::move(words));
  co_return refuse("Target message sector outside device.");
}

task<outcome<std::vector<table_line>>> device_manager::status(device_key key,
                                                              block::status_request q,
                                                              bool inactive) {
  auto found = find(key);
  if (!found) co_return found.error();
  const entry_ptr e = *std::move(found);
  std::vector<table_line> out;
  const live_table* t = inactive ? e->inactive.get() : e->live.get();
  if (t == nullptr) co_return out;
  // A copy: the table may be swapped while a target thinks.
  const std::vector<live_table::line> lines = t->lines;
  for (const auto& l : lines) {
    std::string text = co_await l.target->status(q);
    out.push_back({l.start_sector, l.length_sectors, std::string(l.type->name), std::move(text)});
  }
  co_return out;
}

outcome<std::vector<table_line>> device_manager::measured(device_key key, bool inactive) const {
  TRY(const entry_ptr e, find(key));
  std::vector<table_line> out;
  const live_table* t = inactive ? e->inactive.get() : e->live.get();
  if (t == nullptr) return out;
  for (const auto& l : t->lines) {
    std::string text = l.target->measured();
    if (!text.empty()) {
      const auto& [major, minor, patch] = l.type->version;
      text = "target_name=" + std::string(l.type->name) +
             ",target_version=" + std::to_string(major) + "." + std::to_string(minor) + "." +
             std::to_string(patch) + text + ";";
    }
    out.push_back({l.start_sector, l.length_sectors, std::string(l.type->name), std::move(text)});
  }
  return out;
}

outcome<std::vector<device_number>> device_manager::deps(device_key key, bool inactive) const {
  TRY(const entry_ptr e, find(key));
  std::vector<device_number> out;
  const live_table* t = inactive ? e->inactive.get() : e->live.get();
  if (t == nullptr) return out;
  for (const auto& l : t->lines)
    l.target->for_each_child([&](const block::opened_device& d) {
      if (std::find(out.begin(), out.end(), d.number) == out.end()) out.push_back(d.number);
    });
  std::reverse(out.begin(), out.end());
  return out;
}

}  // namespace lbd::stack
