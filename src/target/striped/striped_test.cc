// SPDX-License-Identifier: MIT
#include "target/table_fixture_test.h"

namespace lbd::target {
namespace {

class striped : public table_fixture {
 protected:
  using strings = std::vector<std::string>;
  std::shared_ptr<block::block_device> over_two_disks(const std::string& chunk) {
    return make("striped", "2 " + chunk + " /dev/vda 16 /dev/vdb 32");
  }
};

TEST_F(striped, ranges_without_data_are_one_request_for_each_device) {
  const auto d = over_two_disks("4");
  ASSERT_EQ(run(discarding(*d, 0, 1024 * 512)), errc::ok);
  EXPECT_EQ(sources_.a->seen, strings{"discard 16+512"});
  EXPECT_EQ(sources_.b->seen, strings{"discard 32+512"});
  sources_.a->seen.clear();
  sources_.b->seen.clear();
  // From the middle of the second disk's first chunk to the middle of its third one.
  ASSERT_EQ(run(zeroing(*d, 6 * 512, 16 * 512)), errc::ok);
  EXPECT_EQ(sources_.a->seen, strings{"zero 20+8"});
  EXPECT_EQ(sources_.b->seen, strings{"zero 34+8"});
  sources_.a->seen.clear();
  sources_.b->seen.clear();
  ASSERT_EQ(run(discarding(*d, 9 * 512, 2 * 512)), errc::ok);
  EXPECT_EQ(sources_.a->seen, strings{"discard 21+2"});
  EXPECT_TRUE(sources_.b->seen.empty()) << "nothing of it lies there";
}

TEST_F(striped, zeros_land_where_writes_do) {
  for (const char* chunk : {"1", "8", "64"}) {
    const auto d = make("striped", std::string("2 ") + chunk + " /dev/vda 16 /dev/vdb 32", 2048,
                        std::string("d") + chunk);
    std::string model(2048 * 512, 'x');
    ASSERT_EQ(write(*d, 0, model), errc::ok);
    uint32_t x = 5;
    for (int i = 0; i < 40; ++i) {
      x = x * 1664525 + 1013904223;
      const uint64_t at = (x >> 6) % 2000, n = 1 + (x >> 18) % (2048 - at);
      if (n > 300) continue;
      ASSERT_EQ(run(zeroing(*d, at * 512, n * 512)), errc::ok);
      model.replace(at * 512, n * 512, n * 512, '\0');
      ASSERT_TRUE(read(*d, 0, model.size()) == model) << chunk << " " << at << "+" << n;
    }
  }
}

TEST_F(striped, requests_are_best_in_rows_of_chunks) {
  const auto d = over_two_disks("128");
  EXPECT_EQ(d->limits().io_min_bytes, 65536u);
  EXPECT_EQ(d->limits().io_opt_bytes, 131072u);
  const auto one = make("striped", "1 11 /dev/vda 0", 1100, "one");
  EXPECT_EQ(one->limits().io_min_bytes, 5632u);
  EXPECT_EQ(one->limits().io_opt_bytes, 5632u);
  const auto again = make("striped", "2 1 253:0 0 253:1 0", 64, "again");
  EXPECT_EQ(again->limits().io_min_bytes, 512u) << "the chunk, whatever is below";
  EXPECT_EQ(again->limits().io_opt_bytes, 1024u);
  const auto on = make("linear", "253:0 8", 64, "on");
  EXPECT_EQ(on->limits().io_min_bytes, 65536u);
  EXPECT_EQ(on->limits().io_opt_bytes, 131072u);
}

TEST_F(striped, status_and_wrong_lines) {
  const auto d = over_two_disks("4");
  EXPECT_EQ(table(), "2 4 254:0 16 254:16 32");
  EXPECT_EQ(status(), "2 254:0 254:16 1 AA");
  sources_.b->read_error = errc::io;
  EXPECT_EQ(read(*d, 0, 4096), "error");
  settle();
  EXPECT_EQ(status(), "2 254:0 254:16 1 AD");
  auto error = [this](const std::string& args) { return load("w", "striped", args); };
  EXPECT_EQ(error("2"), "Not enough arguments (-EINVAL)");
  EXPECT_EQ(error("0 4 /dev/vda 0"), "Invalid stripe count (-EINVAL)");
  EXPECT_EQ(error("2 x /dev/vda 0 /dev/vdb 0"), "Invalid chunk_size (-EINVAL)");
  EXPECT_EQ(error("3 4"), "Target length not divisible by number of stripes (-EINVAL)");
  EXPECT_EQ(error("2 3 /dev/vda 0 /dev/vdb 0"),
            "Target length not divisible by chunk size (-EINVAL)");
  EXPECT_EQ(error("2 4 /dev/vda 0"), "Not enough destinations specified (-EINVAL)");
  EXPECT_EQ(error("2 4 /dev/vda 0 /dev/vdb x"), "Couldn't parse stripe destination (-EINVAL)");
  EXPECT_EQ(error("2 4 /dev/vda 0 /dev/no 0"), "Couldn't parse stripe destination (-ENODEV)");
  EXPECT_EQ(error("2 +4 /dev/vda 0 /dev/vdb 0"), "") << "as the kernel reads numbers";
}

}  // namespace
}  // namespace lbd::target
