// SPDX-License-Identifier: MIT
// A request of one connection from its first byte to the last byte of its reply, and the pool that
// bounds how many there are and how much memory they hold.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <vector>

#include "block/bounds.h"
#include "block/device.h"
#include "rt/buffer_pool.h"
#include "rt/sync.h"
#include "wire/nbd/transmission.h"

namespace lbd::nbd_server {

// Received bytes. Kept as long as the connection reads into it or a write uses its payload in
// place.
struct receive_chunk {
  static constexpr size_t bytes = 256 << 10;
  rt::buffer memory{bytes};
  unsigned users = 1;
};

struct request_slot {
  request_slot* next = nullptr;
  nbd::request request;
  bool structured = false;  // the client negotiated structured replies
  // Of the walk: not left while memory that was lent is being sent.
  block::path way;
  block::place at{};
  bool lent = false;
  bool changing = false;                // the device is changing the request's range
  receive_chunk* payload_in = nullptr;  // a write's payload used in place
  base::bytes_view payload;             // of a write
  rt::buffer owned;
  uint64_t charged_bytes = 0;

  // The reply: the segments `parts`, or `more` when there are more than two.
  std::array<std::byte, 72> header;
  std::array<iovec, 2> parts;
  unsigned part_count = 0;
  std::vector<iovec> more;
  uint64_t reply_bytes = 0;

  rt::segments reply() const noexcept {
    return more.empty() ? rt::segments(parts.data(), part_count) : rt::segments(more);
  }
};

// Of one connection, on one reactor.
class slot_pool {
 public:
  slot_pool() = default;
  slot_pool(const slot_pool&) = delete;
  slot_pool& operator=(const slot_pool&) = delete;

  // nullptr when all are in use.
  request_slot* try_take() {
    if (!slots_.try_acquire(1)) return nullptr;
    return pop();
  }
  rt::task<request_slot*> take() {
    co_await slots_.acquire(1);
    co_return pop();
  }
  // Waits until no request is left. Nothing can be taken afterwards.
  auto all_returned() noexcept { return slots_.acquire(block::bounds::requests_per_connection); }

  // Memory that the slot will hold until it is given back. A single request of any legal size fits.
  bool try_charge(request_slot& s, uint64_t n) noexcept {
    if (!bytes_.try_acquire(n)) return false;
    s.charged_bytes += n;
    return true;
  }
  rt::task<void> charge(request_slot& s, uint64_t n) {
    co_await bytes_.acquire(n);
    s.charged_bytes += n;
  }

  // Receive chunks count as memory, too.
  auto charge_chunk() noexcept { return bytes_.acquire(receive_chunk::bytes); }
  void unpin(receive_chunk* chunk) {
    if (--chunk->users != 0) return;
    delete chunk;
    bytes_.release(receive_chunk::bytes);
  }

  // Calls f(slot) for each request that changes the device.
  template <class F>
  void for_each_changing(F f) const {
    for (const request_slot& s : all_)
      if (s.changing) f(s);
  }

  // The reply was sent or will never be: everything the slot holds goes back.
  void release(request_slot& s) {
    s.way.leave(base::errc::ok);
    s.lent = false;
    if (s.payload_in != nullptr) unpin(std::exchange(s.payload_in, nullptr));
    s.payload = {};
    if (s.owned) s.owned = rt::buffer();
    if (!s.more.empty()) s.more.clear();
    const uint64_t charged = std::exchange(s.charged_bytes, 0);
    s.next = free_;
    free_ = &s;
    if (charged != 0) bytes_.release(charged);
    slots_.release(1);
  }

 private:
  request_slot* pop() {
    if (free_ == nullptr) return &all_.emplace_back();
    request_slot* s = free_;
    free_ = s->next;
    s->next = nullptr;
    return s;
  }

  rt::semaphore slots_{block::bounds::requests_per_connection};
  rt::semaphore bytes_{block::bounds::bytes_per_connection};
  std::deque<request_slot> all_;
  request_slot* free_ = nullptr;  // last used first: warm in the cache
};

}  // namespace lbd::nbd_server
