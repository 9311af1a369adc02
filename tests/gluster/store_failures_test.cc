// SPDX-License-Identifier: MIT
// Servers that fail, lose what they have answered, hang, and come back.
#include <algorithm>
#include <cstring>

#include "store/gluster/volume.h"
#include "store_fixture.h"

namespace lbd::store {
namespace {

class gluster_store_failures : public gluster_store {};

INSTANTIATE_TEST_SUITE_P(all, gluster_store_failures,
                         testing::Values(rt::backend::threads, rt::backend::automatic),
                         [](const auto& p) {
                           return p.param == rt::backend::threads ? "threads" : "automatic";
                         });

// ---- Failing servers

TEST_P(gluster_store_failures, a_failed_sync_is_made_good_by_the_next) {
  const auto d = open();
  ASSERT_TRUE(rt_->run_until(write(*d, 0, std::string(1000, 'a'))));
  ASSERT_TRUE(rt_->run_until(write(*d, 500, std::string(1000, 'b'))));
  ASSERT_TRUE(rt_->run_until(write(*d, 250, std::string(500, 'c'))));
  ASSERT_TRUE(rt_->run_until(d->write_zeroes(300, 100, {})));
  fake().rule("fdatasync fail 107 times 2");
  EXPECT_EQ(code_of(rt_->run_until(d->flush({}))), errc::not_connected);
  fake().crash();
  EXPECT_EQ(content("v", "a").substr(0, 2000), std::string(2000, '\0'));
  EXPECT_EQ(code_of(rt_->run_until(d->flush({}))), errc::not_connected);
  fake().crash();
  EXPECT_TRUE(rt_->run_until(d->flush({})));
  fake().crash();
  const std::string wanted = std::string(250, 'a') + std::string(50, 'c') + std::string(100, '\0') +
                             std::string(350, 'c') + std::string(750, 'b') + std::string(500, '\0');
  EXPECT_EQ(content("v", "a").substr(0, 2000), wanted);
}

TEST_P(gluster_store_failures, writing_again_never_shows_old_bytes) {
  const auto d = open();
  ASSERT_TRUE(rt_->run_until(write(*d, 0, std::string(4096, '1'))));
  ASSERT_TRUE(rt_->run_until(write(*d, 1024, std::string(1024, '2'))));
  ASSERT_TRUE(rt_->run_until(write(*d, 0, std::string(4096, '3'))));
  fake().rule("fdatasync fail 107 times 1");
  EXPECT_FALSE(rt_->run_until(d->flush({})));
  // The servers go away again after the first write.
  fake().rule("pwritev fail 107 skip 1");
  (void)rt_->run_until(d->flush({}));
  EXPECT_EQ(rt_->run_until(read(*d, 0, 4096)), std::string(4096, '3'));
}

TEST_P(gluster_store_failures, what_servers_lost_before_a_request_failed_is_written_again) {
  const auto d = open();
  for (const char* rule : {"pwritev fail 107 times 1", "preadv fail 107 times 1",
                           "pwritev fail 5 times 1", "pwritev fail 30 times 1"}) {
    ASSERT_TRUE(rt_->run_until(write(*d, 0, rule)));
    fake().crash();
    fake().rule(rule);
    (void)rt_->run_until(write(*d, 4096, "B"));
    (void)rt_->run_until(read(*d, 0, 1));
    fake().clear_rules();
    ASSERT_TRUE(rt_->run_until(write(*d, 4096, "B")));
    ASSERT_TRUE(rt_->run_until(d->flush({})));
    fake().crash();
    EXPECT_EQ(content("v", "a").substr(0, std::strlen(rule)), rule);
    EXPECT_EQ(content("v", "a").substr(4096, 1), "B");
  }
}

TEST_P(gluster_store_failures, servers_that_were_away_between_two_requests_are_noticed) {
  const auto d = open();
  const auto lost = [&d, this](const char* what) {
    ASSERT_TRUE(rt_->run_until(write(*d, 0, what)));
    fake().crash();
    fake().rule((std::string(what) + " fail 107 times 1").c_str());
  };
  const auto is_back = [&d, this](const std::string& what) {
    ASSERT_TRUE(rt_->run_until(d->flush({})));
    fake().crash();
    EXPECT_EQ(content("v", "a").substr(0, what.size()), what);
  };
  lost("posix_lock");
  const uint64_t asked = fake().count("posix_lock");
  // The second one begins when the first has ended.
  ASSERT_TRUE(comes_true([asked, this] {
    rt_->run_until(renew_locks(*rt_));
    return fake().count("posix_lock") >= asked + 2;
  }));
  is_back("posix_lock");
  lost("lseek");
  block::extent_list found;
  EXPECT_FALSE(rt_->run_until(d->extents(0, 4096, found, {})));
  is_back("lseek");
}

// A reactor whose request has failed, and which is too busy to hear of it for a while.
task<bool> fail_unheard(gluster_device& d) {
  struct one {
    static task<void> run(gluster_device& d) { (void)co_await read(d, 0, 1); }
  };
  rt::spawn(one::run(d));
  std::this_thread::sleep_for(std::chrono::milliseconds(400));
  co_return true;
}
task<bool> flush_meanwhile(gluster_device& d) {
  while (fake().count("preadv") == 0) co_await rt::sleep_for(std::chrono::milliseconds(1));
  co_await rt::sleep_for(std::chrono::milliseconds(100));
  const auto done = co_await d.flush({});
  co_return done.has_value();
}
task<bool> flush_beside(rt::runtime& rt, gluster_device& d) {
  struct there {
    static task<bool> run(rt::runtime& rt, gluster_device& d) {
      auto work = [&d] { return fail_unheard(d); };
      co_return co_await rt::call_on(rt.at(1), work);
    }
  };
  std::vector<task<bool>> all;
  all.push_back(there::run(rt, d));
  all.push_back(flush_meanwhile(d));
  const auto done = co_await rt::when_all(std::move(all));
  co_return done[1];
}

TEST_P(gluster_store_failures, a_sync_knows_of_failures_that_their_reactors_have_not_heard_of) {
  const auto d = open();
  ASSERT_TRUE(rt_->run_until(write(*d, 0, "abc")));
  fake().crash();
  fake().rule("preadv fail 107 times 1");
  EXPECT_TRUE(rt_->run_until(flush_beside(*rt_, *d)));
  fake().crash();
  EXPECT_EQ(content("v", "a").substr(0, 3), "abc");
}

TEST_P(gluster_store_failures, writes_fail_when_no_sync_makes_room_for_their_copies) {
  const auto d = open();
  fake().rule("fdatasync fail 5");
  EXPECT_FALSE(rt_->run_until(write_much(*d, 200)));
  EXPECT_FALSE(rt_->run_until(d->discard(0, 4096, {})));
  fake().clear_rules();
  EXPECT_TRUE(rt_->run_until(write(*d, 0, "x")));
  EXPECT_TRUE(rt_->run_until(d->flush({})));
  rt_->run_until(d->close());  // waits for a sync that began by itself
}

TEST_P(gluster_store_failures, a_fua_write_whose_sync_fails_fails) {
  const auto d = open();
  fake().rule("fdatasync fail 5 times 1");
  EXPECT_EQ(code_of(rt_->run_until(write(*d, 0, "x", block::io_fua))), errc::io);
  EXPECT_TRUE(rt_->run_until(write(*d, 0, "y", block::io_fua)));
}

TEST_P(gluster_store_failures, a_sync_fails_as_long_as_its_changes_cannot_be_written_again) {
  const auto d = open();
  ASSERT_TRUE(rt_->run_until(write(*d, 0, "abc")));
  fake().rule("fdatasync fail 107 times 1");
  EXPECT_FALSE(rt_->run_until(d->flush({})));
  fake().crash();
  fake().rule("pwritev fail 28 times 1");
  EXPECT_EQ(code_of(rt_->run_until(d->flush({}))), errc::nospc);
  EXPECT_TRUE(rt_->run_until(d->flush({})));
  EXPECT_EQ(content("v", "a").substr(0, 3), "abc");
}

// Writes from both reactors while syncs fail and the servers forget; nothing that a good sync
// covered may be missing.
struct writer_state {
  std::vector<char> last;  // per block
  bool failed = false;
};
task<bool> write_blocks(gluster_device& d, writer_state& s, unsigned first, unsigned rounds) {
  uint64_t draw = first;
  for (unsigned i = 0; i < rounds; ++i) {
    draw = draw * 6364136223846793005u + 1442695040888963407u;
    const unsigned block = first + static_cast<unsigned>((draw >> 40) % 32) * 2;
    const char c = static_cast<char>('a' + i % 26);
    const auto done = co_await write(d, uint64_t{block} * 4096, std::string(4096, c));
    if (done) s.last[block] = c;
    if (!done) s.failed = true;
  }
  co_return true;
}
task<unsigned> flush_often(gluster_device& d, unsigned rounds) {
  unsigned good = 0;
  for (unsigned i = 0; i < rounds; ++i) {
    const auto done = co_await d.flush({});
    if (done) ++good;
    co_await rt::sleep_for(std::chrono::microseconds(500));
  }
  co_return good;
}
task<unsigned> write_on_both(rt::runtime& rt, gluster_device& d, writer_state& s) {
  struct here {
    static task<unsigned> even(rt::runtime& rt, gluster_device& d, writer_state& s) {
      auto work = [&d, &s] { return write_blocks(d, s, 0, 300); };
      (void)co_await rt::call_on(rt.at(0), work);
      co_return 0u;
    }
    static task<unsigned> odd(rt::runtime& rt, gluster_device& d, writer_state& s) {
      auto work = [&d, &s] { return write_blocks(d, s, 1, 300); };
      (void)co_await rt::call_on(rt.at(1), work);
      co_return 0u;
    }
  };
  std::vector<task<unsigned>> all;
  all.push_back(here::even(rt, d, s));
  all.push_back(here::odd(rt, d, s));
  all.push_back(flush_often(d, 60));
  unsigned good = 0;
  for (unsigned n : co_await rt::when_all(std::move(all))) good += n;
  co_return good;
}

TEST_P(gluster_store_failures, nothing_answered_is_lost_when_syncs_fail_under_load) {
  const auto d = open();
  fake().reorder(1);
  for (int i = 0; i < 15; ++i)
    fake().rule(("fdatasync fail 107 times 1 skip " + std::to_string(i)).c_str());
  writer_state s;
  s.last.assign(64, '\0');
  (void)rt_->run_until(write_on_both(*rt_, *d, s));
  EXPECT_FALSE(s.failed);
  fake().clear_rules();
  fake().rule("fdatasync fail 107 times 1");
  ASSERT_TRUE(rt_->run_until(write(*d, 1 << 19, "x")));
  EXPECT_FALSE(rt_->run_until(d->flush({})));
  fake().crash();
  ASSERT_TRUE(rt_->run_until(d->flush({})));
  fake().crash();
  const std::string bytes = content("v", "a");
  for (unsigned b = 0; b < 64; ++b)
    EXPECT_EQ(bytes.substr(b * 4096, 4096), std::string(4096, s.last[b])) << b;
}

TEST_P(gluster_store_failures, servers_go_and_come_back) {
  const auto d = open();
  ASSERT_TRUE(rt_->run_until(write(*d, 0, "before")));
  fake().rule("io fail 107");
  EXPECT_EQ(code_of(rt_->run_until(write(*d, 0, "during"))), errc::not_connected);
  EXPECT_EQ(rt_->run_until(read(*d, 0, 6)), "error 107");
  EXPECT_FALSE(rt_->run_until(d->flush({})));
  fake().clear_rules();
  EXPECT_EQ(rt_->run_until(read(*d, 0, 6)), "before");
  EXPECT_TRUE(rt_->run_until(d->flush({})));
  EXPECT_TRUE(rt_->run_until(write(*d, 0, "after!")));
}

task<bool> fail_every_other_write(gluster_device& d, unsigned count) {
  for (unsigned i = 0; i < count; ++i) {
    (void)co_await write(d, uint64_t{i} * 512, "x");
    (void)co_await read(d, 0, 1);
  }
  co_return true;
}

TEST_P(gluster_store_failures, the_log_is_not_flooded_where_some_requests_fail) {
  const auto d = open();
  for (int i = 0; i < 50; ++i)
    fake().rule(("pwritev fail 28 times 1 skip " + std::to_string(i)).c_str());
  base::set_log_level(base::log_level::warn);
  testing::internal::CaptureStderr();
  rt_->run_until(fail_every_other_write(*d, 100));
  const std::string log = testing::internal::GetCapturedStderr();
  base::set_log_level(base::log_level::off);
  EXPECT_EQ(std::count(log.begin(), log.end(), '\n'), 2) << log;
  EXPECT_THAT(log, HasSubstr("write failed: No space left on device"));
  EXPECT_THAT(log, HasSubstr("works again"));
}

// ---- Images made in vain

// What an attempt to make gluster://h/v/new says.
errc make(rt::runtime& rt, const std::string& option = "") {
  const auto made =
      rt.run_until(gluster_device::make(rt, source("gluster://h/v/new" + option), 4096));
  return made ? errc::ok : made.error().code;
}

TEST_P(gluster_store_failures, nothing_stays_of_an_image_made_in_vain) {
  for (const char* rule :
       {"fstat fail 28", "posix_lock fail 28", "ftruncate fail 28", "fdatasync fail 28"}) {
    fake().rule((std::string(rule) + " times 1").c_str());
    EXPECT_EQ(make(*rt_), errc::nospc) << rule;
    EXPECT_EQ(content("v", "new"), "(missing)") << rule;
  }
  // Others' images are left alone.
  put("v", "new", 512);
  EXPECT_EQ(make(*rt_), errc::exist);
  fake().rule("creat fail 28 times 1");
  EXPECT_EQ(make(*rt_), errc::nospc);
  fake().rule("fstat fail 28 times 1");
  EXPECT_FALSE(rt_->run_until(gluster_device::open(*rt_, source("gluster://h/v/new"), true)));
  EXPECT_EQ(content("v", "new").size(), 512u);
}

TEST_P(gluster_store_failures, an_image_that_is_made_too_late_is_removed) {
  fake().rule("creat hold times 1");
  EXPECT_EQ(make(*rt_, "?timeout=1"), errc::timed_out);
  fake().release();
  for (int i = 0; i < 5000 && fake().count("unlink") == 0; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  for (int i = 0; i < 5000 && content("v", "new") != "(missing)"; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_EQ(content("v", "new"), "(missing)");
  EXPECT_EQ(make(*rt_), errc::ok);
}

TEST_P(gluster_store_failures, an_image_that_another_program_has_taken_meanwhile_stays) {
  fake().rule("posix_lock fail 11");
  EXPECT_EQ(make(*rt_), errc::busy);
  EXPECT_EQ(content("v", "new"), "");
}

TEST_P(gluster_store_failures, what_has_taken_the_name_of_an_image_made_in_vain_stays) {
  uint64_t inode = 0;
  {
    const auto made = rt_->run_until(gluster_device::make(*rt_, source("gluster://h/v/new"), 4096));
    ASSERT_TRUE(made);
    inode = (*made)->file().info().inode;
  }
  put("v", "new", 512);
  rt_->run_until(remove_made_gluster_image(*rt_, source("gluster://h/v/new"), inode));
  EXPECT_EQ(content("v", "new").size(), 512u);
}

// ---- Hanging servers

TEST_P(gluster_store_failures, a_hanging_volume_fails_only_its_own_devices) {
  put("w", "a", 4096);
  const auto hung = open("gluster://h/v/a?timeout=1");
  const auto well = open("gluster://h/w/a");
  fake().rule("pwritev hold times 1");
  EXPECT_EQ(code_of(rt_->run_until(write(*hung, 0, "late"))), errc::timed_out);
  // What was given up may still arrive: nothing newer overtakes it.
  EXPECT_EQ(code_of(rt_->run_until(write(*hung, 0, "newer"))), errc::timed_out);
  EXPECT_EQ(code_of(rt_->run_until(hung->flush({}))), errc::ok);  // nothing was answered
  EXPECT_TRUE(rt_->run_until(write(*well, 0, "quick")));
  EXPECT_EQ(rt_->run_until(read(*hung, 0, 1)), std::string(1, '\0'));
  fake().release();
  for (int i = 0; i < 2000 && !rt_->run_until(write(*hung, 0, "newer")); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_EQ(content("v", "a").substr(0, 5), "newer");
}

TEST_P(gluster_store_failures, a_read_that_was_given_up_touches_nobodys_memory) {
  auto d = open("gluster://h/v/a?timeout=1");
  ASSERT_TRUE(rt_->run_until(write(*d, 0, std::string(4096, 'x'))));
  fake().rule("preadv hold times 1");
  EXPECT_EQ(rt_->run_until(read(*d, 0, 4096)), "error 110");  // its memory is freed here
  fake().release();
  EXPECT_EQ(rt_->run_until(read(*d, 0, 4096)), std::string(4096, 'x'));
}

// Uses `well` when the library is stuck in a read, and lets it go on then.
task<std::string> use_and_release(gluster_device& well) {
  while (fake().count("preadv") == 0) co_await rt::sleep_for(std::chrono::milliseconds(1));
  const auto written = co_await write(well, 0, "well");
  if (!written) co_return "cannot write";
  std::string got = co_await read(well, 0, 4);
  fake().release();
  co_return got;
}
task<std::vector<std::string>> use_beside(task<std::string> stuck, gluster_device& well) {
  std::vector<task<std::string>> all;
  all.push_back(std::move(stuck));
  all.push_back(use_and_release(well));
  co_return co_await rt::when_all(std::move(all));
}

TEST_P(gluster_store_failures, a_call_that_blocks_holds_up_its_volume_only) {
  put("w", "a", 4096);
  const auto stuck = open();
  const auto well = open("gluster://h/w/a");
  ASSERT_TRUE(rt_->run_until(write(*stuck, 0, "stuck")));
  fake().rule("preadv stall times 1");
  const auto got = rt_->run_until(use_beside(read(*stuck, 0, 5), *well));
  EXPECT_EQ(got, (std::vector<std::string>{"stuck", "well"}));
}

task<std::vector<errc>> write_at_once(gluster_device& d, unsigned count) {
  struct one {
    static task<errc> run(gluster_device& d, unsigned i) {
      const auto done = co_await write(d, uint64_t{i} * 512, "late");
      co_return done ? errc::ok : done.error().code;
    }
  };
  std::vector<task<errc>> all;
  for (unsigned i = 0; i < count; ++i) all.push_back(one::run(d, i));
  co_return co_await rt::when_all(std::move(all));
}

TEST_P(gluster_store_failures, what_was_given_up_before_its_turn_never_begins) {
  const auto d = open("gluster://h/v/a?timeout=1");
  fake().rule("pwritev stall times 1");
  EXPECT_EQ(rt_->run_until(write_at_once(*d, 8)), std::vector<errc>(8, errc::timed_out));
  fake().clear_rules();
  fake().release();
  for (int i = 0; i < 2000 && !rt_->run_until(write(*d, 8192, "newer")); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_EQ(content("v", "a").substr(8192, 5), "newer");
  EXPECT_EQ(fake().count("pwritev"), 2u);
}

task<unsigned> failed_reads(gluster_device& d, uint64_t count) {
  std::vector<task<std::string>> all;
  for (uint64_t i = 0; i < count; ++i) all.push_back(read(d, 0, 512));
  unsigned failed = 0;
  for (const std::string& got : co_await rt::when_all(std::move(all)))
    failed += got == "error 110" ? 1 : 0;
  co_return failed;
}

TEST_P(gluster_store_failures, reads_that_were_given_up_are_bounded) {
  const auto d = open("gluster://h/v/a?timeout=1");
  fake().rule("preadv hold");
  constexpr uint64_t most = gluster_bounds::most_late_reads;
  EXPECT_EQ(rt_->run_until(failed_reads(*d, most)), most);
  EXPECT_EQ(rt_->run_until(failed_reads(*d, 1000)), 1000u);  // at once
  EXPECT_EQ(fake().count("preadv"), most);
  fake().clear_rules();
  fake().release();
  for (int i = 0; i < 2000 && rt_->run_until(failed_reads(*d, 1)) != 0; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_EQ(rt_->run_until(failed_reads(*d, 1000)), 0u);
}

TEST_P(gluster_store_failures, a_sync_that_was_given_up_is_made_good) {
  const auto d = open("gluster://h/v/a?timeout=1");
  ASSERT_TRUE(rt_->run_until(write(*d, 0, "abc")));
  fake().rule("fdatasync hold times 1");
  EXPECT_EQ(code_of(rt_->run_until(d->flush({}))), errc::timed_out);
  fake().crash();
  fake().release();
  for (int i = 0; i < 2000 && !rt_->run_until(d->flush({})); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_EQ(content("v", "a").substr(0, 3), "abc");
}

TEST_P(gluster_store_failures, answers_come_after_the_device_and_the_runtime_are_gone) {
  auto d = open("gluster://h/v/a?timeout=1");
  fake().rule("io hold");
  EXPECT_EQ(rt_->run_until(read(*d, 0, 512)), "error 110");
  EXPECT_EQ(code_of(rt_->run_until(write(*d, 0, "late"))), errc::timed_out);
  d.reset();
  rt_.reset();
  EXPECT_EQ(fake().count("close"), 0u);  // the library still works on it
  fake().release();
  for (int i = 0; i < 5000 && fake().count("fini") == 0; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_EQ(fake().count("close"), 2u);  // of the image and of its lock
  EXPECT_EQ(fake().count("fini"), 1u);
}

TEST_P(gluster_store_failures, the_lock_is_held_while_a_write_that_was_given_up_may_arrive) {
  auto d = open("gluster://h/v/a?timeout=1");
  fake().rule("pwritev hold");
  EXPECT_EQ(code_of(rt_->run_until(write(*d, 0, "late"))), errc::timed_out);
  rt_->run_until(d->close());
  d.reset();
  EXPECT_EQ(fake().count("close"), 0u);
  EXPECT_EQ(fake().locks("v", "a"), 1u);
  fake().release();
  for (int i = 0; i < 5000 && fake().locks("v", "a") != 0; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_EQ(fake().locks("v", "a"), 0u);
  EXPECT_EQ(content("v", "a").substr(0, 4), "late");
}

TEST_P(gluster_store_failures, closing_does_not_wait_for_the_librarys_end) {
  fake().rule("fini delay 3000");
  const auto begin = std::chrono::steady_clock::now();
  auto d = open();
  ASSERT_TRUE(rt_->run_until(write(*d, 0, "x")));
  rt_->run_until(d->close());
  EXPECT_EQ(fake().count("close"), 2u);  // of the image and of its lock
  d.reset();
  rt_.reset();
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::milliseconds(2000));
}

}  // namespace
}  // namespace lbd::store
