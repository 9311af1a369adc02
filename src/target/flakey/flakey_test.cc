// SPDX-License-Identifier: MIT
#include "target/table_fixture_test.h"

namespace lbd::target {
namespace {

class flakey : public table_fixture {
 protected:
  // Down from the start, for ever.
  std::shared_ptr<block::block_device> down(const std::string& features) {
    return make("flakey", "/dev/vda 0 0 60 " + features);
  }
  std::string loaded(const std::string& args) { return load("w", "flakey", args); }
  const std::string data_ = std::string(4096, 'd');
  const std::string zeros_ = std::string(4096, '\0');
};

TEST_F(flakey, is_up_and_down_in_turn) {
  const auto d = make("flakey", "/dev/vda 8 3 2");
  for (int round = 0; round < 3; ++round) {
    ASSERT_EQ(write(*d, 0, data_), errc::ok);
    EXPECT_EQ(read(*d, 0, 4096), data_);
    EXPECT_EQ(sources_.a->text(4096, 4096), data_);
    advance(3 * second_ns);
    EXPECT_EQ(write(*d, 0, zeros_), errc::io);
    EXPECT_EQ(read(*d, 0, 4096), "error");
    EXPECT_EQ(flush(*d), errc::io);
    EXPECT_EQ(run(discarding(*d, 0, 4096)), errc::io);
    EXPECT_EQ(run(zeroing(*d, 0, 4096)), errc::io);
    advance(2 * second_ns);
  }
  EXPECT_EQ(read(*d, 0, 4096), data_);
}

TEST_F(flakey, routes_while_up_and_serves_while_down) {
  const auto d = make("flakey", "/dev/vda 8 1 1");
  auto served_by_the_disk = [&] {
    block::path way;
    const block::place at = block::walk(*d, block::op::read, 512, 512, way);
    way.leave(errc::ok);
    return at.device == sources_.a.get() && at.offset == 9 * 512;
  };
  EXPECT_TRUE(served_by_the_disk());
  advance(second_ns);
  EXPECT_FALSE(served_by_the_disk());
}

TEST_F(flakey, the_interval_begins_when_the_table_is_loaded) {
  ASSERT_EQ(load("d", "flakey", "/dev/vda 0 2 2"), "");
  advance(2 * second_ns);
  ASSERT_EQ(resume("d"), "");
  EXPECT_EQ(read(*(*m_.open(key("d"))).device, 0, 512), "error");
}

TEST_F(flakey, drop_writes_says_ok_and_does_nothing) {
  const auto d = down("1 drop_writes");
  EXPECT_EQ(write(*d, 0, data_), errc::ok);
  EXPECT_EQ(flush(*d), errc::ok);
  EXPECT_EQ(run(discarding(*d, 0, 4096)), errc::ok);
  EXPECT_TRUE(sources_.a->seen.empty());
  EXPECT_EQ(read(*d, 0, 4096), zeros_) << "reads pass";
}

TEST_F(flakey, error_writes_and_error_reads_fail_only_theirs) {
  const auto w = down("1 error_writes");
  EXPECT_EQ(write(*w, 0, data_), errc::io);
  EXPECT_EQ(flush(*w), errc::io);
  EXPECT_EQ(read(*w, 0, 4096), zeros_);
  const auto r = make("flakey", "/dev/vda 0 0 60 1 error_reads", 2048, "r");
  EXPECT_EQ(write(*r, 0, data_), errc::ok);
  EXPECT_EQ(flush(*r), errc::ok);
  EXPECT_EQ(read(*r, 0, 4096), "error");
}

TEST_F(flakey, corrupts_a_byte_of_reads_not_of_the_disk) {
  const auto d = down("5 corrupt_bio_byte 513 r 7 0");
  ASSERT_EQ(write(*d, 0, data_), errc::ok);
  EXPECT_EQ(sources_.a->text(0, 4096), data_) << "writes pass unchanged";
  std::string expected = data_;
  expected[512] = 7;
  EXPECT_EQ(read(*d, 0, 4096), expected);
  EXPECT_EQ(read(*d, 0, 512), data_.substr(0, 512)) << "too short for that byte";
  EXPECT_EQ(sources_.a->text(0, 4096), data_);
}

TEST_F(flakey, corrupts_a_byte_of_writes_not_of_the_caller) {
  const auto d = down("5 corrupt_bio_byte 1 w 120 0");
  std::string mine = data_;
  const iovec v{mine.data(), mine.size()};
  auto send = [](block::block_device& to, rt::segments s) -> task<bool> {
    co_return bool(co_await block::write(to, 0, s, {}));
  };
  ASSERT_TRUE(run(send(*d, rt::segments(&v, 1))));
  EXPECT_EQ(mine, data_);
  EXPECT_EQ(sources_.a->text(0, 4096), "x" + data_.substr(1));
  EXPECT_EQ(read(*d, 0, 1), "x") << "reads pass";
}

TEST_F(flakey, corrupts_only_requests_that_have_the_flags) {
  const auto d = down("5 corrupt_bio_byte 1 w 120 131072");  // FUA
  ASSERT_EQ(write(*d, 0, data_), errc::ok);
  EXPECT_EQ(sources_.a->text(0, 4096), data_);
  block::io_opts durable;
  durable.flags = block::io_fua;
  ASSERT_EQ(write(*d, 0, data_, durable), errc::ok);
  EXPECT_EQ(sources_.a->text(0, 1), "x");
}

TEST_F(flakey, random_corruption_changes_a_byte) {
  const auto always = down("2 random_read_corrupt 1000000000");
  ASSERT_EQ(write(*always, 0, data_), errc::ok);
  int changed = 0;
  for (int i = 0; i < 50; ++i) {
    const std::string got = read(*always, 0, 4096);
    int here = 0;
    for (size_t at = 0; at < got.size(); ++at) here += got[at] != data_[at];
    EXPECT_LE(here, 1);
    changed += here;
  }
  EXPECT_GT(changed, 45) << "a random value is the old one now and then";
  const auto half = make("flakey", "/dev/vda 0 0 60 2 random_write_corrupt 500000000", 2048, "h");
  changed = 0;
  for (int i = 0; i < 100; ++i) {
    ASSERT_EQ(write(*half, 0, data_), errc::ok);
    changed += sources_.a->text(0, 4096) != data_;
  }
  EXPECT_GT(changed, 25);
  EXPECT_LT(changed, 75);
}

TEST_F(flakey, tables_print_as_the_kernel_does) {
  const std::pair<const char*, const char*> lines[] = {
      {"/dev/vda 8 3 2", "254:0 8 3 2 0 "},
      {"/dev/vda 8 3 2 0 more words", "254:0 8 3 2 0 "},
      {"/dev/vda 0 1 0 1 DROP_writes", "254:0 0 1 0 1 drop_writes "},
      {"/dev/vda 0 1 1 6 corrupt_bio_byte 32 R 1 0 error_writes",
       "254:0 0 1 1 6 error_writes corrupt_bio_byte 32 r 1 0 "},
      {"/dev/vda 0 1 1 5 random_write_corrupt 7 error_reads random_read_corrupt 1000000000",
       "254:0 0 1 1 5 error_reads random_read_corrupt 1000000000 random_write_corrupt 7 "},
  };
  for (const auto& [given, printed] : lines) {
    ASSERT_EQ(load("d", "flakey", given), "") << given;
    ASSERT_EQ(resume("d"), "");
    EXPECT_EQ(table(), printed);
    EXPECT_EQ(status(), "");
  }
}

TEST_F(flakey, wrong_lines) {
  const std::pair<const char*, const char*> lines[] = {
      {"/dev/vda 0 1", "Invalid argument count"},
      {"/dev/vda x 1 1", "Invalid device sector"},
      {"/dev/vda 0 x 1", "Invalid up interval"},
      {"/dev/vda 0 1 x", "Invalid up interval"},
      {"/dev/vda 0 0 0", "Total (up + down) interval is zero"},
      {"/dev/vda 0 4294967295 1", "Total (up + down) interval is zero"},
      {"/dev/vda 0 4294967295 2", "Interval overflow"},
      {"/dev/vda 0 1 1 x", "Invalid number of feature args"},
      {"/dev/vda 0 1 1 12 a b c d e f g h i j k l", "Invalid number of feature args"},
      {"/dev/vda 0 1 1 2 drop_writes", "Invalid number of feature args"},
      {"/dev/vda 0 1 1 1 other", "Unrecognised flakey feature requested"},
      {"/dev/vda 0 1 1 2 drop_writes drop_writes", "Feature drop_writes duplicated"},
      {"/dev/vda 0 1 1 2 error_reads error_reads", "Feature error_reads duplicated"},
      {"/dev/vda 0 1 1 2 drop_writes error_writes",
       "Feature error_writes conflicts with feature drop_writes"},
      {"/dev/vda 0 1 1 2 error_writes drop_writes",
       "Feature drop_writes conflicts with feature error_writes"},
      {"/dev/vda 0 1 1 1 corrupt_bio_byte", "Feature corrupt_bio_byte requires parameters"},
      {"/dev/vda 0 1 1 2 corrupt_bio_byte 0", "Invalid corrupt bio byte"},
      {"/dev/vda 0 1 1 3 corrupt_bio_byte 1 x", "Invalid corrupt bio direction (r or w)"},
      {"/dev/vda 0 1 1 4 corrupt_bio_byte 1 r 256",
       "Invalid corrupt value to write into bio byte (0-255)"},
      {"/dev/vda 0 1 1 4 corrupt_bio_byte 1 r 255", "Invalid corrupt bio flags mask"},
      {"/dev/vda 0 1 1 4 corrupt_bio_byte 1 r 255 0", "Insufficient feature arguments"},
      {"/dev/vda 0 1 1 6 corrupt_bio_byte 1 w 255 0 drop_writes",
       "drop_writes is incompatible with corrupt_bio_byte with the WRITE flag set"},
      {"/dev/vda 0 1 1 6 error_writes corrupt_bio_byte 1 w 255 0",
       "error_writes is incompatible with corrupt_bio_byte with the WRITE flag set"},
      {"/dev/vda 0 1 1 1 random_read_corrupt", "Feature random_read_corrupt requires a parameter"},
      {"/dev/vda 0 1 1 2 random_write_corrupt 1000000001", "Invalid random corrupt argument"},
  };
  for (const auto& [given, text] : lines)
    EXPECT_EQ(loaded(given), std::string(text) + " (-EINVAL)") << given;
  EXPECT_EQ(loaded("/dev/no 0 1 1"), "Device lookup failed (-ENODEV)");
}

}  // namespace
}  // namespace lbd::target
