// SPDX-License-Identifier: MIT
// Questions to the daemon: a connection for each, so that nothing is shared between threads and
// processes.
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>

#include "preload/preload.h"

namespace lbd::preload {

namespace {

constexpr size_t ioctl_header_bytes = 312;
constexpr size_t data_size_offset = 12;
enum : unsigned { cmd_rename = 5, cmd_wait = 8, cmd_load = 9, cmd_message = 14, cmd_geometry = 15 };
constexpr unsigned cmd_arm_poll = 16;

next<int(int, int, int)> next_socket("socket");
next<int(int, const sockaddr*, socklen_t)> next_connect("connect");

class connection {
 public:
  // Open, or not: then errno says why.
  connection() : fd_(connect_daemon(SOCK_CLOEXEC)) {}
  ~connection() {
    const errno_keeper keep;
    if (fd_ >= 0) sys::close(fd_);
  }
  connection(const connection&) = delete;
  connection& operator=(const connection&) = delete;

  bool is_open() const { return fd_ >= 0; }
  int release() {
    const int fd = fd_;
    fd_ = -1;
    return fd;
  }

  bool send(const void* bytes, size_t count) const {
    const char* at = static_cast<const char*>(bytes);
    while (count != 0) {
      const ssize_t n = syscall(SYS_sendto, fd_, at, count, MSG_NOSIGNAL, nullptr, 0);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) return false;
      at += n;
      count -= static_cast<size_t>(n);
    }
    return true;
  }
  // `interruptible`: a signal's handler ends it, with EINTR.
  bool receive(void* bytes, size_t count, bool interruptible = false) const {
    char* at = static_cast<char*>(bytes);
    while (count != 0) {
      const ssize_t n = syscall(SYS_recvfrom, fd_, at, count, 0, nullptr, nullptr);
      if (n < 0 && errno == EINTR && !interruptible) continue;
      if (n == 0) errno = ENXIO;
      if (n <= 0) return false;
      at += n;
      count -= static_cast<size_t>(n);
    }
    return true;
  }

 private:
  static int connect_daemon(int flags) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    memcpy(address.sun_path, current().socket, sizeof address.sun_path);
    const int fd = next_socket(AF_UNIX, SOCK_STREAM | flags, 0);
    if (fd < 0) return -1;
    int rc = 0;
    do {
      rc = next_connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address);
    } while (rc != 0 && errno == EINTR);
    if (rc == 0) return fd;
    sys::close(fd);
    errno = ENXIO;
    return -1;
  }
  int fd_;
};

bool ask(const connection& to, uint16_t op, uint16_t detail, const void* bytes, size_t count,
         face::answer_header& answer) {
  const face::request_header head{face::magic, op, detail, static_cast<uint32_t>(count)};
  return to.is_open() && to.send(&head, sizeof head) && to.send(bytes, count) &&
         to.receive(&answer, sizeof answer);
}

// `path`: where the node's goes, if not nullptr.
int ask_for_node(uint16_t op, const void* bytes, size_t count, face::node& out, path_buffer* path) {
  const connection to;
  face::answer_header answer{};
  if (!ask(to, op, 0, bytes, count, answer)) return ENXIO;
  if (answer.error != 0) return answer.error;
  if (answer.bytes < sizeof out || !to.receive(&out, sizeof out)) return ENXIO;
  const size_t rest = answer.bytes - sizeof out;
  if (rest != out.path_bytes || rest >= path_bytes) return ENXIO;
  if (path == nullptr) return 0;
  if (!to.receive(*path, rest)) return ENXIO;
  (*path)[rest] = '\0';
  return 0;
}

}  // namespace

int look_up(const char* absolute, found& out) {
  const errno_keeper keep;
  if (strcmp(absolute, "/run/udev/control") == 0) return ENOENT;  // nobody waits for udev here
  return ask_for_node(face::op_look_up, absolute, strlen(absolute), out.facts, &out.path);
}

int find_number(uint32_t major, uint32_t minor, face::node& out) {
  const errno_keeper keep;
  const uint32_t number[2] = {major, minor};
  return ask_for_node(face::op_find, number, sizeof number, out, nullptr);
}

