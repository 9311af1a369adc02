// SPDX-License-Identifier: MIT
#include <cstdio>
#include <nlohmann/json.hpp>

#include "ctl/holdings.h"
#include "ctl/offline.h"
#include "ctl/progress.h"
#include "ctl/run_alone.h"

namespace lbd::ctl {
namespace {

using base::outcome;

std::string as_json(const open_layers& stack, const std::vector<held_run>& runs) {
  nlohmann::json layers = nlohmann::json::array(), list = nlohmann::json::array();
  for (const open_layer& l : stack.layers)
    layers.push_back({{"kind", l.kind}, {"path", l.path}, {"size_bytes", l.size_bytes()}});
  for (const held_run& r : runs) {
    nlohmann::json run = {
        {"offset", r.offset}, {"length", r.length_bytes}, {"kind", to_string(r.kind)}};
    run["layer"] = r.layer ? nlohmann::json(*r.layer) : nlohmann::json(nullptr);
    list.push_back(std::move(run));
  }
  const nlohmann::json all = {{"size_bytes", stack.size_bytes},
                              {"layers", std::move(layers)},
                              {"extents", std::move(list)}};
  return all.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

std::string as_table(const open_layers& stack, const std::vector<held_run>& runs) {
  char line[160];
  std::snprintf(line, sizeof line, "%16s %16s  %-10s  %s\n", "OFFSET", "LENGTH", "KIND", "LAYER");
  std::string out = line;
  for (const held_run& r : runs) {
    std::snprintf(line, sizeof line, "%16llu %16llu  %-10s  ",
                  static_cast<unsigned long long>(r.offset),
                  static_cast<unsigned long long>(r.length_bytes), to_string(r.kind));
    const std::string layer =
        r.layer ? std::to_string(*r.layer) + " " + stack.layers[*r.layer].path : "-";
    out += line + layer + "\n";
  }
  return out;
}

rt::task<outcome<std::vector<held_run>>> find_runs(overlay::device& over,
                                                   const open_layers& stack) {
  std::vector<held_run> runs;
  progress shown("map", stack.size_bytes);
  for (uint64_t at = 0; at < stack.size_bytes;) {
    const auto run = co_await find_holder(over, stack.layers, at, stack.size_bytes - at);
    if (!run)
      co_return base::failure{run.error().code,
                              base::to_string(run.error().code) + " at byte " + std::to_string(at)};
    append_run(runs, *run);
    at += run->length_bytes;
    shown.add(run->length_bytes);
  }
  shown.finish();
  co_return runs;
}

rt::task<outcome<std::string>> map_text(rt::runtime& runtime, const map_command& what) {
  CO_TRY(open_layers stack, co_await open_stack(runtime, what.stack, open_mode{}));
  overlay::device over(runtime, to_members(stack.layers), nullptr, stack.size_bytes);
  const auto runs = co_await find_runs(over, stack);
  const auto ended = co_await over.close(false);
  outcome<std::string> out = std::string();
  if (!runs)
    out = runs.error();
  else
    out = what.json ? as_json(stack, *runs) : as_table(stack, *runs);
  const auto closed = co_await close_layers(stack.layers);
  if (!ended || !closed) co_return base::failure{base::errc::io, "cannot close the layers"};
  co_return out;
}

}  // namespace

int run_map(const map_command& what) {
  return run_alone("map", [&what](rt::runtime& runtime) { return map_text(runtime, what); });
}

}  // namespace lbd::ctl
