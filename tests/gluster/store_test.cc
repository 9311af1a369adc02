// SPDX-License-Identifier: MIT
// Opening, locking, data, change files and images at rest.
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <random>
#include <span>

#include "block/image_lock.h"
#include "store/gluster/volume.h"
#include "store/qcow2/change_file.h"
#include "store_fixture.h"

namespace lbd::store {
namespace {

INSTANTIATE_TEST_SUITE_P(all, gluster_store,
                         testing::Values(rt::backend::threads, rt::backend::automatic),
                         [](const auto& p) {
                           return p.param == rt::backend::threads ? "threads" : "automatic";
                         });

// ---- Opening

TEST_P(gluster_store, what_makes_writes_safe_is_set_before_init) {
  const auto d = open();
  EXPECT_TRUE(fake().had_option("*-write-behind", "pass-through", "true"));
  put("w", "a", 512);
  const auto behind = open("gluster://h/w/a?write-behind=on");
  EXPECT_TRUE(fake().had_option("*-write-behind", "resync-failed-syncs-after-fsync", "on"));
}

TEST_P(gluster_store, several_servers_are_asked_in_order) {
  const auto d = open("gluster://a/v/a?server=[::1]:7&server=c");
  EXPECT_STREQ(fake().servers(), "tcp a:24007, tcp ::1:7, tcp c:24007");
  put("w", "a", 512);
  const auto e = open("gluster+unix:///w/a?socket=/run/g.sock");
  EXPECT_STREQ(fake().servers(), "unix /run/g.sock:0");
}

task<std::vector<device_ptr>> open_many(rt::runtime& rt, std::vector<std::string> texts) {
  std::vector<task<outcome<device_ptr>>> tasks;
  for (const auto& t : texts) tasks.push_back(gluster_device::open(rt, source(t), false));
  std::vector<device_ptr> out;
  for (auto& d : co_await rt::when_all(std::move(tasks)))
    if (d) out.push_back(*std::move(d));
  co_return out;
}

TEST_P(gluster_store, one_connection_per_volume_and_servers) {
  put("v", "b", 512);
  put("w", "a", 512);
  fake().rule("init delay 20");
  const auto all = rt_->run_until(open_many(
      *rt_, {"gluster://h/v/a", "gluster://h/v/b", "gluster://h/w/a", "gluster://other/v/a",
             "gluster://h:24007/v/b?loglevel=1", "gluster://h/v/a"}));
  EXPECT_EQ(all.size(), 6u);
  EXPECT_EQ(fake().count("init"), 3u);
}

TEST_P(gluster_store, errors_of_opening_name_the_image) {
  const auto text = [this](const char* uri) {
    auto d = rt_->run_until(gluster_device::open(*rt_, source(uri), true));
    return d ? std::string("opened") : d.error().message;
  };
  EXPECT_THAT(text("gluster://h/v/none"), HasSubstr("'gluster://h:24007/v/none': No such file"));
  fake().rule("open fail 13 times 1");
  EXPECT_THAT(text("gluster://h/v/a"), HasSubstr("Permission denied"));
  fake().rule("fstat fail 5 times 1");
  EXPECT_THAT(text("gluster://h/v/a"), HasSubstr("Input/output error"));
  for (const char* call : {"new", "set_volfile_server", "set_logging", "set_xlator_option"}) {
    fake().rule((std::string(call) + " fail 12 times 1").c_str());
    EXPECT_THAT(text("gluster://other/v/a"), HasSubstr("Cannot allocate memory")) << call;
  }
  fake().rule("init fail 107 times 1");
  EXPECT_THAT(text("gluster://dead/v/a?server=dead2"),
              HasSubstr("'v' on dead:24007, dead2:24007: Transport endpoint is not connected"));
  EXPECT_EQ(text("gluster://dead/v/a?server=dead2"), "opened");
}

TEST_P(gluster_store, servers_that_say_nothing_hold_up_nobody_else) {
  put("w", "a", 512);
  fake().rule("init hold times 1");
  auto hung =
      rt_->run_until(gluster_device::open(*rt_, source("gluster://dead/v/a?timeout=1"), true));
  ASSERT_FALSE(hung);
  EXPECT_EQ(hung.error().code, errc::timed_out);
  EXPECT_THAT(hung.error().message, HasSubstr("no answer in 1 s"));
  EXPECT_NE(open("gluster://h/w/a"), nullptr);
  fake().release();
}

// ---- Locks

// "" or what an attempt to open says.
std::string refusal(rt::runtime& rt, const std::string& text, bool writable) {
  auto d = rt.run_until(gluster_device::open(rt, source(text), writable));
  return d ? std::string() : d.error().message;
}

TEST_P(gluster_store, one_writer_or_several_readers) {
  const std::string image = "gluster://h/v/a", from_elsewhere = "gluster://other/v/a";
  {
    const auto reader = open(image, false), another = open(from_elsewhere, false);
    EXPECT_THAT(refusal(*rt_, image, true), HasSubstr("'gluster://h:24007/v/a' is in use by"));
    EXPECT_THAT(refusal(*rt_, from_elsewhere, true), HasSubstr("in use by another program"));
  }
  const auto writer = open(image);  // waits until the readers are closed
  EXPECT_THAT(refusal(*rt_, from_elsewhere, true), HasSubstr("in use by another program"));
  EXPECT_THAT(refusal(*rt_, from_elsewhere, false), HasSubstr("is open for writing in another"));
  // Without a lock of its own: the caller has one already.
  EXPECT_TRUE(
      rt_->run_until(gluster_device::open(*rt_, source(from_elsewhere), true, gluster_lock::no)));
}

TEST_P(gluster_store, a_writer_becomes_a_reader) {
  const auto writer = open();
  rt::file& file = writer->file();
  const auto writes = [&file] { return file.lock(rt::lock_kind::shared, 101, 1).has_value(); };
  EXPECT_TRUE(writes());
  EXPECT_FALSE(block::holds_write_lock(file)) << "no fence";
  block::downgrade_image_lock(file);
  EXPECT_FALSE(writes());
  EXPECT_EQ(refusal(*rt_, "gluster://other/v/a", false), "");  // waits for that
  EXPECT_THAT(refusal(*rt_, "gluster://other/v/a", true), HasSubstr("in use by another program"));
}

TEST_P(gluster_store, servers_without_locks_serve_all_the_same) {
  for (const char* rule : {"posix_lock fail 37", "posix_lock fail 38", "posix_lock fail 95",
                           "fd_set_lkowner fail 22"}) {
    fake().clear_rules();
    fake().rule(rule);
    const auto one = open(), another = open("gluster://other/v/a");
    EXPECT_NE(one, nullptr);
    EXPECT_NE(another, nullptr);
  }
}

TEST_P(gluster_store, nothing_is_opened_while_it_is_unknown_who_has_the_lock) {
  for (const int error : {ENOTCONN, ETIMEDOUT, EIO, ESTALE})
    for (const bool writable : {false, true}) {
      fake().rule(("posix_lock fail " + std::to_string(error) + " times 1").c_str());
      const auto d =
          rt_->run_until(gluster_device::open(*rt_, source("gluster://h/v/a"), writable));
      ASSERT_FALSE(d) << error;
      EXPECT_EQ(d.error().code, static_cast<errc>(error));
      EXPECT_THAT(d.error().message, HasSubstr("'gluster://h:24007/v/a' cannot be locked"));
    }
  fake().rule("posix_lock hold times 1");
  const auto late =
      rt_->run_until(gluster_device::open(*rt_, source("gluster://h/v/a?timeout=1"), true));
  ASSERT_FALSE(late);
  EXPECT_EQ(late.error().code, errc::timed_out);
  fake().release();
  EXPECT_NE(open(), nullptr) << "waits until the late lock is given back";
}

TEST_P(gluster_store, an_image_in_use_grows_and_does_not_shrink) {
  const auto d = open();
  EXPECT_TRUE(
      rt_->run_until(resize_gluster_image(*rt_, source("gluster://h/v/a"), 2 << 20, false)));
  const auto shrunk =
      rt_->run_until(resize_gluster_image(*rt_, source("gluster://h/v/a"), 4096, true));
  ASSERT_FALSE(shrunk);
  EXPECT_THAT(shrunk.error().message, HasSubstr("in use by another program"));
  EXPECT_EQ(content("v", "a").size(), 2u << 20);
}

TEST_P(gluster_store, locks_that_were_forgotten_are_taken_again) {
  for (const bool writable : {true, false})
    for (const int with_files : {0, 1, 1}) {
      const auto d = open("gluster://h/v/a", writable);
      fake().forget_locks(with_files);
      EXPECT_EQ(fake().locks("v", "a"), 0u);
      EXPECT_TRUE(comes_true([this] {
        rt_->run_until(renew_locks(*rt_));
        return fake().locks("v", "a") == 1;
      }));
    }
}

TEST_P(gluster_store, a_lock_that_others_took_meanwhile_is_taken_when_they_are_gone) {
  const auto d = open();
  fake().forget_locks(1);
  auto thief = open("gluster://other/v/a");
  EXPECT_TRUE(comes_true([this] {
    rt_->run_until(renew_locks(*rt_));
    return fake().count("posix_lock") > 5;
  }));
  ASSERT_TRUE(rt_->run_until(write(*d, 0, "x")));
  rt_->run_until(thief->close());
  EXPECT_TRUE(comes_true([this] {
    rt_->run_until(renew_locks(*rt_));
    return fake().locks("v", "a") == 1;
  }));
  EXPECT_THAT(refusal(*rt_, "gluster://other/v/a", false), HasSubstr("is open for writing in"));
}

TEST_P(gluster_store, a_lock_is_not_taken_on_what_has_the_images_name_by_now) {
  const auto d = open();
  fake().forget_locks(1);
  put("v", "a", 512);
  rt_->run_until(renew_locks(*rt_));
  ASSERT_TRUE(comes_true([] { return fake().count("fstat") >= 3; }));
  EXPECT_EQ(refusal(*rt_, "gluster://other/v/a", true), "");
}

TEST_P(gluster_store, closing_is_safe_while_the_lock_is_asked_for) {
  for (int i = 0; i < 20; ++i) {
    const auto d = open();
    fake().rule("posix_lock delay 5");
    rt_->run_until(renew_locks(*rt_));
    block::downgrade_image_lock(d->file());
    rt_->run_until(d->close());
    fake().clear_rules();
    EXPECT_EQ(fake().locks("v", "a"), 0u);
  }
}

// ---- Data

// Random requests against a plain copy, on a library that answers late, in no order, inside the
// call, and short.
class model_run {
 public:
  model_run(gluster_device& d, uint64_t seed) : device_(d), random_(seed), model_(size, '\0') {}

