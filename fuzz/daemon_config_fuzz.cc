// SPDX-License-Identifier: MIT
// The daemon's configuration, and tables as text: parsing never fails but with a sentence, and a
// table that was printed reads back the same.
// DEPS: lbd_ctl
#include <cstdlib>
#include <string_view>

#include "ctl/daemon_config.h"
#include "ctl/table_text.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace lbd::ctl;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto config = parse_config(text, "lbd.toml");
  if (!config && config.error().message.find("lbd.toml:") != 0) std::abort();
  const auto lines = parse_table(text, size % 2 == 0);
  if (!lines) return 0;
  for (const auto& line : *lines) {
    const auto again = parse_table(to_text(line), false);
    if (!again || again->size() != 1) std::abort();
    const auto& same = again->front();
    if (same.start_sector != line.start_sector || same.length_sectors != line.length_sectors ||
        same.type != line.type || same.args != line.args)
      std::abort();
  }
  return 0;
}
