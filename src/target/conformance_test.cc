// SPDX-License-Identifier: MIT
// What every target owes its clients, whatever it does: one table per type, and a plain model
// beside it.
#include <map>

#include "block/target_registry.h"
#include "target/table_fixture_test.h"

namespace lbd::target {
namespace {

constexpr uint64_t sectors = 4096, size_bytes = sectors * 512;

struct sample {
  const char* type;
  const char* args;
  bool keeps_data = true;  // reads give what was written
  bool reloads = true;     // a second table of the same line may be loaded beside the first
  bool heals = true;       // works again when the devices below do
};

// The first of a type is the plainest.
constexpr sample samples[] = {
    {"linear", "/dev/vda 8"},
    {"striped", "2 16 /dev/vda 0 /dev/vdb 24"},
    {"striped", "1 6 /dev/vda 0"},
    {"zero", "", false},
    {"error", "", false},
    {"delay", "/dev/vda 0 30"},
    {"delay", "/dev/vda 0 0 /dev/vda 0 5 /dev/vda 0 7"},
    {"flakey", "/dev/vda 16 60 0"},
    {"flakey", "/dev/vda 16 0 60 5 corrupt_bio_byte 4000000000 r 1 0"},
    {"log-writes", "/dev/vda /dev/vdb"},
    {"multipath", "0 0 1 1 queue-length 0 2 0 /dev/vda /dev/vda"},
    {"crypt",
     "aes-xts-plain64 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f 0 "
     "/dev/vda 8 1 allow_discards"},
    {"crypt",
     "aes-cbc-essiv:sha256 000102030405060708090a0b0c0d0e0f 0 /dev/vda 0 1 "
     "sector_size:4096"},
    {"snapshot", "/dev/vda /dev/vdb P 16", true, true, false},
    {"snapshot", "/dev/vda /dev/vdb N 8 2 discard_zeroes_cow discard_passdown_origin", true, true,
     false},
    {"snapshot-origin", "/dev/vda"},
    {"snapshot-merge", "/dev/vda /dev/vdb P 16 1 discard_zeroes_cow", true, false},
};

class conformance : public table_fixture, public testing::WithParamInterface<sample> {
 protected:
  // Striped over chunks of 6 sectors needs another length.
  static uint64_t length() {
    return std::string(GetParam().args).starts_with("1 6 ") ? sectors / 6 * 6 : sectors;
  }
  std::shared_ptr<block::block_device> device() {
    return make(GetParam().type, GetParam().args, length());
  }
  uint32_t draw() { return x_ = x_ * 1664525 + 1013904223; }
  std::string some(size_t n) {
    std::string text(n, '\0');
    for (char& c : text) c = static_cast<char>(draw() >> 24);
    return text;
  }
  static task<result<void>> asked(block::block_device& d, uint64_t at, uint64_t n,
                                  block::extent_list& out) {
    return d.extents(at, n, out, {});
  }
  uint32_t x_ = 7;
};

TEST_P(conformance, reads_give_what_was_written) {
  if (!GetParam().keeps_data) GTEST_SKIP() << "keeps nothing";
  const auto d = device();
  std::string model(length() * 512, '\0');
  ASSERT_EQ(write(*d, 0, model), errc::ok);
  for (int i = 0; i < 300; ++i) {
    const bool whole = draw() >> 31 != 0;
    const uint64_t unit = whole ? 512 : 1, most = 40'000;
    const uint64_t at = (draw() >> 4) % (model.size() - 2 * most) / unit * unit;
    const uint64_t n = (1 + (draw() >> 4) % most / unit) * unit;
    switch ((draw() >> 20) % 8) {
      case 0:
        ASSERT_EQ(run(zeroing(*d, at, n)), errc::ok);
        model.replace(at, n, n, '\0');
        break;
      case 1:
        ASSERT_EQ(flush(*d), errc::ok);
        break;
      case 2:
      case 3:
      case 4: {
        const std::string text = some(n);
        block::io_opts io;
        io.flags = whole ? block::io_fua : 0;
        ASSERT_EQ(write(*d, at, text, io), errc::ok);
        model.replace(at, n, text);
        break;
      }
      default:
        ASSERT_TRUE(read(*d, at, n) == model.substr(at, n)) << at << "+" << n;
    }
  }
  EXPECT_TRUE(read(*d, 0, model.size()) == model);
}

TEST_P(conformance, requests_outside_and_at_the_end) {
  const auto d = device();
  EXPECT_EQ(d->limits().size_bytes, length() * 512);
  EXPECT_EQ(read(*d, length() * 512 - 512, 1024), "error");
  EXPECT_EQ(write(*d, length() * 512, std::string(512, 'x')), errc::inval);
  if (!GetParam().keeps_data) return;
  const std::string text = some(4096);
  ASSERT_EQ(write(*d, length() * 512 - 4096, text), errc::ok);
  EXPECT_EQ(read(*d, length() * 512 - 4096, 4096), text);
}

// Two lines, and a request across both.
TEST_P(conformance, requests_across_lines_are_split) {
  if (!GetParam().keeps_data) GTEST_SKIP() << "keeps nothing";
  ASSERT_TRUE(m_.create("two", "", {}));
  const std::string type = GetParam().type, args = GetParam().args;
  if (type == "log-writes") GTEST_SKIP() << "keeps the sectors of the mapped device";
  if (type == "multipath") GTEST_SKIP() << "is alone in its table";
  std::vector<stack::table_line> lines;
  lines.push_back({0, 96, type, args});
  lines.push_back({96, 48, "linear", "/dev/vdb 7000"});
  const auto loaded = run(m_.load(key("two"), std::move(lines), false));
  ASSERT_TRUE(loaded) << loaded.error().message;
  ASSERT_EQ(resume("two"), "");
  const auto d = (*m_.open(key("two"))).device;
  const std::string text = some(144 * 512);
  ASSERT_EQ(write(*d, 0, text), errc::ok);
  EXPECT_TRUE(read(*d, 0, text.size()) == text);
  EXPECT_EQ(sources_.b->text(7000 * 512, 512), text.substr(96 * 512, 512));
}

TEST_P(conformance, discarding_harms_nobody_else) {
  if (!GetParam().keeps_data) GTEST_SKIP() << "keeps nothing";
  const auto d = device();
  const std::string text = some(size_bytes / 4);
  ASSERT_EQ(write(*d, 0, text), errc::ok);
  const uint64_t at = 100'003, n = 200'001;
  const errc code = run(discarding(*d, at, n));
  EXPECT_TRUE(code == errc::ok || code == errc::notsup);
  EXPECT_TRUE(read(*d, 0, at) == text.substr(0, at));
  EXPECT_TRUE(read(*d, at + n, text.size() - at - n) == text.substr(at + n));
}

TEST_P(conformance, extents_agree_with_reads) {
  if (std::string(GetParam().type) == "error") GTEST_SKIP() << "cannot be read";
  const auto d = device();
  if (GetParam().keeps_data) {
    ASSERT_EQ(write(*d, 300'000, some(70'000)), errc::ok);
  }
  for (const uint64_t begin : {uint64_t{0}, uint64_t{4097}, uint64_t{299'001}}) {
    const uint64_t length_bytes = 500'001;
    for (uint64_t at = begin; at < begin + length_bytes;) {
      block::extent_list runs;
      ASSERT_TRUE(run(asked(*d, at, begin + length_bytes - at, runs)));
      ASSERT_GT(runs.total_bytes(), 0u);
      ASSERT_LE(runs.total_bytes(), begin + length_bytes - at);
      for (const block::extent& e : runs.runs()) {
        if (e.zero) {
          EXPECT_TRUE(read(*d, at, e.length_bytes) == std::string(e.length_bytes, '\0')) << at;
        }
        at += e.length_bytes;
      }
    }
  }
}

TEST_P(conformance, what_the_table_prints_can_be_loaded_again) {
  if (!GetParam().reloads) GTEST_SKIP() << "the kernel refuses it too";
  const auto d = device();
  block::status_request q;
  q.kind = block::status_kind::table;
  q.show_keys = true;
  const std::string printed = status_text(q);
  const std::string text = GetParam().keeps_data ? some(65536) : std::string();
  if (!text.empty()) {
    ASSERT_EQ(write(*d, 0, text), errc::ok);
  }
  ASSERT_EQ(load("d", GetParam().type, printed, length()), "") << printed;
  ASSERT_EQ(resume("d"), "");
  EXPECT_EQ(status_text(q), printed);
  if (!text.empty()) {
    EXPECT_TRUE(read(*d, 0, text.size()) == text);
  }
}

TEST_P(conformance, suspending_under_load_loses_nothing) {
  if (!GetParam().keeps_data) GTEST_SKIP() << "keeps nothing";
  const auto d = device();
  std::string model(64 * 4096, '\0');
  std::vector<std::shared_ptr<outcome_of>> all;
  auto send = [&](unsigned i) {
    const std::string text = some(4096);
    model.replace(i * 4096, 4096, text);
    all.push_back(start(writing(*d, i * 4096, text, {})));
  };
  for (unsigned i = 0; i < 32; ++i) send(i);
  all.push_back(start(flushing(*d, {})));
  suspend("d");
  for (const auto& request : all) {
    EXPECT_NE(request->at_ns, 0u) << "nothing is in flight any more";
    EXPECT_EQ(request->code, errc::ok);
  }
  all.clear();
  for (unsigned i = 32; i < 64; ++i) send(i);
  settle();
  for (const auto& request : all) EXPECT_EQ(request->at_ns, 0u) << "held";
  if (GetParam().reloads) {
    ASSERT_EQ(load("d", GetParam().type, GetParam().args, length()), "");
  }
  ASSERT_EQ(resume("d"), "");
  advance(second_ns);
  for (const auto& request : all) {
    EXPECT_NE(request->at_ns, 0u);
    EXPECT_EQ(request->code, errc::ok);
  }
  EXPECT_TRUE(read(*d, 0, model.size()) == model);
}

TEST_P(conformance, errors_of_the_devices_below_are_told) {
  if (!GetParam().keeps_data) GTEST_SKIP() << "has no devices";
  if (!GetParam().heals) GTEST_SKIP() << "an error is the end of it";
  const auto d = device();
  sources_.a->write_error = sources_.b->write_error = errc::nospc;
  EXPECT_EQ(write(*d, 0, std::string(65536, 'x')), errc::nospc);
  EXPECT_EQ(flush(*d), errc::nospc);
  // Of multipath an error that is not a path's.
  const bool of_paths = std::string(GetParam().type) == "multipath";
  sources_.a->read_error = sources_.b->read_error = of_paths ? errc::notsup : errc::io;
  EXPECT_EQ(read(*d, 0, 65536), "error");
  sources_.a->write_error = sources_.b->write_error = errc::ok;
  sources_.a->read_error = sources_.b->read_error = errc::ok;
  EXPECT_EQ(write(*d, 0, std::string(65536, 'x')), errc::ok);
  EXPECT_EQ(read(*d, 0, 65536), std::string(65536, 'x'));
}

std::string name_of(const testing::TestParamInfo<sample>& info) {
  std::string name = info.param.type;
  for (char& c : name)
    if (c == '-') c = '_';
  return name + std::to_string(info.index);
}
INSTANTIATE_TEST_SUITE_P(targets, conformance, testing::ValuesIn(samples), name_of);

TEST(conformance_samples, cover_every_target_of_the_build) {
  for (const block::target_type* t : block::all_target_types()) {
    bool found = false;
    for (const sample& s : samples) found |= t->name == s.type;
    EXPECT_TRUE(found) << "a table of type " << t->name << " is missing above";
  }
}

}  // namespace
}  // namespace lbd::target
