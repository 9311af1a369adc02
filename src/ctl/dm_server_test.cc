// SPDX-License-Identifier: MIT
// The ioctl server as the preloaded library sees it, and as a hostile client does.
#include "ctl/dm_server.h"

#include <gtest/gtest.h>
#include <linux/dm-ioctl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "store/memory/memory.h"

namespace lbd::ctl {
namespace {

namespace face = dm::face;
using base::errc;
using base::failure;
using base::outcome;
using block::device_number;
using rt::task;

// One disk file, 512:0, which tables may use, too.
class one_disk final : public disk_directory, public stack::source_opener {
 public:
  explicit one_disk(std::string path) : path_(std::move(path)) {}
  outcome<device_number> number_of(const std::string& path) override {
    if (path != path_) return failure{errc::nodev, "no such file"};
    return device_number{512, 0};
  }
  outcome<std::string> path_of(device_number number) override {
    if (number != device_number{512, 0}) return failure{static_cast<errc>(ENXIO), "no such number"};
    return path_;
  }
  bool refuses(const std::string& path) const override { return path == refused; }
  task<outcome<block::opened_device>> open(std::string source, bool) override {
    if (source != path_ && source != "512:0") co_return failure{errc::nodev, "no such source"};
    co_return block::opened_device{memory_, {512, 0}};
  }
  std::string absolute(std::string source, const std::string& directory) override {
    return source.starts_with("/") || source == "512:0" ? source : directory + "/" + source;
  }
  std::string refused;
  void move(std::string path) {
    std::filesystem::rename(path_, path);
    path_ = std::move(path);
  }

 private:
  std::string path_;
  std::shared_ptr<block::block_device> memory_{*store::memory_device::make(4 << 20)};
};

// A folder in which 253:0 has the inode 7.
class some_folder final : public device_folder {
 public:
  std::string path() const override { return at; }
  std::optional<device_number> device_of_inode(uint64_t inode) const override {
    if (inode != 7) return std::nullopt;
    return device_number{253, 0};
  }
  std::string at;
};

class client {
 public:
  explicit client(const std::string& path) : fd_(::socket(AF_UNIX, SOCK_STREAM, 0)) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof address.sun_path - 1);
    EXPECT_EQ(::connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  }
  ~client() { ::close(fd_); }
  client(const client&) = delete;
  client& operator=(const client&) = delete;

  void send(const void* bytes, size_t count) {
    EXPECT_EQ(::send(fd_, bytes, count, MSG_NOSIGNAL), static_cast<ssize_t>(count));
  }
  void send_request(uint16_t op, uint16_t detail, const std::string& bytes) {
    const face::request_header head{face::magic, op, detail, static_cast<uint32_t>(bytes.size())};
    send(&head, sizeof head);
    send(bytes.data(), bytes.size());
  }
  // Everything up to the end.
  std::string receive_all() {
    std::string out;
    char some[4096];
    for (ssize_t n; (n = ::recv(fd_, some, sizeof some, 0)) > 0;)
      out.append(some, static_cast<size_t>(n));
    return out;
  }
  bool receive(void* to, size_t count) {
    return ::recv(fd_, to, count, MSG_WAITALL) == static_cast<ssize_t>(count);
  }
  void shutdown() { ::shutdown(fd_, SHUT_RDWR); }

