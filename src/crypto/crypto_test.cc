// SPDX-License-Identifier: MIT
// The judge is the kernel: tests/golden/crypt.txt has the digests of what it wrote.
#include <gtest/gtest.h>
#include <openssl/evp.h>
#include <sys/prctl.h>

#include <fstream>
#include <sstream>

#include "../tests/golden/pattern.h"
#include "crypto/cipher.h"
#include "crypto/secret.h"
#include "crypto/sector_cipher.h"

namespace lbd::crypto {
namespace {

using base::bytes_span;
using base::bytes_view;

std::string hex(bytes_view b) {
  std::string out;
  for (const std::byte v : b) {
    char two[3];
    std::snprintf(two, sizeof two, "%02x", static_cast<unsigned>(v));
    out += two;
  }
  return out;
}
std::vector<std::byte> unhex(const std::string& text) {
  std::vector<std::byte> out;
  if (text == "-") return out;
  for (size_t i = 0; i + 1 < text.size(); i += 2)
    out.push_back(static_cast<std::byte>(std::stoi(text.substr(i, 2), nullptr, 16)));
  return out;
}

struct golden_disk {
  std::string name, spec, key, sha256;
  uint64_t iv_offset = 0, bytes = 0;
  sector_cipher::shape shape;
};

std::vector<golden_disk> golden_disks() {
  std::ifstream in(std::string(LBD_GOLDEN) + "/crypt.txt");
  std::vector<golden_disk> all;
  for (std::string line; std::getline(in, line);) {
    if (line.empty() || line[0] == '#') continue;
    std::istringstream words(line);
    golden_disk d;
    std::string bar, word;
    uint64_t start = 0, length = 0, at = 0;
    words >> d.name >> bar >> start >> length >> word >> d.spec >> d.key >> d.iv_offset >> word >>
        at;
    while (words >> word && word != "|") {
      if (word.starts_with("sector_size:"))
        d.shape.sector_bytes = static_cast<uint32_t>(std::stoul(word.substr(12)));
      if (word == "iv_large_sectors") d.shape.iv_large_sectors = true;
    }
    words >> d.bytes >> bar >> d.sha256;
    all.push_back(d);
  }
  return all;
}

TEST(golden_crypt, every_cipher_writes_and_reads_as_the_kernel_does) {
  const auto disks = golden_disks();
  ASSERT_GE(disks.size(), 28u);
  for (const golden_disk& d : disks) {
    const auto spec = parse_cipher_spec(d.spec);
    if (d.name == "adiantum") {
      EXPECT_TRUE(!spec || !sector_cipher::make(*spec, unhex(d.key), d.shape));
      continue;
    }
    ASSERT_TRUE(spec) << d.name << ": " << spec.error().message;
    auto cipher = sector_cipher::make(*spec, unhex(d.key), d.shape);
    ASSERT_TRUE(cipher) << d.name << ": " << cipher.error().message;
    const std::string plain = golden::pattern(2684354960u, 0, d.bytes / 512);
    std::string secret_text(plain.size(), '\0'), back(plain.size(), '\0');
    const size_t n = d.shape.sector_bytes;
    for (size_t at = 0; at < plain.size(); at += n) {
      const uint64_t sector = d.iv_offset + at / 512;
      const bytes_span out = std::as_writable_bytes(std::span(secret_text)).subspan(at, n);
      (*cipher)->encrypt(0, sector, base::as_bytes(plain).subspan(at, n), out);
      (*cipher)->decrypt(0, sector, out, std::as_writable_bytes(std::span(back)).subspan(at, n));
    }
    EXPECT_EQ(hex(*digest("sha256", base::as_bytes(secret_text))), d.sha256) << d.name;
    EXPECT_TRUE(back == plain) << d.name;
    // All sectors in one call, and in place.
    std::string whole = plain;
    const bytes_span all = std::as_writable_bytes(std::span(whole));
    (*cipher)->encrypt(0, d.iv_offset, all, all);
    EXPECT_TRUE(whole == secret_text) << d.name;
    (*cipher)->decrypt(0, d.iv_offset, all, all);
    EXPECT_TRUE(whole == plain) << d.name;
  }
}

TEST(cipher_spec, wrong_ones_say_what_the_kernel_says) {
  auto text = [](const char* spec) {
    const auto r = parse_cipher_spec(spec);
    return r ? std::string("ok") : r.error().message;
  };
  EXPECT_EQ(text("aes:3-cbc-plain"), "Bad cipher key count specification");
  EXPECT_EQ(text("aes:0-cbc-plain"), "Bad cipher key count specification");
  EXPECT_EQ(text("aes:x-cbc-plain"), "Bad cipher key count specification");
  EXPECT_EQ(text("aes-xts"), "IV mechanism required");
  EXPECT_EQ(text("xts(aes)-plain"), "Bad cipher specification");
  EXPECT_EQ(parse_cipher_spec("aes")->mode, "cbc");
  EXPECT_EQ(parse_cipher_spec("aes-plain")->iv, "plain");
  EXPECT_EQ(parse_cipher_spec("aes-cbc-essiv:sha256")->iv_option, "sha256");
}

TEST(sector_cipher, refuses_what_the_libraries_do_not_have) {
  auto make = [](const char* spec, size_t key_bytes) {
    const std::vector<std::byte> key(key_bytes, std::byte{7});
    const auto r = sector_cipher::make(*parse_cipher_spec(spec), key, {});
    return r ? std::string("ok") : r.error().message;
  };
  EXPECT_EQ(make("nosuch-cbc-plain", 32), "Error allocating crypto tfm");
  EXPECT_EQ(make("AES-cbc-plain", 32), "Error allocating crypto tfm");
  EXPECT_EQ(make("aes-cbc-plain-x", 32), "Invalid IV mode");
  EXPECT_EQ(make("aes-cbc-plain", 31), "Error decoding and setting key");
  EXPECT_EQ(make("aes-cbc-essiv:nosuch", 32), "Error allocating crypto tfm");
  EXPECT_EQ(make("aes-cbc-essiv", 32), "Digest algorithm missing for ESSIV mode");
  EXPECT_EQ(make("aes-cbc-essiv:sha1", 32), "Error decoding and setting key");
  EXPECT_EQ(make("aes-cbc-tcw", 32), "Error decoding and setting key");
}

// What OpenSSL does not have in XTS mode, made of its single blocks as IEEE 1619 describes the
// mode.
void compare_xts(std::string_view algorithm, size_t key_bytes) {
  const size_t half = key_bytes / 2;
  std::vector<std::byte> key(key_bytes), iv(16), plain(16 * 32), done(plain.size());
  uint32_t x = 9;
  for (auto* bytes : {&key, &iv, &plain})
    for (std::byte& b : *bytes) b = static_cast<std::byte>((x = x * 1664525 + 1013904223) >> 24);
  const auto first = cipher::make(algorithm, cipher_mode::ecb, bytes_view(key).first(half), 1);
  const auto second = cipher::make(algorithm, cipher_mode::ecb, bytes_view(key).last(half), 1);
  const auto ours = cipher::make(algorithm, cipher_mode::xts, key, 1);
  ASSERT_TRUE(first && second && ours);
  std::vector<std::byte> tweak(iv), expected(plain);
  (*second)->encrypt(0, {}, tweak, tweak);
  for (size_t at = 0; at < expected.size(); at += 16) {
    const bytes_span block = bytes_span(expected).subspan(at, 16);
    for (size_t i = 0; i < 16; ++i) block[i] ^= tweak[i];
    (*first)->encrypt(0, {}, block, block);
    for (size_t i = 0; i < 16; ++i) block[i] ^= tweak[i];
    bool carry = false;
    for (std::byte& b : tweak) {
      const bool out = (b & std::byte{0x80}) != std::byte{0};
      b = b << 1 | std::byte{static_cast<unsigned char>(carry ? 1 : 0)};
      carry = out;
    }
    if (carry) tweak[0] ^= std::byte{0x87};
  }
  (*ours)->encrypt(0, iv, plain, done);
  EXPECT_EQ(hex(done), hex(expected));
  (*ours)->decrypt(0, iv, done, done);
  EXPECT_EQ(hex(done), hex(plain));
}

TEST(cipher, xts_that_openssl_does_not_have) {
  compare_xts("aes", 48);
  for (const size_t key_bytes : {size_t{32}, size_t{48}, size_t{64}})
    compare_xts("camellia", key_bytes);
}

// The library that does the work against the other one, at every length, in place too.
TEST(cipher, aes_xts_agrees_with_openssl_at_every_length) {
  for (const size_t key_bytes : {size_t{32}, size_t{64}}) {
    std::vector<std::byte> key(key_bytes), iv(16), plain(16 * 70), done(plain.size());
    uint32_t x = 5;
    for (auto* bytes : {&key, &iv, &plain})
      for (std::byte& b : *bytes) b = static_cast<std::byte>((x = x * 1664525 + 1013904223) >> 24);
    const auto ours = cipher::make("aes", cipher_mode::xts, key, 1);
    ASSERT_TRUE(ours);
    const EVP_CIPHER* kind = key_bytes == 32 ? EVP_aes_128_xts() : EVP_aes_256_xts();
    EVP_CIPHER_CTX* c = EVP_CIPHER_CTX_new();
    for (size_t n = 16; n <= plain.size(); n += 16) {
      std::vector<std::byte> expected(n);
      int written = 0;
      EVP_EncryptInit_ex(c, kind, nullptr, reinterpret_cast<unsigned char*>(key.data()),
                         reinterpret_cast<unsigned char*>(iv.data()));
      EVP_EncryptUpdate(c, reinterpret_cast<unsigned char*>(expected.data()), &written,
                        reinterpret_cast<unsigned char*>(plain.data()), static_cast<int>(n));
      const bytes_span out = bytes_span(done).first(n);
      (*ours)->encrypt(0, iv, bytes_view(plain).first(n), out);
      ASSERT_EQ(hex(out), hex(expected)) << n;
      (*ours)->decrypt(0, iv, out, out);
      ASSERT_EQ(hex(out), hex(bytes_view(plain).first(n))) << n;
    }
    EVP_CIPHER_CTX_free(c);
  }
}

std::vector<std::byte> noise(size_t bytes, uint32_t x) {
  std::vector<std::byte> out(bytes);
  for (std::byte& b : out) b = static_cast<std::byte>((x = x * 1664525 + 1013904223) >> 24);
  return out;
}

struct number_128 {
  uint64_t low, high;
};

// Units in one call, whose IVs follow each other or do not, against OpenSSL, which gets each of
// them.
TEST(cipher, xts_units_with_any_ivs_agree_with_openssl) {
  constexpr uint64_t most = UINT64_MAX;
  constexpr number_128 numbers[] = {
      {0, 0},           {1, 0},          {2, 0}, {2, 0},          {1, 0},
      {0xffffffff, 0},  {1ull << 32, 0}, {5, 0}, {0xffffffff, 0}, {0, 0},
      {most, 0},        {0, 1},          {1, 1}, {most, 1},       {0, 1},
      {most - 1, most}, {most, most},    {0, 0}, {most, 0},       {0, 0},
      {7, 0},           {8, 1},          {9, 1}, {11, 1},         {12, 1}};
  constexpr size_t count = std::size(numbers);
  std::vector<std::byte> ivs(16 * count);
  for (size_t i = 0; i < count; ++i) {
    base::store_little(bytes_span(ivs), i * 16, numbers[i].low);
    base::store_little(bytes_span(ivs), i * 16 + 8, numbers[i].high);
  }
  const auto key = noise(64, 3);
  const auto ours = cipher::make("aes", cipher_mode::xts, key, 1);
  ASSERT_TRUE(ours);
  EVP_CIPHER_CTX* c = EVP_CIPHER_CTX_new();
  for (const size_t unit : {size_t{16}, size_t{512}, size_t{4096}}) {
    const auto plain = noise(unit * count, 11);
    std::vector<std::byte> expected(plain.size()), done(plain.size());
    for (size_t i = 0; i < count; ++i) {
      int written = 0;
      EVP_EncryptInit_ex(c, EVP_aes_256_xts(), nullptr,
                         reinterpret_cast<const unsigned char*>(key.data()),
                         reinterpret_cast<const unsigned char*>(ivs.data() + i * 16));
      EVP_EncryptUpdate(c, reinterpret_cast<unsigned char*>(expected.data() + i * unit), &written,
                        reinterpret_cast<const unsigned char*>(plain.data() + i * unit),
                        static_cast<int>(unit));
    }
    (*ours)->encrypt(0, ivs, plain, done);
    EXPECT_TRUE(done == expected) << unit;
    (*ours)->decrypt(0, ivs, done, done);
    EXPECT_TRUE(done == plain) << unit;
  }
  EVP_CIPHER_CTX_free(c);
}

TEST(sector_cipher, many_sectors_at_once_are_as_one_after_the_other) {
  const auto key = noise(64, 4);
  constexpr uint64_t begins[] = {0, 1024, (uint64_t{1} << 32) - 72, UINT64_MAX - 127};
  for (const char* text :
       {"aes-xts-plain", "aes-xts-plain64", "aes-xts-plain64be", "aes-xts-null", "aes-xts-benbi",
        "aes-cbc-eboiv", "aes-xts-essiv:sha256", "serpent-xts-plain64", "twofish-xts-plain64",
        "camellia-xts-plain64", "aes-cbc-plain64", "serpent-cbc-plain64"})
    for (const uint32_t bytes : {512u, 1024u, 4096u})
      for (const bool large : {false, true}) {
        const auto spec = parse_cipher_spec(text);
        const bool is_cbc = spec->mode == "cbc";
        const sector_cipher::shape shape{bytes, large, 1};
        const auto cipher =
            sector_cipher::make(*spec, bytes_view(key).first(is_cbc ? 32 : 64), shape);
        ASSERT_TRUE(cipher) << text << ": " << cipher.error().message;
        for (const uint64_t begin : begins) {
          const auto plain = noise(size_t{128} * 512, 12);
          std::vector<std::byte> expected(plain.size()), done(plain.size());
          for (size_t at = 0; at < plain.size(); at += bytes)
            (*cipher)->encrypt(0, begin + at / 512, bytes_view(plain).subspan(at, bytes),
                               bytes_span(expected).subspan(at, bytes));
          (*cipher)->encrypt(0, begin, plain, done);
          EXPECT_TRUE(done == expected) << text << bytes << large << begin;
          (*cipher)->decrypt(0, begin, done, done);
          EXPECT_TRUE(done == plain) << text << bytes << large << begin;
        }
      }
}

TEST(secret, keeps_the_process_from_dumping_core) {
  const std::vector<std::byte> key(32, std::byte{0x5a});
  const secret s{bytes_view(key)};
  EXPECT_EQ(::prctl(PR_GET_DUMPABLE), 0);
}

TEST(secret, is_wiped) {
  secret s(base::as_bytes("very secret"));
  EXPECT_EQ(base::as_text(s.view()), "very secret");
  s.wipe();
  EXPECT_EQ(s.size(), 0u);
}

}  // namespace
}  // namespace lbd::crypto
