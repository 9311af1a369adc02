// SPDX-License-Identifier: MIT
// A hostile server's replies. Every event must stay inside its request and no byte of a read may be
// given twice.
// DEPS: lbd_wire_nbd
#include <array>
#include <cstdlib>
#include <vector>

#include "wire/nbd/reply_parser.h"

using namespace lbd::nbd;
using lbd::base::bytes_view;
using kind = reply_event::kind;

namespace {

void require(bool what) {
  if (!what) std::abort();
}

constexpr uint64_t base_offset = 4096;
constexpr uint32_t longest = 2048;

struct slot {
  reply_state state;
  std::array<bool, longest> given{};
  bool live = true;
  explicit slot(const request& r) : state(r) {}
};

std::vector<slot> requests() {
  std::vector<slot> out;
  for (uint64_t cookie = 0; cookie < 16; ++cookie) {
    request r{static_cast<command>(cookie & 7), 0, cookie, base_offset, longest};
    if (r.type == command::disc || r.type == command::flush) r.type = command::read;
    if (cookie >= 8 && r.type == command::read) r.flags = command_flag::df;
    if (cookie >= 8 && r.type == command::block_status) r.flags = command_flag::req_one;
    out.emplace_back(r);
  }
  return out;
}

void take(slot& s, const reply_event& e) {
  require(e.offset >= base_offset && e.length > 0 && e.length <= longest);
  const uint64_t begin = e.offset - base_offset;
  require(begin + e.length <= longest);
  for (uint64_t i = begin; i < begin + e.length; ++i) {
    require(!s.given[i]);
    s.given[i] = true;
  }
}

void finish(slot& s, const reply_event& e) {
  s.live = false;
  if (e.error != wire_error::none || s.state.asked.type != command::read) return;
  for (bool b : s.given) require(b);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 1) return 0;
  const bool structured = (data[0] & 1) != 0;
  bytes_view in(reinterpret_cast<const std::byte*>(data + 1), size - 1);
  std::vector<slot> slots = requests();
  reply_parser parser(structured, {1, 2});
  for (;;) {
    const reply_event e = parser.next(in, [&](uint64_t cookie) -> reply_state* {
      return cookie < slots.size() && slots[cookie].live ? &slots[cookie].state : nullptr;
    });
    require(e.consumed <= in.size());
    if (e.what == kind::violation) return 0;
    if (e.what == kind::more) {
      require(e.need > in.size() && e.need <= reply_parser::max_need && e.consumed == 0);
      return 0;
    }
    require(e.consumed > 0);
    slot& s = slots[e.cookie];
    in = in.subspan(e.consumed);
    if (e.what == kind::data || e.what == kind::hole) take(s, e);
    if (e.what == kind::data) {
      if (in.size() < e.length) return 0;
      in = in.subspan(e.length);
    }
    if (e.done) finish(s, e);
  }
}
