// SPDX-License-Identifier: MIT
#include "wire/nbd/transmission.h"

#include <gtest/gtest.h>

#include <array>
#include <string>
#include <vector>

namespace lbd::nbd {
namespace {

std::string hex(base::bytes_view bytes) {
  std::string out;
  for (std::byte b : bytes) {
    out += "0123456789abcdef"[static_cast<unsigned>(b) >> 4];
    out += "0123456789abcdef"[static_cast<unsigned>(b) & 15];
  }
  return out;
}

TEST(transmission, request_has_the_protocols_layout) {
  std::array<std::byte, request_bytes> raw;
  const request r{command::write_zeroes, command_flag::fua | command_flag::no_hole,
                  0x1122334455667788, 0x0102030405060708, 0xa0b0c0d0};
  encode_request(raw, r);
  EXPECT_EQ(hex(raw),
            "25609513"
            "0003"
            "0006"
            "1122334455667788"
            "0102030405060708"
            "a0b0c0d0");
  EXPECT_EQ(decode_request(raw), r);
}

TEST(transmission, request_without_the_magic_is_none) {
  std::array<std::byte, request_bytes> raw;
  encode_request(raw, request{});
  raw[3] = std::byte{0};
  EXPECT_EQ(decode_request(raw), std::nullopt);
  // The extended header's magic is as foreign without its negotiation.
  base::store_big(raw, 0, uint32_t{0x21e41c71});
  EXPECT_EQ(decode_request(raw), std::nullopt);
}

TEST(transmission, only_writes_carry_payload) {
  request r{command::write, 0, 0, 0, 4096};
  EXPECT_EQ(payload_bytes(r), 4096u);
  for (int type : {0, 2, 3, 4, 5, 6, 7, 8, 65535}) {
    r.type = static_cast<command>(type);
    EXPECT_EQ(payload_bytes(r), 0u) << type;
  }
}

TEST(transmission, replies_have_the_protocols_layout) {
  std::array<std::byte, simple_reply_bytes> simple;
  encode_simple_reply(simple, wire_error::nospc, 0xfeedfacecafebeef);
  EXPECT_EQ(hex(simple),
            "67446698"
            "0000001c"
            "feedfacecafebeef");

  std::array<std::byte, data_chunk_header_bytes> data;
  encode_data_chunk(data, 7, 0x10000, 512, true);
  EXPECT_EQ(hex(data),
            "668e33ef"
            "0001"
            "0001"
            "0000000000000007"
            "00000208"
            "0000000000010000");

  std::array<std::byte, hole_chunk_bytes> hole;
  encode_hole_chunk(hole, 7, 0x10000, 512, false);
  EXPECT_EQ(hex(hole),
            "668e33ef"
            "0000"
            "0002"
            "0000000000000007"
            "0000000c"
            "0000000000010000"
            "00000200");

  std::array<std::byte, chunk_header_bytes> none;
  encode_none_chunk(none, 9);
  EXPECT_EQ(hex(none),
            "668e33ef"
            "0001"
            "0000"
            "0000000000000009"
            "00000000");
}

TEST(transmission, error_chunks_carry_text_and_offset) {
  std::array<std::byte, 64> raw;
  size_t size = encode_error_chunk(raw, 1, wire_error::io, "bad");
  ASSERT_EQ(size, error_chunk_bytes(3, false));
  EXPECT_EQ(hex(base::bytes_view(raw).first(size)),
            "668e33ef"
            "0001"
            "8001"
            "0000000000000001"
            "00000009"
            "00000005"
            "0003"
            "626164");
  size = encode_error_chunk(raw, 1, wire_error::io, "", 0x200);
  ASSERT_EQ(size, error_chunk_bytes(0, true));
  EXPECT_EQ(hex(base::bytes_view(raw).first(size)),
            "668e33ef"
            "0001"
            "8002"
            "0000000000000001"
            "0000000e"
            "00000005"
            "0000"
            "0000000000000200");
}

TEST(transmission, error_text_is_cut_to_the_protocols_limit) {
  const std::string longest(max_string_bytes + 100, 'x');
  std::vector<std::byte> raw(error_chunk_bytes(longest.size(), false));
  EXPECT_EQ(encode_error_chunk(raw, 1, wire_error::io, longest), raw.size());
  EXPECT_EQ(base::load_big<uint16_t>(raw, 24), max_string_bytes);
  EXPECT_EQ(base::load_big<uint32_t>(raw, 16), max_string_bytes + 6);
}

TEST(transmission, block_status_chunk_has_the_protocols_layout) {
  const std::array<extent, 2> extents = {extent{4096, 0}, extent{8192, 3}};
  std::array<std::byte, block_status_chunk_bytes(2)> raw;
  EXPECT_EQ(encode_block_status_chunk(raw, 5, 42, extents, true), raw.size());
  EXPECT_EQ(hex(raw),
            "668e33ef"
            "0001"
            "0005"
            "0000000000000005"
            "00000014"
            "0000002a"
            "00001000"
            "00000000"
            "00002000"
            "00000003");
}

}  // namespace
}  // namespace lbd::nbd
