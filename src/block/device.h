// SPDX-License-Identifier: MIT
// The central interface: a block device, its requests, and the walk that finds who serves a
// request.
//
// Units are bytes everywhere; 512-byte sectors exist only in table text and formats. There is no
// order between concurrent requests: whoever needs order waits for one before sending the next.
#pragma once

#include <array>
#include <cassert>
#include <cstdint>
#include <limits>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "block/bounds.h"
#include "rt/cancel.h"
#include "rt/io.h"
#include "rt/reactor.h"
#include "rt/task.h"

namespace lbd::block {

using base::errc;
using base::io_error;
using base::result;
using rt::segments;
using rt::task;

// What a device can do and likes. Does not change while a table is live, except the size of a
// device whose export is told.
struct limits {
  uint64_t size_bytes = 0;
  uint32_t block_bytes = 512;               // smallest unit that is written without reading
  uint32_t preferred_bytes = 4096;          // power of two; requests of its multiples are efficient
  uint32_t io_min_bytes = 512;              // smaller requests cost more than they must
  uint32_t io_opt_bytes = 0;                // requests of its multiples are best; 0: all are alike
  uint64_t max_transfer_bytes = 64u << 20;  // read and write; callers split larger ones
  uint64_t discard_granularity_bytes = 512;
  bool read_only = false;
  bool can_discard = false;       // discard() may free something
  bool can_write_zeroes = false;  // write_zeroes() is faster than writing zeros
  bool fast_zero = false;         // ... and always so (NBD's FAST_ZERO)
  bool rotational = false;
};

enum class op : uint8_t { read, write, flush, discard, write_zeroes, extents };
inline constexpr size_t op_count = 6;

// Request flags.
inline constexpr uint32_t io_fua = 1u << 0;  // write, write_zeroes, discard: durable when answered
inline constexpr uint32_t io_no_unmap = 1u << 1;   // write_zeroes: keep the space allocated
inline constexpr uint32_t io_fast_only = 1u << 2;  // write_zeroes: fail with notsup if it is slow;
                                                   // extents: rather data than ask a server
inline constexpr uint32_t io_in_turns = 1u << 3;   // write: a long copy gives others their turn

// Set by whoever no longer wants a request's outcome (a vanished client). A device may look at it
// before it starts something long, and be told while it waits; buffers stay in use until the
// request completes all the same.
using rt::cancel_token;

// Details of a failure that some callers need.
struct error_info {
  uint64_t failed_offset = 0;  // first byte that failed, in the coordinates of the device called
};

// Travels with every request; trivially copyable.
struct io_opts {
  uint64_t trace_id = 0;     // for log lines; 0: none
  uint64_t deadline_ns = 0;  // reactor clock; 0: none
  const cancel_token* cancel = nullptr;
  error_info* error = nullptr;
  uint32_t flags = 0;

  bool fua() const noexcept { return (flags & io_fua) != 0; }
};

// A run of one kind. `hole`: no space is used; `zero`: reads as zeros. Data: both false.
struct extent {
  uint64_t length_bytes = 0;
  bool hole = false;
  bool zero = false;
  friend bool operator==(const extent&, const extent&) = default;
};
// Runs in order; they begin at the asked offset. append() merges equal neighbours.
class extent_list {
 public:
  explicit extent_list(size_t most = bounds::extents_per_answer) : most_(most) {}
  // False when the list is full (the caller stops: a shorter answer is valid).
  bool append(extent e);
  const std::vector<extent>& runs() const noexcept { return runs_; }
  uint64_t total_bytes() const noexcept { return total_bytes_; }
  bool full() const noexcept { return runs_.size() >= most_; }

 private:
  std::vector<extent> runs_;
  uint64_t total_bytes_ = 0;
  size_t most_;
};

// A reading of the reactor's clock, made when first asked for: all who measure one request share
// it.
class moment {
 public:
  uint64_t ns() noexcept {
    if (ns_ == 0) ns_ = rt::reactor::current().now_ns();
    return ns_;
  }

 private:
  uint64_t ns_ = 0;
};

// Something on the way of a routed request that wants to know when it ends: a gate's counter, a
// latency clock, a snapshot's pending read, a path selector. Called once, on the reactor of the
// walk.
class crossing {
 public:
  // `cookie` is what the device pushed; `code` is errc::ok or the request's error.
  virtual void leave(uint64_t cookie, errc code) noexcept = 0;
  // The same for those who measure: `end` is when the path is left.
  virtual void leave_at(uint64_t cookie, errc code, moment& /*end*/) noexcept {
    leave(cookie, code);
  }
  // Asked before leave() when a request has failed that can be sent once more: true when it would
  // take another way, because the device has marked the one that failed, or waits for a new table.
  virtual bool again(uint64_t /*cookie*/, errc /*code*/) noexcept { return false; }

 protected:
  ~crossing() = default;
};

// The crossings of one request: a fixed inline array, no allocation. Left in reverse order, once.
class path {
 public:
  path() = default;
  path(path&& o) noexcept
      : entries_(o.entries_),
        begin_(std::exchange(o.begin_, moment())),
        count_(std::exchange(o.count_, 0)) {}
  path& operator=(path&&) = delete;
  ~path() { leave(errc::canceled); }