 private:
  const int fd_;
};

struct reply {
  int error = -1;
  std::string bytes;
};

class dm_server_test : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = "/tmp/lbd-dm-XXXXXX";
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    dir_ = name;
    std::ofstream(dir_ + "/disk.img") << std::string(8192, 'x');
    disks_.emplace(dir_ + "/disk.img");
    devices_.emplace(*rt_, *disks_);
    server_.emplace(*devices_, *disks_, files_, dir_ + "/view");
    ASSERT_TRUE(server_->listen(dir_ + "/sock"));
  }
  void TearDown() override {
    rt_->run_until(server_->stop());
    server_.reset();
    (void)rt_->run_until(devices_->remove_all(false));
    EXPECT_FALSE(std::filesystem::exists(dir_ + "/view"));
    EXPECT_FALSE(std::filesystem::exists(dir_ + "/sock"));
    std::filesystem::remove_all(dir_);
  }

  // Runs `work` beside the server.
  template <class Work>
  void beside(Work work) {
    std::atomic<bool> done = false;
    std::thread other([&] {
      work();
      done = true;
    });
    while (!done) rt_->at(0).turn(1'000'000);
    other.join();
  }
  reply ask(uint16_t op, uint16_t detail, const std::string& bytes) {
    reply out;
    beside([&] {
      client c(dir_ + "/sock");
      c.send_request(op, detail, bytes);
      const std::string all = c.receive_all();
      face::answer_header head{};
      if (all.size() < sizeof head) return;
      memcpy(&head, all.data(), sizeof head);
      EXPECT_EQ(all.size(), sizeof head + head.bytes);
      out = {head.error, all.substr(sizeof head)};
    });
    return out;
  }
  static std::string header(const std::string& name, uint32_t flags = 0) {
    std::string out(16384, '\0');
    auto& h = *reinterpret_cast<dm_ioctl*>(out.data());
    h.version[0] = 4;
    h.data_size = static_cast<uint32_t>(out.size());
    h.data_start = sizeof h;
    h.flags = flags;
    name.copy(h.name, sizeof h.name - 1);
    return out;
  }
  reply ioctl(uint16_t command, const std::string& buffer) {
    return ask(face::op_ioctl, command, dir_ + '\0' + buffer);
  }
  // "0 8 zero"-like tables of one line.
  int make(const std::string& name, uint64_t sectors, const std::string& type,
           const std::string& params, const std::string& uuid = "") {
    std::string create = header(name);
    uuid.copy(reinterpret_cast<dm_ioctl*>(create.data())->uuid, uuid.size());
    int error = ioctl(DM_DEV_CREATE_CMD, create).error;
    std::string load = header(name);
    reinterpret_cast<dm_ioctl*>(load.data())->target_count = 1;
    auto& spec = *reinterpret_cast<dm_target_spec*>(load.data() + sizeof(dm_ioctl));
    spec.length = sectors;
    type.copy(spec.target_type, sizeof spec.target_type);
    params.copy(reinterpret_cast<char*>(&spec + 1), params.size());
    if (error == 0) error = ioctl(DM_TABLE_LOAD_CMD, load).error;
    if (error == 0) error = ioctl(DM_DEV_SUSPEND_CMD, header(name)).error;
    return error;
  }
  // The node's kind, or minus the errno value.
  int kind_of(const std::string& path, face::node* facts = nullptr, std::string* place = nullptr) {
    const reply r = ask(face::op_look_up, 0, path);
    if (r.error != 0) return -r.error;
    face::node n{};
    memcpy(&n, r.bytes.data(), sizeof n);
    if (facts != nullptr) *facts = n;
    if (place != nullptr) *place = r.bytes.substr(sizeof n);
    return static_cast<int>(n.kind);
  }
  std::string content_of(const std::string& path) {
    std::string place;
    EXPECT_EQ(kind_of(path, nullptr, &place), face::node_file) << path;
    std::ifstream in(place);
    std::ostringstream text;
    text << in.rdbuf();
    return text.str();
  }
  static const dm_ioctl& head_of(const reply& r) {
    return *reinterpret_cast<const dm_ioctl*>(r.bytes.data());
  }

  std::string dir_;
  some_folder files_;
  std::unique_ptr<rt::runtime> rt_ = *rt::runtime::start({.reactors = 1});
  rt::reactor::scope here_{rt_->at(0)};
  std::optional<one_disk> disks_;
  std::optional<stack::device_manager> devices_;
  std::optional<dm_server> server_;
};

TEST_F(dm_server_test, carries_out_ioctls) {
  EXPECT_EQ(make("d", 16, "linear", "disk.img 8"), 0) << "relative to the caller's folder";
  const reply status = ioctl(DM_DEV_STATUS_CMD, header("d"));
  EXPECT_EQ(status.error, 0);
  EXPECT_EQ(head_of(status).target_count, 1u);
  EXPECT_EQ(head_of(status).dev, makedev(253, 0));
  EXPECT_EQ(head_of(status).flags, uint32_t{DM_ACTIVE_PRESENT_FLAG});
  const reply table = ioctl(DM_TABLE_STATUS_CMD, header("d", DM_STATUS_TABLE_FLAG));
  EXPECT_STREQ(table.bytes.data() + 312 + 40, "512:0 8");
  EXPECT_EQ(ioctl(DM_DEV_REMOVE_CMD, header("d")).error, 0);
  EXPECT_EQ(ioctl(DM_DEV_STATUS_CMD, header("d")).error, ENXIO);
}

