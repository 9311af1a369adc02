// SPDX-License-Identifier: MIT
// Through real tables, against what the kernel wrote to its disks.
#include <fstream>

#include "../tests/golden/pattern.h"
#include "crypto/cipher.h"
#include "target/table_fixture_test.h"

namespace lbd::target {
namespace {

constexpr uint32_t golden_seed = 2684354960u;

std::string hex(base::bytes_view bytes) {
  static constexpr char digits[] = "0123456789abcdef";
  std::string out;
  for (const std::byte b : bytes) {
    out += digits[static_cast<unsigned>(b) >> 4];
    out += digits[static_cast<unsigned>(b) & 15];
  }
  return out;
}

class crypt : public table_fixture {
 protected:
  using table_fixture::table_fixture;
  static constexpr const char* key_ =
      "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
  static std::string xts(const std::string& rest = "0 /dev/vda 0") {
    return std::string("aes-xts-plain64 ") + key_ + " " + rest;
  }
  std::string table_with_keys() {
    block::status_request q;
    q.kind = block::status_kind::table;
    q.show_keys = true;
    return status_text(q);
  }
  std::string text_ = std::string(512, '?');
};

struct golden_table {
  std::string name, args, sha256;
  uint64_t sectors = 0;
};

// NAME | 0 SECTORS crypt ARGS | BYTES | SHA256
std::vector<golden_table> golden_tables() {
  std::ifstream in(std::string(LBD_GOLDEN) + "/crypt.txt");
  std::vector<golden_table> all;
  for (std::string line; std::getline(in, line);) {
    if (line.empty() || line[0] == '#') continue;
    golden_table g;
    const size_t a = line.find(" | "), b = line.find(" | ", a + 3), c = line.find(" | ", b + 3);
    const std::string words = line.substr(a + 3, b - a - 3);
    const size_t type = words.find(" crypt ");
    g.name = line.substr(0, a);
    g.sectors = std::stoull(words.substr(2, type - 2));
    g.args = words.substr(type + 7);
    g.sha256 = line.substr(c + 3);
    all.push_back(std::move(g));
  }
  return all;
}

TEST_F(crypt, every_golden_table_writes_what_the_kernel_wrote) {
  const auto tables = golden_tables();
  ASSERT_GE(tables.size(), 28u);
  for (const golden_table& g : tables) {
    if (g.name == "adiantum") {
      EXPECT_NE(load("w", "crypt", g.args, g.sectors), "") << "in no library";
      continue;
    }
    const auto d = make("crypt", g.args, g.sectors, g.name);
    ASSERT_TRUE(d) << g.name;
    const std::string plain = golden::pattern(golden_seed, 0, g.sectors);
    ASSERT_EQ(write(*d, 0, plain), errc::ok);
    const uint64_t bytes = g.sectors * 512;
    EXPECT_EQ(hex(*crypto::digest("sha256", sources_.a->bytes(0, bytes))), g.sha256) << g.name;
    EXPECT_TRUE(read(*d, 0, bytes) == plain) << g.name;
    EXPECT_TRUE(read(*d, 8192, 12288) == plain.substr(8192, 12288)) << g.name;
  }
}

TEST_F(crypt, large_requests_and_scattered_memory) {
  const auto d = make("crypt", xts("7 /dev/vda 16"), 8000);
  const std::string plain = golden::pattern(1, 0, 6000);
  ASSERT_EQ(write(*d, 1024, plain), errc::ok);
  EXPECT_TRUE(read(*d, 1024, plain.size()) == plain);
  EXPECT_FALSE(sources_.a->text(16 * 512 + 1024, plain.size()) == plain);
  std::string a(700, '?'), b(3396, '?');
  const iovec parts[] = {{a.data(), a.size()}, {b.data(), b.size()}};
  auto get = [](block::block_device& from, rt::segments to) -> task<bool> {
    co_return bool(co_await block::read(from, 1024, to, {}));
  };
  ASSERT_TRUE(run(get(*d, parts)));
  EXPECT_TRUE(a + b == plain.substr(0, 4096));
}

TEST_F(crypt, requests_that_are_not_whole_crypto_sectors) {
  for (const char* options : {"", " 1 sector_size:4096", " 2 sector_size:2048 iv_large_sectors"}) {
    const auto d = make("crypt", xts("0 /dev/vda 0") + options, 2048, std::string("d") + options);
    std::string model = golden::pattern(2, 0, 2048);
    ASSERT_EQ(write(*d, 0, model), errc::ok);
    uint32_t x = 3;
    for (int i = 0; i < 200; ++i) {
      x = x * 1664525 + 1013904223;
      const uint64_t at = (x >> 4) % 60000, n = 1 + (x >> 12) % 9000;
      const std::string piece(n, static_cast<char>('a' + i % 26));
      ASSERT_EQ(write(*d, at, piece), errc::ok);
      model.replace(at, n, piece);
      ASSERT_TRUE(read(*d, at / 2, n) == model.substr(at / 2, n)) << options << i;
    }
    EXPECT_TRUE(read(*d, 0, model.size()) == model) << options;
  }
}

// Both halves of one crypto sector at once, again and again: neither undoes the other.
TEST_F(crypt, neighbours_in_one_sector_written_at_once) {
  for (const char* options : {"", " 1 sector_size:4096"}) {
    const auto d = make("crypt", xts("0 /dev/vda 0") + options, 2048, std::string("n") + options);
    const size_t half = *options == '\0' ? 256 : 2048;
    for (int i = 0; i < 26; ++i) {
      const std::string left(half, static_cast<char>('a' + i)),
          right(half, static_cast<char>('A' + i));
      const std::string both(8192, '0');
      sources_.a->open.reset();
      const auto whole = start(writing(*d, 0, both, {}));
      const auto l = start(writing(*d, 0, left, {}));
      const auto r = start(writing(*d, half, right, {}));
      settle();
      sources_.a->open.set();
      settle();
      ASSERT_NE(l->at_ns, 0u);
      ASSERT_NE(r->at_ns, 0u);
      ASSERT_NE(whole->at_ns, 0u);
      ASSERT_EQ(read(*d, 0, 2 * half), left + right);
    }
  }
}

// Several cores, which share the work.
class crypt_on_cores : public crypt {
 protected:
  crypt_on_cores() : crypt(*rt::runtime::start({.reactors = 3})) {}

