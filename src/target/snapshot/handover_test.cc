// SPDX-License-Identifier: MIT
// Stores that go from table to table, merging, and many reactors at once.
#include <random>

#include "format/dm_snapshot/dm_snapshot.h"
#include "target/table_fixture_test.h"

namespace lbd::target {
namespace {

class handover : public table_fixture {
 protected:
  static std::string sectors(size_t n, char c) { return std::string(n * 512, c); }
  std::string merged(const std::string& name) {
    for (int i = 0; i < 1000 && status(name) != "32/8192 32"; ++i) advance(1'000'000);
    return status(name);
  }
  const std::string args_ = "/dev/vda /dev/vdb P 16";
};

TEST_F(handover, a_third_table_is_refused) {
  (void)make("snapshot", args_, 2048, "s");
  EXPECT_EQ(load("t", "snapshot", args_), "");
  EXPECT_EQ(table("t"), "no table") << "it is inactive";
  EXPECT_EQ(load("u", "snapshot", args_),
            "Snapshot cow pairing for exception table handover failed (-EINVAL)");
  EXPECT_EQ(load("t", "snapshot", args_),
            "Snapshot cow pairing for exception table handover failed (-EINVAL)")
      << "also on the device that has the second";
}

TEST_F(handover, source_and_heir_resume_in_their_order_only) {
  const auto s = make("snapshot", args_, 2048, "s");
  ASSERT_EQ(write(*s, 0, sectors(4, 's')), errc::ok);
  EXPECT_EQ(load("t", "snapshot-merge", args_), "");
  EXPECT_EQ(resume("t"), "table: 253:1: snapshot-merge: preresume failed, error = -22");
  suspend("s");
  EXPECT_EQ(resume("s"), "table: 253:0: snapshot: preresume failed, error = -22");
  EXPECT_EQ(resume("t"), "");
  EXPECT_EQ(table("t"), "254:0 254:16 P 16");
  EXPECT_EQ(resume("s"), "") << "it has nothing any more";
  EXPECT_EQ(status("s"), "Invalid");
  EXPECT_EQ(read(*s, 0, 512), "error");
  EXPECT_EQ(merged("t"), "32/8192 32");
  EXPECT_EQ(sources_.a->text(0, 2048), sectors(4, 's'));
}

TEST_F(handover, an_heir_without_a_source_is_invalid) {
  (void)make("snapshot", args_, 2048, "s");
  EXPECT_EQ(load("t", "snapshot", args_), "");
  ASSERT_TRUE(run(m_.remove(key("s"), false)));
  EXPECT_EQ(resume("t"), "");
  EXPECT_EQ(status("t"), "Invalid");
}

TEST_F(handover, from_snapshot_to_merge_and_back) {
  auto s = make("snapshot", args_, 2048, "s");
  for (uint64_t i = 0; i < 40; ++i)
    ASSERT_EQ(write(*s, (i * 7 % 40) * 16 * 512, sectors(16, static_cast<char>('a' + i % 26))),
              errc::ok);
  const std::string before = read(*s, 0, 1 << 20);
  // A slow origin, so that the merge does not end at once.
  (void)make("delay", "/dev/vda 0 0 /dev/vda 0 20", 2048, "slow");
  s = nullptr;
  ASSERT_TRUE(run(m_.remove(key("s"), false)));
  const std::string slow = "/dev/mapper/slow /dev/vdb P 16";
  s = make("snapshot", slow, 2048, "s");
  ASSERT_EQ(load("s", "snapshot-merge", slow), "");
  ASSERT_EQ(resume("s"), "");
  EXPECT_EQ(load("m", "snapshot-merge", "/dev/mapper/slow /dev/vdb P 16"),
            "A snapshot is already merging. (-EINVAL)");
  advance(100'000'000);
  const std::string half = status("s");
  EXPECT_NE(half, "672/8192 32");
  EXPECT_NE(half, "32/8192 32");
  EXPECT_EQ(read(*s, 0, 1 << 20), before) << "at any time";
  ASSERT_EQ(load("s", "snapshot", slow), "");
  ASSERT_EQ(resume("s"), "");
  advance(1'000'000'000);
  EXPECT_NE(status("s"), "32/8192 32") << "nothing is merged any more";
  ASSERT_EQ(write(*s, 100 * 16 * 512, sectors(16, 'z')), errc::ok);
  EXPECT_EQ(read(*s, 0, 100 * 16 * 512), before.substr(0, 100 * 16 * 512));
  EXPECT_EQ(read(*s, 100 * 16 * 512, 512), sectors(1, 'z'));
}

TEST_F(handover, a_merge_that_cannot_write_says_so) {
  auto s = make("snapshot", args_, 2048, "s");
  ASSERT_EQ(write(*s, 0, sectors(64, 's')), errc::ok);
  s = nullptr;
  ASSERT_TRUE(run(m_.remove(key("s"), false)));
  sources_.a->write_error = errc::io;
  const auto m = make("snapshot-merge", args_, 2048, "m");
  advance(1'000'000);
  EXPECT_EQ(status("m"), "Merge failed");
  EXPECT_EQ(read(*m, 0, 512), sectors(1, 's')) << "nothing is lost";
  EXPECT_EQ(write(*m, 512, sectors(1, 't')), errc::ok) << "to the store";
  sources_.a->write_error = errc::ok;
  suspend("m");
  ASSERT_EQ(resume("m"), "");
  advance(1'000'000);
  EXPECT_EQ(sources_.a->text(0, 1024), sectors(1, 's') + sectors(1, 't'));
}

TEST_F(handover, a_merge_whose_store_could_not_forget_is_done_again) {
  ASSERT_EQ(write(*sources_.a, 0, sectors(2048, 'o')), errc::ok);
  auto s = make("snapshot", args_, 2048, "s");
  ASSERT_EQ(write(*s, 5 * 16 * 512, sectors(16, 's')), errc::ok);
  s = nullptr;
  ASSERT_TRUE(run(m_.remove(key("s"), false)));
  sources_.b->write_error = errc::io;
  (void)make("snapshot-merge", args_, 2048, "m");
  advance(1'000'000);
  EXPECT_EQ(status("m"), "Merge failed");
  sources_.b->write_error = errc::ok;
  sources_.a->seen.clear();
  suspend("m");
  ASSERT_EQ(resume("m"), "");
  advance(1'000'000);
  EXPECT_EQ(sources_.a->seen, (std::vector<std::string>{"write 80+16", "flush"}));
  EXPECT_EQ(sources_.a->text(0, 1 << 20),
            sectors(80, 'o') + sectors(16, 's') + sectors(2048 - 96, 'o'));
}

// A store that has said that it could not forget, and may have.
class doubtful_merge : public handover {
 protected:
  void make_doubtful(bool has_forgotten) {
    ASSERT_EQ(write(*sources_.a, 0, sectors(2048, 'o')), errc::ok);
    ASSERT_EQ(run(zeroing(*sources_.b, 0, 1 << 20)), errc::ok);
    auto s = make("snapshot", args_, 2048, "s");
    ASSERT_EQ(write(*s, first_, sectors(48, 's')), errc::ok);
    s = nullptr;
    ASSERT_TRUE(run(m_.remove(key("s"), false)));
    (has_forgotten ? sources_.b->late_error : sources_.b->write_error) = errc::io;
    (void)make("snapshot-merge", args_, 2048, "m");
    advance(1'000'000);
    ASSERT_EQ(status("m"), "Merge failed");
    sources_.b->late_error = sources_.b->write_error = errc::ok;
  }
  dm_snapshot::entry first_entry() {
    return dm_snapshot::load_entry(sources_.b->bytes(16 * 512, 16 * 512), 0);
  }
  static constexpr uint64_t first_ = 5 * 16 * 512;
};

TEST_F(doubtful_merge, keeps_what_is_written_there_whatever_a_crash_leaves) {
  for (const bool has_forgotten : {true, false}) {
    make_doubtful(has_forgotten);
    EXPECT_EQ(first_entry().new_chunk, has_forgotten ? 0u : 2u);
    auto m = m_.open(key("m"));
    ASSERT_EQ(write(*m->device, first_ - 512, sectors(4, 't')), errc::ok);
    ASSERT_EQ(write(*m->device, first_ + 40 * 512, sectors(16, 'u')), errc::ok);
    ASSERT_EQ(flush(*m->device), errc::ok);
    const std::string now = read(*m->device, 0, 1 << 20);
    EXPECT_EQ(now, sectors(79, 'o') + sectors(4, 't') + sectors(37, 's') + sectors(16, 'u') +
                       sectors(2048 - 136, 'o'));
    // What a table of its own finds on the disks as they are.
    const auto copy = std::make_shared<watched_disk>(watched_sources::size_bytes);
    const auto store = std::make_shared<watched_disk>(watched_sources::size_bytes);
    ASSERT_EQ(write(*copy, 0, sources_.a->text(0, 1 << 20)), errc::ok);
    ASSERT_EQ(write(*store, 0, sources_.b->text(0, 1 << 20)), errc::ok);
    sources_.more["copy"] = {copy, {254, 32}, {}};
    sources_.more["store"] = {store, {254, 48}, {}};
    {
      const auto after = make("snapshot", "copy store P 16", 2048, "after");
      EXPECT_EQ(read(*after, 0, 1 << 20), now) << has_forgotten;
    }
    ASSERT_TRUE(run(m_.remove(key("after"), false)));
    // And when it is merged again.
    suspend("m");
    ASSERT_EQ(resume("m"), "");
    advance(1'000'000);
    EXPECT_EQ(sources_.a->text(0, 1 << 20), now);
    EXPECT_EQ(first_entry().new_chunk, 0u);
    sources_.a->seen.clear();
    sources_.b->seen.clear();
    ASSERT_EQ(write(*m->device, first_, sectors(16, 'v')), errc::ok);
    EXPECT_EQ(sources_.a->seen, (std::vector<std::string>{"write 80+16"}));
    EXPECT_TRUE(sources_.b->seen.empty()) << "the doubt is over";
    m->device = nullptr;
    ASSERT_TRUE(run(m_.remove(key("m"), false)));
  }
}

TEST_F(doubtful_merge, a_snapshot_that_takes_the_store_back_makes_sure_of_its_exceptions) {
  make_doubtful(true);
  ASSERT_EQ(load("m", "snapshot", args_), "");
  ASSERT_EQ(resume("m"), "");
  EXPECT_EQ(first_entry(), (dm_snapshot::entry{5, 2}));
  const auto m = m_.open(key("m"));
  ASSERT_EQ(write(*m->device, 0, sectors(16, 't')), errc::ok);
  EXPECT_EQ(sources_.a->text(0, 512), sectors(1, 'o'));
  EXPECT_EQ(status("m"), "96/8192 32");
}

TEST_F(doubtful_merge, a_snapshot_that_cannot_make_sure_is_invalid) {
  make_doubtful(true);
  ASSERT_EQ(load("m", "snapshot", args_), "");
  sources_.b->write_error = errc::io;
  EXPECT_EQ(resume("m"), "");
  EXPECT_EQ(status("m"), "Invalid");
}

TEST_F(handover, writes_while_merging_land_where_reads_find_them) {
  auto s = make("snapshot", args_, 2048, "s");
  std::string model(1 << 20, '\0');
  std::mt19937_64 random(5);
  auto put = [&](block::block_device& d, bool flushed) {
    const uint64_t at = random() % 2000, n = 1 + random() % 40;
    const std::string text = sectors(n, static_cast<char>('a' + random() % 26));
    if (at + n > 2048) return;
    ASSERT_EQ(write(d, at * 512, text), errc::ok);
    model.replace(at * 512, text.size(), text);
    if (flushed) {
      ASSERT_EQ(flush(d), errc::ok);
    }
  };
  for (int i = 0; i < 200; ++i) put(*s, false);
  (void)make("delay", "/dev/vda 0 0 /dev/vda 0 3", 2048, "slow");
  s = nullptr;
  ASSERT_TRUE(run(m_.remove(key("s"), false)));
  const auto m = make("snapshot-merge", "/dev/mapper/slow /dev/vdb P 16", 2048, "m");
  int rounds = 0;
  for (; status("m") != "32/8192 32" && rounds < 5000; ++rounds) {
    advance(1'000'000);
    put(*m, rounds % 10 == 0);
    ASSERT_TRUE(read(*m, 0, model.size()) == model) << rounds;
  }
  EXPECT_GT(rounds, 20);
  EXPECT_TRUE(sources_.a->text(0, model.size()) == model);
}

// --- many reactors ---

class many_reactors : public table_fixture {
 protected:
  static constexpr unsigned reactors = 3;
  static constexpr uint64_t all_sectors = 2048, kept_sectors = 1024;
  many_reactors() : table_fixture(three()) {}
  static std::unique_ptr<rt::runtime> three() {
    rt::runtime_options o;
    o.reactors = reactors;
    return *rt::runtime::start(o);
  }
  static char first_content(uint64_t sector) { return static_cast<char>('a' + sector % 23); }

  // Writes the origin anywhere, its own sectors of the snapshot's upper half, and reads both halves
  // of the snapshot. The answer is what is wrong.
  static task<std::string> client(block::block_device& o, block::block_device& s, unsigned who) {
    std::mt19937_64 random(who);
    std::vector<char> mine(all_sectors, 0);
    for (int i = 0; i < 400; ++i) {
      uint64_t at = random() % (all_sectors - 32), n = 1 + random() % 24;
      const char c = static_cast<char>('A' + random() % 26);
      switch (random() % 3) {
        case 0: {
          const errc code = co_await writing(o, at * 512, std::string(n * 512, c), {});
          if (code != errc::ok) co_return "a write to the origin failed";
          break;
        }
        case 1: {
          at = kept_sectors + random() % (all_sectors - kept_sectors) / reactors * reactors + who;
          if (at >= all_sectors) break;
          const errc code = co_await writing(s, at * 512, std::string(512, c), {});
          if (code != errc::ok) co_return "a write to the snapshot failed";
          mine[at] = c;
          break;
        }
        default: {
          std::string text(n * 512, '?');
          const errc code = co_await reading(s, at * 512, text, {});
          if (code != errc::ok) co_return "a read failed";
          for (uint64_t k = 0; k < n; ++k) {
            char want = 0;
            if (at + k < kept_sectors) want = first_content(at + k);
            if (at + k >= kept_sectors && (at + k - kept_sectors) % reactors == who)
              want = mine[at + k] != 0 ? mine[at + k] : first_content(at + k);
            if (want != 0 && text.substr(k * 512, 512) != std::string(512, want))
              co_return "sector " + std::to_string(at + k) + " has changed";
          }
        }
      }
    }
    co_return "";
  }
  static task<std::string> on_reactor(rt::runtime& rt, unsigned i, block::block_device& o,
                                      block::block_device& s) {
    auto work = [&o, &s, i] { return client(o, s, i); };
    co_return co_await rt::call_on(rt.at(i), work);
  }
  static task<std::string> everywhere(rt::runtime& rt, block::block_device& o,
                                      block::block_device& s) {
    std::vector<task<std::string>> all;
    for (unsigned i = 0; i < reactors; ++i) all.push_back(on_reactor(rt, i, o, s));
    const std::vector<std::string> answers = co_await rt::when_all(std::move(all));
    std::string joined;
    for (const std::string& a : answers) joined += a;
    co_return joined;
  }
};

TEST_F(many_reactors, see_one_snapshot) {
  for (const char* store : {"P 8", "N 2", "P 1"}) {
    std::string content;
    for (uint64_t i = 0; i < all_sectors; ++i) content += std::string(512, first_content(i));
    ASSERT_EQ(run(writing(*sources_.a, 0, content, {})), errc::ok);
    ASSERT_EQ(run(zeroing(*sources_.b, 0, 4096)), errc::ok);
    auto s = make("snapshot", std::string("/dev/vda /dev/vdb ") + store, all_sectors, "s");
    auto o = make("snapshot-origin", "/dev/vda", all_sectors, "o");
    EXPECT_EQ(run(everywhere(*rt_, *o, *s)), "") << store;
    o = s = nullptr;
    EXPECT_EQ(run(m_.remove_all(false)), 0u);
  }
}

}  // namespace
}  // namespace lbd::target
