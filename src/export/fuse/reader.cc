// SPDX-License-Identifier: MIT
#include "export/fuse/reader.h"

#define FUSE_USE_VERSION 312
#include <fuse_lowlevel.h>
#include <linux/fuse.h>
#include <signal.h>
#include <sys/uio.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <string>

#include "block/bounds.h"
#include "block/segments.h"
#include "export/fuse/errors.h"
#include "export/fuse/session.h"

namespace lbd::fuse {

using base::errc;
using base::result;
using rt::task;

namespace {

// So many requests are taken before others of this reactor have their turn.
constexpr unsigned requests_per_turn = 32;
// How often requests are looked at whose programs were interrupted.
constexpr uint64_t interrupt_ns = 1'000'000'000;

// Whether the kernel is about to end a thread: then SIGKILL is pending for it, whichever signal it
// was. A thread that cannot be looked at counts as one.
bool is_being_killed(pid_t thread) {
  std::ifstream status("/proc/" + std::to_string(thread) + "/status");
  const std::string field = "SigPnd:";
  for (std::string line; std::getline(status, line);)
    if (line.starts_with(field)) {
      const uint64_t pending = std::strtoull(line.c_str() + field.size(), nullptr, 16);
      return (pending >> (SIGKILL - 1) & 1) != 0;
    }
  return true;
}

static_assert(sizeof(fuse_in_header) + sizeof(fuse_write_in) == 80);

}  // namespace

reader::reader(session& owner, rt::reactor& where, unsigned share)
    : owner_(owner),
      where_(where),
      most_requests_(block::bounds::requests_per_mount / share),
      most_held_bytes_(block::bounds::bytes_per_mount / share),
      most_read_bytes_(
          std::max<uint64_t>(block::bounds::read_bytes_per_mounted_device / share, most_bytes)) {
  watch_.self = this;
  watch_.run = [](rt::timer& t) { static_cast<watch&>(t).self->look_for_interrupts(); };
}

reader::~reader() = default;

// Waits until the kernel has something, or stop_reading().
struct reader::readable {
  reader& self;
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> h) {
    self.waiting_ = {};
    self.waiting_.op = rt::io_op::wait_readable;
    self.waiting_.fd = self.owner_.descriptor();
    self.waiting_.waiter = h;
    self.is_waiting_ = true;
    self.where_.submit(self.waiting_);
  }
  void await_resume() const noexcept { self.is_waiting_ = false; }
};

task<bool> reader::start() {
  reading_ = true;
  rt::spawn(run());
  co_return true;
}

task<void> reader::run() {
  unsigned taken = 0;
  while (!stopping_) {
    if (!has_room()) {
      room_.reset();
      co_await room_.wait();
      continue;
    }
    const int n = receive();
    if (n > 0) {
      take(static_cast<size_t>(n));
      if (++taken % requests_per_turn == 0) co_await rt::yield_now{};
    } else if (n == -EAGAIN) {
      co_await readable{*this};
    } else if (n != -EINTR && n != -ENOENT) {  // ENODEV: unmounted
      break;
    }
  }
  reading_ = false;
  if (!stopping_) owner_.at_home([s = &owner_] { s->ended(); });
  stopped_.set();
}

task<bool> reader::settle() {
  // No more than there can have been before the call: programs that go on asking must not keep it.
  for (unsigned taken = 0; taken < block::bounds::requests_per_mount; ++taken) {
    if (!reading_ || stopping_ || !has_room()) break;
    const int n = receive();
    if (n > 0)
      take(static_cast<size_t>(n));
    else if (n != -EINTR && n != -ENOENT)
      break;
  }
  co_return true;
}

task<bool> reader::refuse() {
  refusing_ = true;
  for (const auto& r : all_)
    if (r->active) {
      r->cancel->cancel();
      answer(*r, errc::io);
    }
  co_return true;
}

task<bool> reader::stop_reading() {
  stopping_ = true;
  if (is_waiting_) where_.cancel(waiting_);
  room_.set();
  co_await stopped_.wait();
  co_return true;
}

task<bool> reader::drained() {
  while (in_flight() != 0) {
    idle_.reset();
    co_await idle_.wait();
  }
  where_.stop_timer(watch_);
  co_return true;
}

bool reader::has_room() const noexcept {
  return in_flight() < most_requests_ && charged_bytes_ < most_held_bytes_;
}

// Bytes of the next request, or -errno.
int reader::receive() {
  if (!front_) front_ = rt::buffer(front_buffer_bytes);
  if (!rest_) rest_ = rt::buffer(most_bytes);
  const iovec to[] = {{front_.data() + head_offset, head_bytes + front_bytes},
                      {rest_.data(), rest_.size()}};
  const ssize_t n = ::readv(owner_.descriptor(), to, 2);
  return n < 0 ? -errno : static_cast<int>(n);
}

