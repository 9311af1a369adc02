// SPDX-License-Identifier: MIT
// The device-mapper's control plane: named devices with a live and an inactive table, and the
// kernel's rules for changing them. Errors carry the kernel's errno; messages are its log lines.
//
// Everything runs on reactor 0. Calls for one device are done one after the other, except wait()
// and queries.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "block/target.h"
#include "rt/sync.h"
#include "stack/device.h"

namespace lbd::stack {

using block::device_number;

// One line of a table, as text.
struct table_line {
  uint64_t start_sector = 0;
  uint64_t length_sectors = 0;
  std::string type;
  std::string args;  // or, in answers, the status or table text
  // How the devices among the arguments are looked up; not part of answers.
  std::string directory{};  // where relative paths begin; empty: they are refused
  bool names = false;       // a mapped device may be named as people write it, without /dev/mapper/
};

// Where devices named in tables come from when they are not mapped devices: files, URIs, numbers.
class source_opener {
 public:
  virtual ~source_opener() = default;
  // Errors: nodev (no such path), ENXIO (no such number), busy, access.
  virtual rt::task<base::outcome<block::opened_device>> open(std::string source, bool writable) = 0;
  // The source with the paths in it made absolute; as it is where it holds none.
  virtual std::string absolute(std::string source, const std::string& /*directory*/) {
    return source;
  }
};

struct device_state {
  std::string name, uuid;
  device_number number;
  bool suspended = false, read_only = false, deferred_remove = false;
  bool has_live = false, has_inactive = false;
  bool loaded = false;   // has ever had a table: from then on it is a disk
  bool resumed = false;  // has ever been resumed: from then on its name is in /dev/mapper
  bool inactive_read_only = false;
  uint32_t inactive_target_count = 0;
  uint32_t open_count = 0, event_number = 0, target_count = 0;
  uint64_t size_bytes = 0;
  uint32_t block_bytes = 512, io_min_bytes = 512, io_opt_bytes = 0;  // as in block::limits
};

// What happened, for the event stream: the kernel's uevent variables without DM_NAME and DM_UUID.
struct device_event {
  std::string action;  // add, change, remove
  std::string name, uuid;
  device_number number;
  std::vector<std::string> variables;
  // The kernel tells nothing of a device before its first table: such events are for the daemon
  // itself. "add" comes twice, when the device is made and when it becomes visible.
  bool visible = true;
};

// A wait(), or a suspension's wait for the requests in flight, that may be given up: by cancel().
class waiting {
 public:
  void cancel() {
    canceled_ = true;
    happened_.set();
    if (give_up_) give_up_();
  }
  bool is_canceled() const noexcept { return canceled_; }

 private:
  friend class device_manager;
  bool canceled_ = false;
  rt::event happened_;
  std::function<void()> give_up_;  // while something else than an event is waited for
};

struct suspend_options {
  bool no_flush = false;
  // Who wants it, and may give it up as long as requests are in flight; outlives the call.
  waiting* caller = nullptr;
};

// Names a device by exactly one of them.
struct device_key {
  std::string name, uuid;
  std::optional<device_number> number;
};

class device_manager {
 public:
  struct options {
    uint32_t major = 253;
  };
  device_manager(rt::runtime& runtime, source_opener& sources);
  device_manager(rt::runtime& runtime, source_opener& sources, options how);
  // REQUIRES: no device is open or in use.
  ~device_manager();
  device_manager(const device_manager&) = delete;
  device_manager& operator=(const device_manager&) = delete;

  // Without a minor: the lowest that is free. Errors: busy (name or uuid taken), ENXIO (minor
  // taken), inval (bad name).
  base::outcome<device_state> create(std::string name, std::string uuid,
                                     std::optional<uint32_t> minor);
  // From now on these minors are for those who ask for them.
  void reserve_minors(std::set<uint32_t> minors) { reserved_ = std::move(minors); }
  // Builds the targets and makes them the inactive table. Errors: inval and what constructors say;
  // `why`, which may be null and outlives the call, gets what people should know beside that.
  rt::task<base::outcome<device_state>> load(device_key key, std::vector<table_line> lines,
                                             bool read_only, std::string* why = nullptr);
  rt::task<base::outcome<device_state>> clear(device_key key);
  // Errors: canceled (given up; nothing has changed).
  rt::task<base::outcome<device_state>> suspend(device_key key, suspend_options how);
  // Swaps the inactive table in, if there is one, and lets requests go on. Errors: ELOOP (the
  // device would stand on itself; nothing has changed), canceled (likewise), inval (the table does
  // not fit what it stands on; it is gone, and the device suspended), and what targets say.
  rt::task<base::outcome<device_state>> resume(device_key key, suspend_options how);
  // Errors: busy when open, unless `deferred`: then it goes with its last user.
  rt::task<base::outcome<void>> remove(device_key key, bool deferred);
  // All that are not open, until nothing more goes. Returns how many stay.
  rt::task<size_t> remove_all(bool deferred);
  base::outcome<device_state> rename(device_key key, std::string new_name);
  base::outcome<device_state> set_uuid(device_key key, std::string uuid);
  rt::task<base::outcome<std::string>> message(device_key key, uint64_t sector,
                                               std::vector<std::string> words);

