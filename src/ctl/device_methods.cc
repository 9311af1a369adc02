// SPDX-License-Identifier: MIT
// The device.* methods: the device-mapper's verbs over JSON-RPC.
#include <functional>
#include <nlohmann/json.hpp>
#include <set>

#include "base/log.h"
#include "block/target_registry.h"
#include "ctl/daemon.h"
#include "ctl/device_params.h"
#include "ctl/table_text.h"
#include "stack/device_name.h"

namespace lbd::ctl {
namespace {

using base::errc;
using base::failure;
using base::outcome;
using nlohmann::json;
using rt::task;
using stack::device_key;
using stack::device_state;
using stack::table_line;

// Waiters that are asleep; a part of the daemon that ends them.
class waiters final : public service {
 public:
  task<outcome<void>> close() override {
    closed_ = true;
    for (stack::waiting* w : asleep_) w->cancel();
    co_return outcome<void>{};
  }
  bool closed() const noexcept { return closed_; }
  void add(stack::waiting& w) { asleep_.insert(&w); }
  void remove(stack::waiting& w) { asleep_.erase(&w); }

 private:
  std::set<stack::waiting*> asleep_;
  bool closed_ = false;
};

// Gives a wait up when nobody is there any more to hear its answer.
class watch final : rt::timer {
 public:
  watch(waiters& all, stack::waiting& w, const line_peer& peer) : all_(all), wait_(w), peer_(peer) {
    run = [](rt::timer& t) { static_cast<watch&>(t).look(); };
    all_.add(wait_);
    start();
  }
  ~watch() {
    rt::reactor::current().stop_timer(*this);
    all_.remove(wait_);
  }
  watch(const watch&) = delete;
  watch& operator=(const watch&) = delete;

 private:
  static constexpr uint64_t pause_ns = 250'000'000;
  void start() {
    rt::reactor& here = rt::reactor::current();
    here.start_timer(*this, here.now_ns() + pause_ns);
  }
  void look() {
    if (peer_.is_gone()) return wait_.cancel();
    start();
  }