  // All of `text` at once, in requests of `step` bytes.
  static task<bool> write_all(block::block_device& d, std::string text, size_t step) {
    std::vector<task<errc>> all;
    for (size_t at = 0; at < text.size(); at += step)
      all.push_back(writing(d, at, text.substr(at, step), {}));
    bool good = true;
    for (const errc code : co_await rt::when_all(std::move(all))) good &= code == errc::ok;
    co_return good;
  }
  static task<bool> reads(block::block_device& d, const std::string& text, size_t step) {
    std::vector<std::string> parts(text.size() / step, std::string(step, '?'));
    std::vector<task<errc>> all;
    for (size_t i = 0; i < parts.size(); ++i) all.push_back(reading(d, i * step, parts[i], {}));
    bool good = true;
    for (const errc code : co_await rt::when_all(std::move(all))) good &= code == errc::ok;
    for (size_t i = 0; i < parts.size(); ++i) good &= text.compare(i * step, step, parts[i]) == 0;
    co_return good;
  }
};

TEST_F(crypt_on_cores, write_and_read_the_same_as_one) {
  constexpr uint64_t sectors = 6144;
  for (const char* options : {"", " 1 sector_size:4096"}) {
    const std::string name = std::string("o") + options;
    const std::string one =
        *options == '\0' ? " 1 same_cpu_crypt" : " 2 same_cpu_crypt sector_size:4096";
    const auto many = make("crypt", xts("0 /dev/vda 0") + options, sectors, name + "many");
    const auto alone = make("crypt", xts("0 /dev/vdb 0") + one, sectors, name + "one");
    for (const size_t step : {size_t{4096}, size_t{3} << 20}) {
      const std::string plain = golden::pattern(golden_seed, step, sectors);
      ASSERT_TRUE(run(write_all(*many, plain, step)));
      ASSERT_TRUE(run(write_all(*alone, plain, step)));
      EXPECT_TRUE(sources_.a->text(0, plain.size()) == sources_.b->text(0, plain.size()));
      EXPECT_TRUE(run(reads(*many, plain, step)));
      EXPECT_TRUE(run(reads(*alone, plain, step)));
    }
  }
}

TEST_F(crypt, tables_print_again_and_hide_keys) {
  const std::string key = key_, zeros(64, '0');
  (void)make("crypt", xts("8 /dev/vda 3"));
  EXPECT_EQ(table_with_keys(), "aes-xts-plain64 " + key + " 8 254:0 3");
  EXPECT_EQ(table(), "aes-xts-plain64 " + zeros + " 8 254:0 3");
  EXPECT_EQ(status(), "");
  (void)make("crypt", xts("8 254:0 0 6 SECTOR_SIZE:4096 no_write_workqueue allow_discards "
                          "no_read_workqueue same_cpu_crypt submit_from_crypt_cpus"));
  EXPECT_EQ(table(), "aes-xts-plain64 " + zeros +
                         " 8 254:0 0 6 allow_discards same_cpu_crypt submit_from_crypt_cpus "
                         "no_read_workqueue no_write_workqueue sector_size:4096");
  (void)make("crypt", xts("0 254:0 0 5 integrity_key_size:32 integrity:16:none high_priority "
                          "iv_large_sectors ALLOW_discards"));
  EXPECT_EQ(table(), "aes-xts-plain64 " + zeros +
                         " 0 254:0 0 5 allow_discards high_priority integrity:16:none "
                         "iv_large_sectors integrity_key_size:32");
  (void)make("crypt", "cipher_null-ecb - 0 /dev/vda 0");
  EXPECT_EQ(table(), "cipher_null-ecb - 0 254:0 0");
}

TEST_F(crypt, keys_are_wiped_and_set_while_suspended) {
  const auto d = make("crypt", xts());
  const std::string plain = golden::pattern(4, 0, 8);
  ASSERT_EQ(write(*d, 0, plain), errc::ok);
  EXPECT_EQ(message({"key", "wipe"}), "error: not suspended during key manipulation.");
  suspend("d");
  EXPECT_EQ(message({"KEY", "Wipe"}), "");
  EXPECT_EQ(table_with_keys(), "aes-xts-plain64 " + std::string(64, '0') + " 0 254:0 0");
  EXPECT_EQ(resume("d"), "table: 253:0: crypt: preresume failed, error = -11");
  const auto waiting = start(reading(*d, 0, text_, {}));
  settle();
  EXPECT_EQ(waiting->at_ns, 0u) << "held until there is a key";
  EXPECT_EQ(message({"key", "set", "00"}), "error: the new key has another length");
  EXPECT_EQ(message({"key", "set", key_}), "");
  EXPECT_EQ(resume("d"), "");
  settle();
  EXPECT_NE(waiting->at_ns, 0u);
  EXPECT_EQ(text_, plain.substr(0, 512));
  EXPECT_EQ(message({"other"}), "error: unrecognised message received.");
}

TEST_F(crypt, ciphers_that_no_library_has_are_named_and_misplaced_keys_are_not) {
  auto why = [this](const std::string& args) {
    EXPECT_EQ(load("w", "crypt", args), "Error allocating crypto tfm (-ENOENT)");
    return why_;
  };
  const std::string rest = std::string(" ") + key_ + " 0 /dev/vda 0";
  for (const char* cipher :
       {"xchacha12,aes-adiantum-plain64", "aes-lrw-plain64", "anubis-cbc-plain",
        "capi:adiantum(xchacha12,aes)-plain64", "aes-cbc-essiv:nosuch"})
    EXPECT_NE(why(cipher + rest).find("'" + std::string(cipher) + "'"), std::string::npos);
  const std::string misplaced = why(key_ + rest);
  EXPECT_NE(misplaced.find("these digits"), std::string::npos);
  EXPECT_EQ(misplaced.find(key_), std::string::npos);
}

TEST_F(crypt, discards_only_when_allowed) {
  const auto no = make("crypt", xts());
  EXPECT_EQ(run(discarding(*no, 0, 4096)), errc::notsup);
  EXPECT_FALSE(no->limits().can_discard);
  const auto yes = make("crypt", xts("0 /dev/vda 8 1 allow_discards"), 2048, "e");
  sources_.a->seen.clear();
  EXPECT_EQ(run(discarding(*yes, 4096, 4096)), errc::ok);
  EXPECT_EQ(sources_.a->seen, std::vector<std::string>{"discard 16+8"});
}

TEST_F(crypt, wrong_lines) {
  const std::string key = key_;
  const std::pair<std::string, const char*> lines[] = {
      {"aes-xts-plain64 " + key + " 0 /dev/vda", "Not enough arguments (-EINVAL)"},
      {"aes-xts-plain64 " + key + "0 0 /dev/vda 0", "Error decoding and setting key (-EINVAL)"},
      {"aes-xts-plain64 zz 0 /dev/vda 0", "Error decoding and setting key (-EINVAL)"},
      {"aes-xts-plain64 00 0 /dev/vda 0", "Error decoding and setting key (-EINVAL)"},
      {"nosuch-xts-plain64 " + key + " 0 /dev/vda 0", "Error allocating crypto tfm (-ENOENT)"},
      {"aes-xts-plain64 " + key + " x /dev/no x", "Invalid iv_offset sector (-EINVAL)"},
      {xts("0 /dev/no x"), "Device lookup failed (-ENODEV)"},
      {xts("x /dev/vda 0"), "Invalid iv_offset sector (-EINVAL)"},
      {xts("1 /dev/vda 0 1 sector_size:4096"), "Invalid iv_offset sector (-EINVAL)"},
      {xts("0 /dev/vda x"), "Invalid device sector (-EINVAL)"},
      {xts("0 /dev/no 0"), "Device lookup failed (-ENODEV)"},
      {xts("0 /dev/vda 0 x"), "Invalid number of feature args (-EINVAL)"},
      {xts("0 /dev/vda 0 1 other"), "Invalid feature arguments (-EINVAL)"},
      {xts("0 /dev/vda 0 1 sector_size:1000"), "Invalid feature value for sector_size (-EINVAL)"},
      {xts("0 /dev/vda 0 1 integrity:0:none"), "Invalid integrity arguments (-EINVAL)"},
      {xts("0 /dev/vda 0 1 integrity:481:none"), "Invalid integrity arguments (-EINVAL)"},
      {xts("0 /dev/vda 0 1 integrity:16:other"), "Unknown integrity profile (-EINVAL)"},
      {xts("0 /dev/vda 0 1 integrity:x:none"), "Invalid feature arguments (-EINVAL)"},
      {xts("0 /dev/vda 0 1 integrity_key_size:0"), "Invalid integrity_key_size argument (-EINVAL)"},
      {xts("0 /dev/vda 0 1 integrity:16:aead"), "Bad cipher specification (-EINVAL)"},
      {"capi:gcm(aes)-random " + key + " 0 /dev/vda 0 1 integrity:28:aead",
       "Integrity profile not supported. (-EINVAL)"},
      {"aes-xts-random " + key + " 0 /dev/vda 0", "Integrity profile not supported. (-EINVAL)"},
  };
  for (const auto& [args, text] : lines) EXPECT_EQ(load("w", "crypt", args), text) << args;
  EXPECT_EQ(load("w", "crypt", xts("0 /dev/vda 0 1 sector_size:4096"), 2047),
            "Device size is not multiple of sector_size feature (-EINVAL)");
}

}  // namespace
}  // namespace lbd::target
