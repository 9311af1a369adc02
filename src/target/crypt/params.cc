// SPDX-License-Identifier: MIT
#include "target/crypt/params.h"

#include <linux/keyctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

namespace lbd::target {

using base::errc;
using base::failure;
using base::outcome;

namespace {

constexpr size_t options_most = 9;
constexpr uint32_t tag_bytes_most = 480;
constexpr uint32_t sector_bytes_most = 4096;

failure refused(const char* text) { return failure{errc::inval, text}; }

std::string lower(std::string text) {
  for (char& c : text)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c + ('a' - 'A'));
  return text;
}

int hex_value(char c) noexcept {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

outcome<crypto::secret> bad_key(errc code = errc::inval) {
  return failure{code, "Error decoding and setting key"};
}

outcome<crypto::secret> hex_key(const std::string& word) {
  if (word.size() % 2 != 0) return bad_key();
  std::vector<std::byte> bytes(word.size() / 2);
  for (size_t i = 0; i < bytes.size(); ++i) {
    const int high = hex_value(word[2 * i]), low = hex_value(word[2 * i + 1]);
    if (high < 0 || low < 0) return bad_key();
    bytes[i] = static_cast<std::byte>(high << 4 | low);
  }
  crypto::secret key(bytes);
  crypto::wipe_bytes(bytes);
  return key;
}

// ":32:user:name"
outcome<crypto::secret> keyring_key(const std::string& word) {
  const size_t type_at = word.find(':', 1);
  const size_t name_at = type_at == std::string::npos ? type_at : word.find(':', type_at + 1);
  if (name_at == std::string::npos) return refused("Cannot parse key size");
  const auto bytes = block::parse_u32(std::string_view(word).substr(1, type_at - 1));
  if (!bytes) return refused("Cannot parse key size");
  const std::string type = word.substr(type_at + 1, name_at - type_at - 1);
  const std::string name = word.substr(name_at + 1);
  if (type != "user" && type != "logon" && type != "encrypted" && type != "trusted")
    return bad_key();
  const long id = ::syscall(SYS_request_key, type.c_str(), name.c_str(), nullptr, 0);
  if (id < 0) return bad_key(static_cast<errc>(ENOKEY));
  std::vector<std::byte> payload(*bytes);
  const long n = ::syscall(SYS_keyctl, KEYCTL_READ, id, payload.data(), payload.size());
  const bool good = n == static_cast<long>(payload.size());
  crypto::secret key(good ? base::bytes_view(payload) : base::bytes_view{});
  crypto::wipe_bytes(payload);
  if (!good) return bad_key(n < 0 ? static_cast<errc>(ENOKEY) : errc::inval);
  return key;
}

// "integrity:28:aead"
outcome<void> parse_integrity(const std::string& word, crypt_params& p) {
  const size_t colon = word.find(':');
  const size_t second = word.find(':', colon + 1);
  const auto bytes = block::parse_u32(word.substr(colon + 1, second - colon - 1));
  if (!bytes || second == std::string::npos) return refused("Invalid feature arguments");
  if (*bytes == 0 || *bytes > tag_bytes_most) return refused("Invalid integrity arguments");
  const std::string profile = word.substr(second + 1);
  if (profile != "none" && profile != "aead") return refused("Unknown integrity profile");
  p.tag_bytes = *bytes;
  p.authenticates = profile == "aead";
  return {};
}

outcome<void> parse_option(const std::string& given, crypt_params& p) {
  const std::string word = lower(given);
  if (word == "allow_discards") {
    p.allow_discards = true;
  } else if (word == "same_cpu_crypt") {
    p.same_cpu = true;
  } else if (word == "submit_from_crypt_cpus") {
    p.submit_from_crypt_cpus = true;
  } else if (word == "no_read_workqueue") {
    p.no_read_workqueue = true;
  } else if (word == "no_write_workqueue") {
    p.no_write_workqueue = true;
  } else if (word == "iv_large_sectors") {
    p.shape.iv_large_sectors = true;
  } else if (word == "high_priority") {
    p.high_priority = true;
  } else if (word.starts_with("integrity:")) {
    return parse_integrity(word, p);
  } else if (word.starts_with("integrity_key_size:")) {
    const auto n = block::parse_u32(word.substr(19));
    if (!n) return refused("Invalid feature arguments");
    if (*n == 0) return refused("Invalid integrity_key_size argument");
    p.integrity_key_bytes = *n;
  } else if (word.starts_with("sector_size:")) {
    const auto n = block::parse_u32(word.substr(12));
    if (!n || *n < 512 || *n > sector_bytes_most || (*n & (*n - 1)) != 0)
      return refused("Invalid feature value for sector_size");
    p.shape.sector_bytes = *n;
  } else {
    return refused("Invalid feature arguments");
  }
  return {};
}

outcome<void> parse_options(const std::vector<std::string>& args, uint64_t length_sectors,
                            crypt_params& p) {
  if (args.size() <= 5) return {};
  const auto count = block::parse_u32(args[5]);
  if (!count || *count > options_most || *count > args.size() - 6)
    return refused("Invalid number of feature args");
  for (uint32_t i = 0; i < *count; ++i) CHECK(parse_option(args[6 + i], p));
  if (length_sectors % (p.shape.sector_bytes / 512) != 0)
    return refused("Device size is not multiple of sector_size feature");
  return {};
}

}  // namespace

outcome<crypto::secret> parse_crypt_key(const std::string& word) {
  if (word == "-") return crypto::secret();
  if (word.starts_with(":")) return keyring_key(word);
  return hex_key(word);
}

outcome<crypt_params> parse_crypt(const std::vector<std::string>& args, uint64_t length_sectors,
                                  unsigned lanes) {
  crypt_params p;
  p.shape.lanes = lanes;
  CHECK(parse_options(args, length_sectors, p));
  if (p.authenticates && !args[0].starts_with("capi:")) return refused("Bad cipher specification");
  auto spec = crypto::parse_cipher_spec(args[0]);
  if (!spec) return spec.error();
  p.cipher = *std::move(spec);
  if (args[1].starts_with(":")) p.key_word = args[1];
  auto key = parse_crypt_key(args[1]);
  if (!key) return key.error();
  p.key = *std::move(key);
  return p;
}

outcome<uint64_t> parse_crypt_iv_offset(const std::string& word, uint32_t sector_bytes) {
  const auto iv_offset = block::parse_u64(word);
  if (!iv_offset || *iv_offset % (sector_bytes / 512) != 0)
    return refused("Invalid iv_offset sector");
  return *iv_offset;
}

}  // namespace lbd::target