TEST_F(dm_server_test, a_failed_ioctl_tells_the_version) {
  std::string wrong = header("d");
  reinterpret_cast<dm_ioctl*>(wrong.data())->version[0] = 3;
  const reply r = ioctl(DM_VERSION_CMD, wrong);
  EXPECT_EQ(r.error, EINVAL);
  ASSERT_EQ(r.bytes.size(), 12u);
  EXPECT_EQ(head_of(r).version[0], 4u);
  EXPECT_EQ(ioctl(18, header("d")).error, ENOTTY);
  EXPECT_EQ(ioctl(DM_DEV_STATUS_CMD, header("")).error, ENXIO);
  EXPECT_EQ(ioctl(DM_DEV_STATUS_CMD, "short").error, EINVAL);
}

TEST_F(dm_server_test, nodes_come_with_the_first_resume) {
  EXPECT_EQ(kind_of("/dev/mapper/control"), face::node_control);
  EXPECT_EQ(kind_of("/dev/mapper/d"), -ENOENT);
  EXPECT_EQ(ioctl(DM_DEV_CREATE_CMD, header("d")).error, 0);
  EXPECT_EQ(kind_of("/dev/mapper/d"), -ENOENT);
  EXPECT_EQ(kind_of("/dev/dm-0"), -ENOENT);
  EXPECT_EQ(ioctl(DM_DEV_REMOVE_CMD, header("d")).error, 0);
  EXPECT_EQ(make("d", 16, "zero", ""), 0);
  face::node n{};
  for (const char* path : {"/dev/mapper/d", "/dev/dm-0"}) {
    EXPECT_EQ(kind_of(path, &n), face::node_device);
    EXPECT_EQ(n.major, 253u);
    EXPECT_EQ(n.minor, 0u);
    EXPECT_EQ(n.size_bytes, 16u * 512);
    EXPECT_EQ(n.block_bytes, 512u);
    EXPECT_EQ(n.read_ahead_sectors, 256u);
    EXPECT_EQ(n.readable, 1u);
    EXPECT_EQ(n.path_bytes, 0u) << "nothing is mounted";
  }
  files_.at = "/some/folder";
  std::string place;
  EXPECT_EQ(kind_of("/dev/dm-0", &n, &place), face::node_device);
  EXPECT_EQ(place, "/some/folder/d");
  const uint64_t inode = 7, other = 8;
  const reply r = ask(face::op_find_file, 0, {reinterpret_cast<const char*>(&inode), 8});
  EXPECT_EQ(r.error, 0);
  EXPECT_EQ(r.bytes.substr(sizeof n), "/some/folder/d");
  EXPECT_EQ(ask(face::op_find_file, 0, {reinterpret_cast<const char*>(&other), 8}).error, ENXIO);
}

TEST_F(dm_server_test, sysfs_tells_of_devices_and_disks) {
  EXPECT_EQ(make("d", 16, "linear", "disk.img 0"), 0);
  EXPECT_EQ(content_of("/sys/dev/block/253:0/dm/name"), "d\n");
  EXPECT_EQ(content_of("/sys/block/dm-0/size"), "16\n");
  EXPECT_EQ(content_of("/sys/devices/virtual/block/dm-0/dev"), "253:0\n");
  EXPECT_EQ(content_of("/sys/dev/block/512:0/size"), "16\n");
  EXPECT_EQ(content_of("/sys/class/block/disk.img/ro"), "0\n");
  std::string place;
  EXPECT_EQ(kind_of("/sys/dev/block/253:0", nullptr, &place), face::node_file);
  EXPECT_EQ(std::filesystem::read_symlink(place), "../../devices/virtual/block/dm-0");
  EXPECT_TRUE(std::filesystem::is_symlink(place + "/slaves/disk.img"));
  EXPECT_EQ(kind_of("/sys/dev/block/512:0", nullptr, &place), face::node_file);
  EXPECT_TRUE(std::filesystem::is_symlink(place + "/holders/dm-0"));
  EXPECT_EQ(kind_of("/sys/dev/block/253:1"), -ENOENT);
  EXPECT_EQ(kind_of("/sys/dev/block/4000:1"), face::node_elsewhere);
  EXPECT_EQ(kind_of("/run/udev/data/b253:0"), -ENOENT);
  EXPECT_NE(content_of("/proc/devices").find("253 device-mapper\n"), std::string::npos);
  EXPECT_NE(content_of("/proc/misc").find("236 device-mapper\n"), std::string::npos);
  EXPECT_NE(content_of("/proc/partitions").find(" 253        0          8 dm-0\n"),
            std::string::npos);
  EXPECT_EQ(ioctl(DM_DEV_REMOVE_CMD, header("d")).error, 0);
  EXPECT_EQ(kind_of("/sys/block/dm-0"), -ENOENT);
}

