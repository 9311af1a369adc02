// SPDX-License-Identifier: MIT
// Many seeds of many scenarios. Each batch of seeds runs in a child process, so that an abort or an
// endless loop is a finding like any other; a failing run is shrunk to a short list of steps.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "sim/runner.h"
#include "sim/subject.h"

namespace lbd::sim {

struct scenario {
  std::string name;
  // Draws a shape. The same seed gives the same subject.
  std::function<std::unique_ptr<subject>(random&)> make;
  // Which part of the seeds it gets, beside the others.
  unsigned weight = 1;
};

struct campaign_options {
  uint64_t first_seed = 1;
  uint64_t seeds = 1;
  unsigned shrink_seconds = 20;
  disk_observer* observer = nullptr;
  uint64_t observe_every = 0;  // seeds; 0: never
  bool verbose = false;        // prints each run's plan, and how a shrunk failure goes
};

struct finding {
  std::string scenario;
  uint64_t seed = 0;
  std::string failure;
  plan shrunk;
  std::string subject;  // what was under test
};

struct campaign_result {
  std::vector<finding> findings;
  uint64_t runs = 0, requests = 0, crashes = 0;
};

// The scenario that a seed belongs to.
const scenario& scenario_of(const std::vector<scenario>& all, uint64_t seed);

// One run in this process.
verdict run_seed(const scenario& s, uint64_t seed, disk_observer* observer = nullptr);

// Runs all seeds; stops after `most_findings`.
campaign_result run_campaign(const std::vector<scenario>& all, const campaign_options& options,
                             size_t most_findings = 5);

std::string to_string(const finding& f);

}  // namespace lbd::sim
