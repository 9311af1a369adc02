// SPDX-License-Identifier: MIT
// Handshake messages of hostile clients and servers. What parses must also build again to the same.
// DEPS: lbd_wire_nbd
#include <algorithm>
#include <cstdlib>

#include "wire/nbd/handshake.h"

using namespace lbd::nbd;
using lbd::base::bytes_view;

namespace {

void require(bool what) {
  if (!what) std::abort();
}

void server_side(bytes_view data) {
  if (data.size() >= client_flags_bytes) {
    const auto flags = decode_client_flags(data, 3);
    require(!flags || *flags <= 3);
  }
  if (data.size() >= option_header_bytes) (void)decode_option_header(data);
  const auto name = parse_export_name(data);
  require(!name || name->size() == data.size());
  const auto info = parse_info_request(data);
  require(!info || is_valid_string(info->name));
  const auto contexts = parse_meta_context_request(data);
  if (!contexts) {
    require(is_error(contexts.error().type));
    return;
  }
  (void)selects(*contexts, base_allocation, true);
  byte_buffer again;
  append_meta_context_option(again, option::set_meta_context, contexts->name, contexts->queries);
  require(std::equal(data.begin(), data.end(), again.begin() + option_header_bytes, again.end()));
}

void client_side(bytes_view data) {
  if (data.size() >= greeting_magic_bytes) (void)decode_greeting_magic(data);
  if (data.size() >= newstyle_greeting_bytes) (void)decode_handshake_flags(data);
  if (data.size() >= oldstyle_greeting_bytes) (void)decode_oldstyle_greeting(data);
  if (data.size() >= export_name_reply_bytes) (void)decode_export_name_reply(data);
  if (data.size() >= option_reply_header_bytes) (void)decode_option_reply_header(data);
  const auto info = parse_info_reply(data);
  require(!info || info->sizes.minimum >= 1);
  require(!info || info->text.size() <= max_string_bytes);
  const auto server = parse_server_reply(data);
  require(!server || server->name.size() + server->description.size() + 4 == data.size());
  const auto context = parse_meta_context_reply(data);
  require(!context || context->context.size() + 4 == data.size());
  const std::string words = printable(data);
  require(words.size() < 260 && is_valid_string(words));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const bytes_view bytes(reinterpret_cast<const std::byte*>(data), size);
  server_side(bytes);
  client_side(bytes);
  return 0;
}
