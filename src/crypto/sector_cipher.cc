// SPDX-License-Identifier: MIT
#include "crypto/sector_cipher.h"

#include <zlib.h>

#include <algorithm>
#include <array>
#include <bit>
#include <vector>

#include "crypto/cipher.h"
#include "crypto/secret.h"

namespace lbd::crypto {
namespace {

using base::bytes_span;
using base::bytes_view;
using base::errc;
using base::failure;
using base::outcome;

constexpr size_t iv_bytes_most = 16;
using iv_block = std::array<std::byte, iv_bytes_most>;

enum class iv_kind {
  none,
  plain,
  plain64,
  plain64be,
  essiv,
  benbi,
  zero,
  lmk,
  tcw,
  eboiv,
  elephant
};

std::optional<iv_kind> parse_iv(std::string_view name) {
  static constexpr std::pair<std::string_view, iv_kind> kinds[] = {
      {"", iv_kind::none},
      {"plain", iv_kind::plain},
      {"plain64", iv_kind::plain64},
      {"plain64be", iv_kind::plain64be},
      {"essiv", iv_kind::essiv},
      {"benbi", iv_kind::benbi},
      {"null", iv_kind::zero},
      {"lmk", iv_kind::lmk},
      {"tcw", iv_kind::tcw},
      {"eboiv", iv_kind::eboiv},
      {"elephant", iv_kind::elephant}};
  for (const auto& [text, kind] : kinds)
    if (text == name) return kind;
  return std::nullopt;
}

// BitLocker's Elephant diffuser over 32-bit little-endian words, in place. Two layers, A and B,
// which differ in rotations, cycles and the direction in which they look.
class elephant {
 public:
  static void encrypt(bytes_span data) {
    words w(data);
    for (int cycle = 0; cycle < a_cycles; ++cycle)
      for (size_t i = w.size(); i-- > 0;) w.set(i, w[i] - w.mixed_a(i));
    for (int cycle = 0; cycle < b_cycles; ++cycle)
      for (size_t i = w.size(); i-- > 0;) w.set(i, w[i] - w.mixed_b(i));
  }
  static void decrypt(bytes_span data) {
    words w(data);
    for (int cycle = 0; cycle < b_cycles; ++cycle)
      for (size_t i = 0; i < w.size(); ++i) w.set(i, w[i] + w.mixed_b(i));
    for (int cycle = 0; cycle < a_cycles; ++cycle)
      for (size_t i = 0; i < w.size(); ++i) w.set(i, w[i] + w.mixed_a(i));
  }

 private:
  static constexpr int a_cycles = 5, b_cycles = 3;
  class words {
   public:
    explicit words(bytes_span data) : data_(data), count_(data.size() / 4) {}
    size_t size() const { return count_; }
    uint32_t operator[](size_t i) const {
      return base::load_little<uint32_t>(data_, i % count_ * 4);
    }
    void set(size_t i, uint32_t v) { base::store_little(data_, i * 4, v); }
    uint32_t mixed_a(size_t i) const {
      static constexpr int turns[4] = {9, 0, 13, 0};
      const words& d = *this;
      return d[i + count_ - 2] ^ std::rotl(d[i + count_ - 5], turns[i % 4]);
    }
    uint32_t mixed_b(size_t i) const {
      static constexpr int turns[4] = {0, 10, 0, 25};
      const words& d = *this;
      return d[i + 2] ^ std::rotl(d[i + 5], turns[i % 4]);
    }

   private:
    bytes_span data_;
    size_t count_;
  };
};

void copy(bytes_span to, bytes_view from) {
  if (to.data() != from.data()) std::memcpy(to.data(), from.data(), from.size());
}

void exclusive_or(bytes_span to, bytes_view with) {
  for (size_t i = 0; i < to.size(); ++i) to[i] ^= with[i % with.size()];
}

class dm_sector_cipher final : public sector_cipher {
 public:
  static outcome<std::unique_ptr<sector_cipher>> make(const cipher_spec& spec, bytes_view key,
                                                      shape s);

