// SPDX-License-Identifier: MIT
// The NBD store against the servers of others: nbdkit (new and oldstyle), qemu-nbd, nbd-server.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <random>
#include <thread>

#include "block/segments.h"
#include "store/nbd/nbd.h"

namespace lbd::store {
namespace {

using block::extent;
using namespace std::chrono_literals;

constexpr uint64_t mib = 1 << 20;

// A program of somebody else's, ended with the test.
class program {
 public:
  program() = default;
  explicit program(const std::vector<std::string>& words) {
    pid_ = ::fork();
    if (pid_ != 0) return;
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    const int quiet = ::open("/dev/null", O_RDWR);
    for (int fd : {0, 1, 2}) ::dup2(quiet, fd);
    std::vector<char*> argv;
    for (const auto& w : words) argv.push_back(const_cast<char*>(w.c_str()));
    argv.push_back(nullptr);
    ::execvp(argv[0], argv.data());
    ::_exit(127);
  }
  program(program&& o) noexcept : pid_(std::exchange(o.pid_, -1)) {}
  program& operator=(program&& o) noexcept {
    std::swap(pid_, o.pid_);
    return *this;
  }
  ~program() { end(SIGKILL); }
  void end(int signal) {
    if (pid_ <= 0) return;
    ::kill(pid_, signal);
    ::waitpid(std::exchange(pid_, -1), nullptr, 0);
  }

 private:
  pid_t pid_ = -1;
};

bool installed(const char* name) {
  for (const char* folder : {"/usr/bin/", "/usr/sbin/", "/bin/", "/sbin/", "/usr/local/bin/"}) {
    if (::access((std::string(folder) + name).c_str(), X_OK) == 0) return true;
  }
  return false;
}

bool accepts(const std::string& path) {
  const rt::socket s(::socket(AF_UNIX, SOCK_STREAM, 0));
  const auto a = rt::socket_address::unix_path(path);
  return a && ::connect(s.fd(), a->get(), a->bytes) == 0;
}

class nbd_interop : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = "/tmp/lbd-nbd-interop-XXXXXX";
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    folder_ = name;
  }
  void TearDown() override {
    close();
    server_.end(SIGKILL);
    std::filesystem::remove_all(folder_);
  }
  std::string path(const char* name) const { return folder_ + "/" + name; }

  void make_file(const char* name, uint64_t bytes) {
    std::ofstream(path(name)).close();
    std::filesystem::resize_file(path(name), bytes);
  }

  // Starts a server that listens at path("sock").
  void serve(const std::vector<std::string>& words, bool many_clients = true) {
    if (!installed(words[0].c_str())) GTEST_SKIP() << words[0] << " is not installed";
    std::filesystem::remove(path("sock"));
    server_ = program(words);
    const auto is_up = [&] {
      return many_clients ? accepts(path("sock")) : std::filesystem::exists(path("sock"));
    };
    for (int i = 0; i < 200 && !is_up(); ++i) std::this_thread::sleep_for(20ms);
    ASSERT_TRUE(is_up()) << words[0] << " does not start";
    if (!many_clients) std::this_thread::sleep_for(100ms);  // it may not listen yet
  }

  nbd_options options(const std::string& export_name = "") {
    nbd_options o;
    o.socket_path = path("sock");
    o.export_name = export_name;
    o.outage_limit_ns = 5'000'000'000;
    return o;
  }
  base::outcome<void> open(nbd_options o) {
    auto r = rt_->run_until(nbd_device::open(*rt_, std::move(o)));
    if (!r) return r.error();
    device_ = std::move(*r);
    return {};
  }
  void close() {
    if (device_) rt_->run_until(device_->close());
    device_.reset();
  }
  bool open_or_fail(nbd_options o) {
    const auto r = open(std::move(o));
    if (!r) ADD_FAILURE() << r.error().message;
    return r.has_value();
  }

  base::errc write(uint64_t offset, const std::string& text, uint32_t flags = 0) {
    const block::segment_list s(base::as_bytes(text));
    block::io_opts io;
    io.flags = flags;
    return base::code_of(rt_->run_until(device_->write(offset, s.view(), io)));
  }
  std::string read(uint64_t offset, size_t n) {
    std::string text(n, '?');
    const iovec v{text.data(), n};
    const auto r = rt_->run_until(device_->read(offset, rt::segments(&v, 1), {}));
    EXPECT_TRUE(r) << base::to_string(base::code_of(r));
    return text;
  }
  base::errc flush() { return base::code_of(rt_->run_until(device_->flush({}))); }

