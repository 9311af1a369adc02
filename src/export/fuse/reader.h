// SPDX-License-Identifier: MIT
// One reactor's part in serving a folder: takes requests from the kernel and carries those for the
// devices' bytes through.
#pragma once

#include <array>
#include <atomic>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "block/device.h"
#include "rt/buffer_pool.h"
#include "rt/runtime.h"
#include "rt/sync.h"

struct fuse_req;

namespace lbd::fuse {

class session;
class open_file;

// The memory for reads of one device, so that those which wait for it do not take all there is.
struct read_room {
  explicit read_room(uint64_t bytes) noexcept : free_bytes(bytes) {}
  rt::semaphore free_bytes;
  unsigned users = 0;  // requests that hold some of it, or wait
};

// A request for bytes, from its arrival until the device is done with it. It may be answered
// earlier: then `from` is nullptr.
struct request {
  ::fuse_req* from = nullptr;
  open_file* file = nullptr;
  uint64_t offset = 0, length = 0;
  // What a program may do without: it is answered when the program is being killed, though the
  // device still works on it. What changes the device is not: nobody may think that it is over.
  bool changes = false;
  // The error that tells of the rest, when a part of a write does not fit.
  base::errc cut = base::errc::ok;
  block::path way;
  block::place at{};
  read_room* room = nullptr;  // of a read
  rt::buffer buffer, rest;    // where bytes are read to, or a write's bytes
  std::array<iovec, 2> parts;
  uint64_t charged_bytes = 0;
  std::optional<block::cancel_token> cancel;
  bool active = false;

  block::io_opts options() const noexcept {
    block::io_opts io;
    io.cancel = &*cancel;
    return io;
  }
};

class reader {
 public:
  // Largest write, and read, of one request.
  static constexpr size_t most_bytes = size_t{1} << 20;

  // `share`: one of how many readers of the folder this is; they share its bounds.
  reader(session& owner, rt::reactor& where, unsigned share);
  ~reader();

  rt::reactor& where() noexcept { return where_; }
  // Any thread.
  uint64_t requests() const noexcept { return requests_.load(std::memory_order_relaxed); }
  unsigned in_flight() const noexcept { return in_flight_.load(std::memory_order_relaxed); }

  // All of these on the reader's reactor.

  // Serves, from now until stop_reading() or the folder is unmounted.
  rt::task<bool> start();
  // Takes what the kernel holds now.
  rt::task<bool> settle();
  // Requests under way are answered with an error, and so are all for bytes from now on.
  rt::task<bool> refuse();
  rt::task<bool> stop_reading();
  // Returns when the devices are done.
  rt::task<bool> drained();

  // For the operations. A request to work on, or nullptr: it has been refused.
  request* begin(::fuse_req* from, open_file& file, uint64_t offset, uint64_t length);
  void start_read(request& r);
  // REQUIRES: called for a write that has just been taken, with its length.
  void start_write(request& r);
  void start_flush(request& r);
  void start_zero(request& r, bool keep_space);
  void start_discard(request& r);
  void start_seek(request& r, bool hole);

 private:
  // Where a request begins, so that a write's bytes begin at a page.
  static constexpr size_t head_bytes = 80, head_offset = rt::buffer::align_bytes - head_bytes;
  static constexpr size_t front_buffer_bytes = size_t{32} << 10;
  static constexpr size_t front_bytes = front_buffer_bytes - rt::buffer::align_bytes;

  rt::task<void> run();
  bool has_room() const noexcept;
  int receive();
  void take(size_t bytes);
  void answer(request& r, base::errc code);
  void finish(request& r);
  void charge(request& r, uint64_t bytes) noexcept;
  rt::task<void> read_later(request& r);
  void start_read_in_room(request& r);
  void leave_room(request& r);
  rt::task<void> read(request& r);
  void keep_payload(request& r);
  rt::task<void> write(request& r);
  rt::task<void> flush(request& r);
  rt::task<void> zero(request& r, bool keep_space);
  rt::task<void> discard(request& r);
  rt::task<void> seek(request& r, bool hole);
  void look_for_interrupts();

  struct watch : rt::timer {
    reader* self = nullptr;
  };
  struct readable;

  session& owner_;
  rt::reactor& where_;
  const unsigned most_requests_;
  const uint64_t most_held_bytes_, most_read_bytes_;
  rt::buffer front_, rest_;  // the next request
  std::vector<std::unique_ptr<request>> all_;
  std::vector<request*> free_;
  uint64_t charged_bytes_ = 0;
  std::map<uint64_t, read_room> read_rooms_;  // by device
  std::atomic<uint64_t> requests_{0};
  std::atomic<unsigned> in_flight_{0};
  bool reading_ = false, stopping_ = false, refusing_ = false;
  rt::event room_, stopped_, idle_;
  rt::io_request waiting_;
  bool is_waiting_ = false;
  watch watch_;
};

}  // namespace lbd::fuse
