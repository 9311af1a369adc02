// SPDX-License-Identifier: MIT
#include "ctl/replay_log.h"

#include <sys/wait.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "base/checked_math.h"
#include "block/segments.h"
#include "ctl/progress.h"
#include "ctl/run_alone.h"
#include "ctl/stack_builder.h"
#include "rt/buffer_pool.h"
#include "target/log-writes/log_reader.h"

namespace lbd::ctl {

using base::errc;
using base::failure;
using base::outcome;
using dm_log_writes::entry;
using rt::task;

namespace {

using nlohmann::json;
using target::log_reader;
using item = log_reader::item;

// Output is gathered up to there.
constexpr size_t listed_at_once = size_t{64} << 10;

std::string entry_text(uint64_t number) { return "entry " + std::to_string(number); }

// Entries from `begin` to the one before `end`.
struct range {
  log_reader::place begin;
  uint64_t end = 0;
  uint64_t written_bytes = 0;
};

bool has_stop(const replay_log_command& what) {
  return what.next_flush || what.next_fua || what.end_mark.has_value();
}

bool stops_at(const replay_log_command& what, const item& i) {
  if (what.next_flush && i.what.is(entry::flush)) return true;
  if (what.next_fua && i.what.is(entry::fua)) return true;
  return what.end_mark && i.what.is(entry::mark) && i.text == *what.end_mark;
}

std::string stop_text(const replay_log_command& what) {
  std::string out;
  const auto add = [&out](const std::string& word) { out += (out.empty() ? "" : " or ") + word; };
  if (what.next_flush) add("flush");
  if (what.next_fua) add("FUA write");
  if (what.end_mark) add("mark '" + *what.end_mark + "'");
  return out;
}

// Where the entries begin that are asked for.
task<outcome<log_reader::place>> find_begin(const log_reader& log, const replay_log_command& what) {
  log_reader::place at;
  while (at.number < what.start_entry) {
    CO_TRY(const std::optional<item> i, co_await log.next(at));
    if (!i)
      co_return failure{errc::inval, "'" + log.name() + "' has no entry " +
                                         std::to_string(what.start_entry) + ", only " +
                                         std::to_string(log.head().entries)};
  }
  bool found = !what.start_mark;
  while (!found) {
    CO_TRY(const std::optional<item> i, co_await log.next(at));
    if (!i)
      co_return failure{errc::inval, "'" + log.name() + "' has no mark '" + *what.start_mark +
                                         "' from entry " + std::to_string(what.start_entry) +
                                         " on"};
    found = i->what.is(entry::mark) && i->text == *what.start_mark;
  }
  co_return at;
}

// Nothing is written before it is sure that the end is there.
task<outcome<range>> find_range(const log_reader& log, const replay_log_command& what) {
  range out;
  CO_TRY(out.begin, co_await find_begin(log, what));
  log_reader::place at = out.begin;
  bool stopped = false;
  while (!stopped && (what.limit == 0 || at.number - out.begin.number < what.limit)) {
    CO_TRY(const std::optional<item> i, co_await log.next(at));
    if (!i) break;
    out.written_bytes += i->length;
    stopped = stops_at(what, *i);
  }
  out.end = at.number;
  const bool limited = what.limit != 0 && out.end - out.begin.number == what.limit;
  if (stopped || limited || !has_stop(what)) co_return out;
  co_return failure{errc::inval, "'" + log.name() + "' has no " + stop_text(what) + " from entry " +
                                     std::to_string(out.begin.number) + " on"};
}

json to_json(const item& i) {
  json out = {{"entry", i.number},
              {"offset", i.offset},
              {"length", i.length},
              {"flush", i.what.is(entry::flush)},
              {"fua", i.what.is(entry::fua)},
              {"discard", i.what.is(entry::discard)},
              {"metadata", i.what.is(entry::metadata)}};
  out["mark"] = i.what.is(entry::mark) ? json(i.text) : json(nullptr);
  return out;
}

// Logs come from anywhere: what is no plain text does not reach the terminal.
std::string shown(std::string_view mark) {
  std::string out;
  for (const char c : mark) {
    if (c >= ' ' && c <= '~') {
      out += c;
      continue;
    }
    char escaped[8];
    std::snprintf(escaped, sizeof escaped, "\\x%02x", static_cast<unsigned char>(c));
    out += escaped;
  }
  return out;
}

std::string to_line(const item& i) {
  char line[80];
  if (i.length == 0)
    std::snprintf(line, sizeof line, "%8llu %16s %16s  ", static_cast<unsigned long long>(i.number),
                  "-", "-");
  else
    std::snprintf(
        line, sizeof line, "%8llu %16llu %16llu  ", static_cast<unsigned long long>(i.number),
        static_cast<unsigned long long>(i.offset), static_cast<unsigned long long>(i.length));
  return line + dm_log_writes::kind_text(i.what) +
         (i.what.is(entry::mark) ? " " + shown(i.text) : "") + "\n";
}

// An entry within the list of an object.
std::string to_indented(const item& i) {
  std::string out = "\n";
  // Also what is beyond ASCII is escaped: there are control characters.
  out += to_json(i).dump(2, ' ', true, json::error_handler_t::replace);
  for (size_t at = 0; (at = out.find('\n', at)) != std::string::npos; at += 5)
    out.insert(at + 1, 4, ' ');
  return out;
}

// Entry by entry: a log may be larger than the memory. What it returns is still to be printed.
task<outcome<std::string>> list(const log_reader& log, range which, bool as_json) {
  char head[80];
  std::snprintf(head, sizeof head, "%8s %16s %16s  %s\n", "ENTRY", "OFFSET", "LENGTH", "KIND");
  std::string text = as_json ? "{\n  \"entries\": [" : head;
  for (log_reader::place at = which.begin; at.number < which.end;) {
    CO_TRY(const std::optional<item> i, co_await log.next(at));
    if (!i) break;
    if (as_json && i->number != which.begin.number) text += ",";
    text += as_json ? to_indented(*i) : to_line(*i);
    if (text.size() < listed_at_once) continue;
    if (!print(text)) co_return no_output();
    text.clear();
  }
  if (!as_json) co_return text;
  text += which.begin.number == which.end ? "],\n" : "\n  ],\n";
  text += "  \"entries_in_log\": " + std::to_string(log.head().entries) + ",\n";
  text += "  \"sector_bytes\": " + std::to_string(log.head().sector_bytes) + "\n}\n";
  co_return text;
}

// One replay of a range onto a device.
class replay {
 public:
  replay(const log_reader& log, const replay_log_command& what, block::block_device& to)
      : log_(log), what_(what), to_(to) {}

