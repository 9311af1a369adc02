// SPDX-License-Identifier: MIT
#include "crypto/cipher.h"

#include <gcrypt.h>
#include <openssl/evp.h>

#include <algorithm>
#include <array>
#include <bit>
#include <string>

namespace lbd::crypto {
namespace {

using base::errc;
using base::failure;
using base::outcome;

const unsigned char* in_of(base::bytes_view b) {
  return reinterpret_cast<const unsigned char*>(b.data());
}
unsigned char* out_of(base::bytes_span b) { return reinterpret_cast<unsigned char*>(b.data()); }

// Calls `serve(iv, in, out)` for each unit; once when the mode takes no IV.
template <class Serve>
void each_unit(size_t iv_bytes, base::bytes_view ivs, base::bytes_view in, base::bytes_span out,
               Serve serve) {
  if (iv_bytes == 0) return serve(nullptr, in, out);
  const size_t n = in.size() / (ivs.size() / iv_bytes);
  const unsigned char* iv = in_of(ivs);
  for (size_t at = 0; at < in.size(); at += n, iv += iv_bytes)
    serve(iv, in.subspan(at, n), out.subspan(at, n));
}

struct context_free {
  void operator()(EVP_CIPHER_CTX* c) const { EVP_CIPHER_CTX_free(c); }
};
using context_ptr = std::unique_ptr<EVP_CIPHER_CTX, context_free>;

class openssl_cipher final : public cipher {
 public:
  static outcome<std::unique_ptr<cipher>> make(const std::string& name, base::bytes_view key,
                                               unsigned lanes) {
    EVP_CIPHER* kind = EVP_CIPHER_fetch(nullptr, name.c_str(), nullptr);
    if (kind == nullptr) return failure{errc::noent, "OpenSSL has no cipher '" + name + "'"};
    auto c = std::make_unique<openssl_cipher>();
    c->block_bytes_ = 16;
    c->iv_bytes_ = static_cast<size_t>(EVP_CIPHER_get_iv_length(kind));
    bool good = static_cast<size_t>(EVP_CIPHER_get_key_length(kind)) == key.size();
    for (unsigned i = 0; i < lanes && good; ++i)
      for (const int encrypting : {1, 0}) {
        context_ptr context(EVP_CIPHER_CTX_new());
        good = context && EVP_CipherInit_ex2(context.get(), kind, in_of(key), nullptr, encrypting,
                                             nullptr) == 1;
        if (!good) break;
        EVP_CIPHER_CTX_set_padding(context.get(), 0);
        (encrypting == 1 ? c->encrypting_ : c->decrypting_).push_back(std::move(context));
      }
    EVP_CIPHER_free(kind);
    if (!good) return failure{errc::inval, "OpenSSL refuses the key for '" + name + "'"};
    return std::unique_ptr<cipher>(std::move(c));
  }

  void encrypt(unsigned lane, base::bytes_view ivs, base::bytes_view in,
               base::bytes_span out) override {
    run(*encrypting_[lane], ivs, in, out);
  }
  void decrypt(unsigned lane, base::bytes_view ivs, base::bytes_view in,
               base::bytes_span out) override {
    run(*decrypting_[lane], ivs, in, out);
  }
  size_t block_bytes() const noexcept override { return block_bytes_; }
  size_t iv_bytes() const noexcept override { return iv_bytes_; }

 private:
  // The key stays in the context; only the IV is set for each unit.
  void run(EVP_CIPHER_CTX& context, base::bytes_view ivs, base::bytes_view all,
           base::bytes_span all_out) const {
    each_unit(iv_bytes_, ivs, all, all_out,
              [&context](const unsigned char* iv, base::bytes_view in, base::bytes_span out) {
                int n = 0;
                if (EVP_CipherInit_ex2(&context, nullptr, nullptr, iv, -1, nullptr) != 1 ||
                    EVP_CipherUpdate(&context, out_of(out), &n, in_of(in),
                                     static_cast<int>(in.size())) != 1)
                  std::abort();  // sizes were checked when the cipher was made
              });
  }

  size_t block_bytes_ = 0, iv_bytes_ = 0;
  std::vector<context_ptr> encrypting_, decrypting_;
};

class gcrypt_cipher final : public cipher {
 public:
  gcrypt_cipher(size_t iv_bytes) : iv_bytes_(iv_bytes) {}
  ~gcrypt_cipher() override {
    for (gcry_cipher_hd_t h : lanes_) gcry_cipher_close(h);
  }

