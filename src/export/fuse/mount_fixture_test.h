// SPDX-License-Identifier: MIT
// For the tests of mounted folders: a catalog of devices, and a mount served in a thread of its
// own.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/aio_abi.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "export/device_test.h"
#include "export/fuse/mount.h"
#include "export/waiting_test.h"

namespace lbd::fuse {

using base::errc;
using base::result;
using export_tests::pattern;
using export_tests::test_device;
using export_tests::wait_until;
using rt::task;

// Changed in the loop of `served` only.
class test_catalog final : public catalog {
 public:
  std::map<uint64_t, std::pair<std::string, std::shared_ptr<test_device>>> devices;

  std::vector<entry> list() const override {
    std::vector<entry> all;
    for (const auto& [id, d] : devices) all.push_back(entry_of(id));
    return all;
  }
  std::optional<entry> find(const std::string& name) const override {
    for (const auto& [id, d] : devices)
      if (d.first == name) return entry_of(id);
    return std::nullopt;
  }
  std::optional<entry> find(uint64_t id) const override {
    if (!devices.contains(id)) return std::nullopt;
    return entry_of(id);
  }
  base::outcome<block::opened_device> open(uint64_t id, bool) override {
    const auto d = devices.at(id).second;
    ++d->opens;
    std::shared_ptr<block::block_device> use(d.get(), [d](block::block_device*) { --d->opens; });
    return block::opened_device{std::move(use), {253, 0}};
  }

 private:
  entry entry_of(uint64_t id) const {
    const auto& [name, d] = devices.at(id);
    return {id, name, d->limits_.size_bytes, d->limits_.preferred_bytes, d->limits_.read_only};
  }
};

// A folder that is mounted until the object goes.
class served {
 public:
  explicit served(rt::runtime_options how, unsigned readers = 1) {
    char name[] = "/tmp/lbd-mount-XXXXXX";
    folder_ = ::mkdtemp(name);
    auto started = rt::runtime::start(how);
    EXPECT_TRUE(started);
    rt_ = *std::move(started);
    thread_ = std::thread([this] { rt_->run_until(loop()); });
    run([this, readers](test_catalog& c) { return mount_it(c, readers); });
  }
  ~served() {
    stop(true);
    quit_ = true;
    thread_.join();
    rt_.reset();
    ::rmdir(folder_.c_str());
  }

