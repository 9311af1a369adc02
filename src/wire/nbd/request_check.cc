// SPDX-License-Identifier: MIT
#include "wire/nbd/request_check.h"

#include <array>

#include "base/checked_math.h"

namespace lbd::nbd {

namespace {

using base::errc;

struct command_rule {
  uint16_t needs;          // transmission flags that must be advertised; 0: always allowed
  uint16_t allowed_flags;  // command flags beside FUA
  bool writes;             // refused on a read-only export
  wire_error beyond_end;   // answer to a range outside of the export
};

namespace tf = transmission_flag;
namespace cf = command_flag;

constexpr std::array<command_rule, 8> rules = {{
    /* read         */ {0, cf::df, false, wire_error::inval},
    /* write        */ {0, 0, true, wire_error::nospc},
    /* disc         */ {0, 0, false, wire_error::none},
    /* flush        */ {tf::send_flush, 0, false, wire_error::inval},
    /* trim         */ {tf::send_trim, 0, true, wire_error::inval},
    /* cache        */ {tf::send_cache, 0, false, wire_error::inval},
    /* write_zeroes */
    {tf::send_write_zeroes, cf::no_hole | cf::fast_zero, true, wire_error::nospc},
    /* block_status */ {0, cf::req_one, false, wire_error::inval},
}};

bool flags_valid(const request& r, const command_rule& rule, const export_facts& facts) noexcept {
  uint16_t allowed = rule.allowed_flags;
  if ((facts.flags & tf::send_fua) != 0) allowed |= cf::fua;
  if ((facts.flags & tf::send_df) == 0) allowed &= static_cast<uint16_t>(~cf::df);
  if ((facts.flags & tf::send_fast_zero) == 0) allowed &= static_cast<uint16_t>(~cf::fast_zero);
  return (r.flags & ~allowed) == 0;
}

bool size_valid(const request& r, const export_facts& facts) noexcept {
  const bool carries_data = r.type == command::read || r.type == command::write;
  if (carries_data && r.length > facts.maximum_payload) return false;
  return facts.minimum_block <= 1 ||
         (r.offset % facts.minimum_block == 0 && r.length % facts.minimum_block == 0);
}

}  // namespace

wire_error request_error(const request& r, const export_facts& facts) noexcept {
  const auto index = static_cast<size_t>(r.type);
  if (index >= rules.size()) return wire_error::inval;
  if (r.type == command::disc) return wire_error::none;
  const command_rule& rule = rules[index];
  if (rule.writes && (facts.flags & tf::read_only) != 0) return wire_error::perm;
  if ((facts.flags & rule.needs) != rule.needs) return wire_error::inval;
  if (!flags_valid(r, rule, facts)) return wire_error::inval;
  if (r.type == command::flush) {
    return r.offset == 0 && r.length == 0 ? wire_error::none : wire_error::inval;
  }
  if (r.type == command::block_status && (!facts.block_status || r.length == 0)) {
    return wire_error::inval;
  }
  if (!base::range_fits(r.offset, r.length, facts.size_bytes)) return rule.beyond_end;
  if (!size_valid(r, facts)) return wire_error::inval;
  return wire_error::none;
}

wire_error to_wire(errc code, const request& r) noexcept {
  switch (static_cast<int>(code)) {
    case 0:
      return wire_error::none;
    case EPERM:
    case EACCES:
    case EROFS:
      return wire_error::perm;
    case ENOMEM:
      return wire_error::nomem;
    case EINVAL:
    case ERANGE:
      return wire_error::inval;
    case ENOSPC:
    case EFBIG:
    case EDQUOT:
      return wire_error::nospc;
    case EOVERFLOW:
      return r.type == command::read && (r.flags & cf::df) != 0 ? wire_error::overflow
                                                                : wire_error::inval;
    case EOPNOTSUPP:
      return r.type == command::write_zeroes && (r.flags & cf::fast_zero) != 0 ? wire_error::notsup
                                                                               : wire_error::inval;
    case ESHUTDOWN:
      return wire_error::shutdown;
    default:
      return wire_error::io;
  }
}

errc from_wire(wire_error error) noexcept {
  switch (error) {
    case wire_error::none:
      return errc::ok;
    case wire_error::perm:
      return errc::perm;
    case wire_error::io:
      return errc::io;
    case wire_error::nomem:
      return errc::nomem;
    case wire_error::inval:
      return errc::inval;
    case wire_error::nospc:
      return errc::nospc;
    case wire_error::overflow:
      return errc::overflow;
    case wire_error::notsup:
      return errc::notsup;
    case wire_error::shutdown:
      return errc::shutdown;
  }
  return errc::inval;  // the protocol's rule for numbers that it does not list
}

const char* error_name(wire_error error) noexcept {
  switch (error) {
    case wire_error::none:
      return "OK";
    case wire_error::perm:
      return "EPERM";
    case wire_error::io:
      return "EIO";
    case wire_error::nomem:
      return "ENOMEM";
    case wire_error::inval:
      return "EINVAL";
    case wire_error::nospc:
      return "ENOSPC";
    case wire_error::overflow:
      return "EOVERFLOW";
    case wire_error::notsup:
      return "ENOTSUP";
    case wire_error::shutdown:
      return "ESHUTDOWN";
  }
  return "unknown";
}

}  // namespace lbd::nbd
