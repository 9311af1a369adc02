// SPDX-License-Identifier: MIT
// What a commit does to the file, in which order, and what happens when the file refuses.
#include "store/qcow2/change_file.h"
#include "store/qcow2/test_images.h"

namespace lbd::store {
namespace {

using base::errc;
using rt::io_op;
using rt::io_request;

// What the test wants to happen, shared with the files that are opened.
struct script {
  std::string log;  // w: write, s: sync, d: discard
  int fail_sync = 0;
  bool no_locks = false;
  int fail_write_errno = 0;
  uint64_t fail_writes_from = UINT64_MAX;  // file offset
};

class scripted_file final : public rt::file {
 public:
  scripted_file(std::unique_ptr<rt::file> inner, script& s) : inner_(std::move(inner)), script_(s) {
    info_ = inner_->info();
  }
  rt::file_extent extent_at(uint64_t offset) noexcept override { return inner_->extent_at(offset); }
  base::result<void> lock(rt::lock_kind k, uint64_t first, uint64_t n) noexcept override {
    if (script_.no_locks) return base::io_error{errc::notsup, 0};
    return inner_->lock(k, first, n);
  }
  bool would_block(rt::lock_kind k, uint64_t first, uint64_t n) noexcept override {
    return inner_->would_block(k, first, n);
  }
  bool try_now(io_request& r) noexcept override {
    if (r.op == io_op::sync_data) {
      script_.log += 's';
      if (script_.fail_sync != 0) {
        r.result = -script_.fail_sync;
        return true;
      }
    }
    if (r.op == io_op::fallocate) script_.log += 'd';
    if (r.op == io_op::write) {
      script_.log += 'w';
      if (script_.fail_write_errno != 0 && r.offset >= script_.fail_writes_from) {
        r.result = -script_.fail_write_errno;
        return true;
      }
    }
    return inner_->try_now(r);
  }
  void start(io_request& r) override { inner_->start(r); }

 private:
  std::unique_ptr<rt::file> inner_;
  script& script_;
};

class scripted_files final : public rt::file_system {
 public:
  explicit scripted_files(script& s) : script_(s) {}
  base::outcome<std::unique_ptr<rt::file>> open(const std::string& path,
                                                rt::open_options options) override {
    TRY(auto inner, rt::open_file(path, options));
    return std::unique_ptr<rt::file>(std::make_unique<scripted_file>(std::move(inner), script_));
  }
  void remove(const std::string& path) noexcept override { rt::os_files().remove(path); }

