// SPDX-License-Identifier: MIT
// The header of a qcow2 image, versions 2 and 3, with its extensions.
// Source: QEMU's docs/interop/qcow2 ("Header", "Header extensions", "Feature name table").
// Messages of failures are clauses to be put after the file's name ("FILE: message").
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "format/qcow2/corruption.h"
#include "format/qcow2/geometry.h"

namespace lbd::qcow2 {

inline constexpr uint32_t header_magic = 0x514649fb;  // "QFI\xfb"
inline constexpr uint32_t header_bytes_v2 = 72;
inline constexpr uint32_t min_header_bytes_v3 = 104;
inline constexpr uint32_t header_bytes_v3 = 112;  // with the compression type
inline constexpr uint32_t max_backing_name_bytes = 1023;

// Incompatible features.
inline constexpr uint64_t feature_dirty = 1u << 0;
inline constexpr uint64_t feature_corrupt = 1u << 1;
inline constexpr uint64_t feature_data_file = 1u << 2;
inline constexpr uint64_t feature_compression_type = 1u << 3;
inline constexpr uint64_t feature_extended_l2 = 1u << 4;
// Compatible features.
inline constexpr uint64_t feature_lazy_refcounts = 1u << 0;
// Autoclear features.
inline constexpr uint64_t feature_bitmaps = 1u << 0;
inline constexpr uint64_t feature_raw_data_file = 1u << 1;

enum class compression_type : uint8_t { deflate = 0, zstd = 1 };

enum class feature_kind : uint8_t { incompatible = 0, compatible = 1, autoclear = 2 };

struct feature_name {
  uint8_t kind = 0;  // a feature_kind, others are kept
  uint8_t bit = 0;
  std::string name;  // at most 46 bytes
  friend bool operator==(const feature_name&, const feature_name&) = default;
};

struct bitmaps_extension {
  uint32_t count = 0;
  uint64_t directory_bytes = 0;
  uint64_t directory_offset = 0;
  friend bool operator==(const bitmaps_extension&, const bitmaps_extension&) = default;
};

struct crypto_extension {
  uint64_t offset = 0;
  uint64_t length = 0;
  friend bool operator==(const crypto_extension&, const crypto_extension&) = default;
};

struct unknown_extension {
  uint32_t type = 0;
  std::vector<std::byte> data;
  friend bool operator==(const unknown_extension&, const unknown_extension&) = default;
};

struct header {
  uint32_t version = 3;
  uint32_t cluster_bits = 16;
  uint64_t size_bytes = 0;
  uint32_t crypt_method = 0;  // 0 none, 1 AES, 2 LUKS
  uint32_t l1_entries = 0;
  uint64_t l1_offset = 0;
  uint64_t refcount_table_offset = 0;
  uint32_t refcount_table_clusters = 0;
  uint32_t snapshot_count = 0;
  uint64_t snapshots_offset = 0;
  uint64_t incompatible = 0;
  uint64_t compatible = 0;
  uint64_t autoclear = 0;
  uint32_t refcount_order = 4;
  uint32_t header_length = header_bytes_v3;
  uint8_t compression = 0;              // a compression_type once check_supported() passed
  std::vector<std::byte> extra_fields;  // header bytes from 105 on, kept as they are
  std::optional<std::string> backing_name;
  std::optional<std::string> backing_format;
  std::optional<std::string> data_file_name;
  std::optional<bitmaps_extension> bitmaps;
  std::optional<crypto_extension> crypto;
  std::vector<feature_name> feature_names;
  std::vector<unknown_extension> unknown;
  friend bool operator==(const header&, const header&) = default;

  bool extended_l2() const noexcept { return (incompatible & feature_extended_l2) != 0; }
  geometry shape() const noexcept {
    return {cluster_bits, refcount_order, extended_l2(), size_bytes};
  }
};

// The names of all features that this codec knows, as new images carry them.
std::vector<feature_name> known_feature_names();

// The cluster size named by the first 24 bytes or more of an image: how much parse_header needs.
base::outcome<uint64_t> probe_cluster_size(base::bytes_view start);

// `start` is the image's first cluster (or the whole file where that is shorter).
// Checks everything that concerns the header alone, but not whether its features are supported.
base::outcome<header> parse_header(base::bytes_view start);

// What no reader of this codec can handle: unknown incompatible features (by name, where the image
// names them), the corrupt bit, external data files, encryption, unknown compression. The dirty bit
// passes: the refcounts of such an image must be rebuilt before it is written.
base::outcome<void> check_supported(const header& h);

// Where the tables lie: aligned, inside a file of `file_bytes`, within their limits, not
// overlapping each other, large enough for the guest size.
base::outcome<void> check_layout(const header& h, uint64_t file_bytes);

// The header cluster, from the first byte to the end of the backing name; the rest of the cluster
// is zeros. Fails (errc::inval) when it does not fit into a cluster or a name is too long.
base::outcome<std::vector<std::byte>> serialize_header(const header& h);

// Overwrites the fixed fields (72 or 104 bytes) of an existing header, leaving every byte after
// them: what changes in the life of an image (feature bits, tables, size) without rewriting names.
// REQUIRES: the first bytes of the header that `h` was parsed from, at least 104 (72) of them.
void store_fixed_fields(const header& h, base::bytes_span start) noexcept;

// The places that no data cluster, L2 table or refcount block may touch.
class fixed_areas {
 public:
  // REQUIRES: check_layout(h, file_bytes) passed.
  fixed_areas(const header& h, uint64_t file_bytes) noexcept;

  uint64_t file_bytes() const noexcept { return file_bytes_; }
  void set_file_bytes(uint64_t file_bytes) noexcept { file_bytes_ = file_bytes; }

  // A cluster that an entry points to: aligned, its start inside the file, below 2^56, outside of
  // the fixed areas.
  base::result<void> check_cluster(uint64_t host_offset) const noexcept;
  // Bytes at any alignment (compressed data); the last sector may reach beyond the end of the file.
  base::result<void> check_bytes(uint64_t host_offset, uint64_t length) const noexcept;
  // Whether the bytes [begin, end) touch a fixed area.
  bool overlaps(uint64_t begin, uint64_t end) const noexcept;

 private:
  struct area {
    uint64_t begin = 0;
    uint64_t end = 0;
  };

  uint64_t cluster_size_;
  uint64_t file_bytes_;
  area areas_[3];
};

}  // namespace lbd::qcow2
