// SPDX-License-Identifier: MIT
// Through real tables over watched memory.
#include "format/dm_snapshot/dm_snapshot.h"
#include "target/table_fixture_test.h"

namespace lbd::target {
namespace {

using strings = std::vector<std::string>;

class snapshot : public table_fixture {
 protected:
  static constexpr uint64_t chunk = 16 * 512;
  static std::string sectors(size_t n, char c) { return std::string(n * 512, c); }

  // An origin "o" and a snapshot "s" of it, with chunks of 16 sectors.
  void make_both(const std::string& type = "P", const std::string& more = "") {
    s_ = make("snapshot", "/dev/vda /dev/vdb " + type + " 16" + more, 2048, "s");
    o_ = make("snapshot-origin", "/dev/vda", 2048, "o");
    sources_.a->seen.clear();
    sources_.b->seen.clear();
  }
  uint32_t valid_on_disk() { return dm_snapshot::load_header(sources_.b->bytes(0, 512)).valid; }
  dm_snapshot::entry entry(uint64_t index) {
    return dm_snapshot::load_entry(sources_.b->bytes(chunk, chunk), index);
  }
  void release() { s_ = o_ = nullptr; }
  std::shared_ptr<block::block_device> s_, o_;
};

TEST_F(snapshot, a_write_to_the_origin_keeps_the_old_content_first) {
  ASSERT_EQ(run(writing(*sources_.a, 0, sectors(64, 'o'), {})), errc::ok);
  make_both();
  EXPECT_EQ(status("s"), "32/8192 32");
  ASSERT_EQ(write(*o_, 512, sectors(1, 'n')), errc::ok);
  EXPECT_EQ(sources_.a->seen, (strings{"read 0+16", "write 1+1"}));
  EXPECT_EQ(sources_.b->seen, (strings{"write 32+16", "flush", "fua 16+8"}))
      << "data is durable before its entry, the entry before the write goes on";
  EXPECT_EQ(entry(0), (dm_snapshot::entry{0, 2}));
  EXPECT_EQ(read(*s_, 0, 1024), sectors(2, 'o'));
  EXPECT_EQ(read(*o_, 0, 1024), sectors(1, 'o') + sectors(1, 'n'));
  EXPECT_EQ(status("s"), "48/8192 32");
  sources_.b->seen.clear();
  ASSERT_EQ(write(*o_, 1024, sectors(2, 'm')), errc::ok);
  EXPECT_EQ(sources_.b->seen, strings{}) << "the chunk has been kept";
}

TEST_F(snapshot, a_write_to_the_snapshot_copies_the_rest_of_its_chunk) {
  ASSERT_EQ(run(writing(*sources_.a, 0, sectors(64, 'o'), {})), errc::ok);
  make_both();
  ASSERT_EQ(write(*s_, 512, sectors(1, 's')), errc::ok);
  EXPECT_EQ(sources_.a->seen, (strings{"read 0+16"}));
  EXPECT_EQ(sources_.b->seen, (strings{"write 32+16", "flush", "fua 16+8", "write 33+1"}));
  EXPECT_EQ(read(*s_, 0, 1536), sectors(1, 'o') + sectors(1, 's') + sectors(1, 'o'));
  EXPECT_EQ(read(*o_, 0, 1536), sectors(3, 'o'));
  ASSERT_EQ(write(*o_, 0, sectors(16, 'n')), errc::ok);
  EXPECT_EQ(read(*s_, 0, 1024), sectors(1, 'o') + sectors(1, 's'));
}

TEST_F(snapshot, whole_chunks_are_written_without_a_copy_and_committed_together) {
  make_both();
  ASSERT_EQ(write(*s_, 2 * chunk, sectors(64, 'w')), errc::ok);
  EXPECT_EQ(sources_.a->seen, strings{});
  EXPECT_EQ(sources_.b->seen, (strings{"write 32+64", "flush", "fua 16+8"}));
  for (uint64_t i = 0; i < 4; ++i) EXPECT_EQ(entry(i), (dm_snapshot::entry{2 + i, 2 + i}));
  // One that begins and ends inside of chunks: the two ends are copied.
  sources_.b->seen.clear();
  ASSERT_EQ(write(*s_, 10 * chunk - 512, sectors(34, 'x')), errc::ok);
  EXPECT_EQ(sources_.a->seen, (strings{"read 144+16", "read 192+16"}));
  EXPECT_EQ(read(*s_, 10 * chunk - 1024, 36 * 512),
            sectors(1, '\0') + sectors(34, 'x') + sectors(1, '\0'));
  for (uint64_t i = 4; i < 8; ++i) EXPECT_EQ(entry(i), (dm_snapshot::entry{5 + i, 2 + i}));
  EXPECT_EQ(entry(8), dm_snapshot::entry{});
}

TEST_F(snapshot, snapshots_of_one_origin_share_a_read) {
  ASSERT_EQ(run(writing(*sources_.a, 0, sectors(2048, 'o'), {})), errc::ok);
  (void)make("linear", "/dev/vdb 0", 4096, "c1");
  (void)make("linear", "/dev/vdb 4096", 4096, "c2");
  const auto s1 = make("snapshot", "/dev/vda /dev/mapper/c1 P 16", 2048, "s1");
  const auto s2 = make("snapshot", "/dev/vda /dev/mapper/c2 N 8", 2048, "s2");
  o_ = make("snapshot-origin", "/dev/vda", 2048, "o");
  sources_.a->seen.clear();
  ASSERT_EQ(write(*o_, 20 * 512, sectors(8, 'n')), errc::ok);
  EXPECT_EQ(sources_.a->seen, (strings{"read 16+16", "write 20+8"}));
  EXPECT_EQ(status("s1"), "48/4096 32");
  EXPECT_EQ(status("s2"), "16/4096 0");
  EXPECT_EQ(read(*s1, 0, 1 << 20), sectors(2048, 'o'));
  EXPECT_EQ(read(*s2, 0, 1 << 20), sectors(2048, 'o'));
  sources_.a->seen.clear();
  ASSERT_EQ(write(*o_, 0, sectors(1024, 'm')), errc::ok);
  EXPECT_EQ(sources_.a->seen, (strings{"read 0+16", "read 32+992", "write 0+1024"}));
  EXPECT_EQ(read(*s1, 0, 1 << 20), sectors(2048, 'o'));
  EXPECT_EQ(read(*s2, 0, 1 << 20), sectors(2048, 'o'));
}

TEST_F(snapshot, a_broken_store_is_invalid_for_ever_and_the_origin_goes_on) {
  make_both();
  sources_.b->write_error = errc::nospc;
  EXPECT_EQ(write(*o_, 0, sectors(1, 'n')), errc::ok);
  EXPECT_EQ(sources_.a->text(0, 512), sectors(1, 'n'));
  EXPECT_EQ(status("s"), "Invalid");
  EXPECT_EQ(m_.state(key("s"))->event_number, 1u);
  EXPECT_EQ(read(*s_, 0, 512), "error");
  EXPECT_EQ(write(*s_, 0, sectors(1, 'x')), errc::io);
  EXPECT_EQ(valid_on_disk(), 1u) << "it could not be written";
  sources_.b->write_error = errc::ok;
  EXPECT_EQ(status("s"), "Invalid");
  EXPECT_EQ(write(*o_, 0, sectors(1, 'm')), errc::ok);
}

TEST_F(snapshot, a_full_store_invalidates_and_says_so_on_disk) {
  (void)make("linear", "/dev/vdb 0", 64, "c");
  s_ = make("snapshot", "/dev/vda /dev/mapper/c P 16", 2048, "s");
  o_ = make("snapshot-origin", "/dev/vda", 2048, "o");
  EXPECT_EQ(write(*s_, 0, sectors(32, 'a')), errc::ok);
  EXPECT_EQ(status("s"), "64/64 32");
  EXPECT_EQ(write(*s_, 0, sectors(32, 'b')), errc::ok);
  EXPECT_EQ(write(*o_, 0, sectors(32, 'b')), errc::ok) << "kept already";
  EXPECT_EQ(status("s"), "64/64 32");
  EXPECT_EQ(write(*s_, 4 * chunk, sectors(1, 'a')), errc::io);
  EXPECT_EQ(status("s"), "Invalid");
  EXPECT_EQ(valid_on_disk(), 0u);
  EXPECT_EQ(read(*s_, 0, 512), "error");
  EXPECT_EQ(write(*o_, 8 * chunk, sectors(1, 'b')), errc::ok);
  EXPECT_EQ(m_.state(key("s"))->event_number, 1u) << "one event, however many writes";
}

TEST_F(snapshot, the_origin_is_written_when_the_store_says_that_it_is_invalid) {
  (void)make("linear", "/dev/vdb 0", 64, "c");
  s_ = make("snapshot", "/dev/vda /dev/mapper/c P 16", 2048, "s");
  o_ = make("snapshot-origin", "/dev/vda", 2048, "o");
  EXPECT_EQ(write(*o_, 0, sectors(32, 'a')), errc::ok);
  sources_.a->seen.clear();
  sources_.b->open.reset();
  const auto full = start(writing(*o_, 4 * chunk, sectors(1, 'b'), {}));
  settle();
  EXPECT_EQ(status("s"), "Invalid");
  const auto other = start(writing(*o_, 8 * chunk, sectors(1, 'c'), {}));
  EXPECT_EQ(write(*o_, 0, sectors(1, 'd')), errc::ok) << "kept";
  settle();
  EXPECT_EQ(sources_.a->seen, strings{"write 0+1"}) << "a crash leaves a snapshot that is right";
  EXPECT_EQ(valid_on_disk(), 1u);
  sources_.b->open.set();
  settle();
  EXPECT_EQ(valid_on_disk(), 0u);
  EXPECT_EQ(sources_.a->seen, (strings{"write 0+1", "write 64+1", "write 128+1"}));
  EXPECT_NE(full->at_ns, 0u);
  EXPECT_NE(other->at_ns, 0u);
  EXPECT_EQ(full->code, errc::ok);
  EXPECT_EQ(other->code, errc::ok);
}

TEST_F(snapshot, an_overflow_stops_writes_to_the_snapshot_only) {
  (void)make("linear", "/dev/vdb 0", 64, "c");
  s_ = make("snapshot", "/dev/vda /dev/mapper/c PO 16", 2048, "s");
  o_ = make("snapshot-origin", "/dev/vda", 2048, "o");
  EXPECT_EQ(write(*s_, 0, sectors(32, 'a')), errc::ok);
  EXPECT_EQ(write(*s_, 4 * chunk, sectors(1, 'a')), errc::io);
  EXPECT_EQ(status("s"), "Overflow");
  EXPECT_EQ(table("s"), "254:0 253:0 PO 16");
  EXPECT_EQ(write(*s_, 0, sectors(1, 'b')), errc::io) << "also where it has a place";
  EXPECT_EQ(read(*s_, 0, 512), sectors(1, 'a'));
  EXPECT_EQ(m_.state(key("s"))->event_number, 0u);
  EXPECT_EQ(write(*o_, 0, sectors(1, 'o')), errc::ok) << "kept already";
  EXPECT_EQ(status("s"), "Overflow");
  EXPECT_EQ(write(*o_, 4 * chunk, sectors(1, 'o')), errc::ok);
  EXPECT_EQ(status("s"), "Invalid") << "history is lost";
  EXPECT_EQ(valid_on_disk(), 0u);
}

TEST_F(snapshot, the_transient_store_has_nothing_but_data) {
  make_both("N");
  EXPECT_EQ(status("s"), "0/8192 0");
  EXPECT_EQ(table("s"), "254:0 254:16 N 16");
  ASSERT_EQ(write(*s_, 512, sectors(1, 'x')), errc::ok);
  EXPECT_EQ(sources_.b->seen, (strings{"write 0+16", "write 1+1"}));
  EXPECT_EQ(status("s"), "16/8192 0");
}

TEST_F(snapshot, areas_follow_each_other) {
  s_ = make("snapshot", "/dev/vda /dev/vdb P 1", 2048, "s");
  // 32 entries fill an area of one sector; the next one is zeroed before that.
  ASSERT_EQ(run(writing(*sources_.b, 34 * 512, sectors(1, 'z'), {})), errc::ok);
  for (uint64_t i = 0; i < 100; ++i)
    ASSERT_EQ(write(*s_, (i * 37 % 2048) * 512, sectors(1, static_cast<char>('a' + i % 26))),
              errc::ok);
  EXPECT_EQ(status("s"), "105/8192 5");
  s_ = nullptr;
  ASSERT_TRUE(run(m_.remove(key("s"), false)));
  s_ = make("snapshot", "/dev/vda /dev/vdb P 0", 2048, "s");
  EXPECT_EQ(table("s"), "254:0 254:16 P 1");
  EXPECT_EQ(status("s"), "105/8192 5");
  for (uint64_t i = 0; i < 100; ++i)
    ASSERT_EQ(read(*s_, (i * 37 % 2048) * 512, 512), sectors(1, static_cast<char>('a' + i % 26)));
  EXPECT_EQ(read(*s_, 512, 512), sectors(1, '\0'));
}

TEST_F(snapshot, entries_behind_the_end_of_the_list_are_gone_for_good) {
  make_both();
  ASSERT_EQ(write(*s_, 0, sectors(32, 's')), errc::ok);
  release();
  EXPECT_EQ(run(m_.remove_all(false)), 0u);
  // The second page of an area is there, the first one is not.
  std::string page(4096, '\0');
  dm_snapshot::store_entry(std::as_writable_bytes(std::span(page)), 0, {7, 9});
  ASSERT_EQ(run(writing(*sources_.b, chunk + page.size(), page, {})), errc::ok);
  s_ = make("snapshot", "/dev/vda /dev/vdb P 16", 2048, "s");
  EXPECT_EQ(status("s"), "64/8192 32");
  EXPECT_EQ(entry(1), (dm_snapshot::entry{1, 3}));
  EXPECT_EQ(entry(256), dm_snapshot::entry{});
}

TEST_F(snapshot, discards) {
  make_both();
  EXPECT_EQ(run(discarding(*s_, 0, chunk)), errc::notsup);
  EXPECT_EQ(run(discarding(*o_, 0, chunk)), errc::notsup);
  release();
  ASSERT_TRUE(run(m_.remove(key("s"), false)));
  ASSERT_TRUE(run(m_.remove(key("o"), false)));
  ASSERT_EQ(run(writing(*sources_.a, 0, sectors(64, 'o'), {})), errc::ok);
  make_both("P", " 1 Discard_Zeroes_COW");
  EXPECT_EQ(table("s"), "254:0 254:16 P 16 1 discard_zeroes_cow");
  ASSERT_EQ(write(*s_, 0, sectors(32, 's')), errc::ok);
  EXPECT_EQ(run(discarding(*s_, 0, 3 * chunk - 512)), errc::ok);
  EXPECT_EQ(read(*s_, 0, 64 * 512), sectors(32, '\0') + sectors(32, 'o'));
  ASSERT_EQ(write(*s_, 0, sectors(1, 't')), errc::ok);
  EXPECT_EQ(run(discarding(*s_, 512, chunk - 512)), errc::ok) << "a part: nothing happens";
  EXPECT_EQ(read(*s_, 0, 512), sectors(1, 't'));
  EXPECT_EQ(status("s"), "64/8192 32") << "the exceptions stay";
}

TEST_F(snapshot, discards_passed_down) {
  ASSERT_EQ(run(writing(*sources_.a, 0, sectors(256, 'o'), {})), errc::ok);
  make_both("P", " 2 discard_zeroes_cow discard_passdown_origin");
  EXPECT_EQ(table("s"), "254:0 254:16 P 16 2 discard_zeroes_cow discard_passdown_origin");
  ASSERT_EQ(write(*s_, 0, sectors(16, 's')), errc::ok);
  sources_.a->seen.clear();
  EXPECT_EQ(run(discarding(*s_, 0, 2 * chunk)), errc::ok);
  EXPECT_EQ(sources_.a->seen, (strings{"discard 0+32"}));
  EXPECT_EQ(read(*s_, 0, chunk), sectors(16, '\0'));
}

TEST_F(snapshot, wrong_lines) {
  auto error = [&](const std::string& args, const std::string& type = "snapshot") {
    return load("w", type, args);
  };
  EXPECT_EQ(error("/dev/vda /dev/vdb P"), "requires 4 or more arguments (-EINVAL)");
  EXPECT_EQ(error("/dev/vda /dev/vdb P 8 3 a b c"),
            "Invalid number of feature arguments (-EINVAL)");
  EXPECT_EQ(error("/dev/vda /dev/vdb P 8 1"), "Invalid number of feature arguments (-EINVAL)");
  EXPECT_EQ(error("/dev/vda /dev/vdb P 8 1 x"), "Unrecognised feature requested (-EINVAL)");
  EXPECT_EQ(error("/dev/vda /dev/vdb P 8 1 discard_passdown_origin"),
            "discard_passdown_origin feature depends on discard_zeroes_cow (-EINVAL)");
  EXPECT_EQ(error("/dev/no /dev/vdb P 8"), "Cannot get origin device (-ENODEV)");
  EXPECT_EQ(error("/dev/vda /dev/no P 8"), "Cannot get COW device (-ENODEV)");
  EXPECT_EQ(error("/dev/vda 254:0 P 8"),
            "COW device cannot be the same as origin device (-EINVAL)");
  for (const char* words : {"X 8", "P 7", "P x", "P 4194304", "Px 8", "N 4194304", "P -8"})
    EXPECT_EQ(error(std::string("/dev/vda /dev/vdb ") + words),
              "Couldn't create exception store (-EINVAL)")
        << words;
  EXPECT_EQ(why_, "Invalid chunk size");
  EXPECT_EQ(error("/dev/vda /dev/vdb N 0"), "Chunk size not set (-EINVAL)");
  EXPECT_EQ(error("/dev/vda /dev/vdb N 8", "snapshot-merge"),
            "Snapshot exception store does not support snapshot-merge. (-EINVAL)");
  EXPECT_EQ(error("", "snapshot-origin"), "origin: incorrect number of arguments (-EINVAL)");
  EXPECT_EQ(error("/dev/vda x", "snapshot-origin"),
            "origin: incorrect number of arguments (-EINVAL)");
  EXPECT_EQ(error("/dev/no", "snapshot-origin"), "Cannot get target device (-ENODEV)");
  EXPECT_EQ(error("/dev/vda /dev/vdb N 8 0 ignored"), "") << "words beyond the count";
}

TEST_F(snapshot, stores_that_cannot_be_read) {
  auto header = [&](uint32_t magic, uint32_t valid, uint32_t version, uint32_t sectors_of_chunk) {
    std::string text(512, '\0');
    const dm_snapshot::header h{magic, valid, version, sectors_of_chunk};
    dm_snapshot::store_header(std::as_writable_bytes(std::span(text)), h);
    ASSERT_EQ(run(writing(*sources_.b, 0, text, {})), errc::ok);
  };
  auto error = [&] { return load("w", "snapshot", "/dev/vda /dev/vdb P 16"); };
  header(0x12345678, 1, 1, 16);
  EXPECT_EQ(error(), "Failed to read snapshot metadata (-ENXIO)");
  EXPECT_EQ(why_, "Invalid or corrupt snapshot");
  header(dm_snapshot::header_magic, 1, 2, 16);
  EXPECT_EQ(error(), "Failed to read snapshot metadata (-EINVAL)");
  EXPECT_EQ(why_, "unable to handle snapshot disk version 2");
  header(dm_snapshot::header_magic, 1, 1, 7);
  EXPECT_EQ(error(), "Failed to read snapshot metadata (-EINVAL)");
  header(dm_snapshot::header_magic, 0, 1, 16);
  EXPECT_EQ(error(), "");
  EXPECT_EQ(resume("w"), "");
  EXPECT_EQ(status("w"), "Invalid");
  ASSERT_TRUE(run(m_.remove(key("w"), false)));
  header(dm_snapshot::header_magic, 1, 1, 8);
  EXPECT_EQ(error(), "");
  EXPECT_EQ(resume("w"), "");
  EXPECT_EQ(table("w"), "254:0 254:16 P 8") << "the store knows better";
  ASSERT_TRUE(run(m_.remove(key("w"), false)));
  std::string text(512, '\0');
  dm_snapshot::store_entry(std::as_writable_bytes(std::span(text)), 0, {0, 1 << 20});
  ASSERT_EQ(run(writing(*sources_.b, 8 * 512, text, {})), errc::ok);
  EXPECT_EQ(error(), "Failed to read snapshot metadata (-ENXIO)") << "beyond the device";
  sources_.b->read_error = errc::io;
  EXPECT_EQ(error(), "Failed to read snapshot metadata (-EIO)");
}

}  // namespace
}  // namespace lbd::target
