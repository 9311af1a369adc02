// SPDX-License-Identifier: MIT
// Path selectors: which of a group's working paths serves the next request. What a selector knows
// of a path lies in the path, in atomics, because requests begin and end on every reactor; the
// order of the paths is each reactor's own.
#pragma once

#include <atomic>
#include <cstdint>
#include <list>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "block/target.h"

namespace lbd::target {

// One way to the storage.
struct multipath_path {
  block::opened_device device;
  std::string source;  // as the table names it
  uint32_t index = 0;  // among all paths
  uint32_t group = 0;
  bool failed_by_message = false;  // home reactor

  std::atomic<bool> active{true};
  std::atomic<uint32_t> fail_count{0};
  std::atomic<uint64_t> joined{0};  // the number of its last reinstatement

  // Its selector's.
  uint32_t repeat_count = 1, relative_throughput = 1;
  std::vector<bool> reactors;                // io-affinity: those that it serves
  std::atomic<uint64_t> load{0};             // requests or bytes in flight
  std::atomic<uint64_t> service_time{1024};  // historical: a mean, in 1024ths of a nanosecond
  std::atomic<uint64_t> stale_after_ns{0}, last_finish_ns{0};
};

using path_list = std::list<multipath_path*>;

class path_selector {
 public:
  virtual ~path_selector() = default;
  // A path's words of the table. The failure's text is the kernel's.
  virtual base::outcome<void> add_path(multipath_path& p,
                                       const std::vector<std::string>& words) = 0;
  // REQUIRES: `valid` is not empty. Takes the choice to the list's end. `now` here and below is
  // the request's moment, shared with all others who measure it.
  multipath_path& choose(path_list& valid, uint64_t bytes, block::moment& now) noexcept {
    const auto best = best_of(valid, bytes, now);
    valid.splice(valid.end(), valid, best);
    return *valid.back();
  }
  // Around a request. start() returns what end() needs to know, in token_bits.
  static constexpr unsigned token_bits = 44;
  virtual uint64_t start(multipath_path&, uint64_t /*bytes*/, block::moment& /*now*/) noexcept {
    return 0;
  }
  virtual void end(multipath_path&, uint64_t /*token*/, block::moment& /*now*/) noexcept {}
  // Where a path that is reinstated comes into the list.
  virtual bool reinstates_in_front() const noexcept { return false; }

  // Texts as the kernel's, each with a blank at its end.
  virtual std::string group_text() const { return "0 "; }
  virtual unsigned table_words() const noexcept { return 1; }
  virtual unsigned info_words() const noexcept { return 1; }
  virtual std::string table_text(const multipath_path& p) const = 0;
  virtual std::string info_text(const multipath_path& p) const = 0;

 protected:
  virtual path_list::iterator best_of(path_list& valid, uint64_t bytes,
                                      block::moment& now) noexcept = 0;
};

// Errors, with the kernel's texts: unknown type, wrong arguments of the selector.
base::outcome<std::unique_ptr<path_selector>> make_path_selector(
    std::string_view type, const std::vector<std::string>& args, unsigned reactors);

}  // namespace lbd::target
