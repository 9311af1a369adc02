// SPDX-License-Identifier: MIT
#include "rt/socket.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

namespace lbd::rt {
namespace {

using base::errc;
using base::failure;
using base::io_error;

const char* listen_remedy(int error) noexcept {
  switch (error) {
    case EADDRINUSE:
      return ": something else listens there (choose another, or stop it)";
    case EEXIST:
      return ": what lies there is no socket (choose another path)";
    case EACCES:
      return " (permission denied: choose a port of 1024 or more, or a path you may write)";
    case EADDRNOTAVAIL:
      return " (choose an address that this host has)";
    case ENOENT:
    case ENOTDIR:
      return " (make the folder first)";
    case EROFS:
      return " (choose a folder that can be written)";
    default:
      return "";
  }
}

failure listen_failure(const socket_address& a, int error) {
  return failure{static_cast<errc>(error), "cannot listen on " + a.text() + ": " +
                                               base::to_string(static_cast<errc>(error)) +
                                               listen_remedy(error)};
}

// Whether somebody accepts connections at a Unix socket path.
bool unix_socket_lives(const socket_address& a) {
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return true;
  const bool lives = ::connect(fd, a.get(), a.bytes) == 0 || errno == EAGAIN;
  ::close(fd);
  return lives;
}

// A process that was killed may hold its sockets for some more moments: io_uring gives files back
// in the background.
constexpr unsigned bind_tries = 50, bind_pause_us = 20'000;

int bind_once(int fd, const socket_address& a) {
  if (::bind(fd, a.get(), a.bytes) == 0) return 0;
  if (errno != EADDRINUSE || !a.is_unix()) return errno;
  const char* path = reinterpret_cast<const sockaddr_un*>(a.get())->sun_path;
  struct stat st {};
  if (::lstat(path, &st) != 0) return EADDRINUSE;
  if (!S_ISSOCK(st.st_mode)) return EEXIST;
  if (unix_socket_lives(a)) return EADDRINUSE;
  ::unlink(path);
  return ::bind(fd, a.get(), a.bytes) == 0 ? 0 : errno;
}

int bind_to(int fd, const socket_address& a) {
  int error = bind_once(fd, a);
  for (unsigned i = 1; i < bind_tries && error == EADDRINUSE; ++i) {
    ::usleep(bind_pause_us);
    error = bind_once(fd, a);
  }
  return error;
}

io_request message_request(io_op op, int fd, msghdr& m, int flags) {
  io_request r;
  r.op = op;
  r.fd = fd;
  r.message = &m;
  r.flags = flags;
  return r;
}

// How often a request looks whether it is still wanted.
constexpr uint64_t look_ns = 20'000'000;

// A request that is canceled when its time is over, or when nobody wants it any more.
class limited_request {
 public:
  limited_request(io_request r, uint64_t due_ns, const std::atomic<bool>* abandoned) noexcept
      : request_(r), due_ns_(due_ns), abandoned_(abandoned) {}
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> h) {
    reactor& here = reactor::current();
    request_.waiter = h;
    here.submit(request_);
    if (due_ns_ == 0 && abandoned_ == nullptr) return;
    limit_.owner = this;
    limit_.run = [](timer& t) { static_cast<limit&>(t).owner->look(); };
    here.start_timer(limit_, next_look_ns());
  }
  int64_t await_resume() noexcept {
    reactor::current().stop_timer(limit_);
    return request_.result;
  }

 private:
  struct limit : timer {
    limited_request* owner = nullptr;
  };
  uint64_t next_look_ns() const noexcept {
    if (abandoned_ == nullptr) return due_ns_;
    const uint64_t next = reactor::current().now_ns() + look_ns;
    return due_ns_ == 0 ? next : std::min(next, due_ns_);
  }
  void look() {
    reactor& here = reactor::current();
    const bool over = due_ns_ != 0 && here.now_ns() >= due_ns_;
    if (over || (abandoned_ != nullptr && abandoned_->load(std::memory_order_relaxed)))
      return here.cancel(request_);
    here.start_timer(limit_, next_look_ns());
  }
  io_request request_;
  const uint64_t due_ns_;
  const std::atomic<bool>* const abandoned_;
  limit limit_;
};

}  // namespace

std::string socket_address::text() const {
  if (is_unix()) return reinterpret_cast<const sockaddr_un*>(get())->sun_path;
  char host[NI_MAXHOST], port[NI_MAXSERV];
  if (::getnameinfo(get(), bytes, host, sizeof host, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0)
    return "?";
  const bool v6 = storage.ss_family == AF_INET6;
  return (v6 ? "[" + std::string(host) + "]" : std::string(host)) + ":" + port;
}

base::outcome<socket_address> socket_address::unix_path(const std::string& path) {
  sockaddr_un un{};
  if (path.empty() || path.size() >= sizeof un.sun_path)
    return failure{errc::inval, "socket path '" + path + "' must have 1 to " +
                                    std::to_string(sizeof un.sun_path - 1) + " bytes"};
  un.sun_family = AF_UNIX;
  std::memcpy(un.sun_path, path.data(), path.size());
  socket_address a;
  std::memcpy(&a.storage, &un, sizeof un);
  a.bytes = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size() + 1);
  return a;
}

