// SPDX-License-Identifier: MIT
// The client's handshake with an NBD server of any age: fixed newstyle with GO, without GO by
// EXPORT_NAME, and the oldstyle greeting. Source: proto.md "Handshake".
#pragma once

#include <optional>
#include <string>

#include "base/result.h"
#include "rt/socket.h"
#include "wire/nbd/protocol.h"

namespace lbd::store {

// What the server told about the export.
struct nbd_session {
  uint64_t size_bytes = 0;
  uint16_t flags = 0;  // nbd::transmission_flag
  nbd::block_sizes sizes;
  bool structured = false;
  std::optional<uint32_t> allocation_context;  // id of base:allocation
  const char* style = "";                      // "GO", "EXPORT_NAME" or "oldstyle"

  bool has(uint16_t flag) const noexcept { return (flags & flag) != 0; }
};

// Runs the handshake on a connected socket; the transmission phase follows. Whoever limits its time
// shuts the socket down. Errors: noent (no such export), protocol, access (refused, TLS), and those
// of the socket; the message says what the server said.
rt::task<base::outcome<nbd_session>> nbd_negotiate(rt::socket& s, std::string export_name);

}  // namespace lbd::store