TEST_F(dm_server_test, folders_list_what_there_is) {
  EXPECT_EQ(make("a", 16, "zero", ""), 0);
  EXPECT_EQ(make("b", 16, "zero", ""), 0);
  auto names_in = [&](const char* path) {
    std::string place;
    EXPECT_EQ(kind_of(path, nullptr, &place), face::node_file);
    std::set<std::string> out;
    for (const auto& e : std::filesystem::directory_iterator(place))
      out.insert(e.path().filename());
    return out;
  };
  EXPECT_EQ(names_in("/dev/mapper"), (std::set<std::string>{"a", "b", "control"}));
  EXPECT_TRUE(names_in("/sys/block").contains("dm-1"));
  EXPECT_TRUE(names_in("/sys/dev/block").contains("253:1"));
  EXPECT_EQ(ioctl(DM_DEV_REMOVE_CMD, header("a")).error, 0);
  EXPECT_EQ(names_in("/dev/mapper"), (std::set<std::string>{"b", "control"}));
}

TEST_F(dm_server_test, disks_have_names_in_dev) {
  EXPECT_EQ(kind_of("/dev/disk.img"), face::node_elsewhere);
  ASSERT_TRUE(server_->add_disk(dir_ + "/disk.img"));
  face::node n{};
  std::string place;
  EXPECT_EQ(kind_of("/dev/disk.img", &n, &place), face::node_disk);
  EXPECT_EQ(n.major, 512u);
  EXPECT_EQ(place, dir_ + "/disk.img");
  EXPECT_EQ(kind_of("/dev/disk.img/x"), face::node_elsewhere);
  EXPECT_EQ(kind_of("/dev", nullptr, &place), face::node_file);
  EXPECT_TRUE(std::filesystem::exists(place + "/disk.img"));
  EXPECT_TRUE(std::filesystem::is_symlink(place + "/null"));
  EXPECT_NE(content_of("/proc/devices").find("512 loop\n"), std::string::npos);
  EXPECT_EQ(make("d", 8, "linear", "/dev/disk.img 8"), 0) << "tables take them";
  EXPECT_NE(make("e", 8, "linear", "/dev/disk.img2 8"), 0);
}

TEST_F(dm_server_test, volumes_have_names_in_dev) {
  const std::string uuid = "LVM-" + std::string(64, 'x');
  EXPECT_EQ(make("g--1-v--2", 16, "zero", "", uuid), 0);
  EXPECT_EQ(make("g--1-part", 16, "zero", "", uuid + "-real"), 0);
  EXPECT_EQ(make("g--1-v-w", 16, "zero", "", "LVM-" + std::string(64, 'y')), 0);
  EXPECT_EQ(make("..-v", 16, "zero", "", "LVM-" + std::string(64, 'z')), 0);
  EXPECT_EQ(make("other-v", 16, "zero", ""), 0);
  std::string place;
  EXPECT_EQ(kind_of("/dev/g-1/v-2", nullptr, &place), face::node_link);
  EXPECT_EQ(place, "/dev/mapper/g--1-v--2");
  for (const char* path : {"/dev/g-1/part", "/dev/g-1/v", "/dev/other", "/dev/other/v", "/dev/.."})
    EXPECT_EQ(kind_of(path), face::node_elsewhere) << path;
  EXPECT_EQ(kind_of("/dev/g-1", nullptr, &place), face::node_file);
  EXPECT_EQ(std::filesystem::read_symlink(place + "/v-2"), "../mapper/g--1-v--2");
  EXPECT_EQ(make("on", 8, "linear", "/dev/g-1/v-2 8"), 0) << "tables take them";
  EXPECT_EQ(ioctl(DM_DEV_REMOVE_CMD, header("on")).error, 0);
  EXPECT_EQ(kind_of("/dev", nullptr, &place), face::node_file);
  EXPECT_TRUE(std::filesystem::is_directory(place + "/g-1"));
  EXPECT_EQ(ioctl(DM_DEV_REMOVE_CMD, header("g--1-v--2")).error, 0);
  EXPECT_EQ(kind_of("/dev/g-1"), face::node_elsewhere);
  EXPECT_EQ(kind_of("/dev", nullptr, &place), face::node_file);
  EXPECT_FALSE(std::filesystem::exists(place + "/g-1"));
}

