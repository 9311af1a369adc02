// SPDX-License-Identifier: MIT
// A stream of requests: what the rules let through must be safe to obey without another test.
// DEPS: lbd_wire_nbd
#include <algorithm>
#include <cstdlib>

#include "wire/nbd/request_check.h"
#include "wire/nbd/transmission.h"

using namespace lbd::nbd;
using lbd::base::bytes_view;

namespace {

void require(bool what) {
  if (!what) std::abort();
}

void check(const request& r, const export_facts& facts) {
  const wire_error error = request_error(r, facts);
  require(error_name(error) != nullptr);
  if (error != wire_error::none || r.type == command::disc) return;
  require(r.offset <= facts.size_bytes && r.length <= facts.size_bytes - r.offset);
  require(payload_bytes(r) <= facts.maximum_payload);
  const bool read_only = (facts.flags & transmission_flag::read_only) != 0;
  require(!read_only || r.type == command::read || r.type == command::flush ||
          r.type == command::cache || r.type == command::block_status);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  bytes_view in(reinterpret_cast<const std::byte*>(data), size);
  if (in.size() < 16) return 0;
  export_facts facts;
  facts.size_bytes = lbd::base::load_big<uint64_t>(in, 0) >> (data[15] & 63);
  facts.flags = lbd::base::load_big<uint16_t>(in, 8);
  facts.block_status = (data[10] & 1) != 0;
  facts.minimum_block = 1u << (data[11] & 15);
  in = in.subspan(16);
  while (in.size() >= request_bytes) {
    const auto r = decode_request(in.first<request_bytes>());
    // A wrong magic ends a connection; here the rest is tried all the same, with the magic mended.
    std::byte raw[request_bytes];
    std::copy_n(in.begin(), request_bytes, raw);
    lbd::base::store_big(raw, 0, request_magic);
    const auto mended = decode_request(raw);
    require(mended.has_value() && (!r || *r == *mended));
    std::byte again[request_bytes];
    encode_request(again, *mended);
    require(std::equal(std::begin(raw), std::end(raw), std::begin(again)));
    check(*mended, facts);
    in = in.subspan(request_bytes);
  }
  return 0;
}