  task<outcome<void>> run(range which) {
    progress shown("replay-log", which.written_bytes);
    for (log_reader::place at = which.begin; at.number < which.end;) {
      CO_TRY(const std::optional<item> i, co_await log_.next(at));
      if (!i) break;
      CO_CHECK(co_await play(*i));
      shown.add(i->length);
      if (is_checked(*i, at.number - which.begin.number)) CO_CHECK(co_await check(*i));
    }
    CO_CHECK(co_await flush());
    shown.finish();
    co_return outcome<void>{};
  }

 private:
  failure failed(const item& i, errc code, const std::string& why) const {
    return {code, entry_text(i.number) + ", at byte " + std::to_string(i.offset) + " of '" +
                      what_.device + "': " + why};
  }

  task<outcome<void>> play(const item& i) {
    if (i.length == 0) co_return outcome<void>{};
    if (!base::range_fits(i.offset, i.length, to_.limits().size_bytes))
      co_return failed(i, errc::nospc, "the device ends before; it needs the logged one's size");
    base::result<void> done;
    if (!i.what.is(entry::discard))
      done = co_await copy(i);
    else if (!what_.no_discard)
      done = co_await to_.write_zeroes(i.offset, i.length, {});
    if (!done) co_return failed(i, done.error().code, base::to_string(done.error().code));
    co_return outcome<void>{};
  }

  task<base::result<void>> copy(const item& i) {
    for (uint64_t done = 0; done < i.length;) {
      const uint64_t n = std::min<uint64_t>(i.length - done, buffer_.size());
      const base::bytes_span bytes = buffer_.first(n);
      const block::segment_list all{base::bytes_view(bytes)};
      CO_CHECK(co_await block::read(log_.device(), i.data_offset + done, all.view(), {}));
      CO_CHECK(co_await block::write(to_, i.offset + done, all.view(), {}));
      done += n;
    }
    co_return base::result<void>{};
  }

