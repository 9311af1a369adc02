// SPDX-License-Identifier: MIT
// The text protocol as it arrives: pieces of lines. Any refusal must fit one line.
// DEPS: lbd_wire_text lbd_wire_line
#include <algorithm>
#include <cstdlib>

#include "wire/line/line_splitter.h"
#include "wire/text/text.h"

namespace {

void require(bool what) {
  if (!what) std::abort();
}

void check(std::string_view line) {
  require(line.size() <= 64 && line.find('\n') == std::string_view::npos);
  const auto r = lbd::text::parse_request(line);
  if (!r) {
    const std::string reply = lbd::text::error_reply(r.error().message);
    require(reply.find('\n') == reply.size() - 1);
    return;
  }
  const bool adds = r->what == lbd::text::verb::live_add_layer;
  require(adds == !r->filename.empty());
  require(r->filename.find('\0') == std::string_view::npos);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 1) return 0;
  const size_t piece = 1 + data[0] % 32;
  std::string_view rest(reinterpret_cast<const char*>(data + 1), size - 1);
  lbd::wire::line_splitter lines(64);
  while (!rest.empty()) {
    lines.push(rest.substr(0, piece));
    rest.remove_prefix(std::min(piece, rest.size()));
    while (const auto line = lines.next()) check(*line);
  }
  return 0;
}