  void encrypt(unsigned lane, uint64_t sector, bytes_view in, bytes_span out) override {
    for (size_t at = 0, n = 0; at < in.size(); at += n) {
      n = std::min(in.size() - at, at_once_ * shape_.sector_bytes);
      encrypt_some(lane, sector + at / 512, in.subspan(at, n), out.subspan(at, n));
    }
  }
  void decrypt(unsigned lane, uint64_t sector, bytes_view in, bytes_span out) override {
    for (size_t at = 0, n = 0; at < in.size(); at += n) {
      n = std::min(in.size() - at, at_once_ * shape_.sector_bytes);
      decrypt_some(lane, sector + at / 512, in.subspan(at, n), out.subspan(at, n));
    }
  }

 private:
  static constexpr size_t at_once_most = 64;
  // One for each of the sectors that are done at once.
  class iv_list {
   public:
    explicit iv_list(size_t count) : used_(bytes_span(bytes_).first(count * iv_bytes_most)) {
      std::memset(used_.data(), 0, used_.size());
    }
    bytes_span all() { return used_; }
    bytes_span operator[](size_t i) { return used_.subspan(i * iv_bytes_most, iv_bytes_most); }

   private:
    std::array<std::byte, at_once_most * iv_bytes_most> bytes_;
    bytes_span used_;
  };

  // Not more than at_once_ sectors.
  void encrypt_some(unsigned lane, uint64_t sector, bytes_view in, bytes_span out) {
    iv_list ivs(in.size() / shape_.sector_bytes);
    make_ivs(lane, sector, ivs);
    if (kind_ == iv_kind::lmk) copy(ivs[0], lmk_iv(sector, in));
    if (kind_ == iv_kind::elephant) {
      copy(out, in);
      exclusive_or(out, elephant_stream(lane, sector));
      elephant::encrypt(out);
      in = out;
    }
    bulk(sector).encrypt(lane, ivs.all(), in, out);
    if (kind_ == iv_kind::tcw) whiten(sector, out);
  }

  void decrypt_some(unsigned lane, uint64_t sector, bytes_view in, bytes_span out) {
    iv_list ivs(in.size() / shape_.sector_bytes);
    make_ivs(lane, sector, ivs);
    if (kind_ == iv_kind::tcw) {
      copy(out, in);
      whiten(sector, out);
      in = out;
    }
    bulk(sector).decrypt(lane, ivs.all(), in, out);
    if (kind_ == iv_kind::lmk) exclusive_or(out.first(iv_bytes_most), lmk_iv(sector, out));
    if (kind_ == iv_kind::elephant) {
      elephant::decrypt(out);
      exclusive_or(out, elephant_stream(lane, sector));
    }
  }

  cipher& bulk(uint64_t sector) { return *bulk_[sector & (bulk_.size() - 1)]; }
  uint64_t iv_sector(uint64_t sector) const {
    return shape_.iv_large_sectors ? sector / (shape_.sector_bytes / 512) : sector;
  }

  void make_ivs(unsigned lane, uint64_t sector, iv_list& ivs) {
    const uint64_t step = shape_.sector_bytes / 512;
    const size_t count = ivs.all().size() / iv_bytes_most;
    for (size_t i = 0; i < count; ++i) make_iv(iv_sector(sector + i * step), ivs[i]);
    if (!iv_ciphers_.empty())
      iv_ciphers_[sector & (bulk_.size() - 1)]->encrypt(lane, {}, ivs.all(), ivs.all());
  }

  // `iv` is all zeros, `n` the sector as IVs count.
  void make_iv(uint64_t n, bytes_span iv) const {
    switch (kind_) {
      case iv_kind::none:
      case iv_kind::zero:
      case iv_kind::lmk:
        break;
      case iv_kind::plain:
        base::store_little(iv, 0, static_cast<uint32_t>(n));
        break;
      case iv_kind::plain64:
      case iv_kind::essiv:
        base::store_little(iv, 0, n);
        break;
      case iv_kind::plain64be:
        base::store_big(iv, iv.size() - 8, n);
        break;
      case iv_kind::benbi:
        base::store_big(iv, iv.size() - 8, (n << benbi_shift) + 1);
        break;
      case iv_kind::eboiv:
      case iv_kind::elephant:
        base::store_little(iv, 0, n * shape_.sector_bytes);
        break;
      case iv_kind::tcw:
        std::memcpy(iv.data(), seed_.view().data(), iv.size());
        for (const size_t half : {size_t{0}, size_t{8}})
          base::store_little(iv, half, base::load_little<uint64_t>(iv, half) ^ n);
        break;
    }
  }

