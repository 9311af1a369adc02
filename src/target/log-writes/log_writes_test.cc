// SPDX-License-Identifier: MIT
#include <gmock/gmock.h>

#include "target/table_fixture_test.h"

namespace lbd::target {
namespace {

class log_writes : public table_fixture {
 protected:
  struct logged {
    uint64_t sector, sectors, flags;
    std::string text;  // a mark's, or the data
    friend bool operator==(const logged&, const logged&) = default;
  };
  static constexpr uint64_t flush_flag = 1, fua_flag = 2, discard_flag = 4, mark_flag = 8;

  uint64_t number(uint64_t at) { return base::load_little<uint64_t>(sources_.b->bytes(at, 8), 0); }
  // Reads `count` entries as a replay tool does.
  std::vector<logged> log(size_t count, uint64_t unit = 512) {
    std::vector<logged> out;
    uint64_t at = unit;
    while (out.size() < count) {
      logged e{number(at), number(at + 8), number(at + 16), {}};
      const uint64_t text_bytes = number(at + 24);
      if ((e.flags & mark_flag) != 0) e.text = sources_.b->text(at + 32, text_bytes);
      at += unit;
      if ((e.flags & discard_flag) == 0 && e.sectors != 0) {
        e.text = sources_.b->text(at, e.sectors * unit);
        at += e.sectors * unit;
      }
      out.push_back(std::move(e));
    }
    return out;
  }
  static std::string sectors(size_t n, char c) { return std::string(n * 512, c); }
};

TEST_F(log_writes, logs_writes_at_the_flush_that_covers_them) {
  const auto d = make("log-writes", "/dev/vda /dev/vdb");
  EXPECT_EQ(status(), "0 0");
  EXPECT_EQ(table(), "254:0 254:16");
  ASSERT_EQ(write(*d, 4096, sectors(8, 'a')), errc::ok);
  EXPECT_EQ(status(), "0 0") << "nothing is logged before a flush";
  ASSERT_EQ(flush(*d), errc::ok);
  EXPECT_EQ(status(), "2 10");
  EXPECT_EQ(read(*d, 4096, 4096), sectors(8, 'a'));
  EXPECT_EQ(sources_.a->text(4096, 4096), sectors(8, 'a'));
  EXPECT_EQ(log(2), (std::vector<logged>{{8, 8, 0, sectors(8, 'a')}, {0, 0, flush_flag, ""}}));
  EXPECT_EQ(number(0), 0u) << "the super block waits for a mark or a FUA write";
}

TEST_F(log_writes, fua_writes_and_marks_are_logged_at_once_and_counted) {
  const auto d = make("log-writes", "/dev/vda /dev/vdb");
  block::io_opts durable;
  durable.flags = block::io_fua;
  ASSERT_EQ(write(*d, 0, sectors(1, 'p')), errc::ok);
  ASSERT_EQ(write(*d, 512, sectors(1, 'f'), durable), errc::ok);
  EXPECT_EQ(status(), "1 2");
  EXPECT_EQ(message({"MARK", "here"}), "");
  EXPECT_EQ(status(), "2 3");
  EXPECT_EQ(log(2),
            (std::vector<logged>{{1, 1, fua_flag, sectors(1, 'f')}, {0, 0, mark_flag, "here"}}));
  EXPECT_EQ(number(0), 0x6a736677736872u);
  EXPECT_EQ(number(8), 1u);
  EXPECT_EQ(number(16), 2u);
  EXPECT_EQ(number(24), 512u);
}

TEST_F(log_writes, the_rest_and_an_end_mark_come_when_the_table_goes) {
  auto d = make("log-writes", "/dev/vda /dev/vdb");
  ASSERT_EQ(write(*d, 0, sectors(2, 'x')), errc::ok);
  ASSERT_EQ(run(discarding(*d, 8192, 1024)), errc::ok);
  d.reset();
  ASSERT_TRUE(run(m_.remove(key("d"), false)));
  EXPECT_EQ(log(3), (std::vector<logged>{{0, 2, 0, sectors(2, 'x')},
                                         {16, 2, discard_flag, ""},
                                         {0, 0, mark_flag, "dm-log-writes-end"}}));
  EXPECT_EQ(number(16), 3u);
}

TEST_F(log_writes, replacing_the_table_ends_the_log_too) {
  const auto d = make("log-writes", "/dev/vda /dev/vdb");
  ASSERT_EQ(write(*d, 0, sectors(1, 'x')), errc::ok);
  ASSERT_EQ(load("d", "linear", "/dev/vda 0"), "");
  ASSERT_EQ(resume("d"), "");
  EXPECT_EQ(log(2).back().text, "dm-log-writes-end");
}

TEST_F(log_writes, a_flush_covers_what_had_completed_when_it_began) {
  const auto d = make("log-writes", "/dev/vda /dev/vdb");
  ASSERT_EQ(write(*d, 0, sectors(1, '1')), errc::ok);
  sources_.a->open.reset();
  const auto under_way = start(writing(*d, 512, sectors(1, '2'), {}));
  const auto f = start(flushing(*d, {}));
  settle();
  EXPECT_EQ(f->at_ns, 0u);
  sources_.a->open.set();
  settle();
  ASSERT_NE(f->at_ns, 0u);
  ASSERT_NE(under_way->at_ns, 0u);
  EXPECT_EQ(log(2), (std::vector<logged>{{0, 1, 0, sectors(1, '1')}, {0, 0, flush_flag, ""}}));
  ASSERT_EQ(flush(*d), errc::ok);
  EXPECT_EQ(log(3)[2], (logged{1, 1, 0, sectors(1, '2')}));
}

// A replay would bring back what was overwritten.
TEST_F(log_writes, a_fua_write_comes_behind_what_it_overwrites) {
  const auto d = make("log-writes", "/dev/vda /dev/vdb");
  block::io_opts durable;
  durable.flags = block::io_fua;
  ASSERT_EQ(write(*d, 0, sectors(1, '1')), errc::ok);
  ASSERT_EQ(write(*d, 512, sectors(2, '2')), errc::ok);
  ASSERT_EQ(write(*d, 2048, sectors(1, '3')), errc::ok);
  ASSERT_EQ(write(*d, 1024, sectors(1, 'f'), durable), errc::ok);
  EXPECT_EQ(status(), "3 7");
  // Also while a flush is under way.
  ASSERT_EQ(write(*d, 4096, sectors(1, '4')), errc::ok);
  sources_.a->open.reset();
  const auto through = start(writing(*d, 4096, sectors(1, 'g'), durable));
  const auto flushed = start(flushing(*d, {}));
  settle();
  sources_.a->open.set();
  settle();
  ASSERT_NE(flushed->at_ns, 0u);
  ASSERT_NE(through->at_ns, 0u);
  std::string disk = sources_.a->text(0, 8192), replayed(8192, '\0');
  for (const logged& e : log(7)) replayed.replace(e.sector * 512, e.text.size(), e.text);
  EXPECT_EQ(replayed, disk);
  EXPECT_EQ(log(3), (std::vector<logged>{{0, 1, 0, sectors(1, '1')},
                                         {1, 2, 0, sectors(2, '2')},
                                         {2, 1, fua_flag, sectors(1, 'f')}}));
  EXPECT_EQ(status(), "7 14");
}

// Else the log would say that the flush has made it durable. Here flushes take a second.
class log_writes_slow_flush : public log_writes {
 protected:
  log_writes_slow_flush() {
    sources_.b = std::make_shared<watched_disk>(uint64_t{128} << 20);
    (void)make("delay", "/dev/vda 0 0 /dev/vda 0 0 /dev/vda 0 1000", 2048, "slow");
    d_ = make("log-writes", "/dev/mapper/slow /dev/vdb");
  }
  ~log_writes_slow_flush() override { d_.reset(); }
  std::shared_ptr<block::block_device> d_;
};

TEST_F(log_writes_slow_flush, what_completes_meanwhile_comes_behind_it_however_much_it_is) {
  ASSERT_EQ(write(*d_, 0, sectors(1, '1')), errc::ok);
  const auto f = start(flushing(*d_, {}));
  const std::string mib = sectors(2048, 'x');
  for (int i = 0; i < 63; ++i) ASSERT_EQ(write(*d_, 0, mib), errc::ok);
  EXPECT_EQ(f->at_ns, 0u);
  EXPECT_EQ(status(), "0 0");
  const auto waiting = start(writing(*d_, 0, mib, {}));
  settle();
  EXPECT_EQ(waiting->at_ns, 0u);
  EXPECT_EQ(f->at_ns, 0u);
  advance(2 * second_ns);
  EXPECT_NE(waiting->at_ns, 0u);
  EXPECT_NE(f->at_ns, 0u);
  EXPECT_EQ(log(3), (std::vector<logged>{
                        {0, 1, 0, sectors(1, '1')}, {0, 0, flush_flag, ""}, {0, 2048, 0, mib}}));
  EXPECT_THAT(status(), testing::StartsWith("66 "));
}

TEST_F(log_writes_slow_flush, a_fua_write_waits_when_it_has_overwritten_what_completed_meanwhile) {
  block::io_opts durable;
  durable.flags = block::io_fua;
  ASSERT_EQ(write(*d_, 0, sectors(1, '1')), errc::ok);
  const auto f = start(flushing(*d_, {}));
  settle();
  ASSERT_EQ(write(*d_, 512, sectors(2, '2')), errc::ok);
  ASSERT_EQ(write(*d_, 0, sectors(1, 'f'), durable), errc::ok);
  EXPECT_EQ(status(), "2 4") << "over what the flush covers: at once";
  const auto behind = start(writing(*d_, 1024, sectors(1, 'g'), durable));
  const auto again = start(writing(*d_, 1024, sectors(1, 'h'), durable));
  settle();
  EXPECT_EQ(behind->at_ns, 0u);
  EXPECT_EQ(again->at_ns, 0u);
  EXPECT_EQ(f->at_ns, 0u);
  ASSERT_EQ(write(*d_, 4096, sectors(1, '3')), errc::ok);
  advance(2 * second_ns);
  EXPECT_NE(behind->at_ns, 0u);
  EXPECT_NE(again->at_ns, 0u);
  EXPECT_EQ(log(6), (std::vector<logged>{{0, 1, 0, sectors(1, '1')},
                                         {0, 1, fua_flag, sectors(1, 'f')},
                                         {0, 0, flush_flag, ""},
                                         {1, 2, 0, sectors(2, '2')},
                                         {2, 1, fua_flag, sectors(1, 'g')},
                                         {2, 1, fua_flag, sectors(1, 'h')}}));
  EXPECT_THAT(status(), testing::StartsWith("6 ")) << "the other write waits for a flush";
}

// The second flush covers what the first does not, and may end first.
TEST_F(log_writes_slow_flush, two_flushes_at_a_time) {
  ASSERT_EQ(write(*d_, 0, sectors(1, '1')), errc::ok);
  const auto first = start(flushing(*d_, {}));
  advance(second_ns / 2);
  ASSERT_EQ(write(*d_, 512, sectors(1, '2')), errc::ok);
  const auto second = start(flushing(*d_, {}));
  settle();
  ASSERT_EQ(write(*d_, 1024, sectors(1, '3')), errc::ok);
  advance(2 * second_ns);
  ASSERT_NE(first->at_ns, 0u);
  ASSERT_NE(second->at_ns, 0u);
  EXPECT_EQ(log(4), (std::vector<logged>{{0, 1, 0, sectors(1, '1')},
                                         {0, 0, flush_flag, ""},
                                         {1, 1, 0, sectors(1, '2')},
                                         {0, 0, flush_flag, ""}}));
}

TEST_F(log_writes_slow_flush, a_log_that_fails_lets_everybody_go_on) {
  const auto f = start(flushing(*d_, {}));
  settle();
  const std::string mib = sectors(2048, 'x');
  for (int i = 0; i < 63; ++i) ASSERT_EQ(write(*d_, 0, mib), errc::ok);
  const auto waiting = start(writing(*d_, 0, mib, {}));
  settle();
  EXPECT_EQ(waiting->at_ns, 0u);
  sources_.b->write_error = errc::io;
  EXPECT_EQ(message({"mark", "m"}), "");
  settle();
  EXPECT_NE(waiting->at_ns, 0u);
  EXPECT_EQ(f->at_ns, 0u);
  advance(2 * second_ns);
}

// What waits for a flush that never comes is not only data.
TEST_F(log_writes, small_requests_do_not_gather_for_ever) {
  sources_.b = std::make_shared<watched_disk>(uint64_t{32} << 20);
  const auto d = make("log-writes", "/dev/vda /dev/vdb");
  for (int i = 0; i < 16384; ++i) ASSERT_EQ(run(discarding(*d, 0, 512)), errc::ok);
  EXPECT_EQ(status(), "0 0");
  ASSERT_EQ(run(discarding(*d, 0, 512)), errc::ok);
  EXPECT_EQ(status(), "16385 16385");
  // A buffer has 4096 bytes at least.
  for (int i = 0; i < 16383; ++i) ASSERT_EQ(write(*d, 0, sectors(1, 'x')), errc::ok);
  EXPECT_NE(status(), "16385 16385");
}

TEST_F(log_writes, a_failed_flush_covers_nothing) {
  const auto d = make("log-writes", "/dev/vda /dev/vdb");
  ASSERT_EQ(write(*d, 0, sectors(1, '1')), errc::ok);
  sources_.a->write_error = errc::io;
  EXPECT_EQ(flush(*d), errc::io);
  EXPECT_EQ(status(), "0 0");
  sources_.a->write_error = errc::ok;
  ASSERT_EQ(flush(*d), errc::ok);
  EXPECT_EQ(log(2)[0], (logged{0, 1, 0, sectors(1, '1')}));
}

TEST_F(log_writes, zeros_are_logged_as_data) {
  const auto d = make("log-writes", "/dev/vda /dev/vdb");
  ASSERT_EQ(write(*d, 0, sectors(2, 'x')), errc::ok);
  ASSERT_EQ(run(zeroing(*d, 512, 512)), errc::ok);
  ASSERT_EQ(flush(*d), errc::ok);
  EXPECT_EQ(log(2)[1], (logged{1, 1, 0, sectors(1, '\0')}));
}

// The log counts in logical blocks of the device, here those of its encryption.
TEST_F(log_writes, sectors_are_as_large_as_the_devices_blocks) {
  (void)make("crypt",
             "aes-xts-plain64 "
             "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f 0 /dev/vda 0 "
             "1 sector_size:4096",
             2048, "c");
  const auto d = make("log-writes", "/dev/mapper/c /dev/vdb");
  EXPECT_EQ(status(), "0 7") << "behind the super block's sector";
  ASSERT_EQ(write(*d, 4096, sectors(8, 'a')), errc::ok);
  ASSERT_EQ(write(*d, 8192, sectors(16, 'c')), errc::ok);
  ASSERT_EQ(write(*d, 8192 + 512, sectors(1, 'b')), errc::ok) << "less than a block";
  ASSERT_EQ(flush(*d), errc::ok);
  const std::string mixed = sectors(1, 'c') + sectors(1, 'b') + sectors(6, 'c');
  EXPECT_EQ(log(4, 4096), (std::vector<logged>{{1, 1, 0, sectors(8, 'a')},
                                               {2, 2, 0, sectors(16, 'c')},
                                               {2, 1, 0, mixed},
                                               {0, 0, flush_flag, ""}}));
  EXPECT_EQ(status(), "4 71");
  EXPECT_EQ(read(*d, 4096, 16384 - 4096), sectors(8, 'a') + mixed + sectors(8, 'c'));
  EXPECT_EQ(message({"mark", std::string(5000, 'm')}), "");
  EXPECT_EQ(log(5, 4096).back().text, std::string(4096 - 33, 'm'));
  EXPECT_EQ(status(), "5 79");
  EXPECT_EQ(number(16), 5u);
  EXPECT_EQ(number(24), 4096u);
  EXPECT_THAT(load("w", "log-writes", "/dev/mapper/c /dev/vdb", 1023),
              testing::HasSubstr("not aligned to h/w logical block size 4096"));
}

// Every prefix of the log up to a flush, played onto an empty disk, is what the disk held then.
TEST_F(log_writes, replaying_the_log_gives_every_flushed_state) {
  const auto d = make("log-writes", "/dev/vda /dev/vdb", 64);
  std::vector<std::string> states;
  uint32_t x = 1;
  size_t entries = 0;
  for (int round = 0; round < 12; ++round) {
    for (int i = 0; i < 5; ++i) {
      x = x * 1664525 + 1013904223;
      const uint64_t at = (x >> 8) % 60, n = 1 + (x >> 20) % 4;
      ASSERT_EQ(write(*d, at * 512, sectors(n, static_cast<char>('a' + (x >> 27) % 26))), errc::ok);
    }
    ASSERT_EQ(flush(*d), errc::ok);
    entries += 6;
    states.push_back(sources_.a->text(0, 64 * 512));
  }
  std::string disk(64 * 512, '\0');
  size_t flushes = 0;
  for (const logged& e : log(entries)) {
    if (e.flags == flush_flag) {
      EXPECT_EQ(disk, states.at(flushes++));
    } else {
      disk.replace(e.sector * 512, e.text.size(), e.text);
    }
  }
  EXPECT_EQ(flushes, states.size());
}

TEST_F(log_writes, a_full_or_broken_log_ends_logging_not_the_requests) {
  const auto d = make("log-writes", "/dev/vda /dev/vdb");
  sources_.b->write_error = errc::io;
  ASSERT_EQ(write(*d, 0, sectors(1, 'x')), errc::ok);
  EXPECT_EQ(flush(*d), errc::ok);
  EXPECT_EQ(status(), "1 2 logging_disabled");
  EXPECT_EQ(write(*d, 0, sectors(1, 'y')), errc::ok);
  EXPECT_EQ(flush(*d), errc::ok);
  EXPECT_EQ(sources_.a->text(0, 512), sectors(1, 'y'));
  sources_.b->write_error = errc::ok;
  const auto e = make("log-writes", "/dev/vda /dev/vdb", 8192, "e");
  for (int i = 0; i < 3; ++i) {
    ASSERT_EQ(write(*e, 0, sectors(4096, 'z')), errc::ok);
    ASSERT_EQ(flush(*e), errc::ok);
  }
  EXPECT_EQ(status("e"), "2 8195 logging_disabled");
}

TEST_F(log_writes, messages_and_wrong_lines) {
  (void)make("log-writes", "/dev/vda /dev/vdb more words");
  EXPECT_EQ(message({"mark", "a", "b"}),
            "error: Invalid log-writes message arguments, expect 2 arguments, got 3");
  EXPECT_EQ(message({"mark"}),
            "error: Invalid log-writes message arguments, expect 2 arguments, got 1");
  EXPECT_EQ(message({"other", "a"}),
            "error: Unrecognised log writes target message received: other");
  EXPECT_EQ(load("w", "log-writes", "/dev/vda"), "Invalid argument count (-EINVAL)");
  EXPECT_EQ(load("w", "log-writes", "/dev/no /dev/vdb"), "Device lookup failed (-ENODEV)");
  EXPECT_EQ(load("w", "log-writes", "/dev/vda /dev/no"), "Log device lookup failed (-ENODEV)");
}

}  // namespace
}  // namespace lbd::target
