// SPDX-License-Identifier: MIT
#include "sim/workload.h"

#include <algorithm>
#include <array>

#include "base/checked_math.h"
#include "block/device.h"

namespace lbd::sim {
namespace {

constexpr std::array<const char*, fault_count> fault_names = {
    "read error",        "write error", "sync error",    "lost write",
    "misdirected write", "bit rot",     "stuck request", "false alarm of a write"};

// Those that a plan draws: a false alarm is a case of a write error.
constexpr uint64_t drawn_silent = 7, drawn_told = 3;

// Offsets and lengths: a few hot places, so that requests meet; sizes from one byte to 256 KiB.
class range_drawer {
 public:
  range_drawer(random& r, uint64_t size_bytes) : random_(r), size_(size_bytes) {
    const size_t spots = random_.between(1, 6);
    for (size_t i = 0; i < spots; ++i)
      spots_.push_back(base::round_down(random_.below(size_), 4096));
  }

  void draw(step& s) {
    uint64_t offset = random_.percent(70) ? spots_[random_.below(spots_.size())] +
                                                random_.below(random_.coin() ? 65536 : 8192)
                                          : random_.below(size_);
    uint64_t length = 0;
    switch (random_.below(6)) {
      case 0:
        length = random_.between(1, 3000);
        break;
      case 1:
        length = 4096 * random_.between(1, 4);
        offset = base::round_down(offset, 4096);
        break;
      case 2:
        length = 65536 * random_.between(1, 3);
        offset = base::round_down(offset, 65536);
        break;
      case 3:
        length = random_.percent(20) ? random_.between(1, 262144) : random_.between(1, 20000);
        break;
      default:
        length = 512 * random_.between(1, 24);
        offset = base::round_down(offset, 512);
    }
    s.offset = std::min(offset, size_ - 1);
    s.length = std::min(length, size_ - s.offset);
  }

 private:
  random& random_;
  uint64_t size_;
  std::vector<uint64_t> spots_;
};

step_kind draw_kind(random& r, const plan& p) {
  const uint64_t n = r.below(1000);
  if (n < 250) return step_kind::read;
  if (n < 640) return step_kind::write;
  if (n < 740) return step_kind::flush;
  if (n < 800) return step_kind::discard;
  if (n < 860) return step_kind::write_zeroes;
  if (n < 880) return step_kind::extents;
  if (n < 900) return step_kind::pause;
  if (n < 925) return p.errors ? step_kind::inject : step_kind::write;
  if (n < 940) return p.space ? step_kind::limit_space : step_kind::write;
  if (n < 950) return p.space ? step_kind::unlimit_space : step_kind::read;
  if (n < 960) return step_kind::add_layer;
  if (n < 970) return step_kind::swap_table;
  if (n < 990) return step_kind::crash;
  return step_kind::reopen;
}

step draw_step(random& r, const plan& p, range_drawer& ranges) {
  step s;
  s.kind = draw_kind(r, p);
  switch (s.kind) {
    case step_kind::read:
    case step_kind::extents:
      ranges.draw(s);
      break;
    case step_kind::write:
    case step_kind::discard:
    case step_kind::write_zeroes:
      ranges.draw(s);
      if (r.percent(10)) s.flags |= block::io_fua;
      if (s.kind == step_kind::write_zeroes && r.percent(30)) s.flags |= block::io_no_unmap;
      if (s.kind == step_kind::write_zeroes && r.percent(15)) s.flags |= block::io_fast_only;
      break;
    case step_kind::pause:
      s.length = r.between(1, 10'000'000);
      break;
    case step_kind::inject:
      s.what = static_cast<fault>(p.silent_faults ? r.below(drawn_silent) : r.below(drawn_told));
      if (!p.silent_faults && r.percent(15)) s.what = fault::stuck;
      s.length = r.below(20);
      break;
    case step_kind::limit_space:
      s.length = 512 * r.below(512);
      break;
    case step_kind::crash:
      s.length = r.percent(30) ? 0 : r.below(8'000'000);
      break;
    case step_kind::reopen:
      s.length = r.percent(40) ? r.between(1, 8'000'000) : 0;
      break;
    default:
      break;
  }
  return s;
}

}  // namespace

plan draw_plan(uint64_t seed, uint64_t size_bytes) {
  random r(seed, 0x706c616e);
  plan p;
  p.seed = seed;
  p.disk.latency_ns = r.percent(20) ? 20'000'000 : 2'000'000;
  p.disk.inline_percent = r.percent(20) ? 0 : static_cast<unsigned>(r.below(100));
  p.disk.short_percent = r.coin() ? 0 : static_cast<unsigned>(r.below(10));
  p.disk.can_punch = r.percent(85);
  p.clients = r.percent(25) ? 1 : static_cast<unsigned>(r.between(2, 16));
  const uint64_t kind = r.below(100);
  p.errors = kind < 35;
  p.silent_faults = kind < 7;
  p.space = kind >= 35 && kind < 50;
  range_drawer ranges(r, size_bytes);
  const size_t count = r.percent(30) ? r.between(5, 40) : r.between(40, 250);
  for (size_t i = 0; i < count; ++i) {
    p.steps.push_back(draw_step(r, p, ranges));
    p.steps.back().number = static_cast<uint32_t>(i + 1);
  }
  return p;
}

plan without_errors(plan p) {
  p.silent_faults = p.errors = p.space = false;
  std::erase_if(p.steps, [](const step& s) {
    return s.kind == step_kind::inject || s.kind == step_kind::limit_space;
  });
  return p;
}

std::string to_string(const step& s) {
  static constexpr std::array<const char*, 14> names = {
      "read",   "write",       "flush",         "discard",   "write_zeroes", "extents", "pause",
      "inject", "limit_space", "unlimit_space", "add_layer", "swap_table",   "crash",   "reopen"};
  std::string text = "#" + std::to_string(s.number) + " " + names[static_cast<size_t>(s.kind)];
  switch (s.kind) {
    case step_kind::read:
    case step_kind::write:
    case step_kind::discard:
    case step_kind::write_zeroes:
    case step_kind::extents:
      text += " " + std::to_string(s.offset) + "+" + std::to_string(s.length);
      break;
    case step_kind::inject:
      text += std::string(" ") + fault_names[static_cast<size_t>(s.what)] + " after " +
              std::to_string(s.length);
      break;
    case step_kind::limit_space:
      text += " " + std::to_string(s.length) + " bytes left";
      break;
    case step_kind::pause:
    case step_kind::crash:
    case step_kind::reopen:
      if (s.length != 0) text += " " + std::to_string(s.length) + " ns";
      break;
    default:
      break;
  }
  if ((s.flags & block::io_fua) != 0) text += " fua";
  if ((s.flags & block::io_no_unmap) != 0) text += " no_unmap";
  if ((s.flags & block::io_fast_only) != 0) text += " fast_only";
  return text;
}

std::string to_string(const plan& p) {
  std::string text =
      std::to_string(p.clients) + " clients, latency up to " + std::to_string(p.disk.latency_ns) +
      " ns, " + std::to_string(p.disk.inline_percent) + " % inline, " +
      std::to_string(p.disk.short_percent) + " % short" + (p.disk.can_punch ? "" : ", no holes") +
      (p.silent_faults ? ", silent faults"
       : p.errors      ? ", errors"
                       : "") +
      (p.space ? ", full disk" : "") + "\n";
  for (const step& s : p.steps) text += "  " + to_string(s) + "\n";
  return text;
}

}  // namespace lbd::sim