  bool full() const noexcept { return count_ == entries_.size(); }
  unsigned count() const noexcept { return count_; }
  // REQUIRES: !full().
  void push(crossing& c, uint64_t cookie) noexcept {
    assert(!full());
    entries_[count_++] = {&c, cookie};
  }
  // When the request set out: the first device that measures it, asked at route().
  moment& begin() noexcept { return begin_; }
  void leave(errc code) noexcept {
    moment end;
    while (count_ > 0) {
      const entry& e = entries_[--count_];
      e.who->leave_at(e.cookie, code, end);
    }
    begin_ = moment();
  }
  // Leaves the path of a request that can be sent once more. True: it failed, but is to be walked
  // and sent again from where this walk began. What lies above the device that says so sees no
  // failure.
  [[nodiscard]] bool leave_for_retry(errc code) noexcept {
    bool retry = false;
    moment end;
    while (count_ > 0) {
      const entry& e = entries_[--count_];
      const bool asked = code != errc::ok && e.who->again(e.cookie, code);
      e.who->leave_at(e.cookie, code, end);
      if (!asked) continue;
      retry = true;
      code = errc::ok;
    }
    begin_ = moment();
    return retry;
  }
  // Takes back the newest crossings down to `count` (a route that could not be taken after all).
  void unwind(unsigned count) noexcept {
    while (count_ > count) {
      const entry& e = entries_[--count_];
      e.who->leave(e.cookie, errc::ok);
    }
  }

 private:
  struct entry {
    crossing* who;
    uint64_t cookie;
  };
  std::array<entry, bounds::path_crossings> entries_;
  moment begin_;
  unsigned count_ = 0;
};

class block_device;

// The answer of route(): `next` serves the request at `offset`, or nullptr: this device itself
// does, by its coroutine operations.
struct routed {
  block_device* next = nullptr;
  uint64_t offset = 0;
};

// Lent memory: readable until the path of the walk that led to it is left. Only the kernel may be
// pointed at it (a mapped file that is truncated faults).
struct lease {
  base::bytes_view bytes;
  explicit operator bool() const noexcept { return !bytes.empty(); }
};

class block_device {
 public:
  virtual ~block_device() = default;

  virtual const block::limits& limits() const noexcept = 0;

  // Coroutine operations. REQUIRES: the range lies inside the device; segments are non-empty and
  // hold the length; the caller keeps them alive until the task has completed. May be called on any
  // reactor. Errors: of the store (io, nospc, ...); inval for a range outside.
  virtual task<result<void>> read(uint64_t offset, segments to, io_opts io) = 0;
  virtual task<result<void>> write(uint64_t offset, segments from, io_opts io) = 0;
  // Everything answered before the call, on any reactor, is durable afterwards.
  virtual task<result<void>> flush(io_opts io) = 0;
  // The defaults below are safe and never forward: an operation that passes an old layer unseen
  // would corrupt data.
  // Default: nothing is discarded (allowed), ok.
  virtual task<result<void>> discard(uint64_t offset, uint64_t length, io_opts io);
  // Default: writes zeros by write(); with io_fast_only: notsup.
  virtual task<result<void>> write_zeroes(uint64_t offset, uint64_t length, io_opts io);
  // Default: data. `out` gets at least one run and may get fewer bytes than asked for.
  virtual task<result<void>> extents(uint64_t offset, uint64_t length, extent_list& out,
                                     io_opts io);

  // Fast path, synchronous: who serves this request? A device that only remaps it says so; it may
  // push one crossing (there is room for it). {nullptr} (the default) means: call my coroutine
  // operation. REQUIRES: length > 0 and the range is inside the device. flush, extents and FUA
  // writes are never routed: only the devices on the way know what makes them durable.
  virtual routed route(op /*what*/, uint64_t /*offset*/, uint64_t /*length*/,
                       path& /*way*/) noexcept {
    return {};
  }
  // Memory that holds the range's current bytes, for reading, or an empty lease.
  virtual lease borrow(uint64_t /*offset*/, uint64_t /*length*/) noexcept { return {}; }
};

// Where a request ends up.
struct place {
  block_device* device;
  uint64_t offset;
};

// Follows route() until a device serves the request itself. The caller leaves `way` when the
// request has completed, by leave_for_retry() unless it cannot send it again. No coroutine, no
// allocation.
inline place walk(block_device& top, op what, uint64_t offset, uint64_t length,
                  path& way) noexcept {
  place at{&top, offset};
  while (!way.full()) {
    const routed r = at.device->route(what, at.offset, length, way);
    if (r.next == nullptr) break;
    at = {r.next, r.offset};
  }
  return at;
}

// walk() and the coroutine operation of the device it leads to, again where a crossing asks for
// it; leaves the path. What targets use
// for their children and exports for what cannot be lent. A FUA write is not walked: it goes to
// `to`.
task<result<void>> read(block_device& from, uint64_t offset, segments to, io_opts io);
task<result<void>> write(block_device& to, uint64_t offset, segments from, io_opts io);

// What a device on several others makes of the sizes of their requests, as the kernel does: the
// largest of what is the least (block_bytes, io_min_bytes), the least common multiple of what is
// best; what is no multiple of block_bytes goes.
void stack_io_sizes(limits& upper, const limits& lower) noexcept;

// Checks a range against the limits: inval when it is outside or empty.
result<void> check_range(const limits& l, uint64_t offset, uint64_t length) noexcept;

}  // namespace lbd::block
