// SPDX-License-Identifier: MIT
// What the tests of targets share: devices made from table text over watched memory, and a clock
// that moves only while everybody waits.
#pragma once

#include <gtest/gtest.h>

#include <map>

#include "block/segments.h"
#include "stack/device_manager.h"
#include "store/memory/memory.h"

namespace lbd::target {

using base::errc;
using base::outcome;
using base::result;
using rt::task;

inline constexpr uint64_t second_ns = 1'000'000'000;

// Waiting costs no time: the clock jumps to the next timer.
class jumping_reactor final : public rt::reactor {
 public:
  jumping_reactor() : reactor(0) {}
  const char* kind() const noexcept override { return "jumping"; }
  uint64_t now_ns() const noexcept override { return now_ns_; }
  void submit(rt::io_request&) override { std::abort(); }
  void cancel(rt::io_request&) override {}

 protected:
  void poll_io(uint64_t wait_ns) override {
    if (wait_ns == UINT64_MAX) std::abort();  // nothing will ever happen again
    now_ns_ += wait_ns;
  }
  void wake() noexcept override {}

 private:
  uint64_t now_ns_ = second_ns;
};

// Memory that remembers what was asked of it, fails on demand, and holds requests while `open` is
// not set.
class watched_disk final : public block::block_device {
 public:
  explicit watched_disk(uint64_t size_bytes) : disk_(*store::memory_device::make(size_bytes)) {
    open.set();
  }
  const block::limits& limits() const noexcept override { return disk_->limits(); }
  task<result<void>> read(uint64_t offset, rt::segments to, block::io_opts io) override {
    CO_CHECK(co_await note("read", offset, block::total_bytes(to), read_error));
    co_return co_await disk_->read(offset, to, io);
  }
  task<result<void>> write(uint64_t offset, rt::segments from, block::io_opts io) override {
    const char* what = io.fua() ? "fua" : "write";
    CO_CHECK(co_await note(what, offset, block::total_bytes(from), write_error));
    CO_CHECK(co_await disk_->write(offset, from, io));
    if (late_error != errc::ok) co_return base::io_error{late_error, 0};
    co_return result<void>{};
  }
  task<result<void>> flush(block::io_opts io) override {
    CO_CHECK(co_await note("flush", 0, 0, write_error));
    co_return co_await disk_->flush(io);
  }
  task<result<void>> discard(uint64_t offset, uint64_t length, block::io_opts io) override {
    CO_CHECK(co_await note("discard", offset, length, write_error));
    co_return co_await disk_->discard(offset, length, io);
  }
  task<result<void>> write_zeroes(uint64_t offset, uint64_t length, block::io_opts io) override {
    CO_CHECK(co_await note("zero", offset, length, write_error));
    co_return co_await disk_->write_zeroes(offset, length, io);
  }
  task<result<void>> extents(uint64_t offset, uint64_t length, block::extent_list& out,
                             block::io_opts io) override {
    return disk_->extents(offset, length, out, io);
  }

  base::bytes_view bytes(uint64_t offset, uint64_t length) {
    return disk_->borrow(offset, length).bytes;
  }
  std::string text(uint64_t offset, uint64_t length) {
    return std::string(base::as_text(bytes(offset, length)));
  }

  std::vector<std::string> seen;  // "write 512+4096", in sectors: "write 1+8"
  errc read_error = errc::ok, write_error = errc::ok;
  errc late_error = errc::ok;  // of writes that are done all the same
  rt::event open;

 private:
  task<result<void>> note(const char* what, uint64_t offset, uint64_t length, const errc& error) {
    if (rt::reactor::current().index() == 0)
      seen.push_back(length == 0 ? what
                                 : std::string(what) + " " + std::to_string(offset / 512) + "+" +
                                       std::to_string(length / 512));
    if (!open.is_set()) co_await open.wait();
    if (error != errc::ok) co_return base::io_error{error, 0};
    co_return result<void>{};
  }
  std::unique_ptr<store::memory_device> disk_;
};

// "/dev/vda" and "254:0" are `a`, "/dev/vdb" and "254:16" are `b`.
class watched_sources final : public stack::source_opener {
 public:
  static constexpr uint64_t size_bytes = 4u << 20;
  task<outcome<block::opened_device>> open(std::string source, bool) override {
    if (source == "/dev/vda" || source == "254:0") co_return block::opened_device{a, {254, 0}};
    if (source == "/dev/vdb" || source == "254:16") co_return block::opened_device{b, {254, 16}};
    for (const auto& [name, d] : more)
      if (source == name || source == d.number.text()) co_return d;
    co_return base::failure{errc::nodev, "no such source"};
  }
  std::map<std::string, block::opened_device> more;  // of a test's own
  std::shared_ptr<watched_disk> a = std::make_shared<watched_disk>(size_bytes);
  std::shared_ptr<watched_disk> b = std::make_shared<watched_disk>(size_bytes);
};

class table_fixture : public testing::Test {
 protected:
  explicit table_fixture(std::unique_ptr<rt::runtime> runtime = jumping())
      : rt_(std::move(runtime)) {}
  ~table_fixture() override {
    run(m_.remove_all(false));
    settle();  // reports that are still on their way
  }