 private:
  script& script_;
};

class commits : public image_test {
 protected:
  void make() {
    new_change_file what;
    what.size_bytes = 64 << 20;
    auto f = wait(change_file::create(files_, path("x.qcow2"), what));
    ASSERT_TRUE(f) << f.error().message;
    image_ = *std::move(f);
    script_.log.clear();
  }
  // Repeated letters as one.
  std::string steps() {
    std::string out;
    for (char c : std::exchange(script_.log, "")) {
      if (out.empty() || out.back() != c || c == 's') out += c;
    }
    return out;
  }
  script script_;
  scripted_files files_{script_};
};

TEST_F(commits, a_file_that_could_not_be_made_is_gone) {
  script_.fail_write_errno = ENOSPC;
  script_.fail_writes_from = 0;
  new_change_file what;
  what.size_bytes = 64 << 20;
  const auto f = wait(change_file::create(files_, path("x.qcow2"), what));
  ASSERT_FALSE(f);
  EXPECT_EQ(f.error().code, errc::nospc);
  EXPECT_FALSE(std::filesystem::exists(path("x.qcow2")));
  script_.fail_write_errno = 0;
  make();
  EXPECT_FALSE(wait(change_file::create(files_, path("x.qcow2"), what)));
  EXPECT_TRUE(std::filesystem::exists(path("x.qcow2"))) << "somebody else's file";
  close();
}

TEST_F(commits, write_in_the_order_that_survives_a_crash) {
  make();
  ASSERT_EQ(flush(), errc::ok);
  EXPECT_EQ(steps(), "");  // nothing to write
  ASSERT_EQ(write(0, test_bytes(4096, std::byte{1})), errc::ok);
  EXPECT_EQ(steps(), "w");  // the new table's place and the data
  ASSERT_EQ(flush(), errc::ok);
  // Refcounts, sync, L2, sync (a new table), L1, sync.
  EXPECT_EQ(steps(), "wswsws");
  close();
}

TEST_F(commits, known_tables_need_two_syncs_and_in_place_writes_one) {
  make();
  ASSERT_EQ(write(0, test_bytes(4096, std::byte{1})), errc::ok);
  ASSERT_EQ(flush(), errc::ok);
  steps();
  ASSERT_EQ(write(1 << 20, test_bytes(4096, std::byte{1})), errc::ok);
  ASSERT_EQ(flush(), errc::ok);
  EXPECT_EQ(steps(), "wsws");  // data and refcounts, sync, L2, sync
  ASSERT_EQ(write(1 << 20, test_bytes(4096, std::byte{2})), errc::ok);
  ASSERT_EQ(flush(), errc::ok);
  EXPECT_EQ(steps(), "ws");
  close();
}

TEST_F(commits, sealing_makes_writes_in_place_durable) {
  make();
  ASSERT_EQ(write(0, test_bytes(4096, std::byte{1})), errc::ok);
  ASSERT_EQ(flush(), errc::ok);
  ASSERT_EQ(write(0, test_bytes(4096, std::byte{2})), errc::ok);
  steps();
  ASSERT_TRUE(wait(image_->seal()));
  EXPECT_EQ(steps(), "s");
  close();
}

TEST_F(commits, a_seal_that_fails_leaves_the_file_writable) {
  make();
  ASSERT_EQ(write(0, test_bytes(4096, std::byte{1})), errc::ok);
  script_.fail_write_errno = ENOSPC;
  script_.fail_writes_from = 0;
  EXPECT_EQ(base::code_of(wait(image_->seal())), errc::nospc);
  script_.fail_write_errno = 0;
  EXPECT_EQ(write(0, test_bytes(4096, std::byte{2})), errc::ok);
  ASSERT_TRUE(wait(image_->seal()));
  EXPECT_EQ(write(0, test_bytes(4096, std::byte{3})), errc::rofs);
  close();
}

TEST_F(commits, concurrent_flushes_share_one) {
  make();
  ASSERT_EQ(write(0, test_bytes(4096, std::byte{1})), errc::ok);
  ASSERT_EQ(flush(), errc::ok);
  steps();
  std::vector<rt::task<base::result<void>>> many;
  for (int i = 0; i < 20; ++i) many.push_back(image_->flush({}));
  for (auto& r : wait(rt::when_all(std::move(many)))) EXPECT_TRUE(r);
  // The first one begins at once, all others share the next.
  EXPECT_LE(script_.log.size(), 20u);
  close();
}

TEST_F(commits, a_failed_sync_stays_failed) {
  make();
  ASSERT_EQ(write(0, test_bytes(4096, std::byte{1})), errc::ok);
  ASSERT_EQ(flush(), errc::ok);
  ASSERT_EQ(write(65536, test_bytes(4096, std::byte{2})), errc::ok);
  script_.fail_sync = EIO;
  EXPECT_EQ(flush(), errc::io);
  script_.fail_sync = 0;
  EXPECT_EQ(flush(), errc::io);
  EXPECT_EQ(write(1 << 20, test_bytes(4096, std::byte{2})), errc::io);
  EXPECT_EQ(read(0, 4096), test_bytes(4096, std::byte{1}));
  // The second cluster was new: what it holds now may be anything.
  test_bytes lost(4096);
  const iovec v{lost.data(), lost.size()};
  EXPECT_FALSE(wait(image_->read(65536, rt::segments(&v, 1), {})));
  EXPECT_FALSE(wait(image_->close()));
  image_.reset();
  EXPECT_EQ(check("x.qcow2").errors, 0u);
}

TEST_F(commits, a_failed_metadata_write_stays_failed_too) {
  make();
  ASSERT_EQ(write(0, test_bytes(4096, std::byte{1})), errc::ok);
  script_.fail_write_errno = EIO;
  script_.fail_writes_from = 0;
  EXPECT_EQ(flush(), errc::io);
  script_.fail_write_errno = 0;
  EXPECT_EQ(flush(), errc::io);
  image_.reset();
  EXPECT_EQ(check("x.qcow2").errors, 0u);
}

TEST_F(commits, missing_space_is_told_and_passes) {
  make();
  ASSERT_EQ(write(0, test_bytes(4096, std::byte{1})), errc::ok);
  ASSERT_EQ(flush(), errc::ok);
  script_.fail_write_errno = ENOSPC;
  script_.fail_writes_from = std::filesystem::file_size(path("x.qcow2"));
  EXPECT_EQ(write(1 << 20, test_bytes(65536, std::byte{2})), errc::nospc);
  EXPECT_EQ(write(0, test_bytes(4096, std::byte{3})), errc::ok);  // in place
  EXPECT_EQ(flush(), errc::ok);
  script_.fail_writes_from = 0;  // even metadata
  script_.fail_write_errno = 0;
  ASSERT_EQ(write(2 << 20, test_bytes(4096, std::byte{4})), errc::ok);
  script_.fail_write_errno = ENOSPC;
  EXPECT_EQ(flush(), errc::nospc);
  EXPECT_EQ(flush(), errc::nospc);
  EXPECT_EQ(read(2 << 20, 4096), test_bytes(4096, std::byte{4}));
  script_.fail_write_errno = 0;
  EXPECT_EQ(flush(), errc::ok);
  close();
  auto c = check("x.qcow2");
  EXPECT_EQ(c.errors + c.leaks, 0u);
  open("x.qcow2", false);
  EXPECT_EQ(read(2 << 20, 4096), test_bytes(4096, std::byte{4}));
  EXPECT_EQ(read(1 << 20, 65536), test_bytes(65536));
}

// The last cluster is counted and nobody uses it.
class leaked_image : public commits {
 protected:
  void SetUp() override {
    commits::SetUp();
    make();
    ASSERT_EQ(write(0, test_bytes(4096, std::byte{1})), errc::ok);
    close();
    test_bytes image = load("x.qcow2");
    const uint64_t cluster = (image.size() + 65535) / 65536;
    image.resize((cluster + 1) * 65536);
    const auto table = base::load_big<uint64_t>(image, 48);
    const auto block = base::load_big<uint64_t>(image, table);
    base::store_big<uint16_t>(image, block + cluster * 2, 1);
    save("x.qcow2", image);
    EXPECT_EQ(check("x.qcow2").leaks, 1u);
    script_.log.clear();
  }
  errc open_for_writing() {
    change_file_options options;
    options.writable = true;
    auto f = wait(change_file::open(files_, path("x.qcow2"), options));
    return f ? errc::ok : f.error().code;
  }
};

TEST_F(leaked_image, gives_the_cluster_back_between_two_syncs) {
  EXPECT_EQ(open_for_writing(), errc::ok);
  EXPECT_EQ(steps(), "sws");
  EXPECT_EQ(check("x.qcow2").leaks, 0u);
}

TEST_F(leaked_image, is_not_opened_when_a_sync_fails) {
  script_.fail_sync = EIO;
  EXPECT_EQ(open_for_writing(), errc::io);
  EXPECT_EQ(steps(), "s");
  EXPECT_EQ(check("x.qcow2").leaks, 1u);
}

TEST_F(leaked_image, stays_as_it_is_where_nothing_locks_it) {
  script_.no_locks = true;
  EXPECT_EQ(open_for_writing(), errc::ok);
  EXPECT_EQ(steps(), "");
  EXPECT_EQ(check("x.qcow2").leaks, 1u);
}

TEST_F(leaked_image, is_opened_when_the_cluster_cannot_be_given_back) {
  script_.fail_write_errno = EIO;
  script_.fail_writes_from = 0;
  EXPECT_EQ(open_for_writing(), errc::ok);
  EXPECT_EQ(steps(), "sws");
}

}  // namespace
}  // namespace lbd::store