  waiters& all_;
  stack::waiting& wait_;
  const line_peer& peer_;
};

json lines_to_json(const std::vector<table_line>& lines) {
  json out = json::array();
  for (const table_line& l : lines)
    out.push_back({{"start", l.start_sector},
                   {"length", l.length_sectors},
                   {"type", l.type},
                   {"text", l.args}});
  return out;
}

rpc_answer answer_state(const device_key& key, const outcome<device_state>& s) {
  if (!s) return device_failed(key, s.error());
  return rpc_answer::result(to_json(*s));
}

// A failed table: the kernel's text, and what people should know beside it.
task<outcome<device_state>> load(daemon& d, device_key key, std::vector<table_line> lines,
                                 bool read_only) {
  std::string why;
  auto loaded = co_await d.devices().load(std::move(key), std::move(lines), read_only, &why);
  if (loaded || why.empty()) co_return loaded;
  co_return failure{loaded.error().code, loaded.error().message + ": " + why};
}

// The table that was just loaded goes live; the device does not stay when that fails.
task<outcome<device_state>> start(daemon& d, std::string name, table_params table) {
  const device_key key{name, {}, {}};
  auto state = co_await load(d, key, std::move(table.lines), table.read_only);
  if (state) state = co_await d.devices().resume(key, {});
  if (!state) (void)co_await d.devices().remove(key, false);
  co_return state;
}

task<rpc_answer> create(daemon& d, rpc_call call) {
  rpc_params p(call);
  std::string name = stack::kept_name(p.needed_text("name"));
  std::string uuid = stack::kept_uuid(p.text("uuid"));
  const auto minor = p.number("minor");
  if (minor && *minor > UINT32_MAX) p.refuse("minor is too large");
  const bool with_table = p.has("table");
  table_params table = read_table(p);
  if (const auto fine = p.finish(); !fine) co_return rpc_answer::wrong_params(fine.error());
  std::optional<uint32_t> wanted;
  if (minor) wanted = static_cast<uint32_t>(*minor);
  const device_key key{name, {}, {}};
  auto made = d.devices().create(name, std::move(uuid), wanted);
  if (made && with_table) made = co_await start(d, std::move(name), std::move(table));
  co_return answer_state(key, made);
}

task<rpc_answer> load_table(daemon& d, rpc_call call) {
  rpc_params p(call);
  device_key key = read_key(p);
  if (!p.has("table")) p.refuse("table is missing");
  table_params table = read_table(p);
  if (const auto fine = p.finish(); !fine) co_return rpc_answer::wrong_params(fine.error());
  const auto loaded = co_await load(d, key, std::move(table.lines), table.read_only);
  co_return answer_state(key, loaded);
}

task<rpc_answer> clear(daemon& d, rpc_call call) {
  rpc_params p(call);
  device_key key = read_key(p);
  if (const auto fine = p.finish(); !fine) co_return rpc_answer::wrong_params(fine.error());
  const auto cleared = co_await d.devices().clear(key);
  co_return answer_state(key, cleared);
}

// Suspending and resuming take and answer the same.
using switch_device = task<outcome<stack::device_state>> (stack::device_manager::*)(
    device_key, stack::suspend_options);
task<rpc_answer> turn(daemon& d, waiters& all, rpc_call call, switch_device change) {
  rpc_params p(call);
  device_key key = read_key(p);
  stack::suspend_options how;
  how.no_flush = p.flag("no_flush");
  if (const auto fine = p.finish(); !fine) co_return rpc_answer::wrong_params(fine.error());
  stack::waiting caller;
  if (all.closed()) caller.cancel();
  const watch watched(all, caller, *call.from);
  how.caller = &caller;
  const auto changed = co_await (d.devices().*change)(key, how);
  co_return answer_state(key, changed);
}
task<rpc_answer> suspend(daemon& d, waiters& all, rpc_call call) {
  return turn(d, all, std::move(call), &stack::device_manager::suspend);
}
task<rpc_answer> resume(daemon& d, waiters& all, rpc_call call) {
  return turn(d, all, std::move(call), &stack::device_manager::resume);
}

task<rpc_answer> rename(daemon& d, rpc_call call) {
  rpc_params p(call);
  device_key key = read_key(p);
  std::string to = stack::kept_name(p.needed_text("new_name"));
  if (const auto fine = p.finish(); !fine) co_return rpc_answer::wrong_params(fine.error());
  co_return answer_state(key, d.devices().rename(key, std::move(to)));
}

task<rpc_answer> set_uuid(daemon& d, rpc_call call) {
  rpc_params p(call);
  device_key key = read_key(p);
  std::string uuid = stack::kept_uuid(p.needed_text("new_uuid"));
  if (const auto fine = p.finish(); !fine) co_return rpc_answer::wrong_params(fine.error());
  co_return answer_state(key, d.devices().set_uuid(key, std::move(uuid)));
}

task<rpc_answer> remove(daemon& d, rpc_call call) {
  rpc_params p(call);
  device_key key = read_key(p);
  const bool deferred = p.flag("deferred");
  if (const auto fine = p.finish(); !fine) co_return rpc_answer::wrong_params(fine.error());
  const auto removed = co_await d.devices().remove(key, deferred);
  if (!removed) co_return device_failed(key, removed.error());
  co_return rpc_answer::result(true);
}

task<rpc_answer> remove_all(daemon& d, rpc_call call) {
  rpc_params p(call);
  const bool deferred = p.flag("deferred");
  if (const auto fine = p.finish(); !fine) co_return rpc_answer::wrong_params(fine.error());
  const size_t left = co_await d.devices().remove_all(deferred);
  const json out = {{"left", left}};
  co_return rpc_answer::result(out);
}

task<rpc_answer> message(daemon& d, rpc_call call) {
  rpc_params p(call);
  device_key key = read_key(p);
  const uint64_t sector = p.number("sector").value_or(0);
  std::vector<std::string> words = p.texts("words");
  if (const auto fine = p.finish(); !fine) co_return rpc_answer::wrong_params(fine.error());
  const auto reply = co_await d.devices().message(key, sector, std::move(words));
  if (!reply) co_return device_failed(key, reply.error());
  co_return rpc_answer::result(*reply);
}

task<rpc_answer> answer_lines(daemon& d, device_key key, block::status_request q, bool inactive) {
  const auto lines = co_await d.devices().status(key, q, inactive);
  if (!lines) co_return device_failed(key, lines.error());
  co_return rpc_answer::result(lines_to_json(*lines));
}

task<rpc_answer> status(daemon& d, rpc_call call) {
  rpc_params p(call);
  device_key key = read_key(p);
  block::status_request q;
  q.no_flush = p.flag("no_flush");
  const bool inactive = p.flag("inactive");
  if (const auto fine = p.finish(); !fine) co_return rpc_answer::wrong_params(fine.error());
  co_return co_await answer_lines(d, std::move(key), q, inactive);
}

task<rpc_answer> table(daemon& d, rpc_call call) {
  rpc_params p(call);
  device_key key = read_key(p);
  block::status_request q;
  q.kind = block::status_kind::table;
  q.show_keys = p.flag("show_keys");
  const bool inactive = p.flag("inactive");
  if (const auto fine = p.finish(); !fine) co_return rpc_answer::wrong_params(fine.error());
  co_return co_await answer_lines(d, std::move(key), q, inactive);
}

task<rpc_answer> info(daemon& d, rpc_call call) {
  rpc_params p(call);
  device_key key = read_key(p);
  if (const auto fine = p.finish(); !fine) co_return rpc_answer::wrong_params(fine.error());
  co_return answer_state(key, d.devices().state(key));
}

task<rpc_answer> list(daemon& d, rpc_call call) {
  rpc_params p(call);
  if (const auto fine = p.finish(); !fine) co_return rpc_answer::wrong_params(fine.error());
  json out = json::array();
  for (const device_state& s : d.devices().list()) out.push_back(to_json(s));
  co_return rpc_answer::result(out);
}

// A device that another stands on: a mapped device by name, a source by its text.
json dependency(daemon& d, block::device_number n) {
  json out = {{"major", n.major}, {"minor", n.minor}};
  device_key key;
  key.number = n;
  if (const auto mapped = d.devices().state(std::move(key)))
    out["name"] = stack::shown_name(mapped->name);
  else if (const auto source = d.sources().source_of(n))
    out["source"] = *source;
  return out;
}

task<rpc_answer> deps(daemon& d, rpc_call call) {
  rpc_params p(call);
  device_key key = read_key(p);
  const bool inactive = p.flag("inactive");
  if (const auto fine = p.finish(); !fine) co_return rpc_answer::wrong_params(fine.error());
  const auto numbers = d.devices().deps(key, inactive);
  if (!numbers) co_return device_failed(key, numbers.error());
  json out = json::array();
  for (const auto& n : *numbers) out.push_back(dependency(d, n));
  co_return rpc_answer::result(out);
}

task<rpc_answer> wait(daemon& d, waiters& all, rpc_call call) {
  rpc_params p(call);
  device_key key = read_key(p);
  const uint64_t number = p.number("event_number").value_or(0);
  if (number > UINT32_MAX) p.refuse("event_number is too large");
  if (const auto fine = p.finish(); !fine) co_return rpc_answer::wrong_params(fine.error());
  stack::waiting asleep;
  if (all.closed()) asleep.cancel();
  const watch watched(all, asleep, *call.from);
  const auto state = co_await d.devices().wait(key, static_cast<uint32_t>(number), asleep);
  co_return answer_state(key, state);
}

task<rpc_answer> targets(rpc_call call) {
  rpc_params p(call);
  if (const auto fine = p.finish(); !fine) co_return rpc_answer::wrong_params(fine.error());
  json out = json::array();
  for (const block::target_type* t : block::all_target_types())
    out.push_back({{"name", t->name}, {"version", {t->version[0], t->version[1], t->version[2]}}});
  co_return rpc_answer::result(out);
}

}  // namespace

void add_device_methods(daemon& to) {
  const auto add = [&to](const char* name, task<rpc_answer> (*method)(daemon&, rpc_call)) {
    to.methods().add(name, [&to, method](rpc_call c) { return method(to, std::move(c)); });
  };
  add("device.create", create);
  add("device.load", load_table);
  add("device.clear", clear);
  add("device.rename", rename);
  add("device.set_uuid", set_uuid);
  add("device.remove", remove);
  add("device.remove_all", remove_all);
  add("device.message", message);
  add("device.status", status);
  add("device.table", table);
  add("device.info", info);
  add("device.list", list);
  add("device.deps", deps);
  to.methods().add("device.targets", targets);
  auto all = std::make_unique<waiters>();
  waiters* const kept = all.get();
  to.add_service(std::move(all));
  // Those that may take long.
  const auto add_long = [&to, kept](const char* name,
                                    task<rpc_answer> (*method)(daemon&, waiters&, rpc_call)) {
    to.methods().add(name,
                     [&to, kept, method](rpc_call c) { return method(to, *kept, std::move(c)); });
  };
  add_long("device.suspend", suspend);
  add_long("device.resume", resume);
  add_long("device.wait", wait);
}

}  // namespace lbd::ctl
