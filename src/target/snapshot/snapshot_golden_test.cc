// SPDX-License-Identifier: MIT
// What the kernel did (tests/golden/snapshot.txt), done again: the same status, and the same bytes
// on both disks.
#include <sstream>

#include "../tests/golden/pattern.h"
#include "../tests/golden/transcript.h"
#include "crypto/cipher.h"
#include "target/table_fixture_test.h"

namespace lbd::target {
namespace {

using golden::transcript_command;

// /dev/vda and /dev/vdb of 16384 sectors.
class two_disks final : public stack::source_opener {
 public:
  task<outcome<block::opened_device>> open(std::string source, bool) override {
    if (source == "/dev/vda" || source == "254:0") co_return block::opened_device{a, {254, 0}};
    if (source == "/dev/vdb" || source == "254:16") co_return block::opened_device{b, {254, 16}};
    co_return base::failure{errc::nodev, "no such source"};
  }
  std::shared_ptr<watched_disk> a = std::make_shared<watched_disk>(8u << 20);
  std::shared_ptr<watched_disk> b = std::make_shared<watched_disk>(8u << 20);
};

class snapshot_golden : public table_fixture {
 protected:
  ~snapshot_golden() override { run(manager_.remove_all(false)); }

  std::shared_ptr<block::block_device> device(const std::string& path) {
    if (path == "/dev/vda") return disks_.a;
    if (path == "/dev/vdb") return disks_.b;
    const auto opened = manager_.open(key(path.substr(path.rfind('/') + 1)));
    return opened ? (*opened).device : nullptr;
  }
  static std::string hex(base::bytes_view bytes) {
    static constexpr char digits[] = "0123456789abcdef";
    std::string out;
    for (const std::byte b : bytes) {
      out += digits[static_cast<unsigned>(b) >> 4];
      out += digits[static_cast<unsigned>(b) & 15];
    }
    return out;
  }
  std::string sha256(const std::string& path) {
    const auto d = device(path);
    const std::string all = read(*d, 0, d->limits().size_bytes);
    return hex(*crypto::digest("sha256", base::as_bytes(all)));
  }

  // "fill DEVICE SEED SECTOR COUNT", "scatter DEVICE SEED CHUNK COUNT MUL ADD LENGTH".
  std::string gen(const std::vector<std::string>& w) {
    const auto d = device(w[2]);
    const auto seed = static_cast<uint32_t>(std::stoull(w[3]));
    const uint64_t a = std::stoull(w[4]), n = std::stoull(w[5]);
    if (w[1] == "fill") {
      for (uint64_t done = 0; done < n; done += 256) {
        const std::string text = golden::pattern(seed, a + done, std::min<uint64_t>(256, n - done));
        if (write(*d, (a + done) * 512, text) != errc::ok) return "failed";
      }
      return "";
    }
    const uint64_t mul = std::stoull(w[6]), add = std::stoull(w[7]), length = std::stoull(w[8]);
    const uint64_t chunks = d->limits().size_bytes / 512 / a;
    for (uint64_t i = 0; i < n; ++i) {
      const uint64_t at = (i * mul + add) % chunks * a + i % (a - length + 1);
      if (write(*d, at * 512, golden::pattern(seed, at, length)) != errc::ok)
        return "gen: write " + std::to_string(i) + " at sector " + std::to_string(at) +
               ": Input/output error\n";
    }
    return "";
  }

  std::string dmsetup(const std::string& verb, const std::string& name, const std::string& table) {
    if (verb == "create") {
      std::istringstream words(table);
      stack::table_line l;
      words >> l.start_sector >> l.length_sectors >> l.type;
      std::getline(words >> std::ws, l.args);
      EXPECT_TRUE(manager_.create(name, "", {}));
      const auto loaded = run(manager_.load(key(name), {l}, false));
      EXPECT_TRUE(loaded) << loaded.error().message;
      EXPECT_TRUE(run(manager_.resume(key(name), {})));
      return "";
    }
    if (verb == "suspend") {
      EXPECT_TRUE(run(manager_.suspend(key(name), {})));
    }
    if (verb == "resume") {
      EXPECT_TRUE(run(manager_.resume(key(name), {})));
    }
    if (verb == "remove") {
      EXPECT_TRUE(run(manager_.remove(key(name), false)));
    }
    if (verb != "table" && verb != "status") return "";
    block::status_request q;
    if (verb == "table") q.kind = block::status_kind::table;
    const auto lines = run(manager_.status(key(name), q, false));
    const auto& l = (*lines)[0];
    const std::string args = l.args.empty() ? "" : " " + l.args;
    return std::to_string(l.start_sector) + " " + std::to_string(l.length_sectors) + " " + l.type +
           args + "\n";
  }

  std::string play(const transcript_command& c) {
    std::istringstream in(c.text);
    std::vector<std::string> w;
    for (std::string word; in >> word;) w.push_back(word);
    if (w[0] == "gen") return gen(w);
    if (w[0] == "sha256") return sha256(w[1]) + "\n";
    if (w[0] == "dd") {
      const std::string got = read(*device("/dev/mapper/snap"), 0, 4096);
      return got == "error" ? "dd: /dev/mapper/snap: Input/output error\n"
                            : "1+0 records in\n1+0 records out\n";
    }
    const size_t quote = c.text.find('\'');
    const std::string table =
        quote == std::string::npos ? "" : c.text.substr(quote + 1, c.text.rfind('\'') - quote - 1);
    const std::string name = w[1] == "create" || w.back()[0] == '-' ? w[2] : w.back();
    return dmsetup(w[1], name, table);
  }

  // A merge goes on by itself: until it has come to where the kernel's was.
  void wait_for_status(const std::string& line) {
    for (int i = 0; i < 10'000 && dmsetup("status", "merge", "") != line; ++i) advance(1'000'000);
  }

  void play_group(const std::string& group) {
    int played = 0;
    for (const transcript_command& c : golden::read_transcript(LBD_GOLDEN "/snapshot.txt")) {
      if (c.group != group) continue;
      ++played;
      if (c.text == "dmsetup status merge") wait_for_status(c.output);
      // The suspension lets the chunk end that is being merged.
      if (c.text.starts_with("dmsetup suspend --"))
        wait_for_status("0 16384 snapshot-merge 4888/16384 32\n");
      EXPECT_EQ(play(c), c.output) << c.text;
    }
    EXPECT_GT(played, 10);
  }

  two_disks disks_;
  stack::device_manager manager_{*rt_, disks_};
};

TEST_F(snapshot_golden, chunks_of_8_sectors) { play_group("snapshot-P-8"); }
TEST_F(snapshot_golden, chunks_of_16_sectors) { play_group("snapshot-P-16"); }
TEST_F(snapshot_golden, chunks_of_64_sectors) { play_group("snapshot-P-64"); }
TEST_F(snapshot_golden, a_merge_interrupted) { play_group("snapshot-merge-half-8"); }
TEST_F(snapshot_golden, a_full_store) { play_group("snapshot-overflow-P"); }
TEST_F(snapshot_golden, a_full_store_that_may_be_full) { play_group("snapshot-overflow-PO"); }

}  // namespace
}  // namespace lbd::target
