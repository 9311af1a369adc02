// SPDX-License-Identifier: MIT
// Sources and endpoints: refused with a message, or canonical text that reads back as the same.
// DEPS: lbd_wire_uri
#include <cstdlib>

#include "wire/uri/uri.h"

using namespace lbd::uri;

namespace {

void require(bool what) {
  if (!what) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (const auto s = parse_source(text)) {
    const auto again = parse_source(to_text(*s));
    require(again.has_value());
    const auto* file = std::get_if<file_source>(&*s);
    // A path may gain "./" in front so that it is not taken for a scheme.
    require(*again == *s ||
            (file != nullptr && std::get<file_source>(*again).path == "./" + file->path));
  } else {
    require(!s.error().message.empty());
  }
  if (const auto s = parse_nbd(text)) require(*parse_nbd(to_text(*s)) == *s);
  if (const auto s = parse_gluster(text, gluster_path::folder))
    require(*parse_gluster(to_text(*s), gluster_path::folder) == *s);
  if (const auto e = parse_endpoint(text, "localhost", 1)) {
    require(e->port != 0 && !e->host.empty());
    const auto again = parse_endpoint(to_text(*e), "x", 0);
    require(again.has_value() || e->host.find('%') != std::string::npos);
  }
  return 0;
}
