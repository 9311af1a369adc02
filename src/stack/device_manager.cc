// SPDX-License-Identifier: MIT
// Devices, their names and states. Tables are built in device_tables.cc.
#include "stack/device_manager.h"

#include <algorithm>

#include "base/log.h"
#include "stack/device_manager_parts.h"

namespace lbd::stack {

using base::errc;
using base::failure;
using base::outcome;
using rt::task;

namespace {

constexpr size_t name_bytes = 127, uuid_bytes = 128;
constexpr uint32_t minors = 1u << 20;

failure no_such_device() { return failure{no_device, "No such device or address"}; }

outcome<void> check_name(const std::string& name) {
  auto refuse = [&name](const char* why) {
    return failure{errc::inval, "invalid device name '" + name + "': " + why};
  };
  if (name.empty()) return refuse("it is empty");
  if (name.size() > name_bytes) return refuse("it has more than 127 bytes");
  if (name.find('/') != std::string::npos) return refuse("it contains '/'");
  return {};
}

}  // namespace

device_manager::device_manager(rt::runtime& runtime, source_opener& sources)
    : device_manager(runtime, sources, options{}) {}

device_manager::device_manager(rt::runtime& runtime, source_opener& sources, options how)
    : runtime_(runtime), sources_(sources), options_(how) {}

device_manager::~device_manager() = default;

outcome<device_manager::entry_ptr> device_manager::find(const device_key& key) const {
  for (const auto& [name, e] : by_name_) {
    const bool hit = key.number          ? e->number == *key.number
                     : !key.name.empty() ? name == key.name
                                         : !key.uuid.empty() && e->uuid == key.uuid;
    if (hit) return e;
  }
  return no_such_device();
}

device* device_manager::find_device(const device_key& key) noexcept {
  const auto e = find(key);
  return e ? &(*e)->core : nullptr;
}

device_state device_manager::state_of(const entry& e) const {
  device_state s;
  s.name = e.name;
  s.uuid = e.uuid;
  s.number = e.number;
  s.suspended = e.suspended;
  s.deferred_remove = e.deferred_remove;
  s.has_live = e.live != nullptr;
  s.has_inactive = e.inactive != nullptr;
  s.loaded = e.loaded;
  s.resumed = e.resumed;
  s.inactive_read_only = e.inactive != nullptr && e.inactive->read_only;
  s.inactive_target_count = e.inactive ? static_cast<uint32_t>(e.inactive->lines.size()) : 0;
  s.read_only = e.live != nullptr && e.live->read_only;
  s.open_count = e.open_count;
  s.event_number = e.event_number;
  s.target_count = e.live ? static_cast<uint32_t>(e.live->lines.size()) : 0;
  const block::limits& l = e.core.limits();
  s.size_bytes = l.size_bytes;
  s.block_bytes = l.block_bytes;
  s.io_min_bytes = std::max(l.io_min_bytes, l.block_bytes);
  s.io_opt_bytes = l.io_opt_bytes;
  return s;
}

outcome<device_state> device_manager::create(std::string name, std::string uuid,
                                             std::optional<uint32_t> minor) {
  CHECK(check_name(name));
  if (uuid.size() > uuid_bytes) return failure{errc::inval, "device uuid is too long"};
  // As the kernel does: numbers first, then names.
  std::vector<bool> taken(by_name_.size() + reserved_.size() + 1, false);
  for (const uint32_t reserved : reserved_)
    if (reserved < taken.size()) taken[reserved] = true;
  for (const auto& [other, e] : by_name_) {
    if (minor && e->number.minor == *minor)
      return failure{no_device,
                     "minor number " + std::to_string(*minor) + " is in use by device " + other};
    if (e->number.minor < taken.size()) taken[e->number.minor] = true;
  }
  if (minor && *minor >= minors) return failure{errc::inval, "minor number is too large"};
  if (by_name_.contains(name)) return failure{errc::busy, "device name " + name + " is in use"};
  for (const auto& [other, e] : by_name_)
    if (!uuid.empty() && e->uuid == uuid)
      return failure{errc::busy, "device uuid " + uuid + " is in use"};
  const auto lowest = std::find(taken.begin(), taken.end(), false) - taken.begin();
  const device_number number{options_.major, minor.value_or(static_cast<uint32_t>(lowest))};
  const auto e = std::make_shared<entry>(runtime_, std::move(name), std::move(uuid), number);
  by_name_.emplace(e->name, e);
  tell(*e, "add", {});
  return state_of(*e);
}

outcome<device_state> device_manager::state(device_key key) const {
  TRY(const entry_ptr e, find(key));
  return state_of(*e);
}

std::vector<device_state> device_manager::list() const {
  std::vector<device_state> all;
  for (const auto& [name, e] : by_name_) all.push_back(state_of(*e));
  return all;
}

// The kernel looks at the new name first, whether or not there is a device of the old one.
outcome<device_state> device_manager::rename(device_key key, std::string new_name) {
  CHECK(check_name(new_name));
  const auto found = find(key);
  if (by_name_.contains(new_name))
    return failure{errc::busy, "Unable to change name on mapped device " +
                                   (found ? (*found)->name : key.name) +
                                   " to one that already exists: " + new_name};
  if (!found)
    return failure{no_device,
                   "Unable to rename non-existent device, " + key.name + " to " + new_name};
  const entry_ptr e = *found;
  by_name_.erase(e->name);
  e->name = std::move(new_name);
  by_name_.emplace(e->name, e);
  raise_event(*e, {});
  tell(*e, "change", {});
  return state_of(*e);
}

outcome<device_state> device_manager::set_uuid(device_key key, std::string uuid) {
  if (uuid.empty() || uuid.size() > uuid_bytes) return failure{errc::inval, "invalid device uuid"};
  const auto found = find(key);
  for (const auto& [name, other] : by_name_)
    if (other->uuid == uuid)
      return failure{errc::busy, "Unable to change uuid on mapped device " +
                                     (found ? (*found)->name : key.name) +
                                     " to one that already exists: " + uuid};
  if (!found)
    return failure{no_device,
                   "Unable to rename non-existent device, " + key.name + " to uuid " + uuid};
  const entry_ptr e = *found;
  if (!e->uuid.empty())
    return failure{errc::inval, "Unable to change uuid of mapped device " + e->name + " to " +
                                    uuid + " because uuid is already set to " + e->uuid};
  e->uuid = std::move(uuid);
  raise_event(*e, {});
  tell(*e, "change", {});
  return state_of(*e);
}

void device_manager::tell(const entry& e, const char* action, std::vector<std::string> variables) {
  if (told_)
    told_(device_event{action, e.name, e.uuid, e.number, std::move(variables), e.was_loaded});
  if (changed_) changed_();
}

void device_manager::raise_event(entry& e, std::vector<std::string> variables) {
  if (!variables.empty()) {
    // As the kernel orders them: behind DM_TARGET and DM_ACTION.
    const size_t at = std::min<size_t>(variables.size(), 2);
    variables.insert(variables.begin() + static_cast<std::ptrdiff_t>(at),
                     "DM_SEQNUM=" + std::to_string(++e.event_sequence));
    tell(e, "change", std::move(variables));
  }
  ++e.event_number;
  e.wake_waiters();
  if (changed_) changed_();
}

task<outcome<device_state>> device_manager::wait(device_key key, uint32_t event_number) {
  waiting for_ever;
  co_return co_await wait(std::move(key), event_number, for_ever);
}

task<outcome<device_state>> device_manager::wait(device_key key, uint32_t event_number,
                                                 waiting& how) {
  auto found = find(key);
  if (!found) co_return found.error();
  const entry_ptr e = *std::move(found);
  while (e->event_number == event_number && !e->gone && !how.canceled_) {
    how.happened_.reset();
    e->waiters.push_back(&how.happened_);
    co_await how.happened_.wait();
    std::erase(e->waiters, &how.happened_);
  }
  if (how.canceled_) co_return failure{errc::canceled, "the wait was given up"};
  co_return state_of(*e);
}

// Counts one user of a device; the last one to leave completes a deferred removal.
class device_manager::use {
 public:
  use(device_manager& m, entry_ptr e) noexcept : manager_(m), entry_(std::move(e)) {
    ++entry_->open_count;
  }
  use(const use&) = delete;
  use& operator=(const use&) = delete;
  ~use() {
    --entry_->open_count;
    manager_.released(*entry_);
  }
  device& core() noexcept { return entry_->core; }

