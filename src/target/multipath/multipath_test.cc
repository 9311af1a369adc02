// SPDX-License-Identifier: MIT
// Texts as the kernel printed them, and paths that fail and come back.
#include <deque>
#include <random>

#include "block/target_registry.h"
#include "target/multipath/selectors.h"
#include "target/table_fixture_test.h"

namespace lbd::target {
namespace {

constexpr uint64_t ms = 1'000'000;

// One way to a disk that all ways share.
class way final : public block::block_device {
 public:
  explicit way(std::shared_ptr<store::memory_device> disk) : disk_(std::move(disk)) {}
  const block::limits& limits() const noexcept override { return disk_->limits(); }
  task<result<void>> read(uint64_t offset, rt::segments to, block::io_opts io) override {
    CO_CHECK(co_await pass());
    co_return co_await disk_->read(offset, to, io);
  }
  task<result<void>> write(uint64_t offset, rt::segments from, block::io_opts io) override {
    const auto r = co_await pass();
    // A failed write may have been done all the same.
    if (!r && !done_all_the_same) co_return r;
    CO_CHECK(co_await disk_->write(offset, from, io));
    co_return r;
  }
  task<result<void>> flush(block::io_opts) override { return pass(); }
  task<result<void>> discard(uint64_t offset, uint64_t length, block::io_opts io) override {
    CO_CHECK(co_await pass());
    co_return co_await disk_->discard(offset, length, io);
  }
  task<result<void>> write_zeroes(uint64_t offset, uint64_t length, block::io_opts io) override {
    CO_CHECK(co_await pass());
    co_return co_await disk_->write_zeroes(offset, length, io);
  }
  task<result<void>> extents(uint64_t offset, uint64_t length, block::extent_list& out,
                             block::io_opts io) override {
    CO_CHECK(co_await pass());
    co_return co_await disk_->extents(offset, length, out, io);
  }

  std::atomic<errc> error{errc::ok};
  std::atomic<bool> done_all_the_same{false};
  std::atomic<uint64_t> takes_ns{0};
  std::atomic<int> served{0}, failed{0}, inside{0};

 private:
  // An error is told at the end of the time that the request takes.
  task<result<void>> pass() {
    ++inside;
    const uint64_t takes = takes_ns;
    if (takes != 0) co_await rt::sleep_for(std::chrono::nanoseconds(takes));
    --inside;
    const errc code = error;
    ++(code == errc::ok ? served : failed);
    if (code != errc::ok) co_return base::io_error{code, 0};
    co_return result<void>{};
  }
  std::shared_ptr<store::memory_device> disk_;
};

class multipath : public table_fixture {
 protected:
  explicit multipath(std::unique_ptr<rt::runtime> runtime = jumping())
      : table_fixture(std::move(runtime)) {
    for (uint32_t i = 0; i < 4; ++i) {
      ways_.push_back(std::make_shared<way>(disk_));
      const std::string name = "/dev/way" + std::to_string(i);
      sources_.more[name] = block::opened_device{ways_.back(), {8, 16 * i}};
    }
    m_.on_event([this](const stack::device_event& e) {
      std::string text = e.action;
      for (const std::string& v : e.variables) text += " " + v;
      events_.push_back(std::move(text));
    });
  }
  ~multipath() override { m_.on_event({}); }
  std::string error(const std::string& args) { return load("d", "multipath", args); }
  void fail(size_t i, errc code = errc::io) { ways_[i]->error = code; }
  std::vector<int> served() const {
    std::vector<int> all;
    for (const auto& w : ways_) all.push_back(w->served);
    return all;
  }
  std::string suspend_without_flush() {
    stack::suspend_options how;
    how.no_flush = true;
    const auto r = run(m_.suspend(key("d"), how));
    return r ? "" : r.error().message;
  }
  uint32_t event_number() { return m_.state(key("d"))->event_number; }

