// SPDX-License-Identifier: MIT
// Stream sockets: TCP (IPv4, IPv6) and Unix.
#pragma once

#include <netinet/in.h>
#include <sys/types.h>
#include <sys/un.h>

#include <atomic>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "rt/reactor.h"

namespace lbd::rt {

// An address: "unix:PATH", or host and port resolved to one numeric address.
struct socket_address {
  sockaddr_storage storage{};
  socklen_t bytes = 0;

  const sockaddr* get() const noexcept { return reinterpret_cast<const sockaddr*>(&storage); }
  bool is_unix() const noexcept { return storage.ss_family == AF_UNIX; }
  // "127.0.0.1:10809", "[::1]:10809" or the path.
  std::string text() const;

  // Errors: the path is empty or longer than the system allows (107 bytes).
  static base::outcome<socket_address> unix_path(const std::string& path);
  // All addresses of a host name, IPv4 and IPv6; blocks (control path).
  static base::outcome<std::vector<socket_address>> resolve(const std::string& host,
                                                            const std::string& port,
                                                            bool for_listening);
};

// Owns a descriptor.
class socket {
 public:
  socket() = default;
  explicit socket(int fd) noexcept : fd_(fd) {}
  socket(socket&& o) noexcept : fd_(std::exchange(o.fd_, -1)) {}
  socket& operator=(socket&& o) noexcept {
    std::swap(fd_, o.fd_);
    return *this;
  }
  ~socket();

  int fd() const noexcept { return fd_; }
  explicit operator bool() const noexcept { return fd_ >= 0; }
  int release() noexcept { return std::exchange(fd_, -1); }
  void close() noexcept;

  // A listening socket. An abandoned Unix socket file (nobody accepts) is replaced; a living one,
  // or a taken port, is refused (EADDRINUSE) after a second: a killed owner may take so long to
  // vanish. `unix_mode`: the permissions of a Unix socket's file, from the moment it exists; 0
  // leaves them to the umask.
  static base::outcome<socket> listen(const socket_address& address, mode_t unix_mode = 0);
  // The bound address (for port 0).
  socket_address local_address() const;

  // Whole messages. recv_all fails with not_connected when the peer closes early.
  task<base::result<void>> send_all(base::bytes_view bytes);
  task<base::result<void>> recv_all(base::bytes_span to);
  // At most to.size() bytes; 0: the peer has closed.
  task<base::result<size_t>> recv_some(base::bytes_span to);
  task<base::result<socket>> accept();
  // Gives up with timed_out at `due_ns` of the reactor's clock (0: the system's own limit), and
  // soon after `*abandoned` (if given) has become true.
  static task<base::result<socket>> connect(socket_address address, uint64_t due_ns = 0,
                                            const std::atomic<bool>* abandoned = nullptr);

  // Ends both directions: pending operations of this process and of the peer return.
  void shutdown() noexcept;
  // TCP: no Nagle delay, keep-alive. Nothing for Unix sockets.
  void tune() noexcept;

 private:
  int fd_ = -1;
};

// The file of a listening Unix socket. It is removed from the folder that it was made in: the path
// may lead elsewhere by then, into a folder even that this very process serves (and would wait
// for).
class socket_file {
 public:
  socket_file() = default;
  // REQUIRES: somebody listens there now. Nothing for TCP.
  explicit socket_file(const socket_address& at);
  void remove() noexcept;

 private:
  socket folder_;  // its descriptor
  std::string name_;
};

}  // namespace lbd::rt