  std::shared_ptr<test_device> add(uint64_t id, const std::string& name, size_t bytes) {
    auto d = std::make_shared<test_device>(bytes);
    run([&](test_catalog& c) { return add_one(c, id, name, d); });
    return d;
  }
  void run(std::function<task<void>(test_catalog&)> work) {
    std::atomic<bool> done{false};
    {
      std::lock_guard lock(mutex_);
      jobs_.push_back([&done, work](test_catalog& c) { return run_one(work, c, done); });
    }
    while (!done) std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
  void edit(std::function<void(test_catalog&)> change) {
    run([&change](test_catalog& c) { return edit_one(change, c); });
  }
  errc stop(bool in_use) {
    errc code = errc::ok;
    run([this, in_use, &code](test_catalog&) { return stop_it(in_use, code); });
    return code;
  }
  mount_info info() {
    mount_info i;
    run([this, &i](test_catalog&) { return ask(i); });
    return i;
  }
  void settle() {
    run([this](test_catalog&) { return mount_->settle(); });
  }
  void changed(uint64_t id) {
    run([this, id](test_catalog&) { return change(id); });
  }
  const std::string& folder() const { return folder_; }
  std::string path(const std::string& name) const { return folder_ + "/" + name; }
  std::string failure;  // of starting
  std::atomic<bool> ended{false};

 private:
  static task<void> run_one(std::function<task<void>(test_catalog&)> work, test_catalog& c,
                            std::atomic<bool>& done) {
    co_await work(c);
    done = true;
  }
  static task<void> add_one(test_catalog& c, uint64_t id, std::string name,
                            std::shared_ptr<test_device> d) {
    c.devices[id] = {name, d};
    co_return;
  }
  static task<void> edit_one(const std::function<void(test_catalog&)>& change, test_catalog& c) {
    change(c);
    co_return;
  }
  task<void> mount_it(test_catalog& c, unsigned readers) {
    mount_options how;
    how.reactors = readers;
    auto m = co_await mount::start(*rt_, c, folder_, how);
    if (!m) {
      failure = m.error().message;
      co_return;
    }
    mount_ = *std::move(m);
    mount_->on_end([this] { ended = true; });
  }
  task<void> stop_it(bool in_use, errc& code) {
    if (!mount_) co_return;
    const auto r = co_await mount_->stop(in_use);
    if (!r) code = r.error().code;
    if (r) mount_.reset();
  }
  task<void> ask(mount_info& i) {
    i = mount_->info();
    co_return;
  }
  task<void> change(uint64_t id) {
    mount_->changed(id);
    co_return;
  }
  task<void> loop() {
    test_catalog c;
    const uint64_t too_late = rt::reactor::current().now_ns() + 60'000'000'000;
    while (!quit_) {
      // A process that waits for itself in the kernel could not even be killed.
      if (rt::reactor::current().now_ns() > too_late) ::umount2(folder_.c_str(), MNT_FORCE);
      std::function<task<void>(test_catalog&)> next;
      {
        std::lock_guard lock(mutex_);
        if (!jobs_.empty()) {
          next = std::move(jobs_.front());
          jobs_.pop_front();
        }
      }
      // Not awaited: work may wait for other work.
      if (next) rt::spawn(keep(std::move(next), c));
      co_await rt::sleep_for(std::chrono::microseconds(300));
    }
  }
  static task<void> keep(std::function<task<void>(test_catalog&)> next, test_catalog& c) {
    co_await next(c);
  }

  std::string folder_;
  std::unique_ptr<rt::runtime> rt_;
  std::unique_ptr<mount> mount_;
  std::thread thread_;
  std::atomic<bool> quit_{false};
  std::mutex mutex_;
  std::deque<std::function<task<void>(test_catalog&)>> jobs_;
};

// A descriptor that closes itself.
class opened {
 public:
  opened(const std::string& path, int flags) : fd_(::open(path.c_str(), flags | O_CLOEXEC)) {}
  ~opened() { close(); }
  opened(const opened&) = delete;
  opened& operator=(const opened&) = delete;
  operator int() const { return fd_; }
  void close() {
    if (fd_ >= 0) ::close(std::exchange(fd_, -1));
  }

 private:
  int fd_;
};

// Many requests of one thread, which does not wait for each (the kernel's AIO).
class many_requests {
 public:
  explicit many_requests(unsigned most) {
    EXPECT_EQ(::syscall(SYS_io_setup, most, &context_), 0) << std::strerror(errno);
  }
  ~many_requests() { ::syscall(SYS_io_destroy, context_); }
  many_requests(const many_requests&) = delete;
  many_requests& operator=(const many_requests&) = delete;

  void begin(unsigned count, int fd, bool write, void* memory, size_t bytes, uint64_t offset) {
    for (unsigned i = 0; i < count; ++i) {
      iocb one{};
      one.aio_fildes = static_cast<uint32_t>(fd);
      one.aio_lio_opcode = write ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD;
      one.aio_buf = reinterpret_cast<uint64_t>(memory);
      one.aio_nbytes = bytes;
      one.aio_offset = static_cast<int64_t>(offset);
      one.aio_data = bytes;
      iocb* list[] = {&one};
      ASSERT_EQ(::syscall(SYS_io_submit, context_, 1, list), 1) << std::strerror(errno);
      ++begun_;
    }
  }
  // Waits for all; how many have transferred all their bytes.
  unsigned finish() {
    unsigned good = 0;
    for (io_event e[64]; begun_ > 0;) {
      const long n = ::syscall(SYS_io_getevents, context_, 1, std::size(e), e, nullptr);
      if (n <= 0) break;
      for (long i = 0; i < n; ++i) good += e[i].res == static_cast<int64_t>(e[i].data);
      begun_ -= static_cast<unsigned>(n);
    }
    return good;
  }

 private:
  aio_context_t context_ = 0;
  unsigned begun_ = 0;
};

}  // namespace lbd::fuse
