// SPDX-License-Identifier: MIT
// Layers as users name them, against real files.
#include "ctl/stack_builder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "block/segments.h"
#include "ctl/copy.h"
#include "ctl/served_stack.h"
#include "store/null/null.h"

namespace lbd::ctl {
namespace {

using testing::HasSubstr;

constexpr uint64_t mib = 1 << 20;

class stack_builder : public testing::Test {
 protected:
  stack_builder() {
    char name[] = "/tmp/lbd-stack-test-XXXXXX";
    dir_ = ::mkdtemp(name);
    rt::runtime_options options;
    options.reactors = 1;
    options.how = rt::backend::threads;
    runtime_ = *rt::runtime::start(options);
  }
  ~stack_builder() override { std::filesystem::remove_all(dir_); }

  std::string path(const std::string& name) const { return dir_ + "/" + name; }
  std::string make_file(const std::string& name, uint64_t bytes) const {
    std::ofstream out(path(name));
    out.close();
    std::filesystem::resize_file(path(name), bytes);
    return path(name);
  }
  layer_spec change(const std::string& name) const {
    return {layer_option::expandable, path(name)};
  }
  layer_spec flat(const std::string& name) const { return {layer_option::flat, path(name)}; }
  static layer_spec source(const std::string& text) { return {layer_option::source, text}; }

  // Opens as a server does, looks, closes.
  struct seen {
    std::string error;
    device_report report;
  };
  static rt::task<seen> look(rt::runtime& runtime, stack_spec spec, std::string add) {
    seen out;
    auto opened = co_await served_stack::open(runtime, std::move(spec), change_file_options{});
    if (!opened) {
      out.error = opened.error().message;
      co_return out;
    }
    if (!add.empty()) {
      const auto added = co_await (*opened)->add_layer(add);
      if (!added) out.error = added.error().message;
    }
    out.report = (*opened)->report();
    const auto closed = co_await (*opened)->close();
    if (!closed) out.error += closed.error().message;
    co_return out;
  }
  seen open(std::vector<layer_spec> layers, std::optional<uint64_t> size = {},
            bool read_only = false, const std::string& add = "") {
    stack_spec spec{"", size, read_only, std::move(layers)};
    return runtime_->run_until(look(*runtime_, std::move(spec), add));
  }
  static rt::task<std::optional<std::string>> read_backing(rt::runtime& runtime, std::string path) {
    stack_spec spec{"", {}, true, {{layer_option::expandable, std::move(path)}}};
    auto opened = co_await open_stack(runtime, spec, open_mode{});
    if (!opened) co_return "not opened";
    auto name = opened->layers[0].change->header().backing_name;
    const auto closed = co_await close_layers(opened->layers);
    EXPECT_TRUE(closed);
    co_return name;
  }
  std::optional<std::string> backing_of(const std::string& name) {
    return runtime_->run_until(read_backing(*runtime_, path(name)));
  }

