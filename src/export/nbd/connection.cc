// SPDX-License-Identifier: MIT
#include "export/nbd/connection.h"

#include <poll.h>
#include <sys/socket.h>

namespace lbd::nbd_server {
namespace {

short poll_now(int fd, short events) noexcept {
  pollfd p{fd, events, 0};
  return ::poll(&p, 1, 0) == 1 ? p.revents : short{0};
}

}  // namespace

bool hung_up(int fd) noexcept {
  return (poll_now(fd, POLLRDHUP) & (POLLRDHUP | POLLHUP | POLLERR | POLLNVAL)) != 0;
}

bool gone(int fd) noexcept { return (poll_now(fd, 0) & (POLLHUP | POLLERR | POLLNVAL)) != 0; }

bool readable_now(int fd) noexcept { return poll_now(fd, POLLIN) != 0; }

bool is_tcp(int fd) noexcept {
  sockaddr_storage a{};
  socklen_t bytes = sizeof a;
  return ::getsockname(fd, reinterpret_cast<sockaddr*>(&a), &bytes) == 0 && a.ss_family != AF_UNIX;
}

std::string describe_peer(int fd) {
  rt::socket_address a;
  a.bytes = sizeof a.storage;
  if (::getpeername(fd, reinterpret_cast<sockaddr*>(&a.storage), &a.bytes) != 0) return "unknown";
  if (!a.is_unix()) return a.text();
  ucred who{};
  socklen_t bytes = sizeof who;
  if (::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &bytes) != 0) return "unix";
  return "unix pid " + std::to_string(who.pid) + " uid " + std::to_string(who.uid);
}

}  // namespace lbd::nbd_server
