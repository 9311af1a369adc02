// SPDX-License-Identifier: MIT
// JSON-RPC lines: what is read as a request or an answer reads the same after being built again.
// DEPS: lbd_wire_jsonrpc
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "wire/jsonrpc/jsonrpc.h"

using namespace lbd::jsonrpc;

namespace {

void require(bool what) {
  if (!what) std::abort();
}

bool is_one_line(const std::string& s) { return s.find('\n') == s.size() - 1; }

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view line(reinterpret_cast<const char*>(data), size);
  if (const auto r = parse_request(line)) {
    const std::string built = build_request(r->id, r->method, *r->params);
    require(is_one_line(built));
    const auto again = parse_request(built);
    require(again && again->id == r->id && again->method == r->method);
    require(*again->params == *r->params);
  } else {
    require(is_one_line(build_error(r.error())));
  }
  if (const auto r = parse_response(line)) {
    require((r->code == 0) == (r->result != nullptr));
    if (!r->result) require(to_failure(*r).code != lbd::base::errc::ok);
  }
  return 0;
}