void reader::take(size_t bytes) {
  requests_.store(requests() + 1, std::memory_order_relaxed);
  fuse_buf b{};
  b.mem = front_.data() + head_offset;
  b.size = bytes;
  fuse_in_header head;
  std::memcpy(&head, b.mem, sizeof head);
  if (bytes <= head_bytes + front_bytes || head.opcode == FUSE_WRITE)
    return fuse_session_process_buf(owner_.handle(), &b);
  // Long, and libfuse wants it in one piece: many names to be forgotten.
  std::vector<std::byte> whole(bytes);
  std::memcpy(whole.data(), b.mem, head_bytes + front_bytes);
  std::memcpy(whole.data() + head_bytes + front_bytes, rest_.data(),
              bytes - head_bytes - front_bytes);
  b.mem = whole.data();
  fuse_session_process_buf(owner_.handle(), &b);
}

request* reader::begin(fuse_req* from, open_file& file, uint64_t offset, uint64_t length) {
  if (refusing_) {
    fuse_reply_err(from, EIO);
    return nullptr;
  }
  if (free_.empty()) {
    all_.push_back(std::make_unique<request>());
    free_.push_back(all_.back().get());
  }
  request& r = *free_.back();
  free_.pop_back();
  in_flight_.store(in_flight() + 1, std::memory_order_relaxed);
  file.hold();
  r.from = from;
  r.file = &file;
  r.offset = offset;
  r.length = length;
  r.changes = false;
  r.cut = errc::ok;
  if (!r.cancel || r.cancel->canceled()) r.cancel.emplace();
  r.active = true;
  if (!watch_.armed) where_.start_timer(watch_, where_.now_ns() + interrupt_ns);
  return &r;
}

void reader::charge(request& r, uint64_t bytes) noexcept {
  r.charged_bytes += bytes;
  charged_bytes_ += bytes;
}

void reader::answer(request& r, errc code) {
  if (r.from != nullptr) fuse_reply_err(std::exchange(r.from, nullptr), errno_of(code));
}

void reader::finish(request& r) {
  r.buffer = rt::buffer();
  r.rest = rt::buffer();
  charged_bytes_ -= std::exchange(r.charged_bytes, 0);
  leave_room(r);
  r.active = false;
  in_flight_.store(in_flight() - 1, std::memory_order_relaxed);
  free_.push_back(&r);
  std::exchange(r.file, nullptr)->let_go();
  if (!room_.is_set() && has_room()) room_.set();
  if (in_flight() == 0) idle_.set();
}

// A program that is being killed waits in the kernel for its request: it is let go of when the
// request changes nothing. Other signals interrupt as well, but a file's operations that fail for a
// timer surprise programs.
void reader::look_for_interrupts() {
  for (const auto& r : all_) {
    if (!r->active || r->from == nullptr || fuse_req_interrupted(r->from) == 0) continue;
    if (!is_being_killed(fuse_req_ctx(r->from)->pid)) continue;
    r->cancel->cancel();
    if (!r->changes) answer(*r, errc::canceled);
  }
  if (in_flight() != 0) where_.start_timer(watch_, where_.now_ns() + interrupt_ns);
}

void reader::start_read(request& r) {
  r.room = &read_rooms_.try_emplace(r.file->id(), most_read_bytes_).first->second;
  ++r.room->users;
  // Before the walk: who waits for memory must not keep a device from being suspended.
  if (r.room->free_bytes.try_acquire(r.length)) return start_read_in_room(r);
  rt::spawn(read_later(r));
}

task<void> reader::read_later(request& r) {
  co_await r.room->free_bytes.acquire(r.length);
  if (r.from == nullptr) co_return finish(r);  // answered meanwhile
  start_read_in_room(r);
}

void reader::leave_room(request& r) {
  read_room* const room = std::exchange(r.room, nullptr);
  if (room == nullptr) return;
  room->free_bytes.release(r.length);
  if (--room->users == 0) read_rooms_.erase(r.file->id());
}

void reader::start_read_in_room(request& r) {
  block::block_device& d = r.file->device();
  if (r.length > d.limits().max_transfer_bytes) return rt::spawn(read(r));
  r.at = block::walk(d, block::op::read, r.offset, r.length, r.way);
  const block::lease lent = r.at.device->borrow(r.at.offset, r.length);
  if (!lent) return rt::spawn(read(r));
  fuse_reply_buf(std::exchange(r.from, nullptr), reinterpret_cast<const char*>(lent.bytes.data()),
                 r.length);
  r.way.leave(errc::ok);
  r.at = {};
  finish(r);
}

task<void> reader::read(request& r) {
  r.buffer = rt::buffer(r.length);
  charge(r, r.length);
  block::block_device& d = r.file->device();
  const iovec whole{r.buffer.data(), r.length};
  const block::segments to(&whole, 1);
  result<void> done;
  if (r.at.device != nullptr) {
    done = co_await r.at.device->read(r.at.offset, to, r.options());
    r.at = {};
    if (r.way.leave_for_retry(base::code_of(done)))
      done = co_await block::read(d, r.offset, to, r.options());
  } else {
    const uint64_t most = d.limits().max_transfer_bytes;
    for (uint64_t at = 0; at < r.length && done; at += most) {
      const block::segment_list piece(to, at, std::min(most, r.length - at));
      done = co_await block::read(d, r.offset + at, piece.view(), r.options());
    }
  }
  if (!done)
    answer(r, done.error().code);
  else if (r.from != nullptr)
    fuse_reply_buf(std::exchange(r.from, nullptr), reinterpret_cast<const char*>(r.buffer.data()),
                   r.length);
  finish(r);
}

