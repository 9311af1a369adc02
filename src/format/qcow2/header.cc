// SPDX-License-Identifier: MIT
#include "format/qcow2/header.h"

#include <algorithm>
#include <cstring>

namespace lbd::qcow2 {

using base::bytes_span;
using base::bytes_view;
using base::errc;
using base::failure;
using base::load_big;
using base::outcome;
using base::store_big;

namespace {

constexpr uint32_t ext_end = 0;
constexpr uint32_t ext_backing_format = 0xe2792aca;
constexpr uint32_t ext_feature_names = 0x6803f857;
constexpr uint32_t ext_bitmaps = 0x23852875;
constexpr uint32_t ext_crypto = 0x0537be77;
constexpr uint32_t ext_data_file = 0x44415441;
constexpr size_t feature_entry_bytes = 48;
constexpr size_t feature_name_bytes = 46;
constexpr uint64_t known_incompatible = feature_dirty | feature_corrupt | feature_data_file |
                                        feature_compression_type | feature_extended_l2;

failure damaged(std::string what) {
  return {errc::io, "damaged qcow2 header: " + what + "; restore it or try 'qemu-img check'"};
}
failure refused(std::string what) { return {errc::notsup, std::move(what)}; }

std::string text_of(bytes_view b) { return std::string(base::as_text(b)); }

void parse_feature_names(header& h, bytes_view data) {
  for (size_t at = 0; at + feature_entry_bytes <= data.size(); at += feature_entry_bytes) {
    feature_name f;
    f.kind = static_cast<uint8_t>(data[at]);
    f.bit = static_cast<uint8_t>(data[at + 1]);
    auto name = base::as_text(data.subspan(at + 2, feature_name_bytes));
    f.name = std::string(name.substr(0, name.find('\0')));
    h.feature_names.push_back(std::move(f));
  }
}

outcome<void> parse_extension(header& h, uint32_t type, bytes_view data) {
  switch (type) {
    case ext_backing_format:
      h.backing_format = text_of(data);
      return {};
    case ext_data_file:
      h.data_file_name = text_of(data);
      return {};
    case ext_feature_names:
      parse_feature_names(h, data);
      return {};
    case ext_bitmaps:
      if (data.size() < 24) return damaged("the bitmaps extension is too short");
      h.bitmaps = bitmaps_extension{load_big<uint32_t>(data, 0), load_big<uint64_t>(data, 8),
                                    load_big<uint64_t>(data, 16)};
      return {};
    case ext_crypto:
      if (data.size() < 16) return damaged("the encryption extension is too short");
      h.crypto = crypto_extension{load_big<uint64_t>(data, 0), load_big<uint64_t>(data, 8)};
      return {};
    default:
      h.unknown.push_back({type, {data.begin(), data.end()}});
      return {};
  }
}

// `area` reaches from the end of the fixed header to the backing name or the end of the cluster.
outcome<void> parse_extensions(header& h, bytes_view area) {
  while (area.size() >= 8) {
    auto type = load_big<uint32_t>(area, 0);
    uint64_t length = load_big<uint32_t>(area, 4);
    if (type == ext_end) return {};
    if (length > area.size() - 8) return damaged("a header extension is longer than its cluster");
    CHECK(parse_extension(h, type, area.subspan(8, length)));
    area = area.subspan(std::min<uint64_t>(area.size(), 8 + base::round_up(length, 8)));
  }
  return {};
}

outcome<void> parse_version_3_fields(header& h, bytes_view start) {
  if (start.size() < min_header_bytes_v3) return damaged("the file ends inside the header");
  h.incompatible = load_big<uint64_t>(start, 72);
  h.compatible = load_big<uint64_t>(start, 80);
  h.autoclear = load_big<uint64_t>(start, 88);
  h.refcount_order = load_big<uint32_t>(start, 96);
  h.header_length = load_big<uint32_t>(start, 100);
  if (h.refcount_order > max_refcount_order) return damaged("the refcount order is above 6");
  if (h.header_length < min_header_bytes_v3 || h.header_length % 8 != 0 ||
      h.header_length > start.size()) {
    return damaged("the header length " + std::to_string(h.header_length) + " is impossible");
  }
  if (h.header_length > min_header_bytes_v3) {
    h.compression = static_cast<uint8_t>(start[104]);
    auto rest = start.subspan(105, h.header_length - 105);
    h.extra_fields.assign(rest.begin(), rest.end());
  }
  if (h.extended_l2() && h.cluster_bits < min_extended_cluster_bits) {
    return damaged("extended L2 entries need clusters of at least 16 KiB");
  }
  return {};
}

outcome<void> parse_backing_name(header& h, bytes_view start, uint64_t offset, uint32_t length) {
  if (length > max_backing_name_bytes) return damaged("the backing file name is too long");
  if (offset < h.header_length || !base::range_fits(offset, length, start.size())) {
    return damaged("the backing file name lies outside of the first cluster");
  }
  h.backing_name = text_of(start.subspan(offset, length));
  return {};
}

std::string name_of_feature(const header& h, uint32_t bit) {
  for (const auto& f : h.feature_names) {
    if (f.kind == static_cast<uint8_t>(feature_kind::incompatible) && f.bit == bit) {
      return "'" + f.name + "'";
    }
  }
  return "number " + std::to_string(bit);
}

void append_extension(std::vector<std::byte>& out, uint32_t type, bytes_view data) {
  size_t at = out.size();
  out.resize(at + 8 + base::round_up(data.size(), 8));
  store_big<uint32_t>(out, at, type);
  store_big<uint32_t>(out, at + 4, static_cast<uint32_t>(data.size()));
  if (!data.empty()) std::memcpy(out.data() + at + 8, data.data(), data.size());
}

void append_feature_names(std::vector<std::byte>& out, const header& h) {
  std::vector<std::byte> table(h.feature_names.size() * feature_entry_bytes);
  for (size_t i = 0; i < h.feature_names.size(); ++i) {
    const auto& f = h.feature_names[i];
    std::byte* at = table.data() + i * feature_entry_bytes;
    at[0] = std::byte{f.kind};
    at[1] = std::byte{f.bit};
    std::memcpy(at + 2, f.name.data(), std::min(f.name.size(), feature_name_bytes));
  }
  append_extension(out, ext_feature_names, table);
}

void append_extensions(std::vector<std::byte>& out, const header& h) {
  if (h.backing_format)
    append_extension(out, ext_backing_format, base::as_bytes(*h.backing_format));
  if (h.data_file_name) append_extension(out, ext_data_file, base::as_bytes(*h.data_file_name));
  if (h.crypto) {
    std::byte data[16];
    store_big<uint64_t>(data, 0, h.crypto->offset);
    store_big<uint64_t>(data, 8, h.crypto->length);
    append_extension(out, ext_crypto, data);
  }
  if (h.bitmaps) {
    std::byte data[24] = {};
    store_big<uint32_t>(data, 0, h.bitmaps->count);
    store_big<uint64_t>(data, 8, h.bitmaps->directory_bytes);
    store_big<uint64_t>(data, 16, h.bitmaps->directory_offset);
    append_extension(out, ext_bitmaps, data);
  }
  if (!h.feature_names.empty()) append_feature_names(out, h);
  for (const auto& e : h.unknown) append_extension(out, e.type, e.data);
  append_extension(out, ext_end, {});
}

struct table_place {
  const char* name;
  uint64_t begin;
  uint64_t bytes;
};

outcome<void> check_place(const header& h, const table_place& t, uint64_t file_bytes) {
  if (!h.shape().aligned(t.begin)) {
    return damaged(std::string("the ") + t.name + " is not on a cluster boundary");
  }
  if (t.begin < h.shape().cluster_size()) {
    return damaged(std::string("the ") + t.name + " overlaps the header");
  }
  if (!base::range_fits(t.begin, t.bytes, file_bytes)) {
    return damaged(std::string("the ") + t.name +
                   " lies beyond the end of the file (a truncated copy?)");
  }
  return {};
}

}  // namespace

std::vector<feature_name> known_feature_names() {
  auto in = static_cast<uint8_t>(feature_kind::incompatible);
  auto co = static_cast<uint8_t>(feature_kind::compatible);
  auto ac = static_cast<uint8_t>(feature_kind::autoclear);
  return {
      {in, 0, "dirty bit"},        {in, 1, "corrupt bit"},         {in, 2, "external data file"},
      {in, 3, "compression type"}, {in, 4, "extended L2 entries"}, {co, 0, "lazy refcounts"},
      {ac, 0, "bitmaps"},          {ac, 1, "raw external data"}};
}

outcome<uint64_t> probe_cluster_size(bytes_view start) {
  if (start.size() < 24 || load_big<uint32_t>(start, 0) != header_magic) {
    return failure{errc::inval, "is not a qcow2 image; serve a flat file with -f or --flat"};
  }
  auto version = load_big<uint32_t>(start, 4);
  if (version != 2 && version != 3) {
    return refused("qcow version " + std::to_string(version) +
                   " is not supported; convert it with 'qemu-img convert -O qcow2'");
  }
  auto bits = load_big<uint32_t>(start, 20);
  if (bits < min_cluster_bits || bits > max_cluster_bits) {
    return damaged("the cluster size is not between 512 bytes and 2 MiB");
  }
  return uint64_t{1} << bits;
}

outcome<header> parse_header(bytes_view start) {
  TRY(uint64_t cluster_size, probe_cluster_size(start));
  if (start.size() > cluster_size) start = start.first(cluster_size);
  if (start.size() < header_bytes_v2) return damaged("the file ends inside the header");
  header h;
  h.version = load_big<uint32_t>(start, 4);
  h.cluster_bits = load_big<uint32_t>(start, 20);
  h.size_bytes = load_big<uint64_t>(start, 24);
  h.crypt_method = load_big<uint32_t>(start, 32);
  h.l1_entries = load_big<uint32_t>(start, 36);
  h.l1_offset = load_big<uint64_t>(start, 40);
  h.refcount_table_offset = load_big<uint64_t>(start, 48);
  h.refcount_table_clusters = load_big<uint32_t>(start, 56);
  h.snapshot_count = load_big<uint32_t>(start, 60);
  h.snapshots_offset = load_big<uint64_t>(start, 64);
  h.header_length = header_bytes_v2;
  if (h.version == 3) CHECK(parse_version_3_fields(h, start));
  auto name_offset = load_big<uint64_t>(start, 8);
  size_t extensions_end = start.size();
  if (name_offset != 0) {
    CHECK(parse_backing_name(h, start, name_offset, load_big<uint32_t>(start, 16)));
    extensions_end = name_offset;
  }
  CHECK(parse_extensions(h, start.subspan(h.header_length, extensions_end - h.header_length)));
  return h;
}

outcome<void> check_supported(const header& h) {
  uint64_t unknown = h.incompatible & ~known_incompatible;
  if (unknown != 0) {
    std::string names;
    for (uint32_t bit = 0; bit < 64; ++bit) {
      if ((unknown >> bit & 1) == 0) continue;
      names += (names.empty() ? "" : ", ") + name_of_feature(h, bit);
    }
    return refused("uses qcow2 features that are not supported: " + names +
                   "; convert it with 'qemu-img convert -O qcow2'");
  }
  if ((h.incompatible & feature_corrupt) != 0) {
    return failure{errc::io, "is marked corrupt; repair it first with 'qemu-img check -r all'"};
  }
  if ((h.incompatible & feature_data_file) != 0) {
    return refused(
        "keeps its data in an external data file, which is not supported; convert it with "
        "'qemu-img convert -O qcow2'");
  }
  if (h.crypt_method != 0) {
    return refused("is encrypted, which is not supported; decrypt it with 'qemu-img convert'");
  }
  bool flagged = (h.incompatible & feature_compression_type) != 0;
  if (flagged != (h.compression != 0)) {
    return damaged("the compression type contradicts its feature bit");
  }
  if (h.compression > static_cast<uint8_t>(compression_type::zstd)) {
    return refused("uses compression type " + std::to_string(h.compression) +
                   ", which is not supported; convert it with 'qemu-img convert -O qcow2'");
  }
  return {};
}

outcome<void> check_layout(const header& h, uint64_t file_bytes) {
  geometry g = h.shape();
  uint64_t l1_bytes = uint64_t{h.l1_entries} * 8;
  uint64_t table_bytes = uint64_t{h.refcount_table_clusters} << h.cluster_bits;
  if (l1_bytes > max_l1_bytes) return damaged("the L1 table is larger than 32 MiB");
  if (table_bytes > max_refcount_table_bytes) {
    return damaged("the refcount table is larger than 8 MiB");
  }
  if (h.refcount_table_clusters == 0) return damaged("the refcount table is empty");
  if (h.size_bytes > g.max_size() || g.l1_entries_for(h.size_bytes) > h.l1_entries) {
    return damaged("the L1 table is too small for the image's size");
  }
  if (h.snapshot_count > max_snapshots) return damaged("there are more than 65536 snapshots");
  table_place refcounts{"refcount table", h.refcount_table_offset, table_bytes};
  CHECK(check_place(h, refcounts, file_bytes));
  if (h.l1_entries != 0) {
    table_place l1{"L1 table", h.l1_offset, l1_bytes};
    CHECK(check_place(h, l1, file_bytes));
    if (l1.begin < refcounts.begin + table_bytes && refcounts.begin < l1.begin + l1_bytes) {
      return damaged("the L1 table and the refcount table overlap");
    }
  }
  if (h.snapshot_count != 0) {
    table_place snapshots{"snapshot table", h.snapshots_offset, uint64_t{h.snapshot_count} * 40};
    CHECK(check_place(h, snapshots, file_bytes));
  }
  return {};
}

void store_fixed_fields(const header& h, bytes_span start) noexcept {
  store_big<uint32_t>(start, 0, header_magic);
  store_big<uint32_t>(start, 4, h.version);
  store_big<uint32_t>(start, 20, h.cluster_bits);
  store_big<uint64_t>(start, 24, h.size_bytes);
  store_big<uint32_t>(start, 32, h.crypt_method);
  store_big<uint32_t>(start, 36, h.l1_entries);
  store_big<uint64_t>(start, 40, h.l1_offset);
  store_big<uint64_t>(start, 48, h.refcount_table_offset);
  store_big<uint32_t>(start, 56, h.refcount_table_clusters);
  store_big<uint32_t>(start, 60, h.snapshot_count);
  store_big<uint64_t>(start, 64, h.snapshots_offset);
  if (h.version < 3) return;
  store_big<uint64_t>(start, 72, h.incompatible);
  store_big<uint64_t>(start, 80, h.compatible);
  store_big<uint64_t>(start, 88, h.autoclear);
  store_big<uint32_t>(start, 96, h.refcount_order);
  store_big<uint32_t>(start, 100, h.header_length);
}

outcome<std::vector<std::byte>> serialize_header(const header& h) {
  uint64_t fixed = h.version == 2 ? header_bytes_v2 : h.header_length;
  uint64_t extra = fixed > min_header_bytes_v3 ? fixed - 105 : 0;
  if (h.extra_fields.size() > extra) return failure{errc::inval, "the header is too short"};
  std::vector<std::byte> out(fixed);
  store_fixed_fields(h, out);
  if (fixed > min_header_bytes_v3) {
    out[104] = std::byte{h.compression};
    std::copy(h.extra_fields.begin(), h.extra_fields.end(), out.begin() + 105);
  }
  append_extensions(out, h);
  if (h.backing_name) {
    if (h.backing_name->size() > max_backing_name_bytes) {
      return failure{errc::inval, "the backing file name is longer than 1023 bytes"};
    }
    store_big<uint64_t>(out, 8, out.size());
    store_big<uint32_t>(out, 16, static_cast<uint32_t>(h.backing_name->size()));
    auto name = base::as_bytes(*h.backing_name);
    out.insert(out.end(), name.begin(), name.end());
  }
  if (out.size() > h.shape().cluster_size()) {
    return failure{errc::inval, "the header does not fit into a cluster of " +
                                    std::to_string(h.shape().cluster_size()) +
                                    " bytes; choose larger clusters or a shorter backing name"};
  }
  return out;
}

fixed_areas::fixed_areas(const header& h, uint64_t file_bytes) noexcept
    : cluster_size_(h.shape().cluster_size()), file_bytes_(file_bytes) {
  uint64_t l1_bytes = base::round_up(uint64_t{h.l1_entries} * 8, cluster_size_);
  uint64_t table_bytes = uint64_t{h.refcount_table_clusters} << h.cluster_bits;
  areas_[0] = {0, cluster_size_};
  areas_[1] = {h.l1_offset, h.l1_offset + l1_bytes};
  areas_[2] = {h.refcount_table_offset, h.refcount_table_offset + table_bytes};
}

bool fixed_areas::overlaps(uint64_t begin, uint64_t end) const noexcept {
  return std::any_of(std::begin(areas_), std::end(areas_), [=](const area& a) {
    return a.begin != a.end && begin < a.end && a.begin < end;
  });
}

base::result<void> fixed_areas::check_cluster(uint64_t host_offset) const noexcept {
  if (host_offset % cluster_size_ != 0) return corrupt(corruption::unaligned);
  if (host_offset >= file_bytes_ || host_offset >= max_host_offset) {
    return corrupt(corruption::outside_file);
  }
  if (overlaps(host_offset, host_offset + cluster_size_)) {
    return corrupt(corruption::overlaps_metadata);
  }
  return {};
}

base::result<void> fixed_areas::check_bytes(uint64_t host_offset, uint64_t length) const noexcept {
  if (host_offset >= file_bytes_ || length > 2 * (uint64_t{1} << max_cluster_bits)) {
    return corrupt(corruption::outside_file);
  }
  if (overlaps(host_offset, host_offset + length)) return corrupt(corruption::overlaps_metadata);
  return {};
}

}  // namespace lbd::qcow2
