// SPDX-License-Identifier: MIT
#include "wire/nbd/request_check.h"

#include <gtest/gtest.h>

#include <vector>

namespace lbd::nbd {
namespace {

using base::errc;
namespace tf = transmission_flag;
namespace cf = command_flag;

constexpr uint64_t size = 1 << 20;
constexpr uint16_t everything = tf::has_flags | tf::send_flush | tf::send_fua | tf::send_trim |
                                tf::send_write_zeroes | tf::send_df | tf::can_multi_conn |
                                tf::send_cache | tf::send_fast_zero;
const std::vector<command> ranged = {command::read,  command::write,        command::trim,
                                     command::cache, command::write_zeroes, command::block_status};

export_facts facts(uint16_t flags = everything) {
  return {size, flags, true, 1, max_payload_bytes};
}
request make(command c, uint64_t offset = 0, uint32_t length = 512, uint16_t flags = 0) {
  return {c, flags, 1, offset, length};
}
bool is_write_like(command c) {
  return c == command::write || c == command::trim || c == command::write_zeroes;
}

TEST(request_check, accepts_every_command_with_everything_advertised) {
  for (command c : ranged) {
    EXPECT_EQ(request_error(make(c), facts()), wire_error::none);
    EXPECT_EQ(request_error(make(c, size - 512), facts()), wire_error::none);
    EXPECT_EQ(request_error(make(c, 1, 3), facts()), wire_error::none) << "bytes are fine";
  }
  EXPECT_EQ(request_error(make(command::flush, 0, 0), facts()), wire_error::none);
  EXPECT_EQ(request_error(make(command::disc, 0, 0), facts()), wire_error::none);
}

TEST(request_check, beyond_the_end_is_enospc_for_writes_and_einval_for_the_rest) {
  for (command c : ranged) {
    const bool enospc = c == command::write || c == command::write_zeroes;
    const wire_error expected = enospc ? wire_error::nospc : wire_error::inval;
    EXPECT_EQ(request_error(make(c, size - 511, 512), facts()), expected);
    EXPECT_EQ(request_error(make(c, size, 1), facts()), expected);
    EXPECT_EQ(request_error(make(c, size + 1, 1), facts()), expected);
    EXPECT_EQ(request_error(make(c, UINT64_MAX, 1), facts()), expected) << "wraps 2^64";
    EXPECT_EQ(request_error(make(c, UINT64_MAX - 255, 512), facts()), expected) << "wraps 2^64";
  }
}

TEST(request_check, read_only_is_eperm_even_when_the_range_or_feature_is_wrong) {
  const uint16_t plain = tf::has_flags | tf::read_only;
  for (uint16_t flags : {uint16_t(everything | tf::read_only), plain}) {
    for (command c : ranged) {
      if (!is_write_like(c)) continue;
      EXPECT_EQ(request_error(make(c), facts(flags)), wire_error::perm);
      EXPECT_EQ(request_error(make(c, size, 512), facts(flags)), wire_error::perm);
    }
    EXPECT_EQ(request_error(make(command::read), facts(flags)), wire_error::none);
  }
}

TEST(request_check, length_zero_never_fails_but_for_block_status) {
  for (command c : ranged) {
    const auto expected = c == command::block_status ? wire_error::inval : wire_error::none;
    EXPECT_EQ(request_error(make(c, 0, 0), facts()), expected);
    EXPECT_EQ(request_error(make(c, size, 0), facts()), expected);
  }
}

TEST(request_check, unknown_commands_and_flags_are_einval) {
  for (int type : {8, 9, 255, 65535}) {
    EXPECT_EQ(request_error(make(static_cast<command>(type)), facts()), wire_error::inval);
  }
  for (command c : ranged) {
    for (int bit = 5; bit < 16; ++bit) {
      const auto flags = static_cast<uint16_t>(1 << bit);
      EXPECT_EQ(request_error(make(c, 0, 512, flags), facts()), wire_error::inval);
    }
  }
}

TEST(request_check, flags_belong_to_their_command) {
  const auto allowed = [](command c, uint16_t flag) {
    if (flag == cf::fua) return true;
    if (flag == cf::df) return c == command::read;
    if (flag == cf::req_one) return c == command::block_status;
    return c == command::write_zeroes;  // NO_HOLE, FAST_ZERO
  };
  for (command c : ranged) {
    for (uint16_t flag : {cf::fua, cf::no_hole, cf::df, cf::req_one, cf::fast_zero}) {
      EXPECT_EQ(request_error(make(c, 0, 512, flag), facts()) == wire_error::none, allowed(c, flag))
          << static_cast<int>(c) << " " << flag;
    }
  }
  EXPECT_EQ(request_error(make(command::flush, 0, 0, cf::fua), facts()), wire_error::none);
  EXPECT_EQ(request_error(make(command::flush, 0, 0, cf::no_hole), facts()), wire_error::inval);
}

TEST(request_check, what_was_not_advertised_is_einval) {
  const uint16_t bare = tf::has_flags;
  EXPECT_EQ(request_error(make(command::read), facts(bare)), wire_error::none);
  EXPECT_EQ(request_error(make(command::write), facts(bare)), wire_error::none);
  EXPECT_EQ(request_error(make(command::flush, 0, 0), facts(bare)), wire_error::inval);
  for (command c : {command::trim, command::cache, command::write_zeroes}) {
    EXPECT_EQ(request_error(make(c), facts(bare)), wire_error::inval);
  }
  EXPECT_EQ(request_error(make(command::write, 0, 512, cf::fua), facts(bare)), wire_error::inval);
  EXPECT_EQ(request_error(make(command::read, 0, 512, cf::df), facts(bare)), wire_error::inval);
  const uint16_t slow = everything & static_cast<uint16_t>(~tf::send_fast_zero);
  EXPECT_EQ(request_error(make(command::write_zeroes, 0, 512, cf::fast_zero), facts(slow)),
            wire_error::inval);
  export_facts no_context = facts();
  no_context.block_status = false;
  EXPECT_EQ(request_error(make(command::block_status), no_context), wire_error::inval);
}

TEST(request_check, flush_with_a_range_is_einval) {
  EXPECT_EQ(request_error(make(command::flush, 512, 0), facts()), wire_error::inval);
  EXPECT_EQ(request_error(make(command::flush, 0, 512), facts()), wire_error::inval);
}

TEST(request_check, payload_limit_binds_only_what_carries_payload) {
  export_facts f = facts();
  f.size_bytes = uint64_t{1} << 40;
  const uint32_t above = max_payload_bytes + 1;
  EXPECT_EQ(request_error(make(command::read, 0, max_payload_bytes), f), wire_error::none);
  EXPECT_EQ(request_error(make(command::read, 0, above), f), wire_error::inval);
  EXPECT_EQ(request_error(make(command::write, 0, above), f), wire_error::inval);
  for (command c : {command::trim, command::write_zeroes, command::cache, command::block_status}) {
    EXPECT_EQ(request_error(make(c, 0, UINT32_MAX), f), wire_error::none);
  }
}

TEST(request_check, minimum_block_is_enforced) {
  export_facts f = facts();
  f.minimum_block = 512;
  for (command c : ranged) {
    EXPECT_EQ(request_error(make(c, 512, 1024), f), wire_error::none);
    EXPECT_EQ(request_error(make(c, 1, 512), f), wire_error::inval);
    EXPECT_EQ(request_error(make(c, 0, 511), f), wire_error::inval);
  }
}

TEST(errors, every_errno_has_an_answer_on_the_wire) {
  const request plain = make(command::write);
  for (int code = 1; code < 4096; ++code) {
    const wire_error e = to_wire(static_cast<errc>(code), plain);
    EXPECT_NE(e, wire_error::none) << code;
    EXPECT_STRNE(error_name(e), "unknown") << code;
  }
  EXPECT_EQ(to_wire(errc::ok, plain), wire_error::none);
  EXPECT_EQ(to_wire(errc::nospc, plain), wire_error::nospc);
  EXPECT_EQ(to_wire(static_cast<errc>(EDQUOT), plain), wire_error::nospc);
  EXPECT_EQ(to_wire(errc::fbig, plain), wire_error::nospc);
  EXPECT_EQ(to_wire(errc::rofs, plain), wire_error::perm);
  EXPECT_EQ(to_wire(errc::timed_out, plain), wire_error::io);
}

TEST(errors, enotsup_and_eoverflow_only_where_the_protocol_allows_them) {
  EXPECT_EQ(to_wire(errc::notsup, make(command::write_zeroes, 0, 512, cf::fast_zero)),
            wire_error::notsup);
  EXPECT_EQ(to_wire(errc::notsup, make(command::write_zeroes)), wire_error::inval);
  EXPECT_EQ(to_wire(errc::notsup, make(command::trim)), wire_error::inval);
  EXPECT_EQ(to_wire(errc::overflow, make(command::read, 0, 512, cf::df)), wire_error::overflow);
  EXPECT_EQ(to_wire(errc::overflow, make(command::read)), wire_error::inval);
}

TEST(errors, come_back_as_they_went) {
  const request fast = make(command::write_zeroes, 0, 512, cf::fast_zero);
  for (errc c : {errc::ok, errc::perm, errc::io, errc::nomem, errc::inval, errc::nospc,
                 errc::notsup, errc::shutdown}) {
    EXPECT_EQ(from_wire(to_wire(c, fast)), c);
  }
  EXPECT_EQ(from_wire(static_cast<wire_error>(77)), errc::inval);
  EXPECT_EQ(from_wire(static_cast<wire_error>(UINT32_MAX)), errc::inval);
}

}  // namespace
}  // namespace lbd::nbd
