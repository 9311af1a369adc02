// SPDX-License-Identifier: MIT
// The reply of a slot, simple or structured as the client negotiated. What is composed here points
// into the slot and into the memory given; sending is the output queue's.
#pragma once

#include "export/nbd/request_slot.h"

namespace lbd::nbd_server {

// Success without content.
void reply_done(request_slot& s) noexcept;
// A read whose bytes are in memory, so that no error can come any more.
void reply_data(request_slot& s, const std::byte* data) noexcept;
// A read that is all zeros. REQUIRES: structured replies, length > 0.
void reply_hole(request_slot& s) noexcept;
// A read in several runs, `data` being the request's whole length, runs of zeros not filled in.
// REQUIRES: structured replies; the runs cover the request.
void reply_runs(request_slot& s, const std::vector<block::extent>& runs, const std::byte* data);
// REQUIRES: structured replies; at least one extent.
void reply_block_status(request_slot& s, uint32_t context_id, std::span<const nbd::extent> extents);
// Replaces whatever was composed before. REQUIRES: nothing of it was sent; error is not none.
void reply_error(request_slot& s, nbd::wire_error error) noexcept;

}  // namespace lbd::nbd_server
