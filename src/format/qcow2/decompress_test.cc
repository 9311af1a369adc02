// SPDX-License-Identifier: MIT
#include "format/qcow2/decompress.h"

#include <gtest/gtest.h>
#include <zlib.h>
#include <zstd.h>

#include <vector>

#include "format/qcow2/corruption.h"

namespace lbd::qcow2 {
namespace {

using bytes = std::vector<std::byte>;

bytes pattern(size_t size) {
  bytes b(size);
  for (size_t i = 0; i < size; ++i) b[i] = static_cast<std::byte>(i * i / 7 % 13);
  return b;
}

bytes deflated(const bytes& in, int window_bits) {
  z_stream s{};
  EXPECT_EQ(deflateInit2(&s, 6, Z_DEFLATED, window_bits, 9, Z_DEFAULT_STRATEGY), Z_OK);
  bytes out(in.size() + 1024);
  s.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(in.data()));
  s.avail_in = static_cast<uInt>(in.size());
  s.next_out = reinterpret_cast<Bytef*>(out.data());
  s.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&s, Z_FINISH), Z_STREAM_END);
  out.resize(s.total_out);
  deflateEnd(&s);
  return out;
}

bytes zstandard(const bytes& in) {
  bytes out(ZSTD_compressBound(in.size()));
  out.resize(ZSTD_compress(out.data(), out.size(), in.data(), in.size(), 3));
  return out;
}

corruption fault(compression_type type, const bytes& in, size_t size = 65536) {
  bytes out(size);
  auto r = decompress_cluster(type, in, out);
  return r ? corruption::none : corruption_of(r.error());
}

TEST(qcow2_decompress, both_kinds_with_padding_after_the_stream) {
  bytes plain = pattern(65536);
  for (auto type : {compression_type::deflate, compression_type::zstd}) {
    bytes packed = type == compression_type::deflate ? deflated(plain, -12) : zstandard(plain);
    packed.resize(packed.size() / 512 * 512 + 512, std::byte{0xee});
    bytes out(65536);
    ASSERT_TRUE(decompress_cluster(type, packed, out));
    EXPECT_EQ(out, plain);
  }
}

TEST(qcow2_decompress, short_long_and_cut_streams) {
  for (auto type : {compression_type::deflate, compression_type::zstd}) {
    auto pack = [&](size_t size) {
      return type == compression_type::deflate ? deflated(pattern(size), -12)
                                               : zstandard(pattern(size));
    };
    EXPECT_EQ(fault(type, pack(65535)), corruption::bad_compressed_data);
    EXPECT_EQ(fault(type, {}), corruption::bad_compressed_data);
    EXPECT_EQ(fault(type, bytes(4096, std::byte{0xff})), corruption::bad_compressed_data);
    bytes cut = pack(65536);
    cut.resize(cut.size() / 2);
    EXPECT_EQ(fault(type, cut), corruption::bad_compressed_data);
  }
}

TEST(qcow2_decompress, a_window_beyond_the_bound_is_refused) {
  // A zstd frame header that asks for a window of 2 GiB (no single segment, descriptor 0xa8).
  bytes frame{std::byte{0x28}, std::byte{0xb5}, std::byte{0x2f}, std::byte{0xfd}, std::byte{0x00},
              std::byte{0xa8}, std::byte{0x01}, std::byte{0x00}, std::byte{0x00}};
  EXPECT_EQ(fault(compression_type::zstd, frame), corruption::bad_compressed_data);
}

}  // namespace
}  // namespace lbd::qcow2
