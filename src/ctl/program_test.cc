// SPDX-License-Identifier: MIT
#include "ctl/program.h"

#include <elf.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "ctl/device_major.h"

namespace lbd::ctl {
namespace {

using testing::HasSubstr;

class program : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = "/tmp/lbd-program-XXXXXX";
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    dir_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }
  std::string make(const std::string& name, const std::string& content, mode_t mode = 0755) {
    const std::string path = dir_ + "/" + name;
    std::ofstream(path, std::ios::binary) << content;
    ::chmod(path.c_str(), mode);
    return path;
  }
  // A program's beginning with one part of the given kind.
  static std::string elf(unsigned char kind, uint32_t part) {
    Elf64_Ehdr own{}, head{};
    std::ifstream("/proc/self/exe", std::ios::binary)
        .read(reinterpret_cast<char*>(&own), sizeof own);
    std::memcpy(head.e_ident, ELFMAG, SELFMAG);
    head.e_ident[EI_CLASS] = kind;
    head.e_machine = own.e_machine;
    head.e_phoff = sizeof head;
    head.e_phentsize = sizeof(Elf64_Phdr);
    head.e_phnum = 1;
    Elf64_Phdr only{};
    only.p_type = part;
    return std::string(reinterpret_cast<const char*>(&head), sizeof head) +
           std::string(reinterpret_cast<const char*>(&only), sizeof only);
  }
  std::string dir_;
};

TEST_F(program, is_found_as_a_shell_does) {
  const std::string path = make("tool", "#!/bin/sh\n");
  EXPECT_EQ(*find_program(path), path);
  ::setenv("PATH", ("/nonexistent:" + dir_).c_str(), 1);
  EXPECT_EQ(*find_program("tool"), path);
  EXPECT_EQ(find_program("nosuch").error().code, base::errc::noent);
  EXPECT_EQ(find_program(make("text", "", 0644)).error().code, base::errc::access);
}

TEST_F(program, what_cannot_be_preloaded_is_told) {
  EXPECT_EQ(why_not_preloaded("/proc/self/exe"), "");
  EXPECT_EQ(why_not_preloaded(make("dynamic", elf(ELFCLASS64, PT_INTERP))), "");
  const std::string fixed = make("static", elf(ELFCLASS64, PT_LOAD));
  EXPECT_THAT(why_not_preloaded(fixed), HasSubstr("linked statically"));
  EXPECT_THAT(why_not_preloaded(make("script", "#! " + fixed + " -x\n")),
              HasSubstr(fixed + " cannot be made to see"));
  EXPECT_THAT(why_not_preloaded(make("small", elf(ELFCLASS32, PT_INTERP))),
              HasSubstr("another kind of machine"));
  EXPECT_THAT(why_not_preloaded(make("cut", elf(ELFCLASS64, PT_INTERP).substr(0, 20))),
              HasSubstr("no program"));
  EXPECT_EQ(why_not_preloaded(make("plain", "echo\n")), "");
  EXPECT_EQ(why_not_preloaded(make("loop", "#!" + dir_ + "/loop\n")), "");
}

TEST(device_major, steers_clear_of_mounted_file_systems) {
  const std::string mountinfo =
      "22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw\n"
      "23 22 0:21 / /proc rw - proc proc rw\n"
      "31 22 253:7 /a /srv rw - xfs /dev/mapper/a rw\n";
  EXPECT_THAT(mounted_majors(mountinfo), testing::ElementsAre(0, 253, 254));
  EXPECT_EQ(best_major({}), 253u);
  EXPECT_EQ(best_major(mounted_majors(mountinfo)), 252u);
  EXPECT_EQ(best_major({253, 252, 251}), 250u);
}

}  // namespace
}  // namespace lbd::ctl