TEST_F(dm_server_test, tables_take_names_in_dev_of_any_disk) {
  disks_->move(dir_ + "/a disk\\.img");
  ASSERT_TRUE(server_->add_disk(dir_ + "/a disk\\.img"));
  EXPECT_EQ(make("d", 8, "linear", "/dev/a\\ disk\\\\.img 8"), 0);
  EXPECT_EQ(ioctl(DM_DEV_REMOVE_CMD, header("d")).error, 0);
  for (const char* other : {"/dev/a", "/dev/a\\ disk", "/dev/./a\\ disk\\\\.img", "/dev/a\\"}) {
    EXPECT_NE(make("d", 8, "linear", std::string(other) + " 8"), 0) << other;
    EXPECT_EQ(ioctl(DM_DEV_REMOVE_CMD, header("d")).error, 0);
  }
  disks_->refused = "/dev/a disk\\.img";
  EXPECT_NE(make("e", 8, "linear", "/dev/a\\ disk\\\\.img 8"), 0) << "a folder of its own";
}

TEST_F(dm_server_test, folders_of_the_machine_are_left_alone) {
  const std::string uuid = "LVM-" + std::string(64, 'x');
  // Every machine has /dev/fd, which nobody can take anything out of.
  EXPECT_EQ(make("fd-v", 16, "zero", "", uuid), 0);
  EXPECT_EQ(make("g-v", 16, "zero", "", "LVM-" + std::string(64, 'y')), 0);
  std::string place;
  EXPECT_EQ(kind_of("/dev", nullptr, &place), face::node_file);
  EXPECT_EQ(std::filesystem::read_symlink(place + "/fd"), "/dev/fd");
  EXPECT_EQ(kind_of("/dev/fd"), face::node_elsewhere);
  // A folder that the machine had when /dev was listed, and has no more.
  std::filesystem::create_directory(dir_ + "/machine");
  std::ofstream(dir_ + "/machine/kept") << "data";
  std::filesystem::remove_all(place + "/g");
  std::filesystem::create_symlink(dir_ + "/machine", place + "/g");
  EXPECT_EQ(kind_of("/dev/g", nullptr, &place), face::node_file);
  EXPECT_TRUE(std::filesystem::exists(dir_ + "/machine/kept"));
  EXPECT_FALSE(std::filesystem::is_symlink(place));
  EXPECT_TRUE(std::filesystem::is_symlink(place + "/v"));
  // A link takes the place of a folder, and the other way round.
  std::filesystem::create_directory(dir_ + "/view/dev/null.d");
  EXPECT_EQ(kind_of("/dev", nullptr, &place), face::node_file);
  EXPECT_FALSE(std::filesystem::exists(place + "/null.d"));
  std::filesystem::remove(place + "/zero");
  std::filesystem::create_directory(place + "/zero");
  EXPECT_EQ(kind_of("/dev", nullptr, &place), face::node_file);
  EXPECT_TRUE(std::filesystem::is_symlink(place + "/zero"));
}