  const std::string data_ = std::string(4096, 'd');
  std::shared_ptr<store::memory_device> disk_{*store::memory_device::make(4 << 20)};
  std::vector<std::shared_ptr<way>> ways_;
  std::vector<std::string> events_;
};

TEST_F(multipath, bad_tables_say_what_the_kernel_says) {
  const std::string inval = " (-EINVAL)";
  EXPECT_EQ(error(""), "invalid number of feature args" + inval);
  EXPECT_EQ(error("9 0 0 0 0 0 0 0 0 0"), "invalid number of feature args" + inval);
  EXPECT_EQ(error("1"), "invalid number of feature args" + inval);
  EXPECT_EQ(error("1 bogus 0 1 1 round-robin 0 1 1 /dev/vda 1"),
            "Unrecognised multipath feature request" + inval);
  EXPECT_EQ(error("1 pg_init_retries 0 0 0"), "Unrecognised multipath feature request" + inval);
  EXPECT_EQ(error("2 pg_init_retries 51 0 0 0"),
            "pg_init_retries must be between 1 and 50" + inval);
  EXPECT_EQ(error("2 pg_init_delay_msecs 60001 0 0 0"),
            "pg_init_delay_msecs must be between 0 and 60000" + inval);
  EXPECT_EQ(error("2 queue_mode xx 0 1 1 round-robin 0 1 1 /dev/vda 1"),
            "Unknown 'queue_mode' requested" + inval);
  EXPECT_EQ(error("0"), "invalid number of hardware handler args" + inval);
  EXPECT_EQ(error("0 0"), "invalid number of priority groups" + inval);
  EXPECT_EQ(error("0 0 1"), "invalid initial priority group number" + inval);
  EXPECT_EQ(error("0 0 0 1"), "invalid initial priority group" + inval);
  EXPECT_EQ(error("0 0 1 0"), "invalid initial priority group" + inval);
  EXPECT_EQ(error("0 0 1 1 round-robin"), "not enough priority group arguments" + inval);
  EXPECT_EQ(error("0 0 1 1 bogus 0 1 1 /dev/vda 1"), "unknown path selector type" + inval);
  EXPECT_EQ(error("0 0 1 1 Round-Robin 0 1 1 /dev/vda 1"), "unknown path selector type" + inval);
  EXPECT_EQ(error("0 0 1 1 round-robin x"), "invalid number of path selector args" + inval);
  EXPECT_EQ(error("0 0 1 1 historical-service-time 1 1024 1 0 /dev/vda"),
            "path selector constructor failed" + inval);
  EXPECT_EQ(error("0 0 1 1 round-robin 0 0 1"), "invalid number of paths" + inval);
  EXPECT_EQ(error("0 0 1 1 round-robin 0 1 x"), "invalid number of selector args" + inval);
  EXPECT_EQ(error("0 0 1 1 round-robin 0 1 1 /dev/vda"), "not enough path parameters" + inval);
  EXPECT_EQ(error("0 0 1 1 round-robin 0 1 1 /dev/nosuch 1"), "error getting device (-ENODEV)");
  EXPECT_EQ(error("0 1 alua 1 1 round-robin 0 1 1 /dev/vda 1"),
            "error attaching hardware handler (-ENODEV)");
  EXPECT_EQ(error("0 0 1 1 round-robin 0 1 1 /dev/vda x"),
            "round-robin ps: invalid repeat count" + inval);
  EXPECT_EQ(error("0 0 1 1 queue-length 0 1 2 /dev/vda 1 1"),
            "queue-length ps: incorrect number of arguments" + inval);
  EXPECT_EQ(error("0 0 1 1 service-time 0 1 2 /dev/vda 1 101"),
            "service-time ps: invalid relative_throughput value" + inval);
  EXPECT_EQ(error("0 0 2 1 round-robin 0 1 1 /dev/vda 1"), "priority group count mismatch" + inval);
  EXPECT_EQ(error("0 0 1 1 round-robin 0 1 1 /dev/vda 1 left"),
            "not enough priority group arguments" + inval);
  EXPECT_EQ(error("2 probe_secs 0 0 0 0"), "probe_secs must be between 1 and 3600" + inval);
  EXPECT_EQ(error("0 0 1 2 round-robin 0 1 1 /dev/vda 1"), "")
      << "an initial group beyond the last";
}

TEST_F(multipath, prints_what_the_kernel_prints) {
  auto d = make("multipath", "0 0 1 1 round-robin 0 2 1 /dev/vda 100 /dev/way2 100");
  EXPECT_EQ(table(), "0 0 1 1 round-robin 0 2 1 254:0 1 8:32 1 ");
  EXPECT_EQ(status(), "2 1 0 0 1 1 E 0 2 0 254:0 A 0 8:32 A 0 ");
  EXPECT_EQ(read(*d, 0, 512), std::string(512, '\0'));
  EXPECT_EQ(status(), "2 0 0 0 1 1 A 0 2 0 254:0 A 0 8:32 A 0 ");

  d = make(
      "multipath",
      "1 queue_if_no_path 0 2 1 queue-length 0 1 1 /dev/way0 10 queue-length 0 1 1 /dev/way2 20",
      2048, "ql");
  EXPECT_EQ(table("ql"),
            "1 queue_if_no_path 0 2 1 queue-length 0 1 1 8:0 1 queue-length 0 1 1 8:32 1 ");
  EXPECT_EQ(status("ql"), "2 1 0 0 2 1 E 0 1 1 8:0 A 0 0 E 0 1 1 8:32 A 0 0 ");

  d = make(
      "multipath",
      "3 QUEUE_IF_NO_PATH queue_mode bio 0 2 2 service-time 0 2 2 /dev/way0 1 1 /dev/way1 10 5 "
      "service-time 0 1 2 /dev/way2 2 0",
      2048, "st");
  EXPECT_EQ(table("st"),
            "4 queue_if_no_path retain_attached_hw_handler queue_mode bio 0 2 2 service-time 0 2 2 "
            "8:0 1 1 8:16 1 5 service-time 0 1 2 8:32 1 0 ");
  EXPECT_EQ(status("st"), "2 1 0 0 2 2 E 0 2 2 8:0 A 0 0 1 8:16 A 0 0 5 E 0 1 2 8:32 A 0 0 0 ");
  EXPECT_EQ(read(*d, 0, 512), std::string(512, '\0'));
  EXPECT_EQ(status("st"), "2 0 0 0 2 2 E 0 2 2 8:0 A 0 0 1 8:16 A 0 0 5 A 0 1 2 8:32 A 0 0 0 ");

  (void)make("multipath", "0 0 0 0", 2048, "none");
  EXPECT_EQ(table("none"), "0 0 0 0 ");
  EXPECT_EQ(status("none"), "2 1 0 0 0 0 ");
  (void)make("multipath",
             "5 pg_init_delay_msecs 0 pg_init_retries 7 retain_attached_hw_handler 1 alua 0 0",
             2048, "all");
  EXPECT_EQ(table("all"),
            "5 pg_init_retries 7 pg_init_delay_msecs 0 retain_attached_hw_handler 1 alua 0 0 ");
  (void)make(
      "multipath",
      "4 probe_secs 5 queue_mode bio 1 alua 1 1 historical-service-time 2 800 3 1 0 /dev/way1",
      2048, "own");
  EXPECT_EQ(table("own"),
            "5 retain_attached_hw_handler queue_mode bio probe_secs 5 0 1 1 "
            "historical-service-time 2 800 3 1 1 8:16 0 ");
  EXPECT_EQ(status("own"), "2 1 0 0 1 1 E 2 800 3 1 3 8:16 A 0 1024 0 0 ");
  (void)make("multipath", "0 0 1 1 io-affinity 0 1 1 /dev/way1 00000001", 2048, "ioa");
  EXPECT_EQ(table("ioa"), "0 0 1 1 io-affinity 0 1 1 8:16 1 ");
}

TEST_F(multipath, messages_are_answered_as_by_the_kernel) {
  const auto d = make("multipath",
                      "2 queue_mode bio 0 2 1 round-robin 0 1 1 /dev/way0 10 round-robin 0 1 1 "
                      "/dev/way2 20");
  const std::string features = "retain_attached_hw_handler queue_mode bio 0 2 ";
  const std::string groups = "round-robin 0 1 1 8:0 1 round-robin 0 1 1 8:32 1 ";
  EXPECT_EQ(message({"fail_path", "8:0"}), "");
  EXPECT_EQ(status(), "2 1 0 0 2 1 E 0 1 0 8:0 F 1 E 0 1 0 8:32 A 0 ");
  EXPECT_EQ(message({"fail_path", "/dev/way0"}), "") << "once more: nothing happens";
  EXPECT_EQ(message({"REINSTATE_path", "8:0"}), "");
  EXPECT_EQ(status(), "2 1 0 0 2 1 E 0 1 0 8:0 A 1 E 0 1 0 8:32 A 0 ");
  EXPECT_EQ(message({"disable_group", "1"}), "");
  EXPECT_EQ(status(), "2 1 0 0 2 1 D 0 1 0 8:0 A 1 E 0 1 0 8:32 A 0 ");
  EXPECT_EQ(message({"switch_group", "2"}), "");
  EXPECT_EQ(status(), "2 1 0 0 2 2 E 0 1 0 8:0 A 1 E 0 1 0 8:32 A 0 ");
  EXPECT_EQ(table(), "3 " + features + "2 " + groups);
  EXPECT_EQ(message({"enable_group", "1"}), "");
  EXPECT_EQ(message({"queue_if_no_path"}), "");
  EXPECT_EQ(table(), "4 queue_if_no_path " + features + "2 " + groups);
  EXPECT_EQ(message({"fail_if_no_path"}), "");
  EXPECT_EQ(table(), "3 " + features + "2 " + groups);
  settle();
  EXPECT_EQ(event_number(), 5u) << "two of paths, three of groups";
  EXPECT_EQ(message({"bogus"}),
            "error: Invalid multipath message arguments. Expected 2 arguments, got 1.");
  EXPECT_EQ(message({"bogus", "x"}), "error: Unrecognised multipath message received: bogus");
  EXPECT_EQ(message({"switch_group", "3"}), "error: invalid PG number supplied to switch_pg_num");
  EXPECT_EQ(message({"disable_group", "0"}), "error: invalid PG number supplied to bypass_pg");
  EXPECT_EQ(message({"fail_path", "9:9"}), "error: 9:9 is none of the paths");
  EXPECT_EQ(run(m_.message(key("d"), 0, {"fail_path", "/dev/nosuch"})).error().code, errc::nodev);
  EXPECT_EQ(run(m_.message(key("d"), 0, {"fail_path", "/dev/vdb"})).error().code, errc::inval);
  message({"fail_path", "8:0"});
  message({"fail_path", "8:32"});
  EXPECT_EQ(status(), "2 1 0 0 2 2 E 0 1 0 8:0 F 2 E 0 1 0 8:32 F 1 ");
  EXPECT_EQ(read(*d, 0, 512), "error");
  suspend("d");
  EXPECT_EQ(run(m_.message(key("d"), 0, {"queue_if_no_path"})).error().code, errc::busy);
}

TEST_F(multipath, a_failed_path_is_told_and_not_used_again) {
  const auto d = make("multipath",
                      "0 0 2 1 round-robin 0 2 0 /dev/way0 /dev/way1 round-robin 0 1 0 "
                      "/dev/way2");
  events_.clear();
  for (int i = 0; i < 4; ++i) EXPECT_EQ(write(*d, 0, data_), errc::ok);
  EXPECT_EQ(served(), (std::vector<int>{2, 2, 0, 0}));
  fail(0, errc::not_connected);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(read(*d, 0, 4096), data_);
  EXPECT_EQ(served(), (std::vector<int>{2, 6, 0, 0}));
  EXPECT_EQ(ways_[0]->failed, 1);
  fail(1, errc::timed_out);
  EXPECT_EQ(flush(*d), errc::ok) << "the other group";
  EXPECT_EQ(status(), "2 0 0 0 2 2 E 0 2 0 8:0 F 1 8:16 F 1 A 0 1 0 8:32 A 0 ");
  settle();
  fail(2);
  EXPECT_EQ(write(*d, 0, data_), errc::io) << "no path is left";
  settle();
  fail(0, errc::ok);
  message({"reinstate_path", "8:0"});
  EXPECT_EQ(read(*d, 0, 4096), data_);
  settle();
  EXPECT_EQ(events_,
            (std::vector<std::string>{
                "change DM_TARGET=multipath DM_ACTION=PATH_FAILED DM_SEQNUM=1 DM_PATH=8:0 "
                "DM_NR_VALID_PATHS=2",
                "change DM_TARGET=multipath DM_ACTION=PATH_FAILED DM_SEQNUM=2 DM_PATH=8:16 "
                "DM_NR_VALID_PATHS=1",
                "change DM_TARGET=multipath DM_ACTION=PATH_FAILED DM_SEQNUM=3 DM_PATH=8:32 "
                "DM_NR_VALID_PATHS=0",
                "change DM_TARGET=multipath DM_ACTION=PATH_REINSTATED DM_SEQNUM=4 DM_PATH=8:0 "
                "DM_NR_VALID_PATHS=1"}));
  const auto totals = m_.find_device(key("d"))->totals();
  EXPECT_EQ(totals[static_cast<size_t>(block::op::write)].errors, 1u);
  EXPECT_EQ(totals[static_cast<size_t>(block::op::read)].errors, 0u) << "nobody above saw them";
}

// What the kernel was seen to do: a group stays the one in use until a request looks for a path.
TEST_F(multipath, shows_the_group_in_use_as_the_kernel_does) {
  const auto d = make("multipath",
                      "2 queue_mode bio 0 2 1 round-robin 0 1 1 /dev/way0 10 queue-length 0 1 1 "
                      "/dev/way1 20");
  auto groups = [this](const char* first, const char* second) {
    return status() == std::string("2 0 0 0 2 ") + first + second + " 0 ";
  };
  ASSERT_EQ(write(*d, 0, data_), errc::ok);
  EXPECT_TRUE(groups("1 A 0 1 0 8:0 A 0 ", "E 0 1 1 8:16 A 0")) << status();
  fail(0);
  ASSERT_EQ(write(*d, 0, data_), errc::ok);
  EXPECT_TRUE(groups("2 E 0 1 0 8:0 F 1 ", "A 0 1 1 8:16 A 0")) << status();
  settle();
  EXPECT_EQ(event_number(), 1u);
  fail(1);
  EXPECT_EQ(write(*d, 0, data_), errc::io);
  EXPECT_TRUE(groups("2 E 0 1 0 8:0 F 1 ", "A 0 1 1 8:16 F 1")) << status();
  fail(0, errc::ok);
  message({"reinstate_path", "8:0"});
  EXPECT_TRUE(groups("2 E 0 1 0 8:0 A 1 ", "A 0 1 1 8:16 F 1")) << status();
  EXPECT_EQ(read(*d, 0, 4096), data_);
  EXPECT_TRUE(groups("1 A 0 1 0 8:0 A 1 ", "E 0 1 1 8:16 F 1")) << status();
  message({"queue_if_no_path"});
  message({"fail_path", "8:0"});
  EXPECT_TRUE(groups("1 A 0 1 0 8:0 F 2 ", "E 0 1 1 8:16 F 1")) << status();
  const auto waits = start(flushing(*d, {}));
  settle();
  EXPECT_EQ(waits->at_ns, 0u);
  message({"fail_if_no_path"});
  settle();
  EXPECT_EQ(waits->code, errc::io);
  EXPECT_TRUE(groups("1 E 0 1 0 8:0 F 2 ", "E 0 1 1 8:16 F 1")) << status();
}

TEST_F(multipath, requests_do_not_go_to_devices_that_take_bios) {
  (void)make("linear", "/dev/way0 0", 2048, "low");
  EXPECT_EQ(load("d", "multipath", "0 0 1 1 round-robin 0 1 0 /dev/mapper/low"),
            "table: unable to determine table type");
  EXPECT_EQ(load("d", "multipath", "2 queue_mode bio 0 1 1 round-robin 0 1 0 /dev/mapper/low"), "");
  EXPECT_EQ(load("top", "multipath", "0 0 1 1 round-robin 0 1 0 /dev/way0"), "");
}

TEST_F(multipath, errors_that_no_path_could_avoid_fail_no_path) {
  const auto d = make("multipath", "0 0 1 1 round-robin 0 2 0 /dev/way0 /dev/way1");
  for (const errc code :
       {errc::nospc, errc::notsup, errc::inval, errc::rofs, static_cast<errc>(EREMOTEIO),
        static_cast<errc>(EBADE), static_cast<errc>(ENODATA), static_cast<errc>(EILSEQ)}) {
    fail(0, code);
    fail(1, code);
    block::io_opts durable;
    durable.flags = block::io_fua;
    EXPECT_EQ(write(*d, 0, data_), code);
    EXPECT_EQ(write(*d, 0, data_, durable), code);
  }
  EXPECT_EQ(status(), "2 0 0 0 1 1 A 0 2 0 8:0 A 0 8:16 A 0 ");
}

TEST_F(multipath, groups_are_left_when_empty_and_entered_by_message) {
  const auto d = make("multipath",
                      "0 0 3 1 round-robin 0 1 0 /dev/way0 round-robin 0 1 0 /dev/way1 "
                      "round-robin 0 1 0 /dev/way2");
  auto used = [&] {
    const std::vector<int> before = served();
    EXPECT_EQ(read(*d, 0, 512), std::string(512, '\0'));
    const std::vector<int> after = served();
    for (size_t i = 0; i < after.size(); ++i)
      if (after[i] != before[i]) return i;
    return after.size();
  };
  EXPECT_EQ(used(), 0u);
  message({"disable_group", "1"});
  EXPECT_EQ(used(), 1u);
  EXPECT_EQ(status(), "2 0 0 0 3 2 D 0 1 0 8:0 A 0 A 0 1 0 8:16 A 0 E 0 1 0 8:32 A 0 ");
  message({"fail_path", "8:16"});
  message({"fail_path", "8:32"});
  EXPECT_EQ(used(), 0u) << "a disabled group is better than none";
  message({"reinstate_path", "8:32"});
  EXPECT_EQ(used(), 0u) << "used until it is empty";
  message({"switch_group", "3"});
  EXPECT_EQ(used(), 2u);
  EXPECT_EQ(status(), "2 0 0 0 3 3 E 0 1 0 8:0 A 0 E 0 1 0 8:16 F 1 A 0 1 0 8:32 A 1 ");
}

TEST_F(multipath, without_a_path_requests_wait_or_fail_as_told) {
  const auto d =
      make("multipath", "1 queue_if_no_path 0 1 1 queue-length 0 2 0 /dev/way0 /dev/way1");
  fail(0);
  fail(1);
  const auto w = start(writing(*d, 0, data_, {}));
  const auto f = start(flushing(*d, {}));
  block::io_opts hurried;
  hurried.deadline_ns = now_ns() + second_ns;
  const auto late = start(writing(*d, 8192, data_, hurried));
  block::cancel_token token;
  block::io_opts wanted;
  wanted.cancel = &token;
  const auto gone = start(writing(*d, 16384, data_, wanted));
  advance(2 * second_ns);
  EXPECT_EQ(late->code, errc::timed_out);
  token.cancel();
  settle();
  EXPECT_EQ(gone->code, errc::canceled);
  EXPECT_EQ(w->at_ns + f->at_ns, 0u) << "both wait";
  fail(1, errc::ok);
  message({"reinstate_path", "8:16"});
  settle();
  EXPECT_NE(w->at_ns, 0u);
  EXPECT_EQ(w->code, errc::ok);
  EXPECT_EQ(f->code, errc::ok);
  EXPECT_EQ(read(*d, 0, 4096), data_);

  fail(1);
  const auto lost = start(writing(*d, 0, data_, {}));
  advance(second_ns);
  EXPECT_EQ(lost->at_ns, 0u);
  message({"fail_if_no_path"});
  settle();
  EXPECT_EQ(lost->code, errc::io);
  EXPECT_EQ(status(), "2 0 0 0 1 1 E 0 2 1 8:0 F 1 0 8:16 F 2 0 ");
}

TEST_F(multipath, a_suspension_with_a_flush_fails_what_waits) {
  const auto d = make("multipath", "1 queue_if_no_path 0 1 1 round-robin 0 1 0 /dev/way0");
  fail(0);
  const auto w = start(writing(*d, 0, data_, {}));
  settle();
  suspend("d");
  EXPECT_EQ(w->code, errc::io);
  EXPECT_NE(w->at_ns, 0u);
  EXPECT_EQ(table(), "0 0 1 1 round-robin 0 1 1 8:0 1 ");
  EXPECT_EQ(resume("d"), "");
  EXPECT_EQ(table(), "1 queue_if_no_path 0 1 1 round-robin 0 1 1 8:0 1 ");
  const auto again = start(writing(*d, 0, data_, {}));
  advance(second_ns);
  EXPECT_EQ(again->at_ns, 0u);
  message({"fail_if_no_path"});
  settle();
}

TEST_F(multipath, without_a_flush_what_waits_goes_on_with_the_next_table) {
  for (const std::string mode : {"1 queue_if_no_path", "3 queue_if_no_path queue_mode bio"}) {
    const std::string name = mode.substr(0, 1);
    const auto d = make("multipath", mode + " 0 1 1 round-robin 0 1 0 /dev/way0", 2048, name);
    fail(0);
    std::vector<std::shared_ptr<outcome_of>> all;
    for (uint64_t i = 0; i < 4; ++i) all.push_back(start(writing(*d, 4096 * i, data_, {})));
    all.push_back(start(writing(*d, 100'001, "not whole sectors", {})));
    all.push_back(start(flushing(*d, {})));
    all.push_back(start(zeroing(*d, 0, 512)));
    settle();
    stack::suspend_options how;
    how.no_flush = true;
    ASSERT_TRUE(run(m_.suspend(key(name), how)));
    for (uint64_t i = 0; i < 4; ++i) all.push_back(start(writing(*d, 4096 * i, data_, {})));
    advance(second_ns);
    for (const auto& request : all) EXPECT_EQ(request->at_ns, 0u);
    ASSERT_EQ(load(name, "multipath", mode + " 0 1 1 round-robin 0 1 0 /dev/way1"), "");
    ASSERT_TRUE(run(m_.resume(key(name), how)));
    advance(second_ns);
    for (const auto& request : all) {
      EXPECT_NE(request->at_ns, 0u);
      EXPECT_EQ(request->code, errc::ok);
    }
    EXPECT_EQ(read(*d, 100'001, 17), "not whole sectors");
    fail(0, errc::ok);
  }
}

TEST_F(multipath, probing_brings_back_what_failed_by_itself) {
  const auto d = make(
      "multipath", "3 queue_if_no_path probe_secs 2 0 1 1 round-robin 0 2 0 /dev/way0 /dev/way1");
  fail(0);
  fail(1);
  const auto w = start(writing(*d, 0, data_, {}));
  settle();
  message({"fail_path", "8:16"});
  advance(10 * second_ns);
  EXPECT_EQ(w->at_ns, 0u);
  fail(0, errc::ok);
  fail(1, errc::ok);
  advance(2 * second_ns);
  EXPECT_EQ(w->code, errc::ok);
  EXPECT_NE(w->at_ns, 0u);
  EXPECT_EQ(status(), "2 0 0 0 1 1 A 0 2 0 8:0 A 1 8:16 F 1 ") << "failed by hand stays";
  suspend("d");
  fail(0);
  advance(5 * second_ns);
  EXPECT_EQ(resume("d"), "");
  message({"fail_if_no_path"});
  EXPECT_EQ(write(*d, 0, data_), errc::io);
  fail(0, errc::ok);
  advance(3 * second_ns);
  EXPECT_EQ(write(*d, 0, data_), errc::ok);
}

TEST_F(multipath, a_probe_under_way_is_waited_for) {
  const std::string line = "2 probe_secs 2 0 1 1 round-robin 0 1 0 /dev/way0";
  for (const bool reloaded : {true, false}) {
    auto d = make("multipath", line);
    fail(0);
    EXPECT_EQ(write(*d, 0, data_), errc::io);
    d = nullptr;
    const int failed = ways_[0]->failed;
    advance(3 * second_ns);
    EXPECT_EQ(ways_[0]->failed, failed + 1) << "the first probe has ended";
    ways_[0]->takes_ns = 60 * second_ns;
    advance(2 * second_ns);
    EXPECT_EQ(ways_[0]->inside, 1) << "the second has not";
    if (reloaded)
      (void)make("multipath", line);
    else
      EXPECT_TRUE(run(m_.remove(key("d"), false)));
    EXPECT_EQ(ways_[0]->inside, 0) << reloaded;
    ways_[0]->takes_ns = 0;
    fail(0, errc::ok);
  }
}

TEST_F(multipath, of_the_kernels_two_kinds_a_device_keeps_its_own) {
  const std::string path = " 1 1 round-robin 0 1 0 /dev/way0";
  (void)make("linear", "/dev/way0 0");
  EXPECT_EQ(load("d", "multipath", "0 0" + path),
            "ioctl: can't change device type (old=1 vs new=2) after initial table load.");
  EXPECT_EQ(load("d", "multipath", "2 queue_mode bio 0" + path), "");
  EXPECT_EQ(resume("d"), "");
  EXPECT_EQ(load("d", "linear", "/dev/way0 0"),
            "ioctl: can't replace immutable target type multipath");
  EXPECT_EQ(load("d", "multipath", "0 0" + path),
            "ioctl: can't change device type (old=1 vs new=2) after initial table load.");
  EXPECT_EQ(load("d", "error", ""), "");
  EXPECT_EQ(resume("d"), "");
  EXPECT_EQ(load("d", "linear", "/dev/way0 0"), "");

  (void)make("multipath", "0 0" + path, 2048, "rq");
  EXPECT_EQ(load("rq", "error", ""), "");
  EXPECT_EQ(run(m_.remove(key("rq"), false)) ? "" : "failed", "");
}

// Which path serves, by name; the load stays in flight for ever.
class selectors : public table_fixture {
 protected:
  void make_group(const std::string& type, std::vector<std::vector<std::string>> words) {
    selector_ = *make_path_selector(type, {}, 2);
    for (auto& w : words) {
      multipath_path& p = paths_.emplace_back();
      p.index = static_cast<uint32_t>(paths_.size() - 1);
      EXPECT_TRUE(selector_->add_path(p, w));
      valid_.push_back(&p);
    }
  }
  uint32_t send(uint64_t bytes) {
    block::moment now;
    multipath_path& p = selector_->choose(valid_, bytes, now);
    tokens_.emplace_back(p.index, selector_->start(p, bytes, now));
    return p.index;
  }
  void finish(size_t request) {
    block::moment now;
    selector_->end(paths_[tokens_[request].first], tokens_[request].second, now);
  }
  std::unique_ptr<path_selector> selector_;
  std::deque<multipath_path> paths_;
  path_list valid_;
  std::vector<std::pair<uint32_t, uint64_t>> tokens_;
};

TEST_F(selectors, round_robin_takes_each_in_turn) {
  make_group("round-robin", {{}, {"1"}, {"1000"}});
  EXPECT_EQ(send(1) * 100 + send(1) * 10 + send(1), 12u);
  EXPECT_EQ(send(1), 0u);
  EXPECT_EQ(selector_->table_text(paths_[2]), "1 ");
}

TEST_F(selectors, queue_length_takes_the_shortest_queue) {
  make_group("queue-length", {{}, {}, {}});
  for (uint32_t i = 0; i < 3; ++i) EXPECT_EQ(send(4096), i);
  finish(1);
  EXPECT_EQ(send(512), 1u);
  EXPECT_EQ(selector_->info_text(paths_[1]), "1 ");
  EXPECT_EQ(send(512), 0u) << "of equal ones the least recent";
  finish(2);
  finish(0);
  EXPECT_EQ(send(512), 2u);
}

TEST_F(selectors, service_time_weighs_bytes_by_throughput) {
  make_group("service-time", {{"1", "1"}, {"1", "4"}, {"1", "0"}});
  EXPECT_EQ(send(4096), 1u) << "idle: the faster one";
  EXPECT_EQ(send(4096), 1u) << "(4096 + 4096) / 4 < 4096 / 1";
  EXPECT_EQ(send(4096), 1u);
  EXPECT_EQ(send(4096), 1u) << "(12288 + 4096) / 4 is 4096 / 1: the faster one";
  EXPECT_EQ(send(4096), 0u);
  EXPECT_EQ(send(4096), 1u);
  for (int i = 0; i < 100; ++i) EXPECT_NE(send(65536), 2u) << "0 is never used";
  EXPECT_EQ(selector_->info_text(paths_[2]), "0 0 ");
  for (size_t i = 0; i < tokens_.size(); ++i) finish(i);
  EXPECT_EQ(selector_->info_text(paths_[0]), "0 1 ");
}

TEST_F(selectors, historical_service_time_learns_who_is_slow) {
  make_group("historical-service-time", {{}, {"1"}});
  // Path 1 takes a hundred times as long.
  for (int i = 0; i < 200; ++i) {
    const uint32_t p = send(4096);
    advance(p == 1 ? 100 * ms : ms);
    finish(tokens_.size() - 1);
  }
  EXPECT_GT(paths_[1].service_time, 10 * paths_[0].service_time);
  std::vector<int> count(2);
  for (int i = 0; i < 200; ++i) ++count[send(4096)];
  EXPECT_GT(count[0], 3 * count[1]);
  EXPECT_EQ(selector_->group_text(), "2 972 0 ");
}

TEST_F(selectors, io_affinity_gives_each_reactor_its_path) {
  make_group("io-affinity", {{"2"}, {"1"}});
  EXPECT_EQ(send(512), 1u);
  EXPECT_EQ(send(512), 1u);
  EXPECT_EQ(selector_->table_text(paths_[0]), "2 ");
  valid_.remove(&paths_[1]);
  EXPECT_EQ(send(512), 0u);
  EXPECT_EQ(selector_->info_text(paths_[0]), "1 ");
  multipath_path p;
  EXPECT_FALSE(selector_->add_path(p, {"3"})) << "both are taken";
  EXPECT_FALSE(selector_->add_path(p, {"x"}));
  EXPECT_FALSE(selector_->add_path(p, {}));
}

// Paths fail, some by slow timeouts, and come back, while writers and readers work and messages
// arrive. As long as one path works nothing may fail, and nothing acknowledged may be lost.
class multipath_load : public multipath, public testing::WithParamInterface<int> {
 protected:
  static constexpr uint64_t blocks = 32, block_bytes = 4096;

  uint32_t below(uint32_t n) { return static_cast<uint32_t>(random_() % n); }

  task<void> worker(std::shared_ptr<block::block_device> d, uint64_t first, uint64_t count) {
    while (!over_) {
      const uint64_t b = first + below(static_cast<uint32_t>(count));
      std::string text(block_bytes, '?');
      const iovec v{text.data(), text.size()};
      const rt::segments s(&v, 1);
      result<void> r;
      const uint32_t what = below(10);
      if (what < 5) {
        text.assign(block_bytes, static_cast<char>('a' + below(26)));
        text.replace(0, 8, std::to_string(10'000'000 + writes_++));
        block::io_opts io;
        if (below(4) == 0) io.flags = block::io_fua;
        r = co_await block::write(*d, b * block_bytes, s, io);
        if (r) model_[b] = text;
      } else if (what < 8) {
        r = co_await block::read(*d, b * block_bytes, s, {});
        EXPECT_TRUE(!r || text == model_[b]) << "block " << b;
      } else if (what == 8) {
        r = co_await d->write_zeroes(b * block_bytes, block_bytes, {});
        if (r) model_[b].assign(block_bytes, '\0');
      } else {
        r = co_await d->flush({});
      }
      EXPECT_TRUE(r) << base::to_string(r.error().code);
      ++requests_;
      co_await rt::sleep_for(std::chrono::nanoseconds(below(300'000)));
    }
    --workers_;
  }
  // Breaks and mends; path `safe` works all the time.
  void disturb() {
    const uint32_t i = below(4);
    way& w = *ways_[i];
    switch (below(5)) {
      case 0:
        w.takes_ns = below(2) * below(20) * ms;
        break;
      case 1:
        w.done_all_the_same = below(2) == 0;
        break;
      case 2:
        message({"switch_group", std::to_string(1 + below(2))});
        break;
      case 3:
        message({below(2) == 0 ? "disable_group" : "enable_group", std::to_string(1 + below(2))});
        break;
      default:
        if (i == safe_) return change_safe();
        if (w.error == errc::ok && below(2) == 0) {
          constexpr errc kinds[] = {errc::io, errc::not_connected, errc::timed_out, errc::nodev};
          w.error = kinds[below(4)];
        } else {
          w.error = errc::ok;
        }
    }
  }
  // Another path that works and is used becomes the one that is not touched.
  void change_safe() {
    for (uint32_t i = 0; i < 4; ++i) {
      if (i == safe_ || ways_[i]->error != errc::ok) continue;
      if (status().find("8:" + std::to_string(16 * i) + " A") == std::string::npos) continue;
      safe_ = i;
      return;
    }
  }

  std::mt19937 random_{static_cast<uint32_t>(GetParam())};
  std::vector<std::string> model_ =
      std::vector<std::string>(blocks, std::string(block_bytes, '\0'));
  uint32_t safe_ = 0;
  int workers_ = 0;
  uint64_t requests_ = 0, writes_ = 0;
  bool over_ = false;
};

TEST_P(multipath_load, nothing_fails_while_one_path_works) {
  constexpr const char* kinds[] = {"round-robin 0 2 0", "queue-length 0 2 0", "service-time 0 2 0",
                                   "historical-service-time 0 2 0"};
  const std::string kind = kinds[GetParam() % 4];
  const auto d = make("multipath", std::string(GetParam() % 2 == 0 ? "2" : "4 queue_mode bio") +
                                       " probe_secs 1 0 2 1 " + kind + " /dev/way0 /dev/way1 " +
                                       kind + " /dev/way2 /dev/way3");
  const auto top = make("linear", "/dev/mapper/d 0", 2048, "top");
  for (uint64_t i = 0; i < 8; ++i) {
    ++workers_;
    rt::spawn(worker(i % 2 == 0 ? d : top, i * 4, 4));
  }
  for (int i = 0; i < 500; ++i) {
    advance(below(20) * ms);
    disturb();
  }
  over_ = true;
  for (int i = 0; i < 1000 && workers_ > 0; ++i) advance(100 * ms);
  EXPECT_EQ(workers_, 0);
  EXPECT_GT(requests_, 1000u);
  int failures = 0;
  for (const auto& w : ways_) failures += w->failed;
  EXPECT_GT(failures, 10) << "there was something to survive";
  for (uint64_t b = 0; b < blocks; ++b)
    EXPECT_TRUE(base::as_text(disk_->borrow(b * block_bytes, block_bytes).bytes) == model_[b]) << b;
}

INSTANTIATE_TEST_SUITE_P(seeds, multipath_load, testing::Range(1, 9));

// The same on several reactors, whose clocks are real.
class multipath_threads : public multipath {
 protected:
  multipath_threads() : multipath(*rt::runtime::start({.reactors = 3})) {}

  task<bool> writer(std::shared_ptr<block::block_device> d, uint64_t at) {
    bool good = true;
    // A loaded machine may give the breaker no turn for long.
    for (int i = 0; i < 2000 || (ways_[0]->failed == 0 && i < 1'000'000); ++i) {
      std::string text(512, static_cast<char>('a' + i % 26)), seen(512, '?');
      const iovec out{text.data(), text.size()}, in{seen.data(), seen.size()};
      const auto w = co_await block::write(*d, at, rt::segments(&out, 1), {});
      const auto r = co_await block::read(*d, at, rt::segments(&in, 1), {});
      good = good && w && r && seen == text;
      if (i % 16 == 0) co_await rt::yield_now{};
    }
    ++ended_;
    co_return good;
  }
  task<bool> writer_on(unsigned reactor, std::shared_ptr<block::block_device> d, uint64_t at) {
    auto work = [this, d, at] { return writer(d, at); };
    co_return co_await rt::call_on(rt_->at(reactor), work);
  }
  task<bool> breaker() {
    for (size_t i = 0; ended_ < 6; ++i) {
      way& w = *ways_[i % 3];
      w.error = errc::io;
      co_await rt::sleep_for(std::chrono::microseconds(200));
      w.error = errc::ok;
      std::vector<std::string> words{"reinstate_path", "8:" + std::to_string(16 * (i % 3))};
      const auto r = co_await m_.message(key("d"), 0, std::move(words));
      EXPECT_TRUE(r);
    }
    co_return true;
  }
  task<bool> all_of(std::shared_ptr<block::block_device> d) {
    std::vector<task<bool>> all;
    for (unsigned i = 0; i < 6; ++i) all.push_back(writer_on(i % 3, d, uint64_t{i} * 512));
    all.push_back(breaker());
    bool good = true;
    for (const bool one : co_await rt::when_all(std::move(all))) good = good && one;
    co_return good;
  }
  std::atomic<int> ended_{0};
};

TEST_F(multipath_threads, reactors_agree_about_paths) {
  const auto d = make("multipath",
                      "0 0 2 1 queue-length 0 2 0 /dev/way0 /dev/way1 round-robin 0 2 0 /dev/way2 "
                      "/dev/way3");
  EXPECT_TRUE(run(all_of(d)));
  std::string text = status();
  EXPECT_TRUE(text.ends_with("8:48 A 0 ")) << "the last path never failed: " << text;
  EXPECT_GT(ways_[0]->failed, 0);
}

}  // namespace
}  // namespace lbd::target
