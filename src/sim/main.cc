// SPDX-License-Identifier: MIT
// lbd_sim: crash and fault runs in the simulator.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string>

#include "base/log.h"
#include "sim/campaign.h"
#include "sim/scenarios.h"

namespace {

constexpr const char* usage =
    "usage: lbd_sim [--seeds N] [--first N] [--seed N] [--scenario NAME] [--from FILE]\n"
    "               [--qemu-img EVERY] [--verbose] [--list]\n"
    "  --seeds N      run N seeds (default 100), from --first (default 1)\n"
    "  --seed N       run one seed and print its plan\n"
    "  --scenario S   only this one (see --list); otherwise the seed chooses\n"
    "  --from FILE    run the lines \"SCENARIO SEED\" of FILE (# begins a comment)\n"
    "  --qemu-img N   have qemu-img check the images of every Nth seed\n";

struct arguments {
  lbd::sim::campaign_options options;
  std::string scenario, from;
  bool list = false;
};

bool parse(int argc, char** argv, arguments& out) {
  out.options.seeds = 100;
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    if (name == "--verbose") {
      out.options.verbose = true;
    } else if (name == "--list") {
      out.list = true;
    } else if (i + 1 == argc) {
      return false;
    } else if (const char* value = argv[++i]; name == "--scenario") {
      out.scenario = value;
    } else if (name == "--from") {
      out.from = value;
    } else {
      const uint64_t n = std::strtoull(value, nullptr, 0);
      if (name == "--seeds")
        out.options.seeds = n;
      else if (name == "--first")
        out.options.first_seed = n;
      else if (name == "--qemu-img")
        out.options.observe_every = n;
      else if (name == "--seed") {
        out.options.first_seed = n;
        out.options.seeds = 1;
        out.options.verbose = true;
      } else
        return false;
    }
  }
  return true;
}

int report(const lbd::sim::campaign_result& r) {
  for (const auto& f : r.findings) std::printf("FAILED %s\n", lbd::sim::to_string(f).c_str());
  std::printf("%llu runs, %llu requests, %llu power losses, %zu findings\n",
              static_cast<unsigned long long>(r.runs), static_cast<unsigned long long>(r.requests),
              static_cast<unsigned long long>(r.crashes), r.findings.size());
  return r.findings.empty() ? 0 : 1;
}

std::vector<lbd::sim::scenario> only(const std::vector<lbd::sim::scenario>& all,
                                     const std::string& name) {
  std::vector<lbd::sim::scenario> out;
  for (const auto& s : all)
    if (name.empty() || s.name == name) out.push_back(s);
  return out;
}

// Seeds that found something once.
int run_list(const std::vector<lbd::sim::scenario>& all, const arguments& a) {
  std::ifstream in(a.from);
  if (!in) {
    std::fprintf(stderr, "lbd_sim: cannot open '%s'\n", a.from.c_str());
    return 2;
  }
  lbd::sim::campaign_result sum;
  for (std::string line; std::getline(in, line);) {
    std::istringstream words(line.substr(0, line.find('#')));
    std::string name;
    lbd::sim::campaign_options one = a.options;
    one.seeds = 1;
    if (!(words >> name >> one.first_seed)) continue;
    const auto chosen = only(all, name);
    if (chosen.empty()) {
      std::fprintf(stderr, "lbd_sim: no scenario '%s'\n", name.c_str());
      return 2;
    }
    const auto r = lbd::sim::run_campaign(chosen, one);
    sum.runs += r.runs;
    sum.requests += r.requests;
    sum.crashes += r.crashes;
    sum.findings.insert(sum.findings.end(), r.findings.begin(), r.findings.end());
  }
  return report(sum);
}

}  // namespace

int main(int argc, char** argv) {
  arguments a;
  const auto all = lbd::sim::all_scenarios();
  if (!parse(argc, argv, a)) {
    std::fputs(usage, stderr);
    return 2;
  }
  if (a.list) {
    for (const auto& s : all) std::printf("%s\n", s.name.c_str());
    return 0;
  }
  // Faults are what is wanted here: their log lines would be noise.
  lbd::base::set_log_level(lbd::base::log_level::off);
  const auto judge = lbd::sim::make_qemu_img_judge();
  a.options.observer = judge.get();
  if (!a.from.empty()) return run_list(all, a);
  const auto chosen = only(all, a.scenario);
  if (chosen.empty()) {
    std::fprintf(stderr, "lbd_sim: no scenario '%s' (see --list)\n", a.scenario.c_str());
    return 2;
  }
  return report(lbd::sim::run_campaign(chosen, a.options));
}