TEST_F(dm_server_test, settings_of_devices) {
  EXPECT_EQ(make("d", 16, "zero", ""), 0);
  const uint32_t what[3] = {253, 0, 1024};
  const std::string bytes(reinterpret_cast<const char*>(what), sizeof what);
  EXPECT_EQ(ask(face::op_set_read_ahead, 0, bytes).error, 0);
  EXPECT_EQ(content_of("/sys/dev/block/253:0/bdi/read_ahead_kb"), "512\n");
  std::string geometry = header("d");
  std::string("10 16 63 0").copy(geometry.data() + 312, 10);
  EXPECT_EQ(ioctl(DM_DEV_SET_GEOMETRY_CMD, geometry).error, 0);
  face::node n{};
  EXPECT_EQ(kind_of("/dev/mapper/d", &n), face::node_device);
  EXPECT_EQ(n.geometry[2], 63u);
  // Another device of that number has its own.
  EXPECT_EQ(ioctl(DM_DEV_REMOVE_CMD, header("d")).error, 0);
  EXPECT_EQ(make("e", 16, "zero", ""), 0);
  EXPECT_EQ(kind_of("/dev/mapper/e", &n), face::node_device);
  EXPECT_EQ(n.geometry[2], 0u);
  EXPECT_EQ(n.read_ahead_sectors, 256u);
}

TEST_F(dm_server_test, waits_end_with_events_and_with_their_callers) {
  EXPECT_EQ(make("d", 16, "zero", ""), 0);
  beside([&] {
    client waits(dir_ + "/sock");
    waits.send_request(face::op_ioctl, DM_DEV_WAIT_CMD, dir_ + '\0' + header("d"));
    client gone(dir_ + "/sock");
    gone.send_request(face::op_ioctl, DM_DEV_WAIT_CMD, dir_ + '\0' + header("d"));
    gone.shutdown();
    client renames(dir_ + "/sock");
    std::string to = header("d");
    to[312] = 'e';
    renames.send_request(face::op_ioctl, DM_DEV_RENAME_CMD, dir_ + '\0' + to);
    EXPECT_FALSE(renames.receive_all().empty());
    const std::string all = waits.receive_all();
    ASSERT_GT(all.size(), sizeof(face::answer_header) + sizeof(dm_ioctl));
    EXPECT_EQ(reinterpret_cast<const dm_ioctl*>(all.data() + 8)->event_nr, 1u);
  });
}

TEST_F(dm_server_test, watchers_get_one_byte_for_each_time_they_ask) {
  beside([&] {
    client c(dir_ + "/sock");
    c.send_request(face::op_watch, 0, "");
    face::answer_header welcome{};
    EXPECT_TRUE(c.receive(&welcome, sizeof welcome));
    c.send("x", 1);
    client d(dir_ + "/sock");  // the byte above has arrived when this is answered
    d.send_request(face::op_look_up, 0, "/dev/mapper/control");
    EXPECT_FALSE(d.receive_all().empty());
  });
  server_->changed();
  server_->changed();
  beside([&] {});
}

TEST_F(dm_server_test, hostile_clients_are_dropped) {
  beside([&] {
    client garbage(dir_ + "/sock");
    garbage.send(std::string(64, 'g').data(), 64);
    EXPECT_EQ(garbage.receive_all(), "");
    client greedy(dir_ + "/sock");
    const face::request_header huge{face::magic, face::op_ioctl, 0, 0xffffffff};
    greedy.send(&huge, sizeof huge);
    EXPECT_EQ(greedy.receive_all(), "");
    client half(dir_ + "/sock");
    const face::request_header more{face::magic, face::op_look_up, 0, 100};
    half.send(&more, sizeof more);
    half.shutdown();
    EXPECT_EQ(half.receive_all(), "");
  });
  EXPECT_EQ(ask(99, 0, "").error, EINVAL);
  EXPECT_EQ(ask(face::op_ioctl, 0, "no end").error, EINVAL);
  EXPECT_EQ(ask(face::op_look_up, 0, "relative").error, EINVAL);
  EXPECT_EQ(ask(face::op_look_up, 0, std::string(5000, '/')).error, EINVAL);
  EXPECT_EQ(ask(face::op_find, 0, "x").error, EINVAL);
  EXPECT_EQ(ask(face::op_set_read_ahead, 0, "").error, EINVAL);
  client idle(dir_ + "/sock");  // stop() does not wait for it
}

}  // namespace
}  // namespace lbd::ctl