void reader::start_write(request& r) {
  r.changes = true;
  keep_payload(r);
  block::block_device& d = r.file->device();
  if (r.length <= d.limits().max_transfer_bytes)
    r.at = block::walk(d, block::op::write, r.offset, r.length, r.way);
  rt::spawn(write(r));
}

// The memory into which the kernel has written stays with the request, or, when much is held
// already, a copy that is no larger than it has to be.
void reader::keep_payload(request& r) {
  const uint64_t in_front = std::min<uint64_t>(r.length, front_bytes);
  std::byte* const front = front_.data() + head_offset + head_bytes;
  r.parts = {iovec{front, in_front}, iovec{rest_.data(), r.length - in_front}};
  if (charged_bytes_ >= most_held_bytes_ / 4 && r.length <= most_bytes / 2) {
    r.buffer = rt::buffer(r.length);
    block::copy_from(r.parts, r.buffer.span());
    r.parts = {iovec{r.buffer.data(), r.length}, iovec{}};
    return charge(r, r.length);
  }
  r.buffer = std::move(front_);
  charge(r, r.buffer.size());
  if (r.length == in_front) return;
  r.rest = std::move(rest_);
  charge(r, r.rest.size());
}

task<void> reader::write(request& r) {
  const block::segments from(r.parts.data(), r.parts[1].iov_len == 0 ? 1 : 2);
  block::block_device& d = r.file->device();
  result<void> done;
  if (r.at.device != nullptr) {
    done = co_await r.at.device->write(r.at.offset, from, r.options());
    r.at = {};
    if (r.way.leave_for_retry(base::code_of(done)))
      done = co_await block::write(d, r.offset, from, r.options());
  } else {
    const uint64_t most = d.limits().max_transfer_bytes;
    for (uint64_t at = 0; at < r.length && done; at += most) {
      const block::segment_list piece(from, at, std::min(most, r.length - at));
      done = co_await block::write(d, r.offset + at, piece.view(), r.options());
    }
  }
  if (!done || r.cut != errc::ok)
    answer(r, done ? r.cut : done.error().code);
  else if (r.from != nullptr)
    fuse_reply_write(std::exchange(r.from, nullptr), r.length);
  finish(r);
}

void reader::start_flush(request& r) { rt::spawn(flush(r)); }

task<void> reader::flush(request& r) {
  const auto done = co_await r.file->device().flush(r.options());
  answer(r, base::code_of(done));
  finish(r);
}

void reader::start_zero(request& r, bool keep_space) {
  r.changes = true;
  rt::spawn(zero(r, keep_space));
}

task<void> reader::zero(request& r, bool keep_space) {
  block::io_opts io = r.options();
  if (keep_space) io.flags |= block::io_no_unmap;
  const auto done = co_await r.file->device().write_zeroes(r.offset, r.length, io);
  answer(r, base::code_of(done));
  finish(r);
}

void reader::start_discard(request& r) {
  r.changes = true;
  rt::spawn(discard(r));
}

task<void> reader::discard(request& r) {
  const auto done = co_await r.file->device().discard(r.offset, r.length, r.options());
  if (!done)
    answer(r, done.error().code);
  else if (r.from != nullptr)
    fuse_reply_ioctl(std::exchange(r.from, nullptr), 0, nullptr, 0);
  // The page cache still has what was there.
  owner_.at_home([s = &owner_, id = r.file->id()] { s->changed(id); });
  finish(r);
}

void reader::start_seek(request& r, bool hole) { rt::spawn(seek(r, hole)); }

// A hole is what reads as zeros because the device says so.
task<void> reader::seek(request& r, bool hole) {
  const uint64_t end = r.offset + r.length;
  uint64_t at = r.offset, found = end;
  errc code = errc::ok;
  while (at < end && found == end && code == errc::ok && r.from != nullptr) {
    block::extent_list out(64);
    const auto asked = co_await r.file->device().extents(at, end - at, out, r.options());
    if (!asked || out.total_bytes() == 0) code = asked ? errc::io : asked.error().code;
    for (const block::extent& e : out.runs()) {
      if (e.zero == hole) {
        found = at;
        break;
      }
      at += e.length_bytes;
    }
    if (found == end) co_await rt::yield_now{};
  }
  if (code != errc::ok || r.from == nullptr)
    answer(r, code);
  else if (found == end && !hole)
    fuse_reply_err(std::exchange(r.from, nullptr), ENXIO);
  else
    fuse_reply_lseek(std::exchange(r.from, nullptr), static_cast<off_t>(found));
  finish(r);
}

}  // namespace lbd::fuse
