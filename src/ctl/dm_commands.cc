// SPDX-License-Identifier: MIT
#include "ctl/dm_commands.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/log.h"
#include "block/target_registry.h"

namespace lbd::ctl {

using base::errc;
using base::failure;
using base::outcome;
using rt::task;
using stack::device_key;
using stack::device_state;

namespace {

namespace flag = dm::flag;

failure no_such_device() { return failure{static_cast<errc>(ENXIO), "No such device or address"}; }

dm::device_number to_wire(block::device_number n) { return {n.major, n.minor}; }

// A device is named by exactly one of name, uuid and number.
outcome<device_key> key_of(const dm::header& h) {
  const int given = int(!h.name.empty()) + int(!h.uuid.empty()) + int(h.device != 0);
  if (given > 1)
    base::log_error("device-mapper",
                    fmt::format("ioctl: Invalid ioctl structure: {}, dev {:x}",
                                h.uuid.empty() ? "name " + h.name : "uuid " + h.uuid, h.device));
  if (given != 1) return no_such_device();
  device_key key{h.name, h.uuid, {}};
  if (h.device != 0) {
    const auto n = dm::decode_number(h.device);
    key.number = block::device_number{n.major, n.minor};
  }
  return key;
}

// What every command tells of its device.
void fill(dm::header& h, const device_state& s) {
  h.flags &= ~(flag::suspended | flag::read_only | flag::active_present | flag::inactive_present |
               flag::internal_suspend);
  const bool inactive = (h.flags & flag::query_inactive) != 0;
  if (s.suspended) h.flags |= flag::suspended;
  if (s.deferred_remove) h.flags |= flag::deferred_remove;
  if (s.has_live) h.flags |= flag::active_present;
  if (s.has_inactive) h.flags |= flag::inactive_present;
  if (inactive ? s.inactive_read_only : s.read_only) h.flags |= flag::read_only;
  h.target_count = inactive ? s.inactive_target_count : s.target_count;
  h.device = dm::encode_number(to_wire(s.number));
  h.open_count = static_cast<int32_t>(s.open_count);
  h.event_number = s.event_number;
}
// ... and whose it is.
void fill_with_name(dm::header& h, const device_state& s) {
  fill(h, s);
  h.name = s.name;
  h.uuid = s.uuid;
}

// The answer of commands that tell the device's state and no more.
outcome<std::vector<std::byte>> told(const dm::request& r, const outcome<device_state>& s) {
  if (!s) return s.error();
  dm::answer a(r.head);
  fill_with_name(a.head(), *s);
  return a.finish();
}

std::vector<dm::target_line> to_wire(const std::vector<stack::table_line>& lines) {
  std::vector<dm::target_line> out;
  for (const auto& l : lines) out.push_back({l.start_sector, l.length_sectors, l.type, l.args});
  return out;
}

// The words of a table's line that are paths below /dev, put as the daemon knows them.
void replace_names(std::string& args, const dm_caller& caller) {
  static constexpr std::string_view blanks = " \t\n\v\f\r";
  for (size_t at = 0; (at = args.find_first_not_of(blanks, at)) != std::string::npos;) {
    size_t end = at;
    while (end < args.size() && blanks.find(args[end]) == std::string_view::npos)
      end = std::min(end + (args[end] == '\\' ? 2 : 1), args.size());
    const auto word = stack::split_args(args.substr(at, end - at));
    if (word.size() == 1 && word[0].starts_with("/dev/")) {
      const std::string meaning = caller.names->meaning_of(word[0]);
      // What stays may be quoted.
      if (meaning != word[0]) {
        args.replace(at, end - at, meaning);
        end = at + meaning.size();
      }
    }
    at = end;
  }
}

}  // namespace

task<dm_answer> dm_commands::run(unsigned command, std::vector<std::byte> buffer,
                                 dm_caller caller) {
  if (command >= dm::command_count) co_return dm_answer{ENOTTY, dm::version_answer()};
  auto r = dm::decode_request(static_cast<dm::command>(command), buffer);
  std::fill(buffer.begin(), buffer.end(), std::byte{});  // it may hold keys
  if (!r) {
    if (!r.error().message.empty()) base::log_error("device-mapper", r.error().message);
    co_return dm_answer{static_cast<int>(r.error().code), dm::version_answer()};
  }
  auto done = co_await dispatch(*std::move(r), std::move(caller));
  if (done) co_return dm_answer{0, *std::move(done)};
  co_return dm_answer{static_cast<int>(done.error().code), dm::version_answer()};
}

task<dm_commands::result> dm_commands::dispatch(dm::request r, dm_caller caller) {
  switch (r.what) {
    case dm::command::version:
    case dm::command::arm_poll:
      co_return dm::version_answer();
    case dm::command::remove_all:
      (void)co_await devices_.remove_all((r.head.flags & flag::deferred_remove) != 0);
      co_return dm::version_answer();
    case dm::command::list_devices:
      co_return list(r);
    case dm::command::list_versions:
    case dm::command::target_version:
      co_return versions(r);
    case dm::command::create:
      co_return create(r);
    case dm::command::rename:
      co_return rename(r);
    default:
      co_return co_await of_device(std::move(r), std::move(caller));
  }
}

task<dm_commands::result> dm_commands::of_device(dm::request r, dm_caller caller) {
  auto found = key_of(r.head);
  if (!found) co_return found.error();
  device_key key = *std::move(found);
  switch (r.what) {
    case dm::command::remove:
      co_return co_await remove(std::move(r), std::move(key));
    case dm::command::suspend:
      co_return co_await suspend_or_resume(std::move(r), std::move(key), caller.waiting);
    case dm::command::wait:
      co_return co_await wait(std::move(r), std::move(key), std::move(caller));
    case dm::command::load:
      co_return co_await load(std::move(r), std::move(key), std::move(caller));
    case dm::command::clear: {
      const auto state = co_await devices_.clear(std::move(key));
      co_return told(r, state);
    }
    case dm::command::deps:
      co_return deps(r, key);
    case dm::command::table_status:
      co_return co_await table_status(std::move(r), std::move(key));
    case dm::command::message:
      co_return co_await message(std::move(r), std::move(key));
    case dm::command::set_geometry:
      co_return set_geometry(r, key);
    default:
      co_return told(r, devices_.state(std::move(key)));
  }
}

dm_commands::result dm_commands::create(const dm::request& r) {
  std::optional<uint32_t> minor;
  if ((r.head.flags & flag::persistent_device) != 0) minor = dm::decode_number(r.head.device).minor;
  const auto made = devices_.create(r.head.name, r.head.uuid, minor);
  if (made) attributes_.forget(made->number);
  return told(r, made);
}

task<dm_commands::result> dm_commands::remove(dm::request r, device_key key) {
  const bool deferred = (r.head.flags & flag::deferred_remove) != 0;
  const auto before = devices_.state(key);
  const auto removed = co_await devices_.remove(std::move(key), deferred);
  if (!removed) co_return removed.error();
  dm::answer a(r.head);
  a.head().name = before->name;
  a.head().uuid = before->uuid;
  if (!devices_.state(device_key{before->name, {}, {}}))
    a.head().flags &= ~uint32_t{flag::deferred_remove};
  co_return a.finish();
}

dm_commands::result dm_commands::rename(const dm::request& r) {
  // Only by its name; none finds nothing.
  device_key key{r.head.name, {}, {}};
  const auto done = (r.head.flags & flag::uuid) != 0 ? devices_.set_uuid(std::move(key), r.text)
                                                     : devices_.rename(std::move(key), r.text);
  if (!done) {
    base::log_error("device-mapper", "ioctl: " + done.error().message);
    return done.error();
  }
  // The old name stays in the answer.
  dm::answer a(r.head);
  fill(a.head(), *done);
  return a.finish();
}

task<dm_commands::result> dm_commands::suspend_or_resume(dm::request r, device_key key,
                                                         stack::waiting* caller) {
  stack::suspend_options how;
  how.no_flush = (r.head.flags & flag::no_flush) != 0;
  how.caller = caller;
  const bool suspend = (r.head.flags & flag::suspended) != 0;
  outcome<device_state> state = no_such_device();
  if (suspend)
    state = co_await devices_.suspend(std::move(key), how);
  else
    state = co_await devices_.resume(std::move(key), how);
  co_return told(r, state);
}

task<dm_commands::result> dm_commands::load(dm::request r, device_key key, dm_caller caller) {
  std::vector<stack::table_line> lines;
  for (auto& t : r.targets) {
    stack::table_line line;
    line.start_sector = t.start_sector;
    line.length_sectors = t.length_sectors;
    line.type = std::move(t.type);
    line.args = std::move(t.text);
    replace_names(line.args, caller);
    line.directory = caller.directory;
    lines.push_back(std::move(line));
  }
  const bool read_only = (r.head.flags & flag::read_only) != 0;
  const auto state = co_await devices_.load(std::move(key), std::move(lines), read_only);
  co_return told(r, state);
}

dm_commands::result dm_commands::deps(const dm::request& r, const device_key& key) const {
  const bool inactive = (r.head.flags & flag::query_inactive) != 0;
  TRY(const device_state state, devices_.state(key));
  TRY(const auto numbers, devices_.deps(key, inactive));
  dm::answer a(r.head);
  fill_with_name(a.head(), state);
  std::vector<dm::device_number> wire;
  for (const auto& n : numbers) wire.push_back(to_wire(n));
  if (inactive ? state.has_inactive : state.has_live) a.put_deps(wire);
  return a.finish();
}

task<dm_commands::result> dm_commands::table_status(dm::request r, device_key key) {
  block::status_request q;
  const bool table = (r.head.flags & flag::status_table) != 0;
  q.kind = table ? block::status_kind::table : block::status_kind::info;
  // Whoever prints a table hides its keys; whoever saves it needs them.
  q.show_keys = table;
  q.no_flush = (r.head.flags & flag::no_flush) != 0;
  const bool inactive = (r.head.flags & flag::query_inactive) != 0;
  outcome<std::vector<stack::table_line>> lines = no_such_device();
  if (!table && (r.head.flags & flag::measure) != 0)
    lines = devices_.measured(key, inactive);
  else
    lines = co_await devices_.status(key, q, inactive);
  if (!lines) co_return lines.error();
  const auto state = devices_.state(std::move(key));
  if (!state) co_return state.error();
  dm::answer a(r.head);
  fill_with_name(a.head(), *state);
  if (!lines->empty()) a.put_status(to_wire(*lines));
  co_return a.finish();
}

task<dm_commands::result> dm_commands::wait(dm::request r, device_key key, dm_caller caller) {
  const auto state = co_await devices_.wait(std::move(key), r.head.event_number, *caller.waiting);
  if (!state) co_return state.error();
  block::status_request q;
  q.no_flush = (r.head.flags & flag::no_flush) != 0;
  // It may be gone, or have another name: that was the event then.
  device_key now{state->name, {}, {}};
  const auto lines = co_await devices_.status(std::move(now), q, false);
  dm::answer a(r.head);
  fill_with_name(a.head(), *state);
  if (lines && !lines->empty()) a.put_status(to_wire(*lines));
  co_return a.finish();
}

task<dm_commands::result> dm_commands::message(dm::request r, device_key key) {
  std::vector<std::string> words = stack::split_args(r.text);
  // What does not fit the caller's buffer is asked for again, and must not be cleared before.
  static constexpr const char* shows = "@stats_print";
  const bool clears = r.text.starts_with("@stats_print_clear");
  if (clears) words[0] = shows;
  auto reply = co_await devices_.message(key, r.sector, std::move(words));
  // What was really said is wrong then, and the log tells that.
  if (!reply && clears) reply = co_await devices_.message(key, r.sector, stack::split_args(r.text));
  if (!reply) co_return reply.error();
  const auto state = devices_.state(key);
  if (!state) co_return state.error();
  dm::answer a(r.head);
  fill_with_name(a.head(), *state);
  // A list of statistics is an answer even when it is empty.
  const bool lists = r.text.starts_with("@stats_list") || r.text.starts_with(shows);
  if (!reply->empty() || lists) a.put_reply(*reply);
  if (!clears || (a.head().flags & flag::buffer_full) != 0) co_return a.finish();
  reply = co_await devices_.message(std::move(key), r.sector, stack::split_args(r.text));
  if (!reply) co_return reply.error();
  dm::answer cleared(r.head);
  fill_with_name(cleared.head(), *state);
  cleared.put_reply(*reply);
  co_return cleared.finish();
}

dm_commands::result dm_commands::set_geometry(const dm::request& r, const device_key& key) {
  TRY(const device_state state, devices_.state(key));
  const auto g = dm::parse_geometry(r.text);
  if (!g) {
    base::log_warn("device-mapper", g.error().message);
    return g.error();
  }
  attributes_.of(state.number).geometry = *g;
  return dm::version_answer();
}

dm_commands::result dm_commands::list(const dm::request& r) const {
  std::vector<dm::listed_device> all;
  for (const device_state& s : devices_.list())
    all.push_back({to_wire(s.number), s.name, s.uuid, s.event_number});
  dm::answer a(r.head);
  a.put_devices(all);
  return a.finish();
}

dm_commands::result dm_commands::versions(const dm::request& r) const {
  std::vector<dm::target_version> all;
  for (const block::target_type* t : block::all_target_types())
    if (r.what == dm::command::list_versions || t->name == r.head.name)
      all.push_back({std::string(t->name), {t->version[0], t->version[1], t->version[2]}});
  if (all.empty()) return failure{errc::inval, "no such target"};
  // The last one registered comes first.
  std::reverse(all.begin(), all.end());
  dm::answer a(r.head);
  a.put_versions(all);
  return a.finish();
}

}  // namespace lbd::ctl
