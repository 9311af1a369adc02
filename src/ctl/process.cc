// SPDX-License-Identifier: MIT
#include "ctl/process.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

namespace lbd::ctl {
namespace {

using base::errc;
using base::failure;

bool is_socket(int fd, bool listening) {
  int type = 0, accepts = 0;
  socklen_t bytes = sizeof type;
  if (::getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &bytes) != 0 || type != SOCK_STREAM)
    return false;
  bytes = sizeof accepts;
  return ::getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &accepts, &bytes) == 0 &&
         (accepts != 0) == listening;
}

}  // namespace

// Waits until the descriptor can be read; can be cancelled.
class stop_signals::readable {
 public:
  explicit readable(stop_signals& owner) : owner_(owner) {
    request_.op = rt::io_op::wait_readable;
    request_.fd = owner.fd_;
  }
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> h) {
    request_.waiter = h;
    owner_.waiting_ = &request_;
    rt::reactor::current().submit(request_);
  }
  bool await_resume() noexcept {
    owner_.waiting_ = nullptr;
    return request_.result >= 0;
  }

 private:
  stop_signals& owner_;
  rt::io_request request_;
};

base::outcome<std::unique_ptr<stop_signals>> stop_signals::make() {
  sigset_t both;
  sigemptyset(&both);
  sigaddset(&both, SIGTERM);
  sigaddset(&both, SIGINT);
  // Their errors come with the call: EPIPE, and EFBIG for a file at the size limit.
  ::signal(SIGPIPE, SIG_IGN);
  ::signal(SIGXFSZ, SIG_IGN);
  const int fd = ::signalfd(-1, &both, SFD_CLOEXEC | SFD_NONBLOCK);
  if (fd < 0 || ::sigprocmask(SIG_BLOCK, &both, nullptr) != 0)
    return failure{static_cast<errc>(errno),
                   "cannot watch for signals: " + base::to_string(static_cast<errc>(errno))};
  return std::unique_ptr<stop_signals>(new stop_signals(fd));
}

stop_signals::~stop_signals() { ::close(fd_); }

rt::task<int> stop_signals::wait() {
  while (!canceled_) {
    readable waiting(*this);
    const bool readable_now = co_await waiting;
    if (!readable_now) co_return 0;
    signalfd_siginfo info{};
    if (::read(fd_, &info, sizeof info) == static_cast<ssize_t>(sizeof info))
      co_return static_cast<int>(info.ssi_signo);
  }
  co_return 0;
}

void stop_signals::cancel() {
  canceled_ = true;  // the wait may have ended already
  if (waiting_ != nullptr) rt::reactor::current().cancel(*waiting_);
}

void notify_service_manager(const std::string& state) {
  const char* path = std::getenv("NOTIFY_SOCKET");
  sockaddr_un address{};
  if (path == nullptr || path[0] == '\0' || std::strlen(path) >= sizeof address.sun_path) return;
  address.sun_family = AF_UNIX;
  const size_t length = std::strlen(path);
  std::memcpy(address.sun_path, path, length);
  // "@name": a socket without a file.
  if (path[0] == '@') address.sun_path[0] = '\0';
  const int fd = ::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return;
  const auto bytes = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + length);
  // Nobody is there to be told about a manager that does not listen.
  [[maybe_unused]] const ssize_t sent = ::sendto(fd, state.data(), state.size(), MSG_NOSIGNAL,
                                                 reinterpret_cast<sockaddr*>(&address), bytes);
  ::close(fd);
}

base::outcome<std::vector<rt::socket>> inherited_listeners() {
  constexpr int first_fd = 3;  // sd_listen_fds(3)
  std::vector<rt::socket> out;
  const char* pid = std::getenv("LISTEN_PID");
  const char* count = std::getenv("LISTEN_FDS");
  if (pid == nullptr || count == nullptr || std::atoi(pid) != ::getpid()) return out;
  for (int fd = first_fd; fd < first_fd + std::atoi(count); ++fd) {
    if (!is_socket(fd, true))
      return failure{errc::inval, "descriptor " + std::to_string(fd) +
                                      " from the service manager is no listening stream socket"};
    ::fcntl(fd, F_SETFD, FD_CLOEXEC);
    out.emplace_back(fd);
  }
  return out;
}

base::outcome<rt::socket> standard_input_socket() {
  if (!is_socket(STDIN_FILENO, false))
    return failure{errc::inval,
                   "--stdin: standard input is no connected stream socket (start it "
                   "from inetd, or leave --stdin out)"};
  rt::socket out(::fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3));
  struct stat in {
  }, err{};
  const bool same = ::fstat(STDIN_FILENO, &in) == 0 && ::fstat(STDERR_FILENO, &err) == 0 &&
                    in.st_dev == err.st_dev && in.st_ino == err.st_ino;
  const int nothing = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  if (nothing >= 0) {
    // The client ends when the last of these is gone, and log lines are not for it.
    ::dup2(nothing, STDIN_FILENO);
    ::dup2(nothing, STDOUT_FILENO);
    if (same) ::dup2(nothing, STDERR_FILENO);
    ::close(nothing);
  }
  return out;
}

void raise_descriptor_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  // Where it is refused the present limit has to do.
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

pid_file::~pid_file() {
  if (!path_.empty()) ::unlink(path_.c_str());
}

base::outcome<void> pid_file::write(const std::string& path) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  const std::string text = std::to_string(::getpid()) + "\n";
  const bool written =
      fd >= 0 && ::write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  const auto code = static_cast<errc>(errno);
  if (fd >= 0) ::close(fd);
  if (!written)
    return failure{code, "--pid-file: cannot write '" + path + "': " + base::to_string(code) +
                             " (choose a path in a folder that exists and can be written)"};
  path_ = path;
  return {};
}

}  // namespace lbd::ctl