  // loop-AES: the IV depends on all of the plaintext but its first 16 bytes.
  iv_block lmk_iv(uint64_t sector, bytes_view plain) const {
    std::array<std::byte, 64 + 512> hashed{};
    const bytes_span all(hashed);
    const size_t seed_bytes = seed_.size() == 0 ? 0 : 64;
    if (seed_bytes != 0)
      std::memcpy(all.data(), seed_.view().data(), std::min<size_t>(seed_.size(), 16));
    const bytes_span text = all.subspan(seed_bytes, 512);
    std::memcpy(text.data(), plain.data() + 16, 496);
    const uint64_t n = iv_sector(sector);
    base::store_little(text, 496, static_cast<uint32_t>(n));
    base::store_little(text, 500, static_cast<uint32_t>((n >> 32 & 0x00ffffff) | 0x80000000u));
    base::store_little(text, 504, uint32_t{4024});
    iv_block iv{};
    md5_state(all.first(seed_bytes + 512), iv);
    return iv;
  }

  // TrueCrypt: a mask made of the sector number and four CRCs.
  void whiten(uint64_t sector, bytes_span data) const {
    iv_block mask{};
    const bytes_span m(mask);
    std::memcpy(mask.data(), whitening_.view().data(), mask.size());
    const uint64_t n = iv_sector(sector);
    for (const size_t half : {size_t{0}, size_t{8}})
      base::store_little(m, half, base::load_little<uint64_t>(m, half) ^ n);
    for (size_t word = 0; word < 16; word += 4) {
      const auto* bytes = reinterpret_cast<const unsigned char*>(mask.data() + word);
      base::store_little(m, word, static_cast<uint32_t>(::crc32(0, bytes, 4)));
    }
    exclusive_or(m.first(4), m.subspan(12, 4));
    exclusive_or(m.subspan(4, 4), m.subspan(8, 4));
    exclusive_or(data, m.first(8));
  }

  std::array<std::byte, 32> elephant_stream(unsigned lane, uint64_t sector) {
    std::array<std::byte, 32> stream{};
    const bytes_span s(stream);
    for (const size_t half : {size_t{0}, size_t{16}}) {
      base::store_little(s, half, iv_sector(sector) * shape_.sector_bytes);
      if (half != 0) stream[31] = std::byte{0x80};
      diffuser_->encrypt(lane, {}, s.subspan(half, 16), s.subspan(half, 16));
    }
    return stream;
  }

  outcome<void> take_extra_key(bytes_view& key, uint32_t& parts);
  outcome<void> make_ciphers(const cipher_spec& spec, cipher_mode mode, bytes_view key,
                             uint32_t parts);

  // What has one key for all sectors, and does nothing but encrypt, is done in one call.
  bool is_plain() const {
    return bulk_.size() == 1 && kind_ != iv_kind::lmk && kind_ != iv_kind::tcw &&
           kind_ != iv_kind::elephant;
  }

