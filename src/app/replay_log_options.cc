// SPDX-License-Identifier: MIT
#include "app/replay_log_options.h"

#include <CLI/CLI.hpp>
#include <charconv>

namespace lbd::app {
namespace {

using base::outcome;

outcome<std::optional<std::string>> read_mark(const reader& from, const std::string& option) {
  if (!from.has(option)) return std::optional<std::string>();
  TRY(std::string mark, from.once(option));
  return std::optional<std::string>(std::move(mark));
}

outcome<void> read_check(const reader& from, ctl::replay_log_command& out) {
  TRY(out.fsck, from.once("fsck"));
  TRY(const std::string text, from.once("check"));
  if (out.fsck.empty() != text.empty())
    return from.wrong("--fsck tells the command and --check when: give both or none");
  if (text.empty()) return {};
  if (text == "flush") {
    out.check = ctl::replay_check::flush;
  } else if (text == "fua") {
    out.check = ctl::replay_check::fua;
  } else {
    out.check = ctl::replay_check::entries;
    TRY(out.check_every, from.number("check", UINT32_MAX, 0));
    if (out.check_every == 0) return from.wrong_value("check", "must be flush, fua or a number");
  }
  if (out.device.empty()) return from.wrong("--fsck looks at what --replay makes: give that too");
  return {};
}

}  // namespace

void add_replay_log(CLI::App& app) {
  CLI::App& to = *app.add_subcommand(
      "replay-log", "Show a log of the log-writes target, or replay it onto another device");
  add_value(to, "--log", "FILE|URI", "The log (needed); it must not be in use");
  add_value(to, "--replay", "FILE|URI",
            "The device to replay onto, as large as the logged one; without it entries are listed");
  add_value(to, "--start-entry", "N", "Begin with this entry (default 0, the first)");
  add_value(to, "--start-mark", "MARK", "Begin behind this mark");
  add_value(to, "--end-mark", "MARK", "End with this mark");
  add_value(to, "--limit", "N", "End after so many entries");
  add_switch(to, "--next-flush", "End with the next flush");
  add_switch(to, "--next-fua", "End with the next FUA write");
  add_switch(to, "--find", "Only print the number of the entry that the others end with");
  add_switch(to, "--num-entries", "Only print how many entries the log counts");
  add_switch(to, "--no-discard", "Leave discards out; otherwise what they name becomes zeros");
  add_value(to, "--fsck", "COMMAND", "A shell command that is to succeed on each state of --check");
  add_value(to, "--check", "flush|fua|N",
            "Run it after each flush, each FUA write, or every N entries");
  add_switch(to, "--json", "As JSON");
}

outcome<ctl::command> read_replay_log(const reader& from) {
  ctl::replay_log_command out;
  TRY(out.log, from.once("log"));
  if (out.log.empty()) return from.wrong("--log is missing: it names the log");
  TRY(out.device, from.once("replay"));
  TRY(out.start_entry, from.number("start-entry", UINT64_MAX, 0));
  TRY(out.start_mark, read_mark(from, "start-mark"));
  TRY(out.end_mark, read_mark(from, "end-mark"));
  TRY(out.limit, from.number("limit", UINT64_MAX, 0));
  if (from.has("limit") && out.limit == 0) return from.wrong_value("limit", "must be at least 1");
  out.next_flush = from.has("next-flush");
  out.next_fua = from.has("next-fua");
  out.find = from.has("find");
  out.count = from.has("num-entries");
  out.no_discard = from.has("no-discard");
  out.json = from.has("json");
  const bool ends = out.next_flush || out.next_fua || out.end_mark || out.limit != 0;
  if (out.find && !ends)
    return from.wrong_value("find",
                            "what? add --next-flush, --next-fua, --end-mark MARK or --limit N");
  if ((out.find || out.count) && !out.device.empty())
    return from.wrong("--replay does not go with --find and --num-entries, which only print");
  CHECK(read_check(from, out));
  return ctl::command(std::move(out));
}

}  // namespace lbd::app