  task<outcome<void>> flush() {
    const auto done = co_await to_.flush({});
    if (done) co_return outcome<void>{};
    co_return failure{done.error().code,
                      "cannot flush '" + what_.device + "': " + base::to_string(done.error().code)};
  }

  // `count`: entries that have been replayed.
  bool is_checked(const item& i, uint64_t count) const {
    switch (what_.check) {
      case replay_check::never:
        return false;
      case replay_check::flush:
        return i.what.is(entry::flush);
      case replay_check::fua:
        return i.what.is(entry::fua);
      case replay_check::entries:
        break;
    }
    return count % what_.check_every == 0;
  }

  // The user's command on the state of now.
  task<outcome<void>> check(const item& i) {
    CO_CHECK(co_await flush());
    std::fflush(nullptr);
    const int status = std::system(what_.fsck.c_str());
    if (status == 0) co_return outcome<void>{};
    const std::string how = WIFEXITED(status) ? "ended with " + std::to_string(WEXITSTATUS(status))
                                              : "did not end by itself";
    co_return failure{errc::io, "after " + entry_text(i.number) + " (" +
                                    dm_log_writes::kind_text(i.what) + ") '" + what_.fsck + "' " +
                                    how};
  }

  const log_reader& log_;
  const replay_log_command& what_;
  block::block_device& to_;
  rt::buffer buffer_{size_t{1} << 20};
};

task<outcome<std::string>> replay_onto(rt::runtime& runtime, const log_reader& log,
                                       const replay_log_command& what, range which) {
  CO_TRY(uri::source where, uri::parse_source(what.device));
  source_options how;
  how.writable = true;
  std::vector<open_layer> opened(1);
  CO_TRY(opened[0], co_await open_source(runtime, std::move(where), how));
  replay work(log, what, opened[0].device());
  const auto done = co_await work.run(which);
  const auto closed = co_await close_layers(opened);
  if (!done) co_return done.error();
  if (!closed) co_return closed.error();
  const uint64_t count = which.end - which.begin.number;
  if (what.json) {
    const json all = {{"first", which.begin.number},
                      {"replayed", count},
                      {"next", which.end},
                      {"entries_in_log", log.head().entries}};
    co_return all.dump(2) + "\n";
  }
  co_return std::to_string(count) + " entries replayed; the next is " + std::to_string(which.end) +
      " of " + std::to_string(log.head().entries) + "\n";
}

task<outcome<std::string>> work_on(rt::runtime& runtime, const log_reader& log,
                                   const replay_log_command& what) {
  if (what.count) co_return std::to_string(log.head().entries) + "\n";
  CO_TRY(const range which, co_await find_range(log, what));
  if (what.find && which.end == which.begin.number)
    co_return failure{
        errc::inval, "'" + log.name() + "' has no entry from " + std::to_string(which.end) + " on"};
  if (what.find) co_return std::to_string(which.end - 1) + "\n";
  if (what.device.empty()) co_return co_await list(log, which, what.json);
  co_return co_await replay_onto(runtime, log, what, which);
}

task<outcome<std::string>> carry_out(rt::runtime& runtime, const replay_log_command& what) {
  CO_TRY(uri::source from, uri::parse_source(what.log));
  std::vector<open_layer> opened(1);
  const source_options only_read;
  CO_TRY(opened[0], co_await open_source(runtime, std::move(from), only_read));
  const auto log = co_await log_reader::open(opened[0].device(), what.log);
  outcome<std::string> out = failure{};
  if (log)
    out = co_await work_on(runtime, *log, what);
  else
    out = log.error();
  const auto closed = co_await close_layers(opened);
  if (out && !closed) co_return closed.error();
  co_return out;
}

}  // namespace

int run_replay_log(const replay_log_command& what) {
  return run_alone("replay-log",
                   [&what](rt::runtime& runtime) { return carry_out(runtime, what); });
}

}  // namespace lbd::ctl