int find_file(uint64_t inode, face::node& out) {
  const errno_keeper keep;
  return ask_for_node(face::op_find_file, &inode, sizeof inode, out, nullptr);
}

int set_read_ahead(uint32_t major, uint32_t minor, uint32_t sectors) {
  const errno_keeper keep;
  const connection to;
  const uint32_t what[3] = {major, minor, sectors};
  face::answer_header answer{};
  if (!ask(to, face::op_set_read_ahead, 0, what, sizeof what, answer)) return ENXIO;
  return answer.error;
}

int open_control(int flags) {
  connection to;
  face::answer_header answer{};
  if (!ask(to, face::op_watch, 0, nullptr, 0, answer)) {
    complain("/dev/mapper/control", "the daemon does not answer");
    errno = ENXIO;
    return -1;
  }
  const int fd = to.release();
  if ((flags & O_CLOEXEC) == 0) syscall(SYS_fcntl, fd, F_SETFD, 0);
  return fd;
}

bool is_control(int fd) {
  const errno_keeper keep;
  if (!current().enabled) return false;
  sockaddr_un peer{};
  socklen_t bytes = sizeof peer;
  if (syscall(SYS_getpeername, fd, &peer, &bytes) != 0 || peer.sun_family != AF_UNIX) return false;
  return strncmp(peer.sun_path, current().socket, sizeof peer.sun_path) == 0;
}

namespace {

// What came before counts no more; the next change makes the descriptor readable.
int arm(int fd) {
  char some[64];
  while (syscall(SYS_recvfrom, fd, some, sizeof some, MSG_DONTWAIT, nullptr, nullptr) > 0) {
  }
  if (syscall(SYS_sendto, fd, some, 1, MSG_NOSIGNAL | MSG_DONTWAIT, nullptr, 0) == 1) return 0;
  errno = ENXIO;
  return -1;
}

int fail(int error) {
  errno = error;
  return -1;
}

}  // namespace

int control_ioctl(int fd, unsigned command, void* buffer) {
  const int before = errno;
  if (command == cmd_arm_poll) return arm(fd);
  uint32_t data_size = 0;
  memcpy(&data_size, static_cast<const char*>(buffer) + data_size_offset, sizeof data_size);
  const bool takes_data = command == cmd_rename || command == cmd_load || command == cmd_message ||
                          command == cmd_geometry;
  const size_t capacity = data_size < ioctl_header_bytes ? ioctl_header_bytes : data_size;
  const size_t count = takes_data ? capacity : ioctl_header_bytes;
  room<path_buffer> directory;
  if (directory.get() == nullptr) return fail(ENOMEM);
  if (syscall(SYS_getcwd, *directory, path_bytes) <= 0) (*directory)[0] = '\0';
  const size_t directory_bytes = strlen(*directory) + 1;
  if (count > face::largest_request_bytes - path_bytes) return fail(ENOMEM);

  const connection to;
  if (!to.is_open()) return fail(ENXIO);
  const face::request_header head{face::magic, face::op_ioctl, static_cast<uint16_t>(command),
                                  static_cast<uint32_t>(directory_bytes + count)};
  face::answer_header answer{};
  if (!to.send(&head, sizeof head) || !to.send(*directory, directory_bytes) ||
      !to.send(buffer, count))
    return fail(ENXIO);
  if (!to.receive(&answer, sizeof answer, command == cmd_wait))
    return errno == EINTR ? -1 : fail(ENXIO);
  if (answer.bytes > capacity) return fail(EIO);
  if (!to.receive(buffer, answer.bytes)) return fail(ENXIO);
  if (answer.error != 0) return fail(answer.error);
  errno = before;
  return 0;
}

void complain(const char* path, const char* text) {
  const errno_keeper keep;
  const char* const parts[] = {"lbd run: ", path, ": ", text, "\n"};
  iovec line[sizeof parts / sizeof parts[0]];
  for (size_t i = 0; i < sizeof parts / sizeof parts[0]; ++i)
    line[i] = {const_cast<char*>(parts[i]), strlen(parts[i])};
  (void)syscall(SYS_writev, 2, line, sizeof parts / sizeof parts[0]);
}

}  // namespace lbd::preload