  static outcome<std::unique_ptr<cipher>> make(int algorithm, cipher_mode mode,
                                               base::bytes_view key, unsigned lanes) {
    static const bool ready = [] {
      gcry_check_version(nullptr);
      gcry_control(GCRYCTL_INITIALIZATION_FINISHED, 0);
      return true;
    }();
    (void)ready;
    const int gcrypt_mode = mode == cipher_mode::ecb   ? GCRY_CIPHER_MODE_ECB
                            : mode == cipher_mode::cbc ? GCRY_CIPHER_MODE_CBC
                                                       : GCRY_CIPHER_MODE_XTS;
    auto c = std::make_unique<gcrypt_cipher>(mode == cipher_mode::ecb ? 0 : 16);
    for (unsigned i = 0; i < lanes; ++i) {
      gcry_cipher_hd_t h = nullptr;
      if (gcry_cipher_open(&h, algorithm, gcrypt_mode, 0) != 0)
        return failure{errc::noent, "libgcrypt has no such cipher or mode"};
      c->lanes_.push_back(h);
      if (gcry_cipher_setkey(h, key.data(), key.size()) != 0)
        return failure{errc::inval, "libgcrypt refuses the key"};
    }
    return std::unique_ptr<cipher>(std::move(c));
  }

  void encrypt(unsigned lane, base::bytes_view ivs, base::bytes_view in,
               base::bytes_span out) override {
    run(&gcry_cipher_encrypt, lanes_[lane], ivs, in, out);
  }
  void decrypt(unsigned lane, base::bytes_view ivs, base::bytes_view in,
               base::bytes_span out) override {
    run(&gcry_cipher_decrypt, lanes_[lane], ivs, in, out);
  }
  size_t block_bytes() const noexcept override { return 16; }
  size_t iv_bytes() const noexcept override { return iv_bytes_; }

