// SPDX-License-Identifier: MIT
#include "target/table_fixture_test.h"

namespace lbd::target {
namespace {

class delay : public table_fixture {
 protected:
  static constexpr uint64_t ms = 1'000'000;
  const std::string data_ = std::string(512, 'd');
};

TEST_F(delay, every_class_waits_its_time) {
  const auto d = make("delay", "/dev/vda 0 10 /dev/vdb 8 200 /dev/vda 0 3000");
  const uint64_t begin = now_ns();
  ASSERT_EQ(write(*d, 512, data_), errc::ok);
  EXPECT_EQ(now_ns() - begin, 200 * ms);
  EXPECT_EQ(sources_.b->text(9 * 512, 512), data_)
      << "writes have a device and a start of their own";
  EXPECT_EQ(read(*d, 512, 512), std::string(512, '\0'));
  EXPECT_EQ(now_ns() - begin, 210 * ms);
  sources_.a->seen.clear();
  sources_.b->seen.clear();
  ASSERT_EQ(flush(*d), errc::ok);
  EXPECT_EQ(now_ns() - begin, 3210 * ms);
  EXPECT_EQ(sources_.a->seen, std::vector<std::string>{"flush"});
  EXPECT_EQ(sources_.b->seen, std::vector<std::string>{"flush"}) << "what was written lies there";
  EXPECT_EQ(run(discarding(*d, 0, 512)), errc::ok);
  EXPECT_EQ(run(zeroing(*d, 0, 512)), errc::ok);
  EXPECT_EQ(now_ns() - begin, 3610 * ms) << "discards and zeros are writes";
}

TEST_F(delay, table_prints_the_classes_that_were_given) {
  (void)make("delay", "/dev/vda 8 500");
  EXPECT_EQ(table(), "254:0 8 500");
  (void)make("delay", "/dev/vda 8 500 /dev/vdb 0 0", 2048, "e");
  EXPECT_EQ(table("e"), "254:0 8 500 254:16 0 0");
  (void)make("delay", "/dev/vda 8 500 /dev/vdb 0 0 254:0 1 4294967296", 2048, "f");
  EXPECT_EQ(table("f"), "254:0 8 500 254:16 0 0 254:0 1 0") << "numbers wrap as the kernel's";
}

TEST_F(delay, wrong_lines) {
  EXPECT_EQ(load("d", "delay", "/dev/vda 0"), "Requires exactly 3, 6 or 9 arguments (-EINVAL)");
  EXPECT_EQ(load("d", "delay", "/dev/vda 0 1 2"), "Requires exactly 3, 6 or 9 arguments (-EINVAL)");
  EXPECT_EQ(load("d", "delay", "/dev/vda x 1"), "Invalid device sector (-EINVAL)");
  EXPECT_EQ(load("d", "delay", "/dev/vda 0 +1"), "Invalid delay (-EINVAL)");
  EXPECT_EQ(load("d", "delay", "/dev/no 0 1"), "Device lookup failed (-ENODEV)");
  EXPECT_EQ(load("d", "delay", "/dev/vda 0 1 /dev/vdb 0 x"), "Invalid delay (-EINVAL)");
  EXPECT_EQ(load("d", "delay", "/dev/vda 8000 1"),
            "table: 253:0: 254:0 too small for target: start=8000, len=2048, dev_size=8192");
}

TEST_F(delay, a_class_without_delay_is_routed_past) {
  const auto d = make("delay", "/dev/vda 8 0 /dev/vdb 0 5");
  block::path way;
  const block::place r = block::walk(*d, block::op::read, 1024, 512, way);
  EXPECT_EQ(r.device, sources_.a.get());
  EXPECT_EQ(r.offset, 10u * 512);
  way.leave(errc::ok);
  block::path other;
  EXPECT_NE(block::walk(*d, block::op::write, 1024, 512, other).device, sources_.b.get());
}

TEST_F(delay, status_counts_those_who_wait_and_suspending_lets_them_go) {
  const auto d = make("delay", "/dev/vda 0 3000");
  std::string text(512, '?'), more(512, '?');
  const uint64_t begin = now_ns();
  const auto r1 = start(reading(*d, 0, text, {}));
  const auto r2 = start(reading(*d, 512, more, {}));
  const auto w = start(writing(*d, 0, data_, {}));
  const auto f = start(flushing(*d, {}));
  settle();
  EXPECT_EQ(status(), "2 1 1");
  suspend("d");
  settle();
  for (const auto& request : {r1, r2, w, f}) {
    EXPECT_EQ(request->code, errc::ok);
    EXPECT_EQ(request->at_ns, begin) << "no time passed";
  }
  EXPECT_EQ(status(), "0 0 0");
  EXPECT_EQ(resume("d"), "");
  ASSERT_EQ(write(*d, 0, data_), errc::ok);
  EXPECT_EQ(now_ns() - begin, 3000 * ms) << "resuming delays again";
}

TEST_F(delay, requests_of_one_moment_keep_their_order) {
  const auto d = make("delay", "/dev/vda 0 100");
  for (int i = 0; i < 8; ++i)
    (void)start(writing(*d, static_cast<uint64_t>(7 * i % 8) * 512, data_, {}));
  advance(150 * ms);
  EXPECT_EQ(sources_.a->seen,
            (std::vector<std::string>{"write 0+1", "write 7+1", "write 6+1", "write 5+1",
                                      "write 4+1", "write 3+1", "write 2+1", "write 1+1"}));
}

TEST_F(delay, who_went_away_does_not_wait_to_the_end) {
  const auto d = make("delay", "/dev/vda 0 60000");
  const uint64_t begin = now_ns();
  block::cancel_token token;
  block::io_opts io;
  io.cancel = &token;
  const auto w = start(writing(*d, 0, data_, io));
  block::io_opts hurried;
  hurried.deadline_ns = begin + 500 * ms;
  const auto late = start(writing(*d, 0, data_, hurried));
  advance(1000 * ms);
  EXPECT_EQ(late->code, errc::timed_out);
  EXPECT_EQ(late->at_ns - begin, 500 * ms);
  EXPECT_EQ(w->at_ns, 0u);
  token.cancel();
  settle();
  EXPECT_EQ(w->code, errc::canceled);
  EXPECT_EQ(w->at_ns - begin, 1000 * ms) << "told at once";
  EXPECT_TRUE(sources_.a->seen.empty()) << "neither was sent";
  EXPECT_EQ(status(), "0 0 0");
}

}  // namespace
}  // namespace lbd::target