  task<std::string> run(unsigned count) {
    for (unsigned i = 0; i < count; ++i) {
      const uint64_t offset = random_() % size;
      const uint64_t length = 1 + random_() % std::min<uint64_t>(size - offset, 70000);
      const std::string wrong = co_await step(offset, length);
      if (!wrong.empty()) co_return "step " + std::to_string(i) + ": " + wrong;
    }
    co_return co_await compare(0, size);
  }
  const std::string& model() const { return model_; }

 private:
  static constexpr uint64_t size = 1 << 20;

  task<std::string> compare(uint64_t offset, uint64_t length) {
    const std::string got = co_await read(device_, offset, length);
    if (got != model_.substr(offset, length)) co_return "wrong bytes";
    co_return "";
  }
  task<std::string> step(uint64_t offset, uint64_t length) {
    block::io_opts io;
    if (random_() % 8 == 0) io.flags = block::io_fua;
    const unsigned what = random_() % 8;
    result<void> done;
    if (what < 3) {
      const std::string bytes(length, static_cast<char>('a' + random_() % 26));
      done = co_await write(device_, offset, bytes, io.flags);
      model_.replace(offset, length, bytes);
    } else if (what == 3) {
      done = co_await device_.discard(offset, length, io);
      model_.replace(offset, length, length, '\0');
    } else if (what == 4) {
      if (random_() % 2 == 0) io.flags |= block::io_no_unmap;
      done = co_await device_.write_zeroes(offset, length, io);
      model_.replace(offset, length, length, '\0');
    } else if (what == 5) {
      done = co_await device_.flush({});
    } else if (what == 6) {
      co_return co_await extents(offset, length);
    } else {
      co_return co_await compare(offset, length);
    }
    if (!done) co_return "error " + std::to_string(static_cast<int>(done.error().code));
    co_return "";
  }
  task<std::string> extents(uint64_t offset, uint64_t length) {
    block::extent_list list;
    const auto done = co_await device_.extents(offset, length, list, {});
    if (!done || list.total_bytes() == 0) co_return "no extents";
    uint64_t at = offset;
    for (const auto& e : list.runs()) {
      const bool zeros = model_.substr(at, e.length_bytes) == std::string(e.length_bytes, '\0');
      if (e.zero && !zeros) co_return "data in a hole";
      at += e.length_bytes;
    }
    co_return at <= offset + length ? std::string() : "too long";
  }

