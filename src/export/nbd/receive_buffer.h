// SPDX-License-Identifier: MIT
// Where a connection receives: one large chunk that is rewound as soon as it is empty. Payloads of
// writes may stay in it; then reading goes on in a fresh chunk.
#pragma once

#include <cstring>

#include "export/nbd/request_slot.h"

namespace lbd::nbd_server {

class receive_buffer {
 public:
  // A payload that is not there yet and longer than this is received into a buffer of its own.
  static constexpr size_t in_place_bytes = 64 << 10;
  // What one receive is offered at least, so that any request that stays in place fits.
  static constexpr size_t least_room_bytes = in_place_bytes + nbd::request_bytes;

  explicit receive_buffer(slot_pool& pool) noexcept : pool_(pool) {}
  ~receive_buffer() { delete chunk_; }
  receive_buffer(const receive_buffer&) = delete;
  receive_buffer& operator=(const receive_buffer&) = delete;

  // Received and not yet consumed.
  size_t size() const noexcept { return filled_ - consumed_; }
  base::bytes_view front(size_t n) const noexcept { return {chunk_->memory.data() + consumed_, n}; }
  void consume(size_t n) noexcept { consumed_ += n; }

  // Lets a write use bytes at the front in place: they stay until the pool unpins the chunk.
  receive_chunk* pin() noexcept {
    ++chunk_->users;
    return chunk_;
  }

  // Whether the next receive needs a chunk that has to be charged first.
  bool needs_chunk() noexcept {
    if (chunk_ == nullptr) return true;
    if (chunk_->users == 1) {
      if (consumed_ == filled_) consumed_ = filled_ = 0;
      if (receive_chunk::bytes - filled_ < least_room_bytes) compact(chunk_);
      return false;
    }
    return receive_chunk::bytes - filled_ < least_room_bytes;
  }
  // Goes on in a fresh chunk. REQUIRES: it was charged.
  void renew() {
    auto* fresh = new receive_chunk;
    if (chunk_ != nullptr) {
      compact(fresh);
      pool_.unpin(chunk_);
    }
    chunk_ = fresh;
  }

  // Where to receive. REQUIRES: !needs_chunk().
  base::bytes_span room() const noexcept {
    return {chunk_->memory.data() + filled_, receive_chunk::bytes - filled_};
  }
  void received(size_t n) noexcept { filled_ += n; }

 private:
  void compact(receive_chunk* to) noexcept {
    if (filled_ != consumed_)
      std::memmove(to->memory.data(), chunk_->memory.data() + consumed_, size());
    filled_ -= consumed_;
    consumed_ = 0;
  }

  slot_pool& pool_;
  receive_chunk* chunk_ = nullptr;
  size_t consumed_ = 0, filled_ = 0;
};

}  // namespace lbd::nbd_server