 private:
  device_manager& manager_;
  entry_ptr entry_;
};

outcome<block::opened_device> device_manager::open(device_key key) {
  TRY(const entry_ptr e, find(key));
  if (!e->loaded) return failure{no_device, "device " + e->name + " has no live table"};
  const auto u = std::make_shared<use>(*this, e);
  return block::opened_device{std::shared_ptr<block::block_device>(u, &u->core()), e->number,
                              "dm-" + std::to_string(e->number.minor)};
}

void device_manager::released(entry& e) {
  if (e.open_count != 0 || !e.deferred_remove || e.gone) return;
  const auto at = by_name_.find(e.name);
  if (at != by_name_.end()) rt::spawn(destroy_unused(at->second));
}

task<void> device_manager::destroy_unused(entry_ptr e) {
  const auto held = co_await e->control.lock();
  if (e->open_count == 0) co_await destroy(e);
}

task<outcome<void>> device_manager::remove(device_key key, bool deferred) {
  auto found = find(key);
  if (!found) co_return found.error();
  const entry_ptr e = *std::move(found);
  const auto held = co_await e->control.lock();
  if (e->open_count != 0 && settle_) co_await settle_();
  if (e->gone) co_return no_such_device();
  if (e->open_count != 0) {
    if (!deferred) co_return failure{errc::busy, "unable to remove open device " + e->name};
    e->deferred_remove = true;
    co_return outcome<void>{};
  }
  co_await destroy(e);
  co_return outcome<void>{};
}

task<void> device_manager::destroy(entry_ptr e) {
  if (std::exchange(e->gone, true)) co_return;
  by_name_.erase(e->name);
  // Nobody has it open: what may still be in flight is its own.
  (void)co_await suspend_locked(e, {});
  std::unique_ptr<live_table> last = std::move(e->live);
  co_await e->drop_live();
  co_await close_table(std::move(last));
  co_await close_table(std::move(e->inactive));
  ++e->event_number;
  e->wake_waiters();
  tell(*e, "remove", {});
}

task<size_t> device_manager::remove_all(bool deferred) {
  for (bool progress = true; progress;) {
    progress = false;
    std::vector<std::string> names;
    for (const auto& [name, e] : by_name_)
      if (e->open_count == 0 || (deferred && !e->deferred_remove)) names.push_back(name);
    for (const std::string& name : names) {
      device_key key{name, {}, {}};
      const auto removed = co_await remove(std::move(key), deferred);
      progress |= bool(removed);
    }
  }
  if (!by_name_.empty())
    base::log_warn("device-mapper",
                   "ioctl: remove_all left " + std::to_string(by_name_.size()) + " open device(s)");
  co_return by_name_.size();
}

}  // namespace lbd::stack
