// SPDX-License-Identifier: MIT
#include "format/qcow2/decompress.h"

#include <zlib.h>
#include <zstd.h>

#include "format/qcow2/corruption.h"

namespace lbd::qcow2 {

using base::bytes_span;
using base::bytes_view;
using base::errc;
using base::io_error;
using base::result;

namespace {

constexpr int deflate_window_bits = -12;  // raw deflate
constexpr int zstd_window_bits_max = 23;

result<void> inflate_cluster(bytes_view data, bytes_span cluster) noexcept {
  z_stream stream{};
  if (inflateInit2(&stream, deflate_window_bits) != Z_OK) return io_error{errc::nomem};
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(data.data()));
  stream.avail_in = static_cast<uInt>(data.size());
  stream.next_out = reinterpret_cast<Bytef*>(cluster.data());
  stream.avail_out = static_cast<uInt>(cluster.size());
  int status = inflate(&stream, Z_FINISH);
  bool full = stream.avail_out == 0;
  inflateEnd(&stream);
  // The stream may go on after the cluster is full (Z_BUF_ERROR); what counts is the cluster.
  if (!full || (status != Z_STREAM_END && status != Z_BUF_ERROR)) {
    return corrupt(corruption::bad_compressed_data);
  }
  return {};
}

result<void> unzstd_cluster(bytes_view data, bytes_span cluster) noexcept {
  ZSTD_DCtx* context = ZSTD_createDCtx();
  if (context == nullptr) return io_error{errc::nomem};
  ZSTD_DCtx_setParameter(context, ZSTD_d_windowLogMax, zstd_window_bits_max);
  ZSTD_inBuffer in{data.data(), data.size(), 0};
  ZSTD_outBuffer out{cluster.data(), cluster.size(), 0};
  bool ok = true;
  while (ok && out.pos < out.size) {
    size_t before_in = in.pos;
    size_t before_out = out.pos;
    size_t status = ZSTD_decompressStream(context, &out, &in);
    ok = ZSTD_isError(status) == 0 && (in.pos != before_in || out.pos != before_out) &&
         (status != 0 || out.pos == out.size);
  }
  ZSTD_freeDCtx(context);
  if (!ok) return corrupt(corruption::bad_compressed_data);
  return {};
}

}  // namespace

result<void> decompress_cluster(compression_type type, bytes_view data,
                                bytes_span cluster) noexcept {
  switch (type) {
    case compression_type::deflate:
      return inflate_cluster(data, cluster);
    case compression_type::zstd:
      return unzstd_cluster(data, cluster);
  }
  return io_error{errc::notsup};
}

}  // namespace lbd::qcow2