  gluster_device& device_;
  std::mt19937_64 random_;
  std::string model_;
};

TEST_P(gluster_store, agrees_with_a_plain_copy) {
  for (const char* rule :
       {"io delay 0", "io inline", "io delay 1", "preadv short 1000", "pwritev short 700"}) {
    put("v", "a", 1 << 20);
    fake().clear_rules();
    fake().rule(rule);
    fake().reorder(1);
    const auto d = open();
    model_run run(*d, 7);
    EXPECT_EQ(rt_->run_until(run.run(80)), "") << rule;
    EXPECT_EQ(content("v", "a"), run.model());
  }
}

TEST_P(gluster_store, reads_with_a_deadline_bring_the_same) {
  const auto d = open("gluster://h/v/a?timeout=60");
  model_run run(*d, 8);
  EXPECT_EQ(rt_->run_until(run.run(80)), "");
}

TEST_P(gluster_store, operations_are_the_librarys) {
  const auto d = open();
  ASSERT_TRUE(rt_->run_until(write(*d, 0, std::string(4096, 'x'))));
  EXPECT_EQ(fake().count("pwritev"), 1u);
  EXPECT_EQ(fake().count("fdatasync"), 0u);
  ASSERT_TRUE(rt_->run_until(write(*d, 0, std::string(4096, 'x'), block::io_fua)));
  EXPECT_EQ(fake().count("fdatasync"), 1u);
  ASSERT_TRUE(rt_->run_until(d->discard(0, 4096, {})));
  EXPECT_EQ(fake().count("discard"), 1u);
  block::io_opts keep;
  keep.flags = block::io_no_unmap;
  ASSERT_TRUE(rt_->run_until(d->write_zeroes(0, 4096, keep)));
  EXPECT_EQ(fake().count("zerofill"), 1u);
  ASSERT_TRUE(rt_->run_until(d->flush({})));
  EXPECT_EQ(fake().count("fdatasync"), 2u);
  ASSERT_TRUE(rt_->run_until(d->file().resize(2 << 20)));
  EXPECT_EQ(content("v", "a").size(), 2u << 20);
  EXPECT_EQ(d->file().info().size_bytes, 2u << 20);
}

TEST_P(gluster_store, every_calls_error_is_told_and_forgotten) {
  const auto d = open();
  block::io_opts keep;
  keep.flags = block::io_no_unmap;
  for (const char* how : {" fail 28 times 1", " refuse 28 times 1", " keep 28 times 1"}) {
    const auto with = [how](const char* call) {
      fake().clear_rules();
      fake().rule((std::string(call) + how).c_str());
    };
    with("preadv");
    EXPECT_EQ(rt_->run_until(read(*d, 0, 512)), "error 28");
    with("pwritev");
    EXPECT_EQ(code_of(rt_->run_until(write(*d, 0, "x"))), errc::nospc);
    with("discard");
    EXPECT_EQ(code_of(rt_->run_until(d->discard(0, 512, {}))), errc::nospc);
    with("zerofill");
    EXPECT_EQ(code_of(rt_->run_until(d->write_zeroes(0, 512, keep))), errc::nospc);
    with("ftruncate");
    EXPECT_EQ(code_of(rt_->run_until(d->file().resize(1 << 20))), errc::nospc);
    EXPECT_TRUE(rt_->run_until(write(*d, 0, "x")));
    with("fdatasync");
    EXPECT_EQ(code_of(rt_->run_until(d->flush({}))), errc::nospc);
    EXPECT_TRUE(rt_->run_until(d->flush({})));
    EXPECT_EQ(rt_->run_until(read(*d, 0, 1)), "x");
  }
  fake().rule("lseek fail 5 times 1");
  block::extent_list list;
  EXPECT_EQ(code_of(rt_->run_until(d->extents(0, 512, list, {}))), errc::io);
}

TEST_P(gluster_store, what_must_be_fast_asks_the_servers_for_no_holes) {
  const auto d = open();
  fake().rule("lseek fail 5");
  block::extent_list list;
  block::io_opts fast;
  fast.flags = block::io_fast_only;
  ASSERT_TRUE(rt_->run_until(d->extents(0, 4096, list, fast)));
  EXPECT_EQ(list.runs().front(), (block::extent{4096, false, false}));
}

TEST_P(gluster_store, what_servers_cannot_do_is_done_otherwise) {
  fake().rule("discard fail 95");
  fake().rule("zerofill fail 95");
  fake().rule("lseek fail 22");
  const auto d = open();
  model_run run(*d, 9);
  EXPECT_TRUE(rt_->run_until(write(*d, 0, std::string(8192, 'x'))));
  EXPECT_TRUE(rt_->run_until(d->discard(0, 4096, {})));
  EXPECT_TRUE(rt_->run_until(d->write_zeroes(0, 4096, {})));
  EXPECT_EQ(rt_->run_until(read(*d, 0, 8192)), std::string(4096, '\0') + std::string(4096, 'x'));
  block::extent_list list;
  ASSERT_TRUE(rt_->run_until(d->extents(0, 4096, list, {})));
  EXPECT_EQ(list.runs().front(), (block::extent{4096, false, false}));
}

// ---- Bounds

task<unsigned> read_many(gluster_device& d, unsigned count) {
  std::vector<task<std::string>> tasks;
  for (unsigned i = 0; i < count; ++i) tasks.push_back(read(d, uint64_t{i} * 512, 512));
  unsigned good = 0;
  for (const auto& s : co_await rt::when_all(std::move(tasks)))
    good += s == std::string(512, '\0') ? 1 : 0;
  co_return good;
}
task<unsigned> read_many_everywhere(rt::runtime& rt, gluster_device& d, unsigned count) {
  unsigned good = 0;
  for (unsigned i = 0; i < rt.reactor_count(); ++i) {
    auto work = [&d, count] { return read_many(d, count); };
    good += co_await rt::call_on(rt.at(i), work);
  }
  co_return good;
}

TEST_P(gluster_store, the_library_gets_a_bounded_number_of_requests) {
  fake().rule("io delay 5");
  const auto d = open();
  EXPECT_EQ(rt_->run_until(read_many_everywhere(*rt_, *d, 1000)), 2000u);
  EXPECT_LE(fake().most_in_flight(), gluster_bounds::requests_per_reactor);
  EXPECT_GT(fake().most_in_flight(), gluster_bounds::requests_per_reactor / 4);
}

TEST_P(gluster_store, unsynced_writes_are_synced_before_their_copies_are_many) {
  const auto d = open();
  EXPECT_TRUE(rt_->run_until(write_much(*d, 200)));
  EXPECT_GE(fake().count("fdatasync"), 3u);
  rt_->run_until(d->close());  // waits for a sync that began by itself
}

TEST_P(gluster_store, closing_waits_for_a_sync_that_began_by_itself) {
  fake().rule("fdatasync delay 300");
  auto d = open();
  EXPECT_TRUE(rt_->run_until(write_much(*d, 20)));
  EXPECT_EQ(fake().count("fdatasync"), 1u);
  rt_->run_until(d->close());
  EXPECT_EQ(fake().count("close"), 2u);  // of the image and of its lock
  d.reset();
  rt_.reset();
  EXPECT_EQ(fake().count("fdatasync"), 1u);
}

// ---- Change files

task<outcome<std::unique_ptr<change_file>>> make_change_file(rt::runtime& rt) {
  rt::open_options how;
  how.writable = how.create = how.exclusive = true;
  CO_TRY(auto file, co_await open_gluster_file(rt, source("gluster://h/v/top"), how));
  opened_gluster_file files(std::move(file));
  new_change_file what;
  what.size_bytes = 1 << 20;
  co_return co_await change_file::create(files, "top", what);
}

task<result<void>> put_cluster(change_file& file, uint64_t offset, char c) {
  CO_TRY(const block::allocation a, co_await file.allocate(offset, 65536));
  const std::string bytes(65536, c);
  const iovec v{const_cast<char*>(bytes.data()), bytes.size()};
  const auto written = co_await file.data_device().write(a.device_offset, rt::segments(&v, 1), {});
  if (!written) {
    file.abandon(a);
    co_return written;
  }
  co_return co_await file.publish(a);
}

TEST_P(gluster_store, a_change_file_works_again_when_the_servers_do) {
  auto made = rt_->run_until(make_change_file(*rt_));
  ASSERT_TRUE(made) << made.error().message;
  change_file& file = **made;
  ASSERT_TRUE(rt_->run_until(put_cluster(file, 0, 'a')));
  for (const char* rule : {"fdatasync fail 107 times 1", "pwritev fail 107 times 1",
                           "fdatasync fail 5 times 1 skip 1", "pwritev fail 5 times 1 skip 1"}) {
    ASSERT_TRUE(rt_->run_until(put_cluster(file, 65536, 'b')));
    fake().rule(rule);
    (void)rt_->run_until(file.flush({}));
    fake().clear_rules();
    ASSERT_TRUE(rt_->run_until(file.flush({}))) << rule;
  }
  ASSERT_TRUE(rt_->run_until(put_cluster(file, 131072, 'c')));
  fake().rule("io fail 107");
  EXPECT_FALSE(rt_->run_until(put_cluster(file, 196608, 'd')));
  EXPECT_FALSE(rt_->run_until(file.flush({})));
  fake().clear_rules();
  ASSERT_TRUE(rt_->run_until(file.flush({})));
  fake().crash();
  ASSERT_TRUE(rt_->run_until(file.close()));
  fake().crash();
  made->reset();
  // As the servers have it now.
  const std::string bytes = content("v", "top");
  const std::string path = testing::TempDir() + "/lbd-gluster-" + std::to_string(::getpid());
  std::ofstream(path, std::ios::binary) << bytes;
  auto again = rt_->run_until(change_file::open(rt::os_files(), path, {}));
  ASSERT_TRUE(again) << again.error().message;
  std::string got(262144, '?');
  const iovec v{got.data(), got.size()};
  ASSERT_TRUE(rt_->run_until((*again)->read(0, rt::segments(&v, 1), {})));
  EXPECT_EQ(got, std::string(65536, 'a') + std::string(65536, 'b') + std::string(65536, 'c') +
                     std::string(65536, '\0'));
  again->reset();
  ::unlink(path.c_str());
}

task<outcome<std::unique_ptr<change_file>>> open_change_file(rt::runtime& rt, bool writable) {
  rt::open_options how;
  how.writable = writable;
  CO_TRY(auto file, co_await open_gluster_file(rt, source("gluster://h/v/top"), how));
  opened_gluster_file files(std::move(file));
  change_file_options options;
  options.writable = writable;
  co_return co_await change_file::open(files, "top", options);
}

// Where the refcount of the last whole cluster but one of the image is: 16 bits.
size_t place_of_refcount(base::bytes_view image) {
  const auto table = base::load_big<uint64_t>(image, 48);
  return base::load_big<uint64_t>(image, table) + (image.size() / 65536 - 2) * 2;
}

// What looks leaked may be the newest clusters of a QEMU that writes the image: it heeds no locks.
TEST_P(gluster_store, clusters_that_nobody_names_are_not_given_back) {
  {
    auto made = rt_->run_until(make_change_file(*rt_));
    ASSERT_TRUE(made) << made.error().message;
    ASSERT_TRUE(rt_->run_until(put_cluster(**made, 0, 'a')));
    ASSERT_TRUE(rt_->run_until((*made)->close()));
  }
  std::string image = content("v", "top");
  image.resize((image.size() / 65536 + 4) * 65536);
  const size_t at = place_of_refcount(std::as_bytes(std::span(image)));
  image.replace(at, 2, std::string("\0\1", 2));
  fake().put("v", "top", image.data(), image.size());
  {
    auto opened = rt_->run_until(open_change_file(*rt_, true));
    ASSERT_TRUE(opened) << opened.error().message;
    ASSERT_TRUE(rt_->run_until((*opened)->close()));
  }
  EXPECT_EQ(content("v", "top").substr(at, 2), std::string("\0\1", 2));
  // In a file of the operating system nobody else can be writing.
  const std::string path = testing::TempDir() + "/lbd-gluster-" + std::to_string(::getpid());
  std::ofstream(path, std::ios::binary) << image;
  change_file_options options;
  options.writable = true;
  {
    auto opened = rt_->run_until(change_file::open(rt::os_files(), path, options));
    ASSERT_TRUE(opened) << opened.error().message;
    ASSERT_TRUE(rt_->run_until((*opened)->close()));
  }
  std::ifstream in(path, std::ios::binary);
  in.seekg(static_cast<std::streamoff>(at));
  std::string count(2, '?');
  in.read(count.data(), 2);
  EXPECT_EQ(count, std::string(2, '\0'));
  ::unlink(path.c_str());
}

// The mark says that a QEMU is writing the image, or that it has crashed: rebuilding the refcounts
// is for the second.
TEST_P(gluster_store, a_dirty_change_file_is_not_repaired_under_its_writer) {
  {
    auto made = rt_->run_until(make_change_file(*rt_));
    ASSERT_TRUE(made) << made.error().message;
    ASSERT_TRUE(rt_->run_until(put_cluster(**made, 0, 'a')));
    ASSERT_TRUE(rt_->run_until((*made)->close()));
  }
  std::string image = content("v", "top");
  image[79] |= 1;  // the incompatible features' lowest byte
  fake().put("v", "top", image.data(), image.size());
  const auto refused = rt_->run_until(open_change_file(*rt_, true));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, errc::busy);
  EXPECT_THAT(refused.error().message, HasSubstr("qemu-img check -r all"));
  const auto read_only = rt_->run_until(open_change_file(*rt_, false));
  EXPECT_TRUE(read_only);
  EXPECT_EQ(content("v", "top"), image);
}

// ---- Images at rest

TEST_P(gluster_store, images_are_made_listed_and_removed) {
  rt::open_options make;
  make.writable = make.create = make.exclusive = true;
  {
    auto made = rt_->run_until(open_gluster_file(*rt_, source("gluster://h/v/new"), make));
    ASSERT_TRUE(made) << made.error().message;
    ASSERT_TRUE(rt_->run_until((*made)->resize(12288)));
  }
  auto again = rt_->run_until(open_gluster_file(*rt_, source("gluster://h/v/new"), make));
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().code, errc::exist);
  const auto status = rt_->run_until(gluster_image_status(*rt_, source("gluster://h/v/new")));
  ASSERT_TRUE(status);
  EXPECT_EQ(status->size_bytes, 12288u);
  const auto folder = uri::parse_gluster("gluster://h/v", uri::gluster_path::folder);
  const auto listed = rt_->run_until(list_gluster_folder(*rt_, *folder));
  ASSERT_TRUE(listed);
  ASSERT_EQ(listed->size(), 2u);
  EXPECT_EQ(listed->at(1).name, "new");
  EXPECT_EQ(listed->at(1).size_bytes, 12288u);
  EXPECT_TRUE(rt_->run_until(remove_gluster_image(*rt_, source("gluster://h/v/new"))));
  const auto gone = rt_->run_until(remove_gluster_image(*rt_, source("gluster://h/v/new")));
  ASSERT_FALSE(gone);
  EXPECT_THAT(gone.error().message, HasSubstr("cannot remove 'gluster://h:24007/v/new': No such"));
}

}  // namespace
}  // namespace lbd::store
