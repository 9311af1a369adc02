// SPDX-License-Identifier: MIT
#include "sim/campaign.h"

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>

namespace lbd::sim {
namespace {

constexpr unsigned seconds_per_run = 60;
constexpr uint64_t seeds_per_batch = 250;

// What a child tells its parent, in memory that they share.
struct report {
  uint64_t seed = 0;  // the one that runs, or has failed
  uint64_t runs = 0, requests = 0, crashes = 0;
  bool failed = false;
  char failure[2000] = {};

  void set_failure(const std::string& text) noexcept {
    failed = true;
    const size_t n = std::min(text.size(), sizeof failure - 1);
    std::memcpy(failure, text.data(), n);
    failure[n] = 0;
  }
};

// Runs `work` in a child; what it writes into the report stays. A child that dies has failed.
template <class Work>
report in_child(Work work) {
  void* shared =
      ::mmap(nullptr, sizeof(report), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (shared == MAP_FAILED) std::abort();
  auto* r = new (shared) report;
  std::fflush(nullptr);
  const pid_t child = ::fork();
  if (child < 0) std::abort();
  if (child == 0) {
    work(*r);
    std::fflush(nullptr);
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  if (WIFSIGNALED(status)) {
    r->set_failure(WTERMSIG(status) == SIGALRM
                       ? "no end after " + std::to_string(seconds_per_run) + " s"
                       : "died by signal " + std::to_string(WTERMSIG(status)));
  } else if (WEXITSTATUS(status) != 0 && !r->failed) {
    r->set_failure("ended with exit code " + std::to_string(WEXITSTATUS(status)));
  }
  report copy = *r;
  ::munmap(shared, sizeof(report));
  return copy;
}

std::unique_ptr<subject> make_subject(const scenario& s, uint64_t seed) {
  random r(seed, 0x73686170);
  return s.make(r);
}

plan plan_for(const subject& s, uint64_t seed) {
  plan p = draw_plan(seed, s.size_bytes());
  return s.survives_errors() ? p : without_errors(std::move(p));
}

report try_plan(const scenario& s, const plan& p) {
  return in_child([&](report& r) {
    ::alarm(seconds_per_run);
    r.seed = p.seed;
    const auto one = make_subject(s, p.seed);
    const verdict v = run_plan(p, *one);
    if (!v.ok()) r.set_failure(v.failure);
  });
}

// Leaves out ever smaller parts of the list as long as what is left still fails.
plan shrink(const scenario& s, plan p, std::string& failure, unsigned seconds) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(seconds);
  const auto keep_if_fails = [&](const plan& smaller) {
    if (std::chrono::steady_clock::now() > end) return false;
    const report r = try_plan(s, smaller);
    if (!r.failed) return false;
    p = smaller;
    failure = r.failure;
    return true;
  };
  for (size_t part = std::max<size_t>(p.steps.size() / 2, 1);; part /= 2) {
    for (size_t at = p.steps.size(); at > 0;) {
      at = at > part ? at - part : 0;
      plan smaller = p;
      const auto begin = smaller.steps.begin() + static_cast<ptrdiff_t>(at);
      const size_t n = std::min(part, smaller.steps.size() - at);
      smaller.steps.erase(begin, begin + static_cast<ptrdiff_t>(n));
      keep_if_fails(smaller);
    }
    if (part <= 1) break;
  }
  for (const unsigned clients : {1u, 2u, 4u}) {
    plan fewer = p;
    fewer.clients = clients;
    if (clients < p.clients && keep_if_fails(fewer)) break;
  }
  return p;
}

finding examine(const scenario& s, uint64_t seed, const std::string& failure,
                const campaign_options& options) {
  finding f;
  f.scenario = s.name;
  f.seed = seed;
  f.failure = failure;
  const auto one = make_subject(s, seed);
  f.subject = one->describe();
  std::string now = failure;
  f.shrunk = shrink(s, plan_for(*one, seed), now, options.shrink_seconds);
  if (options.verbose) {
    plan traced = f.shrunk;
    traced.trace = true;
    try_plan(s, traced);
  }
  if (now != failure) f.failure += "\n  shrunk: " + now;
  return f;
}

}  // namespace

const scenario& scenario_of(const std::vector<scenario>& all, uint64_t seed) {
  uint64_t weights = 0;
  for (const scenario& s : all) weights += s.weight;
  uint64_t at = mix(seed) % weights;
  for (const scenario& s : all) {
    if (at < s.weight) return s;
    at -= s.weight;
  }
  return all.back();
}

verdict run_seed(const scenario& s, uint64_t seed, disk_observer* observer) {
  const auto one = make_subject(s, seed);
  return run_plan(plan_for(*one, seed), *one, observer);
}

campaign_result run_campaign(const std::vector<scenario>& all, const campaign_options& options,
                             size_t most_findings) {
  campaign_result result;
  const uint64_t end = options.first_seed + options.seeds;
  for (uint64_t next = options.first_seed; next < end && result.findings.size() < most_findings;) {
    const uint64_t batch_end = std::min(end, next + seeds_per_batch);
    const report r = in_child([&](report& out) {
      for (uint64_t seed = next; seed < batch_end && !out.failed; ++seed) {
        ::alarm(seconds_per_run);
        out.seed = seed;
        const bool watched = options.observe_every != 0 && seed % options.observe_every == 0;
        const scenario& s = scenario_of(all, seed);
        if (options.verbose) {
          const auto one = make_subject(s, seed);
          std::printf("seed %llu: %s: %s\n%s", static_cast<unsigned long long>(seed),
                      s.name.c_str(), one->describe().c_str(),
                      to_string(plan_for(*one, seed)).c_str());
        }
        const verdict v = run_seed(s, seed, watched ? options.observer : nullptr);
        ++out.runs;
        out.requests += v.requests;
        out.crashes += v.crashes;
        if (!v.ok()) out.set_failure(v.failure);
      }
    });
    result.runs += r.runs;
    result.requests += r.requests;
    result.crashes += r.crashes;
    next = r.failed ? r.seed + 1 : batch_end;
    if (r.failed)
      result.findings.push_back(examine(scenario_of(all, r.seed), r.seed, r.failure, options));
  }
  return result;
}

std::string to_string(const finding& f) {
  return "seed " + std::to_string(f.seed) + ": " + f.scenario + ": " + f.failure + "\n" +
         f.subject + "\n" + to_string(f.shrunk) + "replay: --scenario " + f.scenario + " --seed " +
         std::to_string(f.seed) + "\n";
}

}  // namespace lbd::sim
