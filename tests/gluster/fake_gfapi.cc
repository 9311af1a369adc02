// SPDX-License-Identifier: MIT
#include "fake_gfapi.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

namespace {

using clock_type = std::chrono::steady_clock;

struct fake_lock {
  const void* connection;
  std::string owner;
  off_t begin, end;
  short type;
};

struct fake_file {
  ino_t inode = 0;
  std::string now, durable;
  std::vector<fake_lock> locks;
};

struct rule {
  std::string call, action;
  int value = 0;
  unsigned skip = 0, times = std::numeric_limits<unsigned>::max();
};

struct job {
  clock_type::time_point due;
  bool held = false;
  std::function<void()> run;
};

}  // namespace

struct glfs {
  std::string volume, servers;
  bool initialised = false, late_option = false;
};
struct glfs_stat;  // nobody looks inside
struct glfs_fd {
  glfs* fs = nullptr;
  std::shared_ptr<fake_file> file;
  std::string owner;
  uint64_t translators = 0;  // those that it was opened through
  // Of a folder.
  std::vector<std::string> names;
  size_t next = 0;
  dirent entry{};
};

namespace {

using callback = void (*)(glfs_fd*, ssize_t, glfs_stat*, glfs_stat*, void*);

struct state {
  std::mutex mutex;
  std::condition_variable changed;
  std::map<std::string, std::shared_ptr<fake_file>> files;  // "volume:path"
  std::vector<rule> rules;
  std::deque<job> jobs;
  std::map<std::string, uint64_t> counts;
  std::vector<std::string> options;
  bool options_in_time = true;
  std::string servers;
  bool reorder = false;
  uint64_t in_flight = 0, most_in_flight = 0, draws = 1, connections = 0;
  bool workers = false;
  ino_t inodes = 0;
  uint64_t translators = 0;
};

// Lives as long as the process: threads of callers may come late.
state& the() {
  static auto* s = new state;
  return *s;
}

std::string key(const std::string& volume, const char* path) {
  while (*path == '/') ++path;
  return volume + ":" + path;
}

// REQUIRES: locked.
std::shared_ptr<fake_file> new_file() {
  auto file = std::make_shared<fake_file>();
  file->inode = ++the().inodes;
  return file;
}

// REQUIRES: locked.
void describe(const fake_file& file, struct stat& to) {
  to = {};
  to.st_mode = S_IFREG | 0644;
  to.st_ino = file.inode;
  to.st_size = static_cast<off_t>(file.now.size());
  to.st_blocks = to.st_size / 512;
}

// REQUIRES: locked.
rule* find_rule(const std::string& call, bool io) {
  for (rule& r : the().rules) {
    if (r.call != call && !(io && r.call == "io")) continue;
    if (r.skip > 0) {
      --r.skip;
      continue;
    }
    if (r.times == 0) continue;
    --r.times;
    return &r;
  }
  return nullptr;
}

// Two threads answer, as in the library.
void work() {
  state& s = the();
  std::unique_lock lock(s.mutex);
  for (;;) {
    const auto now = clock_type::now();
    auto best = s.jobs.end();
    for (auto i = s.jobs.begin(); i != s.jobs.end(); ++i) {
      if (i->held) continue;
      if (best == s.jobs.end() || i->due < best->due) best = i;
    }
    if (best == s.jobs.end()) {
      s.changed.wait(lock);
    } else if (best->due > now) {
      const auto due = best->due;
      s.changed.wait_until(lock, due);
    } else {
      auto run = std::move(best->run);
      s.jobs.erase(best);
      lock.unlock();
      run();
      lock.lock();
    }
  }
}

// The synchronous part of every call: counts it; -1 with errno when a rule says so.
bool refused(const char* name) {
  state& s = the();
  std::unique_lock lock(s.mutex);
  ++s.counts[name];
  const rule* r = find_rule(name, false);
  if (r == nullptr) return false;
  const int value = r->value;
  if (r->action == "delay") {
    lock.unlock();
    std::this_thread::sleep_for(std::chrono::milliseconds(value));
    return false;
  }
  if (r->action == "hold") {
    const uint64_t turn = s.counts["release"];
    s.changed.wait(lock, [&] { return s.counts["release"] != turn; });
    return false;
  }
  errno = value;
  return true;
}

// `action` does the work under the lock and gets the bytes it may do; bytes or -errno.
int request(const char* name, glfs_fd* fd, callback done, void* data, size_t length,
            std::function<int64_t(size_t)> action) {
  state& s = the();
  std::unique_lock lock(s.mutex);
  if (!s.workers) {
    s.workers = true;
    std::thread(work).detach();
    std::thread(work).detach();
  }
  ++s.counts[name];
  rule how;
  if (const rule* r = find_rule(name, true)) how = *r;
  if (how.action == "refuse") {
    errno = how.value;
    return -1;
  }
  if (how.action == "stall") {
    const uint64_t turn = s.counts["release"];
    s.changed.wait(lock, [&] { return s.counts["release"] != turn; });
  }
  s.most_in_flight = std::max(s.most_in_flight, ++s.in_flight);
  job j;
  j.run = [=, &s] {
    int64_t result = 0;
    {
      const std::lock_guard again(s.mutex);
      const size_t most = how.action == "short" ? static_cast<size_t>(how.value) : length;
      if (how.action == "fail")
        result = -how.value;
      else
        result = action(std::min(length, most));
      if (how.action == "keep") result = -how.value;
      --s.in_flight;
    }
    errno = result < 0 ? static_cast<int>(-result) : 0;
    done(fd, result < 0 ? -1 : result, nullptr, nullptr, data);
  };
  if (how.action == "inline") {
    lock.unlock();
    j.run();
    return 0;
  }
  j.due = clock_type::now();
  if (how.action == "delay") j.due += std::chrono::milliseconds(how.value);
  s.draws = s.draws * 6364136223846793005u + 1442695040888963407u;
  if (s.reorder) j.due += std::chrono::microseconds((s.draws >> 33) % 500);
  j.held = how.action == "hold";
  s.jobs.push_back(std::move(j));
  s.changed.notify_all();
  return 0;
}

void grow(std::string& to, uint64_t size) {
  if (to.size() < size) to.resize(size);
}

}  // namespace

