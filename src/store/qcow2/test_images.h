// SPDX-License-Identifier: MIT
// For the tests of change files: a folder of their own, a reactor, QEMU's tools.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>

#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "rt/runtime.h"
#include "store/qcow2/change_file.h"
#include "store/qcow2/check.h"

namespace lbd::store {

using test_bytes = std::vector<std::byte>;

class image_test : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (std::filesystem::temp_directory_path() / "lbd-store-XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    dir_ = name;
    rt::runtime_options options;
    options.reactors = 1;
    options.spin_ns = 0;
    auto started = rt::runtime::start(options);
    ASSERT_TRUE(started) << started.error().message;
    runtime_ = *std::move(started);
  }
  void TearDown() override {
    image_.reset();
    if (runtime_) runtime_->stop();
    std::filesystem::remove_all(dir_);
  }

  static bool has_qemu() { return ::system("command -v qemu-img qemu-io >/dev/null 2>&1") == 0; }
  // The exit code; the output goes to output_.
  int shell(const std::string& command) {
    std::FILE* out = ::popen(("cd " + dir_ + " && (" + command + ") 2>&1").c_str(), "r");
    output_.clear();
    std::array<char, 4096> part;
    for (size_t n; (n = std::fread(part.data(), 1, part.size(), out)) > 0;) {
      output_.append(part.data(), n);
    }
    const int status = ::pclose(out);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }
  void run(const std::string& command) { ASSERT_EQ(shell(command), 0) << command << output_; }
  void expect_clean(const std::string& name) {
    EXPECT_EQ(shell("qemu-img check -f qcow2 " + name), 0) << output_;
  }

  std::string path(const std::string& name) const { return dir_ + "/" + name; }
  template <class T>
  T wait(rt::task<T> t) {
    return runtime_->run_until(std::move(t));
  }

  std::string open_error(const std::string& name, bool writable) {
    change_file_options options;
    options.writable = writable;
    auto f = wait(change_file::open(rt::os_files(), path(name), options));
    if (!f) return f.error().message;
    image_ = *std::move(f);
    return "";
  }
  void open(const std::string& name, bool writable) { ASSERT_EQ(open_error(name, writable), ""); }
  void create(const std::string& name, new_change_file what) {
    auto f = wait(change_file::create(rt::os_files(), path(name), what));
    ASSERT_TRUE(f) << f.error().message;
    image_ = *std::move(f);
  }
  void close() {
    auto r = wait(image_->close());
    EXPECT_TRUE(r) << base::to_string(base::code_of(r));
    image_.reset();
  }

  base::errc write(uint64_t offset, const test_bytes& data, block::io_opts io = {}) {
    const iovec v{const_cast<std::byte*>(data.data()), data.size()};
    return base::code_of(wait(image_->write(offset, rt::segments(&v, 1), io)));
  }
  test_bytes read(uint64_t offset, uint64_t length) {
    test_bytes data(length, std::byte{0xa5});
    const iovec v{data.data(), data.size()};
    auto r = wait(image_->read(offset, rt::segments(&v, 1), {}));
    EXPECT_TRUE(r) << base::to_string(base::code_of(r));
    return data;
  }
  base::errc flush() { return base::code_of(wait(image_->flush({}))); }
  image_check check(const std::string& name) {
    auto f = rt::open_file(path(name), {});
    EXPECT_TRUE(f);
    auto c = wait(check_image(**f, (*f)->info().size_bytes));
    EXPECT_TRUE(c) << c.error().message;
    return *c;
  }
  test_bytes load(const std::string& name) {
    std::ifstream in(path(name), std::ios::binary);
    std::string text((std::istreambuf_iterator<char>(in)), {});
    auto view = base::as_bytes(text);
    return {view.begin(), view.end()};
  }
  void save(const std::string& name, const test_bytes& data) {
    std::ofstream out(path(name), std::ios::binary);
    out.write(reinterpret_cast<const char*>(data.data()),
              static_cast<std::streamsize>(data.size()));
  }

  std::string dir_, output_;
  std::unique_ptr<rt::runtime> runtime_;
  std::unique_ptr<change_file> image_;
};

}  // namespace lbd::store
