// SPDX-License-Identifier: MIT
// What reactor 0 and the reactor that serves a connection share about it.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "export/nbd/export_entry.h"
#include "rt/socket.h"

namespace lbd::nbd_server {

class transmission;

// Written by one thread, read by any.
class live_counter {
 public:
  void add(uint64_t n) noexcept {
    value_.store(value_.load(std::memory_order_relaxed) + n, std::memory_order_relaxed);
  }
  uint64_t get() const noexcept { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t> value_{0};
};

struct live_traffic {
  live_counter requests, answered, bytes_read, bytes_written, errors;

  traffic snapshot() const noexcept {
    return {requests.get(), bytes_read.get(), bytes_written.get(), errors.get()};
  }
};

struct connection {
  connection(uint64_t number, std::string who, rt::socket s, uint64_t now_ns)
      : id(number), peer(std::move(who)), socket(std::move(s)), connected_ns(now_ns) {}

  const uint64_t id;
  const std::string peer;
  // Closed when the connection object goes, on reactor 0: shutdown() is safe until then.
  rt::socket socket;
  const uint64_t connected_ns;
  live_traffic counters;
  std::atomic<bool> ending{false};   // takes no more input; requests may still be running
  std::atomic<bool> aborted{false};  // input that has not been looked at is to be ignored

  // Reactor 0 only.
  bool handshaking = true;
  std::shared_ptr<export_entry> target;
  std::shared_ptr<transmission> running;
  unsigned reactor = 0;

  // Ends both directions now.
  void abort() noexcept {
    aborted.store(true, std::memory_order_relaxed);
    socket.shutdown();
  }
};

// Whether the peer has closed its sending side, or everything.
bool hung_up(int fd) noexcept;
// Whether the peer has closed both sides, so that no reply can reach it.
bool gone(int fd) noexcept;
bool is_tcp(int fd) noexcept;
// Whether a receive would return at once.
bool readable_now(int fd) noexcept;
// "127.0.0.1:40112" or "unix pid 4711 uid 1000".
std::string describe_peer(int fd);

}  // namespace lbd::nbd_server