  static constexpr unsigned benbi_shift = 5;  // 9 minus the log of the 16-byte block
  shape shape_;
  iv_kind kind_ = iv_kind::none;
  size_t at_once_ = 1;  // sectors
  std::vector<std::unique_ptr<cipher>> bulk_, iv_ciphers_;
  std::unique_ptr<cipher> diffuser_;
  secret seed_, whitening_;
};

// Cuts off what is not a key of the bulk cipher.
outcome<void> dm_sector_cipher::take_extra_key(bytes_view& key, uint32_t& parts) {
  const failure bad_key{errc::inval, "Error decoding and setting key"};
  switch (kind_) {
    case iv_kind::lmk:
      if (shape_.sector_bytes != 512) return failure{errc::inval, "Error creating IV"};
      // One key more than there are ciphers: the seed of version 3.
      if (key.size() % parts != 0) {
        if (key.size() % (parts + 1) != 0) return bad_key;
        const size_t one = key.size() / (parts + 1);
        seed_ = secret(key.last(one));
        key = key.first(key.size() - one);
      }
      return {};
    case iv_kind::tcw:
      if (shape_.sector_bytes != 512) return failure{errc::inval, "Error creating IV"};
      if (key.size() <= 32) return bad_key;
      whitening_ = secret(key.last(16));
      seed_ = secret(key.subspan(key.size() - 32, 16));
      key = key.first(key.size() - 32);
      return {};
    case iv_kind::elephant: {
      if (key.size() % 2 != 0) return bad_key;
      const bytes_view second = key.last(key.size() / 2);
      auto made = cipher::make("aes", cipher_mode::ecb, second, shape_.lanes);
      if (!made) return bad_key;
      diffuser_ = *std::move(made);
      key = key.first(key.size() / 2);
      return {};
    }
    default:
      return {};
  }
}

outcome<void> dm_sector_cipher::make_ciphers(const cipher_spec& spec, cipher_mode mode,
                                             bytes_view key, uint32_t parts) {
  const failure bad_key{errc::inval, "Error decoding and setting key"};
  if (key.size() % parts != 0) return bad_key;
  for (uint32_t i = 0; i < parts; ++i) {
    const bytes_view sub = key.subspan(i * (key.size() / parts), key.size() / parts);
    auto made = cipher::make(spec.algorithm, mode, sub, shape_.lanes);
    if (!made)
      return made.error().code == errc::noent ? failure{errc::noent, "Error allocating crypto tfm"}
                                              : bad_key;
    bulk_.push_back(*std::move(made));
    bytes_view iv_key = sub;
    std::vector<std::byte> salt;
    if (kind_ == iv_kind::essiv) {
      auto hashed = digest(spec.iv_option, sub);
      if (!hashed) return failure{errc::noent, "Error allocating crypto tfm"};
      salt = *std::move(hashed);
      iv_key = salt;
    } else if (kind_ != iv_kind::eboiv && kind_ != iv_kind::elephant) {
      continue;
    }
    auto iv_cipher = cipher::make(spec.algorithm, cipher_mode::ecb, iv_key, shape_.lanes);
    wipe_bytes(salt);
    if (!iv_cipher) return bad_key;
    iv_ciphers_.push_back(*std::move(iv_cipher));
  }
  return {};
}

outcome<std::unique_ptr<sector_cipher>> dm_sector_cipher::make(const cipher_spec& spec,
                                                               bytes_view key, shape s) {
  const auto mode = parse_mode(spec.mode);
  if (!mode) return failure{errc::noent, "Error allocating crypto tfm"};
  auto c = std::make_unique<dm_sector_cipher>();
  c->shape_ = s;
  const bool takes_iv = *mode != cipher_mode::ecb && spec.algorithm != "cipher_null";
  // A cipher without IVs ignores what is said about them.
  const auto kind = takes_iv ? parse_iv(spec.iv) : iv_kind::none;
  if (!kind) return failure{errc::inval, "Invalid IV mode"};
  c->kind_ = *kind;
  if (c->kind_ == iv_kind::essiv && spec.iv_option.empty())
    return failure{errc::inval, "Digest algorithm missing for ESSIV mode"};
  uint32_t parts = spec.key_count;
  CHECK(c->take_extra_key(key, parts));
  CHECK(c->make_ciphers(spec, *mode, key, parts));
  if (c->is_plain()) c->at_once_ = at_once_most;
  return std::unique_ptr<sector_cipher>(std::move(c));
}

}  // namespace

outcome<std::unique_ptr<sector_cipher>> sector_cipher::make(const cipher_spec& spec, bytes_view key,
                                                            shape s) {
  return dm_sector_cipher::make(spec, key, s);
}

}  // namespace lbd::crypto