  // Writes, reads back, zeroes, discards and flushes with all alignments; the model is a string.
  void exercise(uint64_t seed) {
    std::mt19937_64 random(seed);
    const uint64_t size = device_->limits().size_bytes;
    std::string model = read(0, size);
    for (int i = 0; i < 200; ++i) {
      const uint64_t offset = random() % size;
      const uint64_t n = 1 + random() % std::min<uint64_t>(size - offset, i % 10 == 0 ? mib : 9000);
      const int what = static_cast<int>(random() % 8);
      if (what < 4) {
        const std::string text(n, static_cast<char>('a' + random() % 26));
        ASSERT_EQ(write(offset, text, what == 0 ? block::io_fua : 0u), base::errc::ok);
        model.replace(offset, n, text);
      } else if (what == 4) {
        block::io_opts io;
        io.flags = random() % 2 == 0 ? block::io_no_unmap : 0u;
        ASSERT_TRUE(rt_->run_until(device_->write_zeroes(offset, n, io)));
        model.replace(offset, n, std::string(n, '\0'));
      } else if (what == 5) {
        ASSERT_EQ(flush(), base::errc::ok);
      } else {
        ASSERT_EQ(read(offset, n), model.substr(offset, n)) << offset << " " << n;
      }
    }
    ASSERT_EQ(read(0, size), model);
  }

  std::string folder_;
  program server_;
  std::unique_ptr<rt::runtime> rt_ = *rt::runtime::start({.reactors = 2});
  std::unique_ptr<nbd_device> device_;
};

TEST_F(nbd_interop, nbdkit_memory) {
  serve({"nbdkit", "-f", "-U", path("sock"), "memory", "3M"});
  if (IsSkipped() || HasFailure()) return;
  if (!open_or_fail(options())) return;
  EXPECT_STREQ(device_->session().style, "GO");
  EXPECT_TRUE(device_->session().structured);
  EXPECT_EQ(device_->limits().size_bytes, 3 * mib);
  EXPECT_EQ(device_->connection_count(), 2u) << "it says CAN_MULTI_CONN";
  exercise(1);
}

TEST_F(nbd_interop, nbdkit_oldstyle) {
  serve({"nbdkit", "-f", "-o", "-U", path("sock"), "memory", "2M"});
  if (IsSkipped() || HasFailure()) return;
  if (!open_or_fail(options())) return;
  EXPECT_STREQ(device_->session().style, "oldstyle");
  EXPECT_FALSE(device_->session().structured);
  EXPECT_EQ(device_->limits().size_bytes, 2 * mib);
  exercise(2);
  close();
  const auto named = open(options("disk"));
  ASSERT_FALSE(named);
  EXPECT_NE(named.error().message.find("leave out the name"), std::string::npos);
}

TEST_F(nbd_interop, nbdkit_without_structured_replies_and_with_blocks_of_4096) {
  serve({"nbdkit", "-f", "--no-sr", "-U", path("sock"), "--filter=blocksize-policy", "memory", "2M",
         "blocksize-minimum=4096", "blocksize-preferred=65536", "blocksize-maximum=131072",
         "blocksize-error-policy=error"});
  if (IsSkipped() || HasFailure()) return;
  if (!open_or_fail(options())) return;
  EXPECT_FALSE(device_->session().structured);
  EXPECT_EQ(device_->limits().block_bytes, 4096u);
  EXPECT_EQ(device_->limits().max_transfer_bytes, 131072u);
  exercise(3);
}

TEST_F(nbd_interop, extents_of_nbdkit_and_qemu) {
  serve({"nbdkit", "-f", "-U", path("sock"), "memory", "4M"});
  if (IsSkipped() || HasFailure()) return;
  if (!open_or_fail(options())) return;
  ASSERT_EQ(write(mib, std::string(mib, 'x')), base::errc::ok);
  block::extent_list out;
  ASSERT_TRUE(rt_->run_until(device_->extents(512, 4 * mib - 512, out, {})));
  const std::vector<extent> expected = {
      {mib - 512, true, true}, {mib, false, false}, {2 * mib, true, true}};
  EXPECT_EQ(out.runs(), expected);
  block::extent_list fast;
  block::io_opts at_once;
  at_once.flags = block::io_fast_only;
  ASSERT_TRUE(rt_->run_until(device_->extents(512, 4 * mib - 512, fast, at_once)));
  EXPECT_EQ(fast.runs(), (std::vector<extent>{{4 * mib - 512, false, false}}));
  close();

  make_file("disk", 4 * mib);
  {
    std::fstream file(path("disk"), std::ios::in | std::ios::out);
    file.seekp(mib);
    file << std::string(mib, 'x');
  }
  serve({"qemu-nbd", "-t", "-f", "raw", "-x", "disk", "-k", path("sock"), path("disk")});
  if (IsSkipped() || HasFailure()) return;
  if (!open_or_fail(options("disk"))) return;
  block::extent_list other;
  ASSERT_TRUE(rt_->run_until(device_->extents(512, 4 * mib - 512, other, {})));
  EXPECT_EQ(other.runs(), expected);
}

