// SPDX-License-Identifier: MIT
#include "block/image_lock.h"

#include <gmock/gmock.h>

#include <cstdio>

#include "store/qcow2/test_images.h"

namespace lbd::store {
namespace {

using testing::HasSubstr;

class image_locks : public image_test {
 protected:
  void make() {
    new_change_file what;
    what.size_bytes = 1 << 20;
    create("x.qcow2", what);
  }
  bool qemu_opens(const std::string& options) {
    return shell("qemu-io " + options + " -f qcow2 -c 'read 0 512' x.qcow2") == 0;
  }
};

TEST_F(image_locks, one_writer_or_many_readers) {
  make();
  EXPECT_THAT(open_error("x.qcow2", false), HasSubstr("open for writing"));
  image_.reset();
  open("x.qcow2", false);
  auto reader = std::move(image_);
  EXPECT_EQ(open_error("x.qcow2", false), "");
  image_.reset();
  EXPECT_THAT(open_error("x.qcow2", true), HasSubstr("in use"));
  reader.reset();
  EXPECT_EQ(open_error("x.qcow2", true), "");
  close();
}

TEST_F(image_locks, qemu_refuses_what_we_write) {
  if (!has_qemu()) GTEST_SKIP() << "qemu-utils is not installed";
  make();
  EXPECT_FALSE(qemu_opens(""));
  EXPECT_THAT(output_, HasSubstr("lock"));
  EXPECT_FALSE(qemu_opens("-r"));
  EXPECT_TRUE(qemu_opens("-r -U"));
  close();
  EXPECT_TRUE(qemu_opens(""));
  open("x.qcow2", false);
  EXPECT_FALSE(qemu_opens(""));
  EXPECT_TRUE(qemu_opens("-r"));
}

TEST_F(image_locks, we_refuse_what_qemu_writes) {
  if (!has_qemu()) GTEST_SKIP() << "qemu-utils is not installed";
  make();
  close();
  for (bool read_only : {false, true}) {
    // Runs until its input ends; the answer to a first command shows that the image is open.
    const std::string go = read_only ? "go2" : "go1", out = read_only ? "out2" : "out1";
    const std::string command = "cd " + dir_ + " && mkfifo " + go + " && qemu-io -f qcow2 " +
                                (read_only ? "-r" : "") + " x.qcow2 < " + go + " > " + out +
                                " 2>&1";
    std::FILE* qemu = ::popen(command.c_str(), "r");
    const std::string fifo = path(go);
    for (int i = 0; i < 500 && !std::filesystem::exists(fifo); ++i) ::system("sleep 0.01");
    std::FILE* to_qemu = std::fopen(fifo.c_str(), "w");
    ASSERT_NE(to_qemu, nullptr);
    std::fputs("length\n", to_qemu);
    std::fflush(to_qemu);
    for (int i = 0; i < 500 && shell("grep -q MiB " + out) != 0; ++i) ::system("sleep 0.01");
    EXPECT_NE(open_error("x.qcow2", true), "");
    EXPECT_EQ(open_error("x.qcow2", false) == "", read_only);
    image_.reset();
    std::fclose(to_qemu);
    ::pclose(qemu);
    EXPECT_EQ(open_error("x.qcow2", true), "");
    close();
  }
}

}  // namespace
}  // namespace lbd::store
