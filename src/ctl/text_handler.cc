// SPDX-License-Identifier: MIT
#include "ctl/management.h"
#include "wire/text/text.h"

namespace lbd::ctl {

rt::task<line_reply> text_handler::handle(std::string line, line_peer& /*from*/) {
  const auto request = text::parse_request(line);
  if (!request) co_return line_reply{text::error_reply(request.error().message), true};
  switch (request->what) {
    case text::verb::ping:
      break;
    case text::verb::shutdown:
      management_.shutdown();
      break;
    case text::verb::device_info_strings:
      co_return line_reply{text::info_reply(to_lines(management_.report())), false};
    case text::verb::live_add_layer: {
      const auto added = co_await management_.add_layer({}, std::string(request->filename));
      if (!added) co_return line_reply{text::error_reply(added.error().message), false};
      break;
    }
  }
  co_return line_reply{std::string(text::true_reply), false};
}

std::string text_handler::too_long() { return text::error_reply("the request is too long"); }

size_t text_handler::max_line_bytes() const { return text::max_line_bytes; }

}  // namespace lbd::ctl