TEST_F(nbd_interop, qemu_nbd) {
  make_file("disk", 3 * mib);
  serve({"qemu-nbd", "-t", "-e", "8", "-f", "raw", "-x", "disk", "-k", path("sock"), path("disk")});
  if (IsSkipped() || HasFailure()) return;
  if (!open_or_fail(options("disk"))) return;
  EXPECT_STREQ(device_->session().style, "GO");
  EXPECT_EQ(device_->connection_count(), 2u);
  exercise(4);
  close();
  const auto unknown = open(options("nonesuch"));
  ASSERT_FALSE(unknown);
  EXPECT_EQ(unknown.error().code, base::errc::noent);
  EXPECT_NE(unknown.error().message.find("'nonesuch'"), std::string::npos);
}

TEST_F(nbd_interop, nbd_server) {
  make_file("disk", 2 * mib);
  std::ofstream(path("config")) << "[generic]\nallowlist = true\nunixsock = " << path("sock")
                                << "\n[disk]\nexportname = " << path("disk")
                                << "\nflush = true\nfua = true\ntrim = true\n";
  // -d: in the foreground, for one client.
  serve({"nbd-server", "-d", "-C", path("config")}, false);
  if (IsSkipped() || HasFailure()) return;
  nbd_options o = options("disk");
  o.connections = 1;
  if (!open_or_fail(o)) return;
  EXPECT_FALSE(device_->session().structured);
  EXPECT_EQ(device_->limits().size_bytes, 2 * mib);
  exercise(5);
}

TEST_F(nbd_interop, a_read_only_server_is_a_read_only_device) {
  serve({"nbdkit", "-f", "-r", "-U", path("sock"), "memory", "1M"});
  if (IsSkipped() || HasFailure()) return;
  if (!open_or_fail(options())) return;
  EXPECT_TRUE(device_->limits().read_only);
  EXPECT_EQ(write(0, "x"), base::errc::rofs);
  EXPECT_EQ(read(0, 4), std::string(4, '\0'));
}

rt::task<base::errc> read_one(nbd_device& d, uint64_t offset, std::byte* to) {
  const iovec v{to, 4096};
  const auto r = co_await d.read(offset, rt::segments(&v, 1), {});
  co_return base::code_of(r);
}
rt::task<size_t> read_many(nbd_device& d, std::vector<std::byte>& to) {
  std::vector<rt::task<base::errc>> all;
  for (size_t at = 0; at < to.size(); at += 4096) all.push_back(read_one(d, at, to.data() + at));
  const auto codes = co_await rt::when_all(std::move(all));
  co_return static_cast<size_t>(std::count(codes.begin(), codes.end(), base::errc::ok));
}

TEST_F(nbd_interop, a_thousand_reads_in_flight) {
  serve({"nbdkit", "-f", "-U", path("sock"), "pattern", "4M"});
  if (IsSkipped() || HasFailure()) return;
  if (!open_or_fail(options())) return;
  std::vector<std::byte> bytes(4 * mib);
  EXPECT_EQ(rt_->run_until(read_many(*device_, bytes)), bytes.size() / 4096);
  for (size_t at = 0; at < bytes.size(); at += 8) {
    ASSERT_EQ(base::load_big<uint64_t>(bytes, at), at);
  }
}

TEST_F(nbd_interop, a_restarted_server_is_found_again) {
  make_file("disk", mib);
  serve({"nbdkit", "-f", "-U", path("sock"), "file", path("disk")});
  if (IsSkipped() || HasFailure()) return;
  if (!open_or_fail(options())) return;
  ASSERT_EQ(write(0, "before"), base::errc::ok);
  ASSERT_EQ(flush(), base::errc::ok);
  server_.end(SIGKILL);
  std::filesystem::remove(path("sock"));
  server_ = program(
      {"sh", "-c", "sleep 0.3; exec nbdkit -f -U " + path("sock") + " file " + path("disk")});
  EXPECT_EQ(read(0, 6), "before");
  ASSERT_EQ(write(0, "behind"), base::errc::ok);
  EXPECT_EQ(flush(), base::errc::ok);
  EXPECT_EQ(read(0, 6), "behind");
  EXPECT_GE(device_->reconnections(), 1u);
}

}  // namespace
}  // namespace lbd::store