extern "C" {

glfs* glfs_new(const char* volume) {
  if (refused("new")) return nullptr;
  auto* fs = new glfs;
  fs->volume = volume;
  const std::lock_guard lock(the().mutex);
  ++the().connections;
  return fs;
}

int glfs_set_volfile_server(glfs* fs, const char* transport, const char* host, int port) {
  if (refused("set_volfile_server")) return -1;
  if (!fs->servers.empty()) fs->servers += ", ";
  fs->servers += std::string(transport) + " " + host + ":" + std::to_string(port);
  return 0;
}

int glfs_set_logging(glfs*, const char*, int) { return refused("set_logging") ? -1 : 0; }

int glfs_set_xlator_option(glfs* fs, const char* translator, const char* option_key,
                           const char* value) {
  if (refused("set_xlator_option")) return -1;
  const std::lock_guard lock(the().mutex);
  the().options.push_back(std::string(translator) + " " + option_key + " " + value);
  if (fs->initialised) the().options_in_time = false;
  return 0;
}

int glfs_init(glfs* fs) {
  if (refused("init")) return -1;
  const std::lock_guard lock(the().mutex);
  fs->initialised = true;
  the().servers = fs->servers;
  return 0;
}

int glfs_fini(glfs* fs) {
  refused("fini");
  delete fs;
  const std::lock_guard lock(the().mutex);
  --the().connections;
  return 0;
}

glfs_fd* glfs_open(glfs* fs, const char* path, int) {
  if (refused("open")) return nullptr;
  const std::lock_guard lock(the().mutex);
  const auto found = the().files.find(key(fs->volume, path));
  if (found == the().files.end()) {
    errno = ENOENT;
    return nullptr;
  }
  auto* fd = new glfs_fd;
  fd->fs = fs;
  fd->file = found->second;
  fd->translators = the().translators;
  return fd;
}

glfs_fd* glfs_creat(glfs* fs, const char* path, int flags, mode_t) {
  if (refused("creat")) return nullptr;
  const std::lock_guard lock(the().mutex);
  auto& slot = the().files[key(fs->volume, path)];
  if (slot != nullptr && (flags & O_EXCL) != 0) {
    errno = EEXIST;
    return nullptr;
  }
  if (slot == nullptr) slot = new_file();
  auto* fd = new glfs_fd;
  fd->fs = fs;
  fd->file = slot;
  return fd;
}

int glfs_fd_set_lkowner(glfs_fd* fd, void* owner, int length) {
  if (refused("fd_set_lkowner")) return -1;
  fd->owner.assign(static_cast<const char*>(owner), static_cast<size_t>(length));
  return 0;
}

int glfs_posix_lock(glfs_fd* fd, int command, struct flock* l) {
  if (refused("posix_lock")) return -1;
  const std::lock_guard lock(the().mutex);
  if (command != F_SETLK || fd->owner.empty()) {
    errno = EINVAL;
    return -1;
  }
  if (fd->translators != the().translators) {
    errno = EBADFD;
    return -1;
  }
  const fake_lock wanted{fd->fs, fd->owner, l->l_start, l->l_start + l->l_len, l->l_type};
  std::vector<fake_lock> after;
  for (const fake_lock& held : fd->file->locks) {
    const bool overlaps = held.begin < wanted.end && wanted.begin < held.end;
    if (!overlaps || held.connection != wanted.connection || held.owner != wanted.owner) {
      const bool exclusive = held.type == F_WRLCK || wanted.type == F_WRLCK;
      if (overlaps && exclusive && wanted.type != F_UNLCK) {
        errno = EAGAIN;
        return -1;
      }
      after.push_back(held);
      continue;
    }
    fake_lock left = held, right = held;
    left.end = wanted.begin;
    right.begin = wanted.end;
    if (left.begin < left.end) after.push_back(left);
    if (right.begin < right.end) after.push_back(right);
  }
  if (wanted.type != F_UNLCK) after.push_back(wanted);
  fd->file->locks = std::move(after);
  return 0;
}

int glfs_close(glfs_fd* fd) {
  const bool fails = refused("close");
  {
    const std::lock_guard lock(the().mutex);
    std::erase_if(fd->file->locks, [fd](const fake_lock& held) {
      return held.connection == fd->fs && held.owner == fd->owner;
    });
  }
  delete fd;
  return fails ? -1 : 0;
}

int glfs_fstat(glfs_fd* fd, struct stat* to) {
  if (refused("fstat")) return -1;
  const std::lock_guard lock(the().mutex);
  describe(*fd->file, *to);
  return 0;
}

// The library has a type of the same name.
int stat_by_path(glfs* fs, const char* path, struct stat* to) __asm__("glfs_stat");
int stat_by_path(glfs* fs, const char* path, struct stat* to) {
  if (refused("stat")) return -1;
  const std::lock_guard lock(the().mutex);
  const auto found = the().files.find(key(fs->volume, path));
  if (found == the().files.end()) {
    errno = ENOENT;
    return -1;
  }
  describe(*found->second, *to);
  return 0;
}

int glfs_unlink(glfs* fs, const char* path) {
  if (refused("unlink")) return -1;
  const std::lock_guard lock(the().mutex);
  if (the().files.erase(key(fs->volume, path)) != 0) return 0;
  errno = ENOENT;
  return -1;
}

// Blocks of 4096 zeros are holes.
off_t glfs_lseek(glfs_fd* fd, off_t offset, int whence) {
  if (refused("lseek")) return -1;
  const std::lock_guard lock(the().mutex);
  const std::string& bytes = fd->file->now;
  const auto is_hole = [&](size_t at) {
    const size_t begin = at / 4096 * 4096, end = std::min(bytes.size(), begin + 4096);
    return std::all_of(bytes.begin() + static_cast<off_t>(begin),
                       bytes.begin() + static_cast<off_t>(end), [](char c) { return c == 0; });
  };
  auto at = static_cast<size_t>(offset);
  while (at < bytes.size() && is_hole(at) != (whence == SEEK_HOLE)) at = at / 4096 * 4096 + 4096;
  if (at < bytes.size()) return static_cast<off_t>(at);
  if (whence == SEEK_HOLE) return static_cast<off_t>(bytes.size());
  errno = ENXIO;
  return -1;
}

glfs_fd* glfs_opendir(glfs* fs, const char*) {
  if (refused("opendir")) return nullptr;
  const std::lock_guard lock(the().mutex);
  auto* fd = new glfs_fd;
  fd->fs = fs;
  fd->names = {".", ".."};
  for (const auto& [name, file] : the().files)
    if (name.starts_with(fs->volume + ":")) fd->names.push_back(name.substr(fs->volume.size() + 1));
  return fd;
}

dirent* glfs_readdirplus(glfs_fd* fd, struct stat* to) {
  if (refused("readdirplus")) return nullptr;
  if (fd->next == fd->names.size()) return nullptr;
  const std::string& name = fd->names[fd->next++];
  std::strncpy(fd->entry.d_name, name.c_str(), sizeof fd->entry.d_name - 1);
  *to = {};
  if (name[0] != '.')
    stat_by_path(fd->fs, name.c_str(), to);
  else
    to->st_mode = S_IFDIR;
  errno = 0;
  return &fd->entry;
}

int glfs_closedir(glfs_fd* fd) {
  delete fd;
  return 0;
}

int glfs_preadv_async(glfs_fd* fd, const iovec* iov, int count, off_t offset, int, callback done,
                      void* data) {
  const std::vector<iovec> to(iov, iov + count);
  size_t length = 0;
  for (const iovec& v : to) length += v.iov_len;
  return request("preadv", fd, done, data, length, [=](size_t most) {
    const std::string& from = fd->file->now;
    size_t at = std::min(static_cast<size_t>(offset), from.size());
    size_t left = std::min(most, from.size() - at);
    const size_t all = left;
    for (const iovec& v : to) {
      const size_t n = std::min(left, v.iov_len);
      std::memcpy(v.iov_base, from.data() + at, n);
      at += n;
      left -= n;
    }
    return static_cast<int64_t>(all);
  });
}

int glfs_pwritev_async(glfs_fd* fd, const iovec* iov, int count, off_t offset, int, callback done,
                       void* data) {
  std::string bytes;
  for (int i = 0; i < count; ++i)
    bytes.append(static_cast<const char*>(iov[i].iov_base), iov[i].iov_len);
  const size_t length = bytes.size();
  return request("pwritev", fd, done, data, length, [=](size_t most) {
    std::string& to = fd->file->now;
    grow(to, static_cast<uint64_t>(offset) + most);
    to.replace(static_cast<size_t>(offset), most, bytes, 0, most);
    return static_cast<int64_t>(most);
  });
}

int glfs_fdatasync_async(glfs_fd* fd, callback done, void* data) {
  return request("fdatasync", fd, done, data, 0, [=](size_t) {
    fd->file->durable = fd->file->now;
    return int64_t{0};
  });
}

int glfs_ftruncate_async(glfs_fd* fd, off_t length, callback done, void* data) {
  return request("ftruncate", fd, done, data, 0, [=](size_t) {
    fd->file->now.resize(static_cast<size_t>(length));
    return int64_t{0};
  });
}

int glfs_discard_async(glfs_fd* fd, off_t offset, size_t length, callback done, void* data) {
  return request("discard", fd, done, data, length, [=](size_t most) {
    std::string& to = fd->file->now;
    const size_t begin = std::min(static_cast<size_t>(offset), to.size());
    std::fill_n(to.begin() + static_cast<off_t>(begin), std::min(most, to.size() - begin), '\0');
    return int64_t{0};
  });
}

int glfs_zerofill_async(glfs_fd* fd, off_t offset, off_t length, callback done, void* data) {
  return request("zerofill", fd, done, data, static_cast<size_t>(length), [=](size_t most) {
    std::string& to = fd->file->now;
    grow(to, static_cast<uint64_t>(offset) + most);
    std::fill_n(to.begin() + offset, most, '\0');
    return int64_t{0};
  });
}

// ---- What tests say and ask

void fake_reset() {
  state& s = the();
  const std::lock_guard lock(s.mutex);
  s.files.clear();
  s.rules.clear();
  s.counts.clear();
  s.options.clear();
  s.options_in_time = true;
  s.reorder = false;
  s.most_in_flight = s.in_flight;
}

void fake_rule(const char* text) {
  std::istringstream words(text);
  rule r;
  words >> r.call >> r.action;
  std::string word;
  while (words >> word) {
    if (word == "skip")
      words >> r.skip;
    else if (word == "times")
      words >> r.times;
    else
      r.value = std::stoi(word);
  }
  const std::lock_guard lock(the().mutex);
  the().rules.push_back(r);
}

void fake_clear_rules() {
  const std::lock_guard lock(the().mutex);
  the().rules.clear();
}

void fake_release() {
  const std::lock_guard lock(the().mutex);
  for (job& j : the().jobs) j.held = false;
  ++the().counts["release"];
  the().changed.notify_all();
}

void fake_reorder(int on) {
  const std::lock_guard lock(the().mutex);
  the().reorder = on != 0;
}

void fake_crash() {
  const std::lock_guard lock(the().mutex);
  for (auto& [name, file] : the().files) {
    const size_t size = file->now.size();
    file->now = file->durable;
    file->now.resize(size);
  }
}

void fake_forget_locks(int with_files) {
  const std::lock_guard lock(the().mutex);
  for (auto& [name, file] : the().files) file->locks.clear();
  if (with_files != 0) ++the().translators;
}

uint64_t fake_locks(const char* volume, const char* path) {
  const std::lock_guard lock(the().mutex);
  const auto found = the().files.find(key(volume, path));
  return found == the().files.end() ? 0 : found->second->locks.size();
}

void fake_put(const char* volume, const char* path, const void* bytes, size_t length) {
  const std::lock_guard lock(the().mutex);
  auto file = new_file();
  file->now.assign(static_cast<const char*>(bytes), length);
  file->durable = file->now;
  the().files[key(volume, path)] = std::move(file);
}

int64_t fake_get(const char* volume, const char* path, void* to, size_t length) {
  const std::lock_guard lock(the().mutex);
  const auto found = the().files.find(key(volume, path));
  if (found == the().files.end()) return -1;
  const std::string& bytes = found->second->now;
  if (to != nullptr) std::memcpy(to, bytes.data(), std::min(length, bytes.size()));
  return static_cast<int64_t>(bytes.size());
}

uint64_t fake_count(const char* call) {
  const std::lock_guard lock(the().mutex);
  return the().counts[call];
}

uint64_t fake_connections() {
  const std::lock_guard lock(the().mutex);
  return the().connections;
}

uint64_t fake_most_in_flight() {
  const std::lock_guard lock(the().mutex);
  return the().most_in_flight;
}

int fake_had_option(const char* translator, const char* option_key, const char* value) {
  const std::string text = std::string(translator) + " " + option_key + " " + value;
  const std::lock_guard lock(the().mutex);
  const auto& all = the().options;
  return the().options_in_time && std::find(all.begin(), all.end(), text) != all.end() ? 1 : 0;
}

const char* fake_servers() {
  static auto* text = new std::string;
  const std::lock_guard lock(the().mutex);
  *text = the().servers;
  return text->c_str();
}

}  // extern "C"
