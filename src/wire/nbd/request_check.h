// SPDX-License-Identifier: MIT
// Which requests an export refuses, and how errors travel. Source: proto.md "Error values",
// "Command flags", "Request types", "Block size constraints".
#pragma once

#include "base/result.h"
#include "wire/nbd/protocol.h"

namespace lbd::nbd {

// What one connection was told about its export.
struct export_facts {
  uint64_t size_bytes = 0;
  uint16_t flags = 0;          // transmission_flag, as advertised
  bool block_status = false;   // a metadata context was selected
  uint32_t minimum_block = 1;  // requests must be multiples of it
  uint32_t maximum_payload = max_payload_bytes;
};

// The error that answers the request before anything is done, or none. The payload of a refused
// write still has to be drained. Never an error for DISC, which has no reply. A request of length 0
// succeeds without effect, except for BLOCK_STATUS (EINVAL).
wire_error request_error(const request& r, const export_facts& facts) noexcept;

// The one table of errors, total in both directions. Codes that the protocol allows for some
// requests only (EOVERFLOW: reads with DF; ENOTSUP: FAST_ZERO) become EINVAL elsewhere.
wire_error to_wire(base::errc code, const request& r) noexcept;
base::errc from_wire(wire_error error) noexcept;

// The protocol's name of an error ("ENOSPC").
const char* error_name(wire_error error) noexcept;

}  // namespace lbd::nbd
