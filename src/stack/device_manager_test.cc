// SPDX-License-Identifier: MIT
// The kernel's rules for devices and tables, over sources in memory.
#include "stack/device_manager.h"

#include <gtest/gtest.h>

#include "block/segments.h"
#include "stack/device_name.h"
#include "store/memory/memory.h"

namespace lbd::stack {
namespace {

using base::errc;
using base::outcome;
using rt::task;

// "254:0" and "/dev/vda" are one memory device of 4 MiB, "/dev/vdb" another.
class memory_sources final : public source_opener {
 public:
  task<outcome<block::opened_device>> open(std::string source, bool) override {
    if (source == "/dev/vda" || source == "254:0") co_return block::opened_device{a, {254, 0}};
    if (source == "/dev/vdb" || source == "254:16") co_return block::opened_device{b, {254, 16}};
    co_return base::failure{errc::nodev, "no such source"};
  }
  std::shared_ptr<block::block_device> a{*store::memory_device::make(4 << 20)};
  std::shared_ptr<block::block_device> b{*store::memory_device::make(4 << 20)};
};

task<bool> visit() { co_return true; }
// Many rounds through all reactors: what goes from one to the next meanwhile comes to its end.
task<bool> go_round(rt::runtime& rt) {
  auto work = [] { return visit(); };
  for (int i = 0; i < 20; ++i) {
    for (unsigned r = 0; r < rt.reactor_count(); ++r) co_await rt::call_on(rt.at(r), work);
    co_await rt::yield_now{};
  }
  co_return true;
}

class manager : public testing::Test {
 protected:
  // Removals that the last user has begun end.
  void TearDown() override { rt_->run_until(go_round(*rt_)); }
  static device_key key(std::string name) { return {std::move(name), {}, {}}; }
  outcome<device_state> load(const std::string& name, std::vector<table_line> lines) {
    return rt_->run_until(m_.load(key(name), std::move(lines), false));
  }
  outcome<device_state> resume(const std::string& name) {
    return rt_->run_until(m_.resume(key(name), {}));
  }
  outcome<void> make(const std::string& name, std::vector<table_line> lines) {
    CHECK(drop(m_.create(name, "", {})));
    CHECK(drop(load(name, std::move(lines))));
    return drop(resume(name));
  }
  static outcome<void> drop(const outcome<device_state>& r) {
    if (!r) return r.error();
    return {};
  }
  std::string table(const std::string& name, bool inactive = false) {
    block::status_request q;
    q.kind = block::status_kind::table;
    const auto r = rt_->run_until(m_.status(key(name), q, inactive));
    std::string out;
    for (const auto& l : *r)
      out += std::to_string(l.start_sector) + " " + std::to_string(l.length_sectors) + " " +
             l.type + " " + l.args + "\n";
    return out;
  }
  std::unique_ptr<rt::runtime> rt_ = *rt::runtime::start({.reactors = 2});
  rt::reactor::scope here_{rt_->at(0)};
  memory_sources sources_;
  device_manager m_{*rt_, sources_};
};

TEST_F(manager, creates_loads_resumes_and_prints_what_can_be_loaded_again) {
  ASSERT_TRUE(make("d", {{0, 4096, "linear", "/dev/vda 8"}, {4096, 8, "linear", "254:16 0"}}));
  EXPECT_EQ(table("d"), "0 4096 linear 254:0 8\n4096 8 linear 254:16 0\n");
  const auto s = *m_.state(key("d"));
  EXPECT_TRUE(s.has_live);
  EXPECT_FALSE(s.has_inactive);
  EXPECT_EQ(s.number.text(), "253:0");
  EXPECT_EQ(s.size_bytes, 4104u * 512);
  const auto deps = *m_.deps(key("d"), false);
  ASSERT_EQ(deps.size(), 2u);
  EXPECT_EQ(deps[0].text(), "254:16") << "the last opened comes first";
}

TEST_F(manager, bad_tables_say_what_the_kernel_says) {
  ASSERT_TRUE(m_.create("d", "", {}));
  auto text = [&](std::vector<table_line> lines) {
    const auto r = load("d", std::move(lines));
    return r ? std::string("loaded") : r.error().message;
  };
  EXPECT_EQ(text({}), "ioctl: populate_table: no targets specified");
  EXPECT_EQ(text({{8, 8, "linear", "/dev/vda 0"}}), "table: 253:0: linear: Gap in table (-EINVAL)");
  EXPECT_EQ(text({{0, 0, "linear", "/dev/vda 0"}}), "table: 253:0: zero-length target");
  EXPECT_EQ(text({{0, UINT64_MAX, "linear", "/dev/vda 0"}}), "table: 253:0: too large device");
  EXPECT_EQ(text({{0, 8, "nosuch", ""}}), "table: 253:0: nosuch: unknown target type");
  EXPECT_EQ(text({{0, 8, "linear", "/dev/vda"}}),
            "table: 253:0: linear: Invalid argument count (-EINVAL)");
  EXPECT_EQ(text({{0, 8, "linear", "/dev/nosuch 0"}}),
            "table: 253:0: linear: Device lookup failed (-ENODEV)");
  EXPECT_EQ(text({{0, 8, "linear", "/dev/vda 8190"}}),
            "table: 253:0: 254:0 too small for target: start=8190, len=8, dev_size=8192");
  EXPECT_FALSE(m_.state(key("d"))->has_inactive);
}

TEST_F(manager, a_new_table_is_inactive_until_resume) {
  ASSERT_TRUE(make("d", {{0, 8, "linear", "/dev/vda 0"}}));
  ASSERT_TRUE(load("d", {{0, 16, "linear", "/dev/vdb 0"}}));
  EXPECT_EQ(table("d"), "0 8 linear 254:0 0\n");
  EXPECT_EQ(table("d", true), "0 16 linear 254:16 0\n");
  ASSERT_TRUE(resume("d"));
  EXPECT_EQ(table("d"), "0 16 linear 254:16 0\n");
  ASSERT_TRUE(load("d", {{0, 8, "linear", "/dev/vda 0"}}));
  ASSERT_TRUE(rt_->run_until(m_.clear(key("d"))));
  EXPECT_FALSE(m_.state(key("d"))->has_inactive);
}

TEST_F(manager, sizes_are_checked_at_the_first_load_and_later_at_resume) {
  ASSERT_TRUE(m_.create("d", "", {}));
  EXPECT_FALSE(load("d", {{0, 8, "linear", "/dev/vda 8192"}}));
  EXPECT_EQ(load("d", {{0, 24, "crypt",
                        "aes-cbc-plain 000102030405060708090a0b0c0d0e0f 0 /dev/vda 3 1 "
                        "sector_size:4096"}})
                .error()
                .message,
            "table: 253:0: start=3 not aligned to h/w logical block size 4096 of 254:0");
  ASSERT_TRUE(load("d", {{0, 8, "linear", "/dev/vda 0"}}));
  ASSERT_TRUE(resume("d"));
  ASSERT_TRUE(load("d", {{0, 9000, "linear", "/dev/vdb 0"}}));
  const auto refused = resume("d");
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, errc::inval);
  EXPECT_EQ(refused.error().message,
            "table: 253:0: 254:16 too small for target: start=0, len=9000, dev_size=8192");
  EXPECT_TRUE(m_.state(key("d"))->suspended);
  EXPECT_FALSE(m_.state(key("d"))->has_inactive);
  EXPECT_EQ(table("d"), "0 8 linear 254:0 0\n");
  ASSERT_TRUE(resume("d"));
  EXPECT_FALSE(m_.state(key("d"))->suspended);
}

TEST_F(manager, a_table_may_stand_on_a_device_that_waits_for_its_first_one) {
  ASSERT_TRUE(m_.create("low", "", {}));
  ASSERT_TRUE(m_.create("high", "", {}));
  EXPECT_EQ(load("high", {{0, 16, "linear", "253:0 0"}}).error().code, static_cast<errc>(ENXIO));
  ASSERT_TRUE(load("low", {{0, 16, "linear", "/dev/vda 8"}}));
  EXPECT_EQ(load("high", {{0, 16, "linear", "/dev/mapper/low 0"}}).error().code, errc::nodev)
      << "its name comes when it is resumed";
  ASSERT_TRUE(load("high", {{0, 16, "linear", "253:0 0"}}));
  EXPECT_EQ(m_.state(key("low"))->open_count, 1u);
  EXPECT_EQ(m_.state(key("low"))->size_bytes, 0u);
  ASSERT_TRUE(resume("low"));
  ASSERT_TRUE(resume("high"));
  const auto high = *m_.open(key("high"));
  EXPECT_EQ(high.device->limits().can_discard, sources_.a->limits().can_discard);
  EXPECT_EQ(high.device->limits().can_write_zeroes, sources_.a->limits().can_write_zeroes);
  std::vector<std::byte> seen(512);
  const iovec v{seen.data(), seen.size()};
  EXPECT_TRUE(rt_->run_until(high.device->read(0, {&v, 1}, {})));
}

TEST_F(manager, names_uuids_and_minors_are_unique) {
  ASSERT_TRUE(m_.create("a", "U1", {}));
  EXPECT_EQ(m_.create("a", "", {}).error().code, errc::busy);
  EXPECT_EQ(m_.create("b", "U1", {}).error().code, errc::busy);
  EXPECT_EQ(static_cast<int>(m_.create("b", "", 0).error().code), ENXIO);
  EXPECT_EQ(m_.create("b", "", {})->number.minor, 1u);
  EXPECT_EQ(m_.rename(key("b"), "a").error().code, errc::busy);
  ASSERT_TRUE(m_.rename(key("b"), "c"));
  EXPECT_EQ(m_.set_uuid(key("c"), "U1").error().code, errc::busy);
  ASSERT_TRUE(m_.set_uuid(key("c"), "U2"));
  EXPECT_EQ(m_.set_uuid(key("c"), "U3").error().code, errc::inval);
  EXPECT_EQ(m_.state(device_key{{}, "U2", {}})->name, "c");
  EXPECT_EQ(m_.state(key("c"))->event_number, 2u);
  ASSERT_TRUE(rt_->run_until(m_.remove(key("a"), false)));
  EXPECT_EQ(m_.create("d", "", {})->number.minor, 0u) << "the lowest free minor";
  const auto taken = m_.create("e", "", 0);
  ASSERT_FALSE(taken);
  EXPECT_EQ(static_cast<int>(taken.error().code), ENXIO);
  EXPECT_EQ(taken.error().message, "minor number 0 is in use by device d");
  EXPECT_EQ(m_.create(std::string(128, 'n'), "", {}).error().message,
            "invalid device name '" + std::string(128, 'n') + "': it has more than 127 bytes");
}

TEST_F(manager, open_devices_stay_until_the_last_user_goes) {
  ASSERT_TRUE(make("low", {{0, 4096, "linear", "/dev/vda 0"}}));
  ASSERT_TRUE(make("top", {{0, 8, "linear", "/dev/mapper/low 8"}}));
  EXPECT_EQ(m_.state(key("low"))->open_count, 1u);
  EXPECT_EQ(rt_->run_until(m_.remove(key("low"), false)).error().code, errc::busy);
  ASSERT_TRUE(rt_->run_until(m_.remove(key("low"), true)));
  EXPECT_TRUE(m_.state(key("low"))->deferred_remove);
  ASSERT_TRUE(rt_->run_until(m_.remove(key("top"), false)));
  rt_->at(0).turn(0);
  EXPECT_TRUE(m_.list().empty());
}

TEST_F(manager, requests_held_while_suspended_go_through_the_new_table) {
  ASSERT_TRUE(make("d", {{0, 4096, "linear", "/dev/vda 0"}}));
  auto opened = *m_.open(key("d"));
  ASSERT_TRUE(rt_->run_until(m_.suspend(key("d"), {})));
  std::string text(512, 'x');
  const iovec v{text.data(), text.size()};
  bool done = false;
  auto send = [](block::block_device& d, const iovec& data, bool& flag) -> task<void> {
    flag = bool(co_await block::write(d, 0, rt::segments(&data, 1), {}));
  };
  rt::spawn(send(*opened.device, v, done));
  rt_->at(0).turn(0);
  EXPECT_FALSE(done);
  ASSERT_TRUE(load("d", {{0, 4096, "linear", "/dev/vdb 0"}}));
  ASSERT_TRUE(resume("d"));
  for (int i = 0; i < 100 && !done; ++i) rt_->at(0).turn(1'000'000);
  EXPECT_TRUE(done);
  EXPECT_EQ(base::as_text(sources_.b->borrow(0, 512).bytes), text);
  EXPECT_TRUE(base::is_zero(sources_.a->borrow(0, 512).bytes));
}

TEST_F(manager, a_read_only_table_refuses_writes_whatever_is_below) {
  struct sending {
    static task<int> run(block::block_device& to) {
      const std::vector<std::byte> data(512);
      const block::segment_list all{base::bytes_view(data)};
      const auto w = co_await block::write(to, 0, all.view(), {});
      const auto part = co_await block::write(to, 3, all.view(), {});
      const auto d = co_await to.discard(0, 512, {});
      const auto z = co_await to.write_zeroes(0, 512, {});
      const auto f = co_await to.flush({});
      int refused = 0;
      for (const auto& r : {w, part, d, z, f})
        if (!r && r.error().code == errc::perm) ++refused;
      co_return refused;
    }
  };
  ASSERT_TRUE(make("d", {{0, 8, "linear", "/dev/vda 0"}, {8, 8, "zero", ""}}));
  const auto opened = *m_.open(key("d"));
  EXPECT_EQ(rt_->run_until(sending::run(*opened.device)), 0);
  for (const bool read_only : {true, false}) {
    ASSERT_TRUE(rt_->run_until(m_.load(key("d"), {{0, 8, "linear", "/dev/vda 0"}}, read_only)));
    ASSERT_TRUE(resume("d"));
    EXPECT_EQ(opened.device->limits().read_only, read_only);
    EXPECT_EQ(rt_->run_until(sending::run(*opened.device)), read_only ? 4 : 0);
  }
}

TEST_F(manager, a_table_on_a_read_only_device_leaves_the_refusal_to_it) {
  struct writing {
    static task<errc> run(block::block_device& to, uint64_t sector) {
      const std::vector<std::byte> data(512);
      const block::segment_list all{base::bytes_view(data)};
      const auto w = co_await block::write(to, sector * 512, all.view(), {});
      co_return base::code_of(w);
    }
  };
  ASSERT_TRUE(m_.create("low", "", {}));
  ASSERT_TRUE(rt_->run_until(m_.load(key("low"), {{0, 8, "linear", "/dev/vda 0"}}, true)));
  ASSERT_TRUE(resume("low"));
  ASSERT_TRUE(make("up", {{0, 8, "linear", "/dev/mapper/low 0"}, {8, 8, "linear", "/dev/vdb 0"}}));
  const auto up = *m_.open(key("up"));
  EXPECT_EQ(rt_->run_until(writing::run(*up.device, 0)), errc::perm);
  EXPECT_EQ(rt_->run_until(writing::run(*up.device, 8)), errc::ok) << "the other line";
  ASSERT_TRUE(load("low", {{0, 8, "linear", "/dev/vda 0"}}));
  ASSERT_TRUE(resume("low"));
  EXPECT_EQ(rt_->run_until(writing::run(*up.device, 0)), errc::ok);
}

TEST_F(manager, what_is_read_only_below_is_told_above_as_long_as_it_is) {
  const auto set = [this](const char* name, std::vector<table_line> lines, bool read_only) {
    ASSERT_TRUE(rt_->run_until(m_.load(key(name), std::move(lines), read_only)));
    ASSERT_TRUE(resume(name));
  };
  for (const char* name : {"low", "mid", "a-top", "store"}) ASSERT_TRUE(m_.create(name, "", {}));
  set("low", {{0, 64, "linear", "/dev/vda 0"}}, true);
  set("store", {{0, 64, "linear", "/dev/vdb 0"}}, false);
  set("mid", {{0, 8, "linear", "/dev/mapper/low 0"}, {8, 8, "zero", ""}}, false);
  set("a-top", {{0, 8, "delay", "/dev/mapper/low 0 0 /dev/mapper/mid 0 0"}}, false);
  ASSERT_TRUE(make("reads", {{0, 8, "delay", "/dev/mapper/low 0 0 /dev/vdb 0 0"}}));
  ASSERT_TRUE(make("snap", {{0, 64, "snapshot", "/dev/mapper/low /dev/mapper/store N 8"}}));
  const auto told = [this] {
    std::string all;
    for (const char* name : {"low", "mid", "a-top", "reads", "snap"})
      all += m_.find_device(key(name))->limits().read_only ? 'r' : 'w';
    return all;
  };
  EXPECT_EQ(told(), "rrrww");
  EXPECT_FALSE(m_.state(key("mid"))->read_only) << "its own table is not";
  set("low", {{0, 64, "linear", "/dev/vda 0"}}, false);
  EXPECT_EQ(told(), "wwwww");
  set("mid", {{0, 8, "linear", "/dev/mapper/low 0"}}, true);
  EXPECT_EQ(told(), "wrrww");
  set("store", {{0, 64, "linear", "/dev/vdb 0"}}, true);
  EXPECT_EQ(told(), "wrrwr");
  // A table that was loaded before what is below changed.
  ASSERT_TRUE(load("a-top", {{0, 8, "linear", "/dev/mapper/mid 0"}}));
  set("mid", {{0, 8, "linear", "/dev/mapper/low 0"}}, false);
  ASSERT_TRUE(resume("a-top"));
  EXPECT_EQ(told(), "wwwwr");
}

TEST_F(manager, reserved_minors_are_for_those_who_ask_for_them) {
  m_.reserve_minors({0, 2, 70'000});
  EXPECT_EQ(m_.create("a", "", {})->number.minor, 1u);
  EXPECT_EQ(m_.create("b", "", {})->number.minor, 3u);
  EXPECT_EQ(m_.create("c", "", 2)->number.minor, 2u);
  EXPECT_EQ(m_.create("d", "", {})->number.minor, 4u);
}

TEST_F(manager, messages_reach_only_targets_and_say_why_not) {
  ASSERT_TRUE(make("d", {{0, 8, "linear", "/dev/vda 0"}}));
  auto text = [&](uint64_t sector, std::vector<std::string> words) {
    const auto r = rt_->run_until(m_.message(key("d"), sector, std::move(words)));
    return r ? "ok" : r.error().message;
  };
  EXPECT_EQ(text(0, {"hello"}), "ioctl: Target type does not support messages");
  EXPECT_EQ(text(8, {"hello"}), "ioctl: Target message sector outside device.");
  EXPECT_EQ(text(0, {}), "ioctl: Empty message received.");
  EXPECT_EQ(text(0, {"@foo"}), "ioctl: Unsupported message sent to DM core: @foo");
  EXPECT_EQ(text(0, {"@cancel_deferred_remove"}), "ok");
}

task<errc> reading(std::shared_ptr<block::block_device> from) {
  std::byte bytes[512];
  const iovec v{bytes, sizeof bytes};
  const rt::segments to(&v, 1);
  co_return base::code_of(co_await block::read(*from, 0, to, {}));
}

// A striped device tells of an error by a message to its home.
TEST(events, that_come_after_the_device_or_the_manager_reach_nobody) {
  for (const bool manager_goes : {false, true}) {
    const auto rt = *rt::runtime::start({.reactors = 1});
    rt::reactor::scope here(rt->at(0));
    memory_sources sources;
    auto m = std::make_unique<device_manager>(*rt, sources);
    int told = 0;
    for (const char* name : {"bad", "d"}) {
      ASSERT_TRUE(m->create(name, "", {}));
      const device_key k{name, {}, {}};
      const bool low = k.name == "bad";
      const table_line line{0, 8, low ? "error" : "striped", low ? "" : "1 8 /dev/mapper/bad 0"};
      ASSERT_TRUE(rt->run_until(m->load(k, {line}, false)));
      ASSERT_TRUE(rt->run_until(m->resume(k, {})));
    }
    auto d = (*m->open(device_key{"d", {}, {}})).device;
    EXPECT_EQ(rt->run_until(reading(std::move(d))), errc::io);
    m->on_event([&told](const device_event& e) { told += e.action == "change" ? 1 : 0; });
    const device_key k{"d", {}, {}};
    if (!manager_goes) {
      rt->at(0).turn(0);
      EXPECT_EQ(m->state(k)->event_number, 1u);
      continue;
    }
    ASSERT_TRUE(rt->run_until(m->remove(k, false)));
    m.reset();
    rt->at(0).turn(0);
    EXPECT_EQ(told, 0);
  }
}

TEST(device_name, is_kept_as_the_kernels_tools_write_it) {
  const std::pair<const char*, const char*> names[] = {
      {"a", "a"},
      {"a b", "a\\x20b"},
      {"gr\xc3\xb6\xc3\x9f", "gr\\xc3\\xb6\\xc3\\x9f"},
      {"a,b%/", "a\\x2cb\\x25\\x2f"},
      {"#+-.:=@_aZ09", "#+-.:=@_aZ09"},
      {"", ""},
  };
  for (const auto& [shown, kept] : names) {
    EXPECT_EQ(kept_uuid(shown), kept);
    EXPECT_EQ(kept_uuid(kept), kept) << "once";
    EXPECT_EQ(shown_uuid(kept), shown);
    EXPECT_EQ(kept_name(shown_name(kept)), kept) << "what is shown leads to the device";
  }
  EXPECT_EQ(shown_name("a\\x20b"), "a b");
  EXPECT_EQ(shown_name("gr\\xc3\\xb6\\xc3\\x9f"), "gr\xc3\xb6\xc3\x9f");
  EXPECT_EQ(kept_name("a b"), "a\\x20b");
  EXPECT_EQ(kept_name("a b/c"), "a b/c");
  EXPECT_EQ(kept_name("a\\x2"), "a\\x5cx2");
  EXPECT_EQ(kept_name("\\xzz"), "\\x5cxzz");
  for (const char* stays : {"\\xzz\\x4", "a\\xff", "\\xc3", "a\\x00b", "\\xc3\\x20"})
    EXPECT_EQ(shown_name(stays), stays);
  for (const char* stays : {"a\\x2fb", "a\\x20b\\x2f", "a\\x5cx20b", "a\\x2Cb"})
    EXPECT_EQ(shown_name(stays), stays);
}

TEST(split_args, cuts_at_blanks_and_takes_quoted_characters) {
  EXPECT_EQ(split_args("  a\tb  c "), (std::vector<std::string>{"a", "b", "c"}));
  EXPECT_EQ(split_args("a\\ b \\\\"), (std::vector<std::string>{"a b", "\\"}));
  EXPECT_TRUE(split_args("  ").empty());
}

// A request waits below for a device that is suspended; who wants the one above it suspended, or
// another table started, gives up.
TEST_F(manager, a_suspension_can_be_given_up) {
  ASSERT_TRUE(make("low", {{0, 4096, "linear", "/dev/vda 0"}}));
  ASSERT_TRUE(make("top", {{0, 4096, "linear", "/dev/mapper/low 0"}}));
  ASSERT_TRUE(rt_->run_until(m_.suspend(key("low"), {})));
  struct parts {
    static task<void> send(block::block_device& d, int& done) {
      static std::string text(512, 'x');
      const iovec v{text.data(), text.size()};
      const auto r = co_await block::write(d, 0, rt::segments(&v, 1), {});
      if (r) ++done;
    }
    static task<void> turn(device_manager& m, bool suspend, suspend_options how,
                           std::optional<errc>& code) {
      outcome<device_state> r = base::failure{errc::inval, ""};
      if (suspend)
        r = co_await m.suspend(key("top"), how);
      else
        r = co_await m.resume(key("top"), how);
      code = r ? errc::ok : r.error().code;
    }
  };
  auto opened = *m_.open(key("top"));
  int written = 0;
  rt::spawn(parts::send(*opened.device, written));
  ASSERT_TRUE(load("top", {{0, 4096, "linear", "/dev/vdb 0"}}));
  for (const bool suspend : {true, false})
    for (const bool no_flush : {false, true}) {
      waiting caller;
      std::optional<errc> code;
      rt::spawn(parts::turn(m_, suspend, {no_flush, &caller}, code));
      rt_->run_until(go_round(*rt_));
      EXPECT_FALSE(code.has_value());
      caller.cancel();
      rt_->run_until(go_round(*rt_));
      EXPECT_EQ(code, errc::canceled);
      const auto s = *m_.state(key("top"));
      EXPECT_FALSE(s.suspended);
      EXPECT_TRUE(s.has_inactive) << "to be started when it can be";
    }
  EXPECT_EQ(table("top"), "0 4096 linear 253:0 0\n");
  waiting gone;
  gone.cancel();
  EXPECT_EQ(rt_->run_until(m_.suspend(key("top"), {false, &gone})).error().code, errc::canceled);
  rt::spawn(parts::send(*opened.device, written));
  ASSERT_TRUE(resume("low"));
  while (written != 2) rt_->run_until(go_round(*rt_));
  ASSERT_TRUE(resume("top"));
  EXPECT_EQ(table("top"), "0 4096 linear 254:16 0\n");
  opened.device.reset();
  rt_->run_until(go_round(*rt_));
  EXPECT_EQ(rt_->run_until(m_.remove_all(false)), 0u);
}

// A request waits below; what comes while somebody wants the device suspended is held, on either
// reactor, and finds the target as it was before when that is given up: it waits for a path.
TEST_F(manager, what_a_suspension_held_that_is_given_up_goes_on_as_before_it) {
  struct parts {
    static task<errc> write(block::block_device& to) {
      const std::vector<std::byte> data(512);
      const block::segment_list all{base::bytes_view(data)};
      co_return base::code_of(co_await block::write(to, 0, all.view(), {}));
    }
    static task<void> send(rt::reactor& where, block::block_device& to, std::optional<errc>& code) {
      auto there = [&to] { return write(to); };
      code = co_await rt::call_on(where, there);
    }
    static task<void> suspend(device_manager& m, suspend_options how, std::optional<errc>& code) {
      device_key top{"top", {}, {}};
      const auto r = co_await m.suspend(std::move(top), how);
      code = r ? errc::ok : r.error().code;
    }
  };
  const auto tell = [this](const char* what) {
    return bool(rt_->run_until(m_.message(key("top"), 0, {what, "/dev/mapper/low"})));
  };
  ASSERT_TRUE(make("low", {{0, 64, "linear", "/dev/vda 0"}}));
  ASSERT_TRUE(make("top", {{0, 64, "multipath",
                            "3 queue_if_no_path queue_mode bio 0 1 1 round-robin 0 1 1 "
                            "/dev/mapper/low 1"}}));
  auto opened = *m_.open(key("top"));
  for (const bool no_flush : {false, true}) {
    ASSERT_TRUE(rt_->run_until(m_.suspend(key("low"), {})));
    std::optional<errc> below, suspended, held[2];
    rt::spawn(parts::send(rt_->at(0), *opened.device, below));
    ASSERT_TRUE(tell("fail_path"));
    waiting caller;
    rt::spawn(parts::suspend(m_, {no_flush, &caller}, suspended));
    rt_->run_until(go_round(*rt_));
    for (unsigned i : {0u, 1u}) rt::spawn(parts::send(rt_->at(i), *opened.device, held[i]));
    rt_->run_until(go_round(*rt_));
    EXPECT_FALSE(below || suspended || held[0] || held[1]);
    caller.cancel();
    rt_->run_until(go_round(*rt_));
    EXPECT_EQ(suspended, errc::canceled);
    EXPECT_FALSE(held[0]) << static_cast<int>(*held[0]);
    EXPECT_FALSE(held[1]) << static_cast<int>(*held[1]);
    ASSERT_TRUE(tell("reinstate_path"));
    ASSERT_TRUE(resume("low"));
    while (!below || !held[0] || !held[1]) rt_->run_until(go_round(*rt_));
    for (const auto& code : {below, held[0], held[1]}) EXPECT_EQ(code, errc::ok);
  }
  opened.device.reset();
  rt_->run_until(go_round(*rt_));
  EXPECT_EQ(rt_->run_until(m_.remove_all(false)), 0u);
}

TEST_F(manager, a_device_without_a_table_can_be_suspended_but_not_resumed) {
  ASSERT_TRUE(m_.create("d", "", {}));
  EXPECT_FALSE(m_.state(key("d"))->resumed);
  ASSERT_TRUE(resume("d")) << "it was not suspended";
  EXPECT_TRUE(m_.state(key("d"))->resumed);
  EXPECT_FALSE(m_.state(key("d"))->loaded);
  EXPECT_TRUE(rt_->run_until(m_.suspend(key("d"), {})));
  EXPECT_TRUE(m_.state(key("d"))->suspended);
  EXPECT_EQ(resume("d").error().code, errc::inval);
  ASSERT_TRUE(load("d", {{0, 8, "zero", ""}, {8, 8, "zero", ""}}));
  EXPECT_EQ(m_.state(key("d"))->inactive_target_count, 2u);
  EXPECT_TRUE(m_.state(key("d"))->loaded);
  EXPECT_TRUE(resume("d"));
  EXPECT_FALSE(m_.state(key("d"))->suspended);
  EXPECT_TRUE(rt_->run_until(m_.remove(key("d"), false)));
}

TEST_F(manager, a_device_never_stands_on_itself) {
  ASSERT_TRUE(make("a", {{0, 8, "zero", ""}}));
  ASSERT_TRUE(make("b", {{0, 8, "linear", "/dev/vda 0"}, {8, 8, "linear", "/dev/mapper/a 0"}}));
  ASSERT_TRUE(make("c", {{0, 8, "linear", "/dev/mapper/b 8"}}));
  for (const char* below : {"/dev/mapper/a", "/dev/mapper/b", "/dev/mapper/c"}) {
    ASSERT_TRUE(load("a", {{0, 8, "linear", std::string(below) + " 0"}}));
    const auto refused = resume("a");
    ASSERT_FALSE(refused) << below;
    EXPECT_EQ(static_cast<int>(refused.error().code), ELOOP);
    EXPECT_EQ(refused.error().message, "table: 253:0: the device would stand on itself");
    const auto s = *m_.state(key("a"));
    EXPECT_FALSE(s.suspended) << "nothing has changed";
    EXPECT_TRUE(s.has_inactive);
    EXPECT_EQ(table("a"), "0 8 zero \n");
  }
  ASSERT_TRUE(rt_->run_until(m_.clear(key("a"))));
  EXPECT_EQ(rt_->run_until(m_.remove_all(false)), 0u);
}

// Either alone would be fine.
TEST_F(manager, two_tables_that_start_at_once_make_no_circle) {
  ASSERT_TRUE(make("a", {{0, 8, "zero", ""}}));
  ASSERT_TRUE(make("b", {{0, 8, "zero", ""}}));
  ASSERT_TRUE(load("a", {{0, 8, "linear", "/dev/mapper/b 0"}}));
  ASSERT_TRUE(load("b", {{0, 8, "linear", "/dev/mapper/a 0"}}));
  struct starting {
    static task<void> run(device_manager& m, std::string name, int& done, int& refused) {
      const auto r = co_await m.resume(key(std::move(name)), {});
      ++done;
      if (!r) ++refused;
    }
  };
  int done = 0, refused = 0;
  rt::spawn(starting::run(m_, "a", done, refused));
  rt::spawn(starting::run(m_, "b", done, refused));
  while (done != 2) rt_->run_until(go_round(*rt_));
  EXPECT_EQ(refused, 1);
  for (const char* name : {"a", "b"}) ASSERT_TRUE(rt_->run_until(m_.clear(key(name))));
  EXPECT_EQ(rt_->run_until(m_.remove_all(false)), 0u);
}

TEST_F(manager, tells_people_why_a_device_was_not_opened) {
  ASSERT_TRUE(m_.create("empty", "", {}));
  ASSERT_TRUE(m_.create("d", "", {}));
  auto why = [this](const char* args) {
    std::string told;
    EXPECT_FALSE(rt_->run_until(m_.load(key("d"), {{0, 8, "linear", args}}, false, &told)));
    return told;
  };
  EXPECT_EQ(why("/dev/nosuch 0"), "no such source");
  EXPECT_EQ(why("/dev/mapper/nosuch 0"), "no mapped device '/dev/mapper/nosuch'");
  EXPECT_EQ(why("253:0 0"), "device empty has no live table");
  EXPECT_EQ(why("/dev/vda"), "") << "the kernel's text says it";
}

}  // namespace
}  // namespace lbd::stack