  base::outcome<device_state> state(device_key key) const;
  std::vector<device_state> list() const;  // by name
  rt::task<base::outcome<std::vector<table_line>>> status(device_key key, block::status_request q,
                                                          bool inactive);
  // What the kernel would measure of the table; a line's text is empty where that is nothing.
  base::outcome<std::vector<table_line>> measured(device_key key, bool inactive) const;
  // The last opened first, as the kernel lists them.
  base::outcome<std::vector<device_number>> deps(device_key key, bool inactive) const;
  // Returns when the event number differs from `event_number`, or the device goes. Errors: ENXIO,
  // canceled.
  rt::task<base::outcome<device_state>> wait(device_key key, uint32_t event_number);
  // `how` outlives the call.
  rt::task<base::outcome<device_state>> wait(device_key key, uint32_t event_number, waiting& how);

  // The device for an export or another table; counts as open as long as the pointer lives. It may
  // have its first table still before it: then its size is 0, and requests fail. Errors: ENXIO
  // (there is none, or it never had a table loaded).
  base::outcome<block::opened_device> open(device_key key);
  // For statistics and live changes; valid until the next co_await.
  device* find_device(const device_key& key) noexcept;

  uint32_t major() const noexcept { return options_.major; }
  void on_event(std::function<void(const device_event&)> told) { told_ = std::move(told); }
  // Called at every event of any device, also those that on_event() has nothing to tell of.
  void on_change(std::function<void()> changed) { changed_ = std::move(changed); }
  // Runs before a removal is refused because the device is open: it may let go of what has ended.
  void before_busy(std::function<rt::task<void>()> settle) { settle_ = std::move(settle); }

 private:
  struct live_table;
  struct entry;
  // Of the kernel's two kinds of devices, as it numbers them.
  enum class io_kind : unsigned { none = 0, bio = 1, request_based = 2 };
  class context;
  class use;
  using entry_ptr = std::shared_ptr<entry>;

  base::outcome<entry_ptr> find(const device_key& key) const;
  device_state state_of(const entry& e) const;
  rt::task<base::outcome<block::opened_device>> open_source(std::string source,
                                                            std::string directory, bool names,
                                                            bool writable);
  // Fills `built`, in part also when it fails.
  rt::task<base::outcome<void>> build(entry_ptr e, std::vector<table_line> lines, bool read_only,
                                      live_table& built);
  // REQUIRES: nothing is in flight.
  static rt::task<void> close_table(std::unique_ptr<live_table> t);
  base::outcome<void> check_line(const entry& e, const table_line& l, uint64_t expected_start,
                                 const live_table& built) const;
  // Adds a line to `built`.
  rt::task<base::outcome<void>> construct(entry_ptr e, table_line l, live_table& built);
  // The areas that targets work on lie on their devices; lines and areas begin and end where the
  // largest unit of their targets does.
  base::outcome<void> check_limits(const entry& e, const live_table& next) const;
  base::outcome<void> check_units(const entry& e, const live_table& next) const;
  base::outcome<void> check_stackable(const entry& e, const live_table& next) const;
  static io_kind kind_of(const entry& e, const live_table& t);
  base::outcome<void> check_replacement(const entry& e, const live_table& next) const;
  // The device does not come to stand on itself, however many devices lie between.
  base::outcome<void> check_circle(const entry& e, const live_table& next) const;
  rt::task<base::outcome<void>> resume_locked(entry_ptr e, suspend_options how);
  // Puts the inactive table into the place of the live one, which goes to `old`. REQUIRES: there is
  // an inactive one.
  rt::task<base::outcome<void>> swap_tables(entry_ptr e, suspend_options how,
                                            std::unique_ptr<live_table>& old);
  rt::task<base::outcome<void>> start_live(entry_ptr e, uint64_t size_before);
  // Whether a device takes writes is up to those below it: after a change of one of them.
  void settle_read_only();
  rt::task<base::outcome<void>> suspend_locked(entry_ptr e, suspend_options how);
  static rt::task<base::outcome<void>> drain(entry_ptr e, waiting* caller);
  static rt::task<void> give_up(entry_ptr e);
  rt::task<void> destroy(entry_ptr e);
  rt::task<void> destroy_unused(entry_ptr e);
  void raise_event(entry& e, std::vector<std::string> variables);
  void tell(const entry& e, const char* action, std::vector<std::string> variables);
  void released(entry& e);

  rt::runtime& runtime_;
  source_opener& sources_;
  const options options_;
  std::map<std::string, entry_ptr> by_name_;
  std::map<std::string, std::weak_ptr<void>> shared_;
  std::set<uint32_t> reserved_;  // minors
  std::function<void(const device_event&)> told_;
  std::function<void()> changed_;
  std::function<rt::task<void>()> settle_;
  // Expires with the manager, for those who may outlive it.
  const std::shared_ptr<device_manager> self_{std::make_shared<char>(), this};
};

// The kernel's way of cutting a table's arguments: at blanks; a backslash takes the next character
// literally.
std::vector<std::string> split_args(const std::string& text);

}  // namespace lbd::stack
