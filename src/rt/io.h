// SPDX-License-Identifier: MIT
// One request to the operating system (or to the simulator): the unit that reactors submit.
#pragma once

#include <sys/socket.h>
#include <sys/uio.h>

#include <coroutine>
#include <cstdint>
#include <span>

namespace lbd::rt {

// Scatter/gather segments. The iovecs and the bytes they point at belong to the caller, who keeps
// both alive until the operation completes. For writes the bytes are not modified.
using segments = std::span<const iovec>;

enum class io_op : uint8_t {
  read,       // preadv(fd, iov, offset)
  write,      // pwritev(fd, iov, offset)
  sync_data,  // fdatasync(fd)
  fallocate,  // fallocate(fd, flags, offset, length)
  resize,     // ftruncate(fd, length)
  recv,       // recvmsg(fd, message, flags)
  send,       // sendmsg(fd, message, flags)
  accept,     // accept4(fd, flags)
  connect,    // connect(fd, address, address_bytes)
  wait_readable,
  wait_writable,
};

// Lives in the awaiter, inside the waiting coroutine's frame, until the completion arrives.
struct io_request {
  io_op op = io_op::read;
  int fd = -1;
  int flags = 0;
  uint32_t address_bytes = 0;
  const iovec* iov = nullptr;  // read, write
  uint32_t iov_count = 0;
  uint64_t offset = 0;  // bytes
  uint64_t length = 0;  // bytes (fallocate, resize)
  msghdr* message = nullptr;
  const sockaddr* address = nullptr;
  int64_t result = 0;  // bytes, a descriptor, or -errno
  std::coroutine_handle<> waiter;
  io_request* next = nullptr;  // for queues of whoever holds the request
  bool done = false;
};

}  // namespace lbd::rt
