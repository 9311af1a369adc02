// SPDX-License-Identifier: MIT
// The table line of a multipath target.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "target/multipath/selectors.h"

namespace lbd::target {

struct multipath_features {
  bool queue_if_no_path = false;
  bool retain_attached_hw_handler = false;
  std::optional<uint32_t> pg_init_retries, pg_init_delay_msecs;
  bool bio = false;         // queue_mode bio; "rq" and "mq" differ in the kernel's inside only
  uint32_t probe_secs = 0;  // 0: nobody looks whether a failed path works again

  // With the number of words in front and a blank at the end.
  std::string text(bool queueing) const;
};

struct multipath_group {
  std::string selector_type;
  std::unique_ptr<path_selector> selector;
  unsigned path_words = 0;  // of each path, as given
  std::vector<std::unique_ptr<multipath_path>> paths;
  std::atomic<bool> bypassed{false};
};

struct multipath_params {
  multipath_features features;
  std::string hw_handler;  // "" is none
  std::vector<std::unique_ptr<multipath_group>> groups;
  uint32_t initial_group = 0;  // from 1; beyond the last: none
};

// Opens the devices. Errors: the kernel's texts.
rt::task<base::outcome<multipath_params>> parse_multipath(block::target_context& context,
                                                          std::vector<std::string> args);

}  // namespace lbd::target