 private:
  using operation = decltype(&gcry_cipher_encrypt);
  void run(operation go, gcry_cipher_hd_t h, base::bytes_view ivs, base::bytes_view all,
           base::bytes_span all_out) const {
    each_unit(iv_bytes_, ivs, all, all_out,
              [this, go, h](const unsigned char* iv, base::bytes_view in, base::bytes_span out) {
                if ((iv != nullptr && gcry_cipher_setiv(h, iv, iv_bytes_) != 0) ||
                    go(h, out.data(), out.size(), in.data(), in.size()) != 0)
                  std::abort();
              });
  }
  const size_t iv_bytes_;
  std::vector<gcry_cipher_hd_t> lanes_;
};

// cipher_null: what goes in comes out. It takes no key.
class null_cipher final : public cipher {
 public:
  void encrypt(unsigned, base::bytes_view, base::bytes_view in, base::bytes_span out) override {
    if (in.data() != out.data()) std::memcpy(out.data(), in.data(), in.size());
  }
  void decrypt(unsigned lane, base::bytes_view iv, base::bytes_view in,
               base::bytes_span out) override {
    encrypt(lane, iv, in, out);
  }
  size_t block_bytes() const noexcept override { return 1; }
  size_t iv_bytes() const noexcept override { return 0; }
};

// libgcrypt's number for a cipher whose key has `bytes` bytes, or 0.
int gcrypt_algorithm(std::string_view name, size_t bytes) {
  if (name == "serpent")
    return bytes == 16   ? GCRY_CIPHER_SERPENT128
           : bytes == 24 ? GCRY_CIPHER_SERPENT192
           : bytes == 32 ? GCRY_CIPHER_SERPENT256
                         : 0;
  return bytes == 16 ? GCRY_CIPHER_TWOFISH128 : bytes == 32 ? GCRY_CIPHER_TWOFISH : 0;
}

}  // namespace

std::optional<cipher_mode> parse_mode(std::string_view name) noexcept {
  if (name == "ecb") return cipher_mode::ecb;
  if (name == "cbc") return cipher_mode::cbc;
  if (name == "xts") return cipher_mode::xts;
  return std::nullopt;
}

outcome<std::unique_ptr<cipher>> cipher::make(std::string_view algorithm, cipher_mode mode,
                                              base::bytes_view key, unsigned lanes) {
  const size_t single = mode == cipher_mode::xts ? key.size() / 2 : key.size();
  if (algorithm == "cipher_null") {
    if (!key.empty()) return failure{errc::inval, "the null cipher takes no key"};
    return std::unique_ptr<cipher>(std::make_unique<null_cipher>());
  }
  if (algorithm == "aes" || algorithm == "camellia") {
    if (single != 16 && single != 24 && single != 32)
      return failure{errc::inval, "a key of this length does not suit the cipher"};
    // libgcrypt's XTS costs about half of OpenSSL's at the length of a disk sector; it takes keys
    // of 192 bits, too, and Camellia's.
    if (mode == cipher_mode::xts) {
      static constexpr int aes[] = {GCRY_CIPHER_AES128, GCRY_CIPHER_AES192, GCRY_CIPHER_AES256};
      static constexpr int camellia[] = {GCRY_CIPHER_CAMELLIA128, GCRY_CIPHER_CAMELLIA192,
                                         GCRY_CIPHER_CAMELLIA256};
      const size_t size = single / 8 - 2;
      return gcrypt_cipher::make(algorithm == "aes" ? aes[size] : camellia[size], mode, key, lanes);
    }
    static constexpr const char* modes[] = {"ECB", "CBC"};
    std::string name = (algorithm == "aes" ? "AES-" : "CAMELLIA-") + std::to_string(single * 8);
    name += std::string("-") + modes[static_cast<int>(mode)];
    return openssl_cipher::make(name, key, lanes);
  }
  if (algorithm == "serpent" || algorithm == "twofish") {
    const int number = gcrypt_algorithm(algorithm, single);
    if (number == 0) return failure{errc::inval, "a key of this length does not suit the cipher"};
    return gcrypt_cipher::make(number, mode, key, lanes);
  }
  return failure{errc::noent, "neither OpenSSL nor libgcrypt is asked for cipher '" +
                                  std::string(algorithm) + "'"};
}

std::optional<std::vector<std::byte>> digest(std::string_view name, base::bytes_view data) {
  EVP_MD* kind = EVP_MD_fetch(nullptr, std::string(name).c_str(), nullptr);
  if (kind == nullptr) return std::nullopt;
  std::vector<std::byte> out(static_cast<size_t>(EVP_MD_get_size(kind)));
  unsigned n = 0;
  const bool good =
      EVP_Digest(data.data(), data.size(), reinterpret_cast<unsigned char*>(out.data()), &n, kind,
                 nullptr) == 1;
  EVP_MD_free(kind);
  if (!good) return std::nullopt;
  return out;
}

// RFC 1321, section 3.4. The libraries only give finished digests.
void md5_state(base::bytes_view data, base::bytes_span out) {
  static const std::array<uint32_t, 64> constants = {
      0xd76aa478, 0xe8c7b756, 0x242070db, 0xc1bdceee, 0xf57c0faf, 0x4787c62a, 0xa8304613,
      0xfd469501, 0x698098d8, 0x8b44f7af, 0xffff5bb1, 0x895cd7be, 0x6b901122, 0xfd987193,
      0xa679438e, 0x49b40821, 0xf61e2562, 0xc040b340, 0x265e5a51, 0xe9b6c7aa, 0xd62f105d,
      0x02441453, 0xd8a1e681, 0xe7d3fbc8, 0x21e1cde6, 0xc33707d6, 0xf4d50d87, 0x455a14ed,
      0xa9e3e905, 0xfcefa3f8, 0x676f02d9, 0x8d2a4c8a, 0xfffa3942, 0x8771f681, 0x6d9d6122,
      0xfde5380c, 0xa4beea44, 0x4bdecfa9, 0xf6bb4b60, 0xbebfbc70, 0x289b7ec6, 0xeaa127fa,
      0xd4ef3085, 0x04881d05, 0xd9d4d039, 0xe6db99e5, 0x1fa27cf8, 0xc4ac5665, 0xf4292244,
      0x432aff97, 0xab9423a7, 0xfc93a039, 0x655b59c3, 0x8f0ccc92, 0xffeff47d, 0x85845dd1,
      0x6fa87e4f, 0xfe2ce6e0, 0xa3014314, 0x4e0811a1, 0xf7537e82, 0xbd3af235, 0x2ad7d2bb,
      0xeb86d391};
  static constexpr int shifts[4][4] = {
      {7, 12, 17, 22}, {5, 9, 14, 20}, {4, 11, 16, 23}, {6, 10, 15, 21}};
  uint32_t state[4] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476};
  for (size_t at = 0; at < data.size(); at += 64) {
    uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
    for (uint32_t i = 0; i < 64; ++i) {
      const uint32_t round = i / 16;
      const uint32_t mix = round == 0   ? (b & c) | (~b & d)
                           : round == 1 ? (d & b) | (~d & c)
                           : round == 2 ? b ^ c ^ d
                                        : c ^ (b | ~d);
      const uint32_t word = round == 0   ? i
                            : round == 1 ? (5 * i + 1) % 16
                            : round == 2 ? (3 * i + 5) % 16
                                         : (7 * i) % 16;
      const uint32_t sum =
          a + mix + constants[i] + base::load_little<uint32_t>(data, at + word * 4);
      a = d;
      d = c;
      c = b;
      b += std::rotl(sum, shifts[round][i % 4]);
    }
    state[0] += a;
    state[1] += b;
    state[2] += c;
    state[3] += d;
  }
  for (size_t i = 0; i < 4; ++i) base::store_little(out, i * 4, state[i]);
}

}  // namespace lbd::crypto