base::outcome<std::vector<socket_address>> socket_address::resolve(const std::string& host,
                                                                   const std::string& port,
                                                                   bool for_listening) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = for_listening ? AI_PASSIVE : 0;
  addrinfo* list = nullptr;
  const int rc = ::getaddrinfo(host.empty() ? nullptr : host.c_str(), port.c_str(), &hints, &list);
  if (rc != 0)
    return failure{errc::noent, "cannot resolve '" + host + ":" + port + "': " + gai_strerror(rc) +
                                    " (check the name, or write a number)"};
  std::vector<socket_address> out;
  for (const addrinfo* i = list; i != nullptr; i = i->ai_next) {
    socket_address a;
    std::memcpy(&a.storage, i->ai_addr, i->ai_addrlen);
    a.bytes = i->ai_addrlen;
    out.push_back(a);
  }
  ::freeaddrinfo(list);
  return out;
}

socket::~socket() { close(); }

void socket::close() noexcept {
  if (fd_ >= 0) ::close(std::exchange(fd_, -1));
}

void socket::shutdown() noexcept {
  if (fd_ >= 0) ::shutdown(fd_, SHUT_RDWR);
}

void socket::tune() noexcept {
  const int on = 1;
  ::setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  ::setsockopt(fd_, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
  // A peer that is gone without a word (a cut cable) is noticed in about a minute.
  const int idle_s = 30, interval_s = 10, probes = 3;
  ::setsockopt(fd_, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof idle_s);
  ::setsockopt(fd_, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof interval_s);
  ::setsockopt(fd_, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof probes);
}

base::outcome<socket> socket::listen(const socket_address& address, mode_t unix_mode) {
  const int fd = ::socket(address.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return listen_failure(address, errno);
  socket s(fd);
  const int on = 1;
  ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (address.storage.ss_family == AF_INET6)
    ::setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
  // Before bind: the file is made with the mode of the socket, so that nobody gets in meanwhile.
  if (address.is_unix() && unix_mode != 0 && ::fchmod(fd, unix_mode) != 0)
    return listen_failure(address, errno);
  if (const int error = bind_to(fd, address); error != 0) return listen_failure(address, error);
  if (::listen(fd, 128) != 0) return listen_failure(address, errno);
  return s;
}

socket_file::socket_file(const socket_address& at) {
  if (!at.is_unix()) return;
  const std::string path = at.text();
  const size_t slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  folder_ = socket(::open(folder.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  name_ = path.substr(slash + 1);
}

void socket_file::remove() noexcept {
  if (folder_) ::unlinkat(folder_.fd(), name_.c_str(), 0);
  folder_.close();
}

socket_address socket::local_address() const {
  socket_address a;
  a.bytes = sizeof a.storage;
  ::getsockname(fd_, reinterpret_cast<sockaddr*>(&a.storage), &a.bytes);
  return a;
}

task<base::result<void>> socket::send_all(base::bytes_view bytes) {
  while (!bytes.empty()) {
    iovec v{const_cast<std::byte*>(bytes.data()), bytes.size()};
    msghdr m{};
    m.msg_iov = &v;
    m.msg_iovlen = 1;
    os_request send(message_request(io_op::send, fd_, m, MSG_NOSIGNAL));
    const int64_t n = co_await send;
    if (n < 0) co_return base::error_from_errno(static_cast<int>(-n));
    bytes = bytes.subspan(static_cast<size_t>(n));
  }
  co_return base::result<void>{};
}

task<base::result<size_t>> socket::recv_some(base::bytes_span to) {
  iovec v{to.data(), to.size()};
  msghdr m{};
  m.msg_iov = &v;
  m.msg_iovlen = 1;
  os_request receive(message_request(io_op::recv, fd_, m, 0));
  const int64_t n = co_await receive;
  if (n < 0) co_return base::error_from_errno(static_cast<int>(-n));
  co_return static_cast<size_t>(n);
}

task<base::result<void>> socket::recv_all(base::bytes_span to) {
  while (!to.empty()) {
    CO_TRY(const size_t n, co_await recv_some(to));
    if (n == 0) co_return io_error{errc::not_connected, 0};
    to = to.subspan(n);
  }
  co_return base::result<void>{};
}

task<base::result<socket>> socket::accept() {
  io_request r;
  r.op = io_op::accept;
  r.fd = fd_;
  os_request accepted(r);
  const int64_t fd = co_await accepted;
  if (fd < 0) co_return base::error_from_errno(static_cast<int>(-fd));
  co_return socket(static_cast<int>(fd));
}

task<base::result<socket>> socket::connect(socket_address address, uint64_t due_ns,
                                           const std::atomic<bool>* abandoned) {
  socket s(::socket(address.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!s) co_return base::error_from_errno(errno);
  io_request r;
  r.op = io_op::connect;
  r.fd = s.fd();
  r.address = address.get();
  r.address_bytes = address.bytes;
  limited_request connected(r, due_ns, abandoned);
  const int64_t rc = co_await connected;
  if (rc == -ECANCELED) {
    const bool unwanted = abandoned != nullptr && abandoned->load(std::memory_order_relaxed);
    co_return io_error{unwanted ? errc::canceled : errc::timed_out, 0};
  }
  if (rc < 0) co_return base::error_from_errno(static_cast<int>(-rc));
  if (!address.is_unix()) s.tune();
  co_return std::move(s);
}

}  // namespace lbd::rt