  static std::unique_ptr<rt::runtime> jumping() {
    std::vector<std::unique_ptr<rt::reactor>> one;
    one.push_back(std::make_unique<jumping_reactor>());
    return std::make_unique<rt::runtime>(std::move(one));
  }
  static stack::device_key key(std::string name) { return {std::move(name), {}, {}}; }
  template <class T>
  T run(task<T> t) {
    return rt_->run_until(std::move(t));
  }
  static task<bool> sleeping(uint64_t ns) {
    co_await rt::sleep_for(std::chrono::nanoseconds(ns));
    co_return true;
  }
  void advance(uint64_t ns) { run(sleeping(ns)); }
  // Everything that can happen without waiting.
  void settle() {
    for (int i = 0; i < 20; ++i) rt_->at(0).turn(0);
  }

  // The part of a failure's text after the target's name: "Invalid delay (-EINVAL)"; "" is success.
  std::string load(const std::string& name, const std::string& type, const std::string& args,
                   uint64_t sectors = 2048) {
    if (!m_.state(key(name))) (void)m_.create(name, "", {});
    why_.clear();
    const auto r = run(m_.load(key(name), {{0, sectors, type, args}}, false, &why_));
    if (r) return {};
    const size_t at = r.error().message.find(type + ": ");
    return at == std::string::npos ? r.error().message
                                   : r.error().message.substr(at + type.size() + 2);
  }
  std::string resume(const std::string& name) {
    const auto r = run(m_.resume(key(name), {}));
    return r ? "" : r.error().message;
  }
  void suspend(const std::string& name) { (void)run(m_.suspend(key(name), {})); }
  // A live device of one line.
  std::shared_ptr<block::block_device> make(const std::string& type, const std::string& args,
                                            uint64_t sectors = 2048,
                                            const std::string& name = "d") {
    EXPECT_EQ(load(name, type, args, sectors), "");
    EXPECT_EQ(resume(name), "");
    const auto opened = m_.open(key(name));
    return opened ? (*opened).device : nullptr;
  }
  std::string status_text(block::status_request q, const std::string& name = "d") {
    const auto r = run(m_.status(key(name), q, false));
    return r && !(*r).empty() ? (*r)[0].args : "no table";
  }
  std::string table(const std::string& name = "d") {
    block::status_request q;
    q.kind = block::status_kind::table;
    return status_text(q, name);
  }
  std::string status(const std::string& name = "d") { return status_text({}, name); }
  std::string message(std::vector<std::string> words, const std::string& name = "d") {
    const auto r = run(m_.message(key(name), 0, std::move(words)));
    return r ? *r : "error: " + r.error().message;
  }

  static task<errc> writing(block::block_device& d, uint64_t offset, std::string text,
                            block::io_opts io) {
    const iovec v{text.data(), text.size()};
    co_return base::code_of(co_await block::write(d, offset, rt::segments(&v, 1), io));
  }
  static task<errc> reading(block::block_device& d, uint64_t offset, std::string& text,
                            block::io_opts io) {
    const iovec v{text.data(), text.size()};
    co_return base::code_of(co_await block::read(d, offset, rt::segments(&v, 1), io));
  }
  static task<errc> flushing(block::block_device& d, block::io_opts io) {
    co_return base::code_of(co_await d.flush(io));
  }
  static task<errc> discarding(block::block_device& d, uint64_t offset, uint64_t length) {
    co_return base::code_of(co_await d.discard(offset, length, {}));
  }
  static task<errc> zeroing(block::block_device& d, uint64_t offset, uint64_t length) {
    co_return base::code_of(co_await d.write_zeroes(offset, length, {}));
  }
  errc write(block::block_device& d, uint64_t offset, std::string text, block::io_opts io = {}) {
    return run(writing(d, offset, std::move(text), io));
  }
  // "error" when it fails.
  std::string read(block::block_device& d, uint64_t offset, size_t length, block::io_opts io = {}) {
    std::string text(length, '?');
    const errc code = run(reading(d, offset, text, io));
    return code == errc::ok ? text : "error";
  }
  errc flush(block::block_device& d, block::io_opts io = {}) { return run(flushing(d, io)); }

  // A request in the background; `at_ns` is when it ended, 0 before.
  struct outcome_of {
    errc code = errc::ok;
    uint64_t at_ns = 0;
  };
  static task<void> finish(task<errc> t, std::shared_ptr<outcome_of> out) {
    out->code = co_await t;
    out->at_ns = rt::reactor::current().now_ns();
  }
  static std::shared_ptr<outcome_of> start(task<errc> t) {
    auto out = std::make_shared<outcome_of>();
    rt::spawn(finish(std::move(t), out));
    return out;
  }
  uint64_t now_ns() const { return rt::reactor::current().now_ns(); }

  std::unique_ptr<rt::runtime> rt_;
  rt::reactor::scope here_{rt_->at(0)};
  watched_sources sources_;
  stack::device_manager m_{*rt_, sources_};
  std::string why_;  // what people are told of the last load() that failed
};

}  // namespace lbd::target
