// SPDX-License-Identifier: MIT
// A run as a list of steps, drawn from a seed: what the clients of the device do, which faults
// happen, and when the power is lost.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "sim/disk.h"
#include "sim/random.h"

namespace lbd::sim {

enum class step_kind : uint8_t {
  read,
  write,
  flush,
  discard,
  write_zeroes,
  extents,
  pause,        // wait for `length` ns
  inject,       // fault `what` at the `length`-th chance from now
  limit_space,  // `length` bytes are left on the disk
  unlimit_space,
  add_layer,
  swap_table,
  crash,   // the power is lost `length` ns from now
  reopen,  // orderly end, opened again; `length` not 0: the power is lost that many ns later
};

struct step {
  step_kind kind = step_kind::read;
  uint32_t number = 0;  // its place in the list as drawn, from 1; the stamp of a write
  uint32_t flags = 0;   // block::io_...
  fault what = fault::read_error;
  uint64_t offset = 0;
  uint64_t length = 0;
};

std::string to_string(const step& s);

// How a run is set up.
struct plan {
  uint64_t seed = 0;
  disk_options disk;
  unsigned clients = 1;
  // Faults that no device can see (lost and misdirected writes, bit rot): the content is not
  // checked, only that everything comes to an end.
  bool silent_faults = false;
  bool errors = false;  // faults of any kind: requests may fail
  bool space = false;   // the disk may be full
  bool trace = false;   // print what happens
  std::vector<step> steps;
};

// REQUIRES: size_bytes is a multiple of 512, at least 64 KiB.
plan draw_plan(uint64_t seed, uint64_t size_bytes);
// The same without anything that makes a request fail, the loss of power aside.
plan without_errors(plan p);

std::string to_string(const plan& p);

}  // namespace lbd::sim
