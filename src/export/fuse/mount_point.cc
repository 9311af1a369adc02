// SPDX-License-Identifier: MIT
#include "export/fuse/mount_point.h"

#include <fcntl.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <sstream>

#include "base/log.h"

extern char** environ;

namespace lbd::fuse {

using base::errc;
using base::failure;
using base::outcome;

namespace {

const std::string our_kind = "fuse.lbd";

failure system_failure(const std::string& what, int error) {
  return failure{static_cast<errc>(error), what + ": " + base::to_string(static_cast<errc>(error))};
}

// A path in mountinfo: blanks and the like are written as "\040".
std::string unescape(const std::string& word) {
  std::string out;
  for (size_t i = 0; i < word.size(); ++i) {
    const bool octal = word[i] == '\\' && i + 3 < word.size();
    out += octal ? static_cast<char>(std::stoi(word.substr(i + 1, 3), nullptr, 8)) : word[i];
    if (octal) i += 3;
  }
  return out;
}

// The kind of the topmost mount on exactly this folder, or nothing.
std::string mounted_kind(const std::string& folder) {
  std::ifstream table("/proc/self/mountinfo");
  std::string line, kind;
  while (std::getline(table, line)) {
    std::istringstream words(line);
    std::string word, place;
    for (int i = 0; i < 5; ++i) words >> place;
    while (words >> word && word != "-") {
    }
    words >> word;
    if (unescape(place) == folder) kind = word;
  }
  return kind;
}

// The folder's path without symbolic links. Asks nothing of what is mounted there, which may be
// dead.
outcome<std::string> true_path(const std::string& folder) {
  char* found = ::realpath(folder.c_str(), nullptr);
  if (found == nullptr) return system_failure("cannot mount on " + folder, errno);
  std::string path(found);
  ::free(found);
  return path;
}

outcome<void> fusermount(const std::string& folder, bool in_use) {
  std::string lazily = "-uqz", plainly = "-uq", program = "fusermount3", rest = "--", path = folder;
  char* words[] = {program.data(), in_use ? lazily.data() : plainly.data(), rest.data(),
                   path.data(), nullptr};
  pid_t child = 0;
  int status = 0;
  if (const int rc = ::posix_spawnp(&child, words[0], nullptr, nullptr, words, environ); rc != 0)
    return system_failure("cannot run fusermount3 (of the package fuse3)", rc);
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return {};
  return failure{errc::busy, folder + " is in use"};
}

}  // namespace

outcome<void> check_fuse() {
  const int fd = ::open("/dev/fuse", O_RDWR | O_CLOEXEC);
  if (fd < 0)
    return failure{static_cast<errc>(errno),
                   "cannot open /dev/fuse: " + base::to_string(static_cast<errc>(errno)) +
                       " (the kernel's module is fuse; containers need --device /dev/fuse)"};
  ::close(fd);
  return {};
}

outcome<void> unmount(const std::string& folder, bool in_use) {
  const int flags = UMOUNT_NOFOLLOW | (in_use ? MNT_DETACH : 0);
  if (::umount2(folder.c_str(), flags) == 0) return {};
  if (errno == EPERM) return fusermount(folder, in_use);
  if (errno == EBUSY) return failure{errc::busy, folder + " is in use"};
  return system_failure("cannot unmount " + folder, errno);
}

outcome<void> drop_dead_mount(const std::string& folder) {
  TRY(const std::string path, true_path(folder));
  if (mounted_kind(path) != our_kind) return {};
  return unmount(path, true);
}

outcome<mount_point> prepare_mount_point(const std::string& folder) {
  TRY(const std::string path, true_path(folder));
  struct stat st {};
  struct statfs asked {};
  for (int attempts = 0; mounted_kind(path) == our_kind; ++attempts) {
    // Not stat(): the kernel may know the answer without a living server.
    if (::statfs(path.c_str(), &asked) == 0 || errno != ENOTCONN || attempts == 8)
      return failure{errc::busy, folder + " shows devices already"};
    base::log_info("mount", path + ": taking away what a dead process has left");
    CHECK(unmount(path, true));
  }
  if (::stat(path.c_str(), &st) != 0) return system_failure("cannot mount on " + folder, errno);
  if (!S_ISDIR(st.st_mode)) return system_failure("cannot mount on " + folder, ENOTDIR);
  return mount_point{path, st.st_mtim.tv_sec};
}

}  // namespace lbd::fuse