  std::string dir_;
  std::unique_ptr<rt::runtime> runtime_;
};

TEST_F(stack_builder, size_of_the_topmost_layer_that_has_one) {
  make_file("base", 3 * mib);
  EXPECT_EQ(open({change("top"), flat("base")}).report.size_bytes, 3 * mib);
  EXPECT_EQ(open({change("top"), source("null:10T")}).report.size_bytes, 3 * mib);
  EXPECT_EQ(open({change("other"), flat("base")}, 5 * mib).report.size_bytes, 5 * mib);
  EXPECT_EQ(open({flat("base")}, 2 * mib).report.size_bytes, 2 * mib);
  EXPECT_EQ(open({flat("base")}, 4 * mib, true).report.size_bytes, 4 * mib);
}

TEST_F(stack_builder, refuses_sizes_that_cannot_be) {
  make_file("base", mib);
  EXPECT_THAT(open({change("top")}).error, HasSubstr("-s SIZE"));
  EXPECT_FALSE(std::filesystem::exists(path("top")));
  EXPECT_THAT(open({flat("base")}, 2 * mib).error, HasSubstr("-f " + path("base")));
  EXPECT_THAT(open({change("top")}, 1000).error, HasSubstr("512"));
  EXPECT_THAT(open({change("top")}, uint64_t{1} << 60).error, HasSubstr("too large"));
  EXPECT_EQ(open({change("top")}, mib).error, "");
  EXPECT_THAT(open({change("top")}, 2 * mib).error, HasSubstr("leave -s out"));
  EXPECT_EQ(open({change("top")}, mib).error, "");
}

TEST_F(stack_builder, only_the_topmost_layer_is_writable_and_made) {
  make_file("base", mib);
  EXPECT_THAT(open({change("a"), change("b"), flat("base")}).error, HasSubstr(path("b")));
  EXPECT_FALSE(std::filesystem::exists(path("a")));
  EXPECT_EQ(open({change("b"), flat("base")}).error, "");
  const seen both = open({change("a"), change("b"), flat("base")});
  ASSERT_EQ(both.report.layers.size(), 3u);
  EXPECT_TRUE(both.report.layers[0].writable);
  EXPECT_FALSE(both.report.layers[1].writable);
  EXPECT_FALSE(both.report.layers[2].writable);
  EXPECT_EQ(both.report.layers[0].kind, "expandable");
  EXPECT_EQ(both.report.layers[2].kind, "flat");
  EXPECT_TRUE(open({source("qcow2:" + path("b"))}).report.read_only);
  EXPECT_TRUE(open({change("a"), flat("base")}, {}, true).report.read_only);
  EXPECT_THAT(open({change("none"), flat("base")}, {}, true).error, HasSubstr("no such file"));
}

TEST_F(stack_builder, records_the_layer_below_where_it_can_be_followed) {
  make_file("base", mib);
  open({change("on-flat"), flat("base")});
  EXPECT_EQ(backing_of("on-flat"), path("base"));
  open({change("on-change"), change("on-flat"), flat("base")});
  EXPECT_EQ(backing_of("on-change"), path("on-flat"));
  open({change("on-memory"), source("mem:1M")});
  EXPECT_EQ(backing_of("on-memory"), std::nullopt);
  make_file("larger", 2 * mib);
  open({change("over-two"), flat("base"), flat("larger")}, 2 * mib);
  EXPECT_EQ(backing_of("over-two"), std::nullopt);
}

TEST_F(stack_builder, a_layer_is_added_above_any_kind_of_top) {
  make_file("base", mib);
  for (const auto& below : {flat("base"), source("mem:1M"), change("first")}) {
    const std::string added = path("added");
    const seen now = open({below}, mib, false, added);
    EXPECT_EQ(now.error, "");
    ASSERT_EQ(now.report.layers.size(), 2u);
    EXPECT_EQ(now.report.layers[0].path, added);
    EXPECT_TRUE(now.report.layers[0].writable);
    EXPECT_FALSE(now.report.layers[1].writable);
    std::filesystem::remove(added);
  }
  EXPECT_THAT(open({flat("base")}, {}, true, path("added")).error, HasSubstr("read-only"));
  EXPECT_THAT(open({flat("base")}, {}, false, path("first")).error, HasSubstr("first"));
}

TEST_F(stack_builder, a_file_in_use_is_refused) {
  make_file("base", mib);
  const auto twice = open({flat("base"), flat("base")});
  EXPECT_THAT(twice.error, HasSubstr(path("base")));
}

// A device whose writes fail from some offset on.
class failing_device final : public block::block_device {
 public:
  explicit failing_device(uint64_t good_bytes) : good_bytes_(good_bytes) {
    limits_.size_bytes = 64 * mib;
  }
  const block::limits& limits() const noexcept override { return limits_; }
  rt::task<base::result<void>> read(uint64_t, rt::segments to, block::io_opts) override {
    block::fill_zero(to);
    co_return base::result<void>{};
  }
  rt::task<base::result<void>> write(uint64_t offset, rt::segments from, block::io_opts) override {
    if (offset >= good_bytes_) co_return base::io_error{base::errc::nospc};
    written += block::total_bytes(from);
    co_return base::result<void>{};
  }
  rt::task<base::result<void>> flush(block::io_opts) override { co_return base::result<void>{}; }
  uint64_t written = 0;

 private:
  const uint64_t good_bytes_;
  block::limits limits_;
};

// Runs of 3 MiB: data, nothing, zeros, and so on.
class striped_runs final : public copy_source {
 public:
  rt::task<base::result<copy_run>> at(uint64_t offset, uint64_t length) override {
    constexpr copy_kind kinds[] = {copy_kind::copy, copy_kind::skip, copy_kind::zero};
    copy_run out;
    out.kind = kinds[offset / (3 * mib) % 3];
    out.length_bytes = std::min(length, 3 * mib - offset % (3 * mib));
    co_return out;
  }
};

TEST_F(stack_builder, copies_runs_until_something_fails) {
  store::null_device zeros(64 * mib);
  striped_runs runs;
  struct work {
    static rt::task<base::outcome<void>> run(copy_source& runs, block::block_device& from,
                                             block::block_device& to) {
      progress shown("copy", 18 * mib);
      co_return co_await copy_runs(runs, from, to, 18 * mib, shown);
    }
  };
  failing_device good(64 * mib);
  EXPECT_TRUE(runtime_->run_until(work::run(runs, zeros, good)));
  EXPECT_EQ(good.written, 12 * mib);  // data, and zeros written by hand
  failing_device full(9 * mib);
  const auto failed = runtime_->run_until(work::run(runs, zeros, full));
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().code, base::errc::nospc);
  EXPECT_THAT(failed.error().message, HasSubstr("at byte"));
  EXPECT_EQ(full.written, 6 * mib);
}

}  // namespace
}  // namespace lbd::ctl
