// SPDX-License-Identifier: MIT
// Devices and tables as parameters and answers of JSON-RPC methods.
#pragma once

#include <string>
#include <vector>

#include "ctl/rpc.h"
#include "stack/device_manager.h"

namespace lbd::ctl {

// "name", "uuid" or "number" ("253:0"): exactly one, or `from` is refused.
stack::device_key read_key(rpc_params& from);

// "table" (text, one target a line), "read_only", and "directory", where relative paths in it
// begin.
struct table_params {
  std::vector<stack::table_line> lines;
  bool read_only = false;
};
table_params read_table(rpc_params& from);

// The operation on a device failed; tells which device, where there is none.
rpc_answer device_failed(const stack::device_key& key, const base::failure& why);

nlohmann::json to_json(const stack::device_state& s);

}  // namespace lbd::ctl
