// SPDX-License-Identifier: MIT
#include "store/gluster/file_core.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/log.h"
#include "block/segments.h"
#include "rt/foreign.h"
#include "store/gluster/file.h"

namespace lbd::store {
namespace {

using rt::task;
using kind = gluster_request::kind;

constexpr uint64_t quiet_ns = 10'000'000'000;  // between failures that the log tells

bool means_loss(kind what, int64_t result) noexcept {
  const int64_t e = -result;
  return e == ENOTCONN || e == ETIMEDOUT || e == EBADFD || e == ESTALE || e == EROFS ||
         (e == EIO && what != kind::read);
}

// One call of the library, which may block in the beginning of any (while it changes its
// translators for new options of the volume). It owns what the library touches where a deadline may
// pass first; a read without a deadline goes straight to where it is wanted.
class library_call final : public rt::foreign_call {
 public:
  library_call(std::shared_ptr<gluster_fd> fd, gluster_request what)
      : foreign_call(what.what == kind::read ? fd->late_reads : fd->late),
        request(std::move(what)),
        fd_(std::move(fd)) {}

  gluster_request request;
  iovec own{};  // of a read with a deadline
  int64_t result = 0;

 private:
  void begin() noexcept override {
    errno = 0;
    if (ask() == 0) return;
    ends_with(errno != 0 ? -errno : -EIO);
  }

  int ask() noexcept {
    const gfapi& api = fd_->api();
    glfs_fd* fd = fd_->get();
    const auto offset = static_cast<off_t>(request.offset);
    const auto length = static_cast<off_t>(request.length);
    switch (request.what) {
      case kind::read:
        return api.preadv_async(fd, request.to.data(), static_cast<int>(request.to.size()), offset,
                                0, ended_there, this);
      case kind::write: {
        const iovec v{request.bytes.data(), request.length};
        return api.pwritev_async(fd, &v, 1, offset, 0, ended_there, this);
      }
      case kind::sync:
        return api.fdatasync_async(fd, ended_there, this);
      case kind::resize:
        return api.ftruncate_async(fd, length, ended_there, this);
      case kind::zero:
        return api.zerofill_async(fd, offset, length, ended_there, this);
      case kind::discard:
        return api.discard_async(fd, offset, request.length, ended_there, this);
    }
    return -1;
  }

  static void ended_there(glfs_fd*, ssize_t ret, glfs_stat*, glfs_stat*, void* data) {
    auto* call = static_cast<library_call*>(data);
    const int error = errno;
    const int64_t failed = error != 0 ? -error : -EIO;
    call->ends_with(ret < 0 ? failed : ret);
  }

  // On whichever thread: a sync that ends after this one knows.
  void ends_with(int64_t how) noexcept {
    result = how;
    if (means_loss(request.what, how)) fd_->servers_lost->store(true, std::memory_order_release);
    finish();
  }

  const std::shared_ptr<gluster_fd> fd_;
};

// A read whose caller may be gone when it ends reads into memory of its own.
void use_own_memory(library_call& call) {
  call.request.bytes = rt::buffer(call.request.length);
  call.own = {call.request.bytes.data(), call.request.length};
  call.request.to = rt::segments(&call.own, 1);
}

unsynced_change::kind log_kind(kind what) {
  if (what == kind::zero) return unsynced_change::kind::zero;
  return what == kind::discard ? unsynced_change::kind::discard : unsynced_change::kind::write;
}

const char* name_of(kind what) {
  constexpr const char* names[] = {"read", "write", "sync", "resize", "zeroing", "discard"};
  return names[static_cast<size_t>(what)];
}

}  // namespace

gluster_file_core::slot::slot() : requests(gluster_bounds::requests_per_reactor) {}

gluster_file_core::gluster_file_core(rt::runtime& runtime, std::shared_ptr<gluster_fd> fd,
                                     std::string name, uint64_t limit_ns)
    : runtime_(runtime),
      fd_(std::move(fd)),
      name_(std::move(name)),
      limit_ns_(limit_ns),
      slots_(runtime.reactor_count()),
      changes_(runtime),
      log_(runtime.reactor_count()),
      home_(rt::reactor::current()) {}

uint64_t gluster_file_core::due_ns() const noexcept {
  return limit_ns_ == 0 ? 0 : rt::reactor::current().now_ns() + limit_ns_;
}

// The first failure of a run of failures is worth a line, and so is their end; but not of many runs
// in a row, as on a full volume, where some writes fail.
void gluster_file_core::note(bool reads, const char* what, int64_t result) noexcept {
  run_of_failures& f = failures_[reads ? 1 : 0];
  if (result >= 0) {
    if (f.told.load(std::memory_order_relaxed) && f.told.exchange(false))
      base::log_warn("gluster", name_ + ": works again");
    return;
  }
  if (result == -EOPNOTSUPP || result == -ENOSYS) return;
  const uint64_t now = rt::reactor::current().now_ns();
  const uint64_t before = f.told_ns.load(std::memory_order_relaxed);
  if (before != 0 && now - before < quiet_ns) return;
  if (f.told.exchange(true)) return;
  f.told_ns.store(now, std::memory_order_relaxed);
  base::log_error("gluster", name_ + ": " + what +
                                 " failed: " + base::to_string(static_cast<base::errc>(-result)));
}

// Of what was given up and has not ended. A change may still reach the servers: nothing newer may
// overtake it. Reads hold memory.
bool gluster_file_core::too_much_late(bool reads) const noexcept {
  if (reads)
    return fd_->late_reads->load(std::memory_order_acquire) >= gluster_bounds::most_late_reads;
  return fd_->late->load(std::memory_order_acquire) != 0;
}

task<gluster_answer> gluster_file_core::call(gluster_request what) {
  gluster_answer answer;
  slot& s = slots_[rt::reactor::current().index()];
  const rt::segments to = what.to;
  const char* name = name_of(what.what);
  const bool reads = what.what == kind::read;
  const uint64_t due = due_ns();
  co_await s.requests.acquire();
  if (too_much_late(reads)) {
    s.requests.release(1);
    answer.result = -ETIMEDOUT;
    co_return answer;
  }
  auto* c = new library_call(fd_, std::move(what));
  if (reads && due != 0) use_own_memory(*c);
  c->begin_on(fd_->volume().calls());
  const bool ended = co_await c->ended(due);
  s.requests.release(1);
  if (!ended) {
    answer.result = -ETIMEDOUT;
    fd_->servers_lost->store(true, std::memory_order_release);
  } else {
    answer.result = c->result;
    if (reads && due != 0 && answer.result > 0)
      block::copy_to(to, c->request.bytes.first(static_cast<size_t>(answer.result)));
    answer.bytes = std::move(c->request.bytes);
    delete c;
  }
  note(reads, name, answer.result);
  co_return answer;
}

task<int64_t> gluster_file_core::perform(const rt::io_request& r) {
  switch (r.op) {
    case rt::io_op::read:
      return read(r);
    case rt::io_op::sync_data:
      return sync();
    default:
      return change(r);
  }
}

task<int64_t> gluster_file_core::read(const rt::io_request& r) {
  const rt::segments all(r.iov, r.iov_count);
  const uint64_t length = std::min(block::total_bytes(all), gluster_bounds::request_bytes);
  if (length == 0) co_return 0;
  const block::segment_list some(all, 0, length);
  gluster_request what;
  what.what = kind::read;
  what.offset = r.offset;
  what.length = length;
  what.to = some.view();
  const gluster_answer answer = co_await call(std::move(what));
  co_return std::min<int64_t>(answer.result, static_cast<int64_t>(length));
}

task<int64_t> gluster_file_core::change(const rt::io_request& r) {
  gluster_request what;
  what.offset = r.offset;
  what.length = r.length;
  if (r.op == rt::io_op::write) {
    const rt::segments all(r.iov, r.iov_count);
    what.what = kind::write;
    what.length = std::min(block::total_bytes(all), gluster_bounds::request_bytes);
    if (what.length == 0) co_return 0;
    what.bytes = rt::buffer(what.length);
    block::copy_from(all, what.bytes.first(what.length));
    co_return co_await change_inside_gate(std::move(what));
  }
  if (r.op == rt::io_op::resize) {
    what.what = kind::resize;
    co_return co_await change_inside_gate(std::move(what));
  }
  if (r.op != rt::io_op::fallocate) co_return -EINVAL;
  if (r.flags == (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE))
    what.what = kind::discard;
  else if (r.flags == FALLOC_FL_ZERO_RANGE)
    what.what = kind::zero;
  else
    co_return -EOPNOTSUPP;
  // The servers write zeros one by one where their file systems cannot do better, so in pieces.
  for (uint64_t done = 0; done < r.length;) {
    gluster_request piece;
    piece.what = what.what;
    piece.offset = r.offset + done;
    piece.length = std::min(r.length - done, gluster_bounds::zeroes_bytes);
    done += piece.length;
    const int64_t result = co_await change_inside_gate(std::move(piece));
    if (result < 0) co_return result;
  }
  co_return 0;
}

task<int64_t> gluster_file_core::change_inside_gate(gluster_request what) {
  if (log_.held_bytes() > gluster_bounds::unsynced_bytes) {
    const int64_t room = co_await keep_bounded();
    if (room < 0) co_return room;
  }
  if (!changes_.try_enter()) co_await changes_.enter();
  const int64_t result = co_await do_change(std::move(what));
  changes_.leave();
  co_return result;
}

// REQUIRES: inside the gate.
task<int64_t> gluster_file_core::do_change(gluster_request what) {
  unsynced_change done;
  done.what = log_kind(what.what);
  done.offset = what.offset;
  done.length = what.length;
  const bool resizes = what.what == kind::resize;
  gluster_answer answer = co_await call(std::move(what));
  if (answer.result < 0 || resizes) co_return answer.result;
  if (done.what == unsynced_change::kind::write) {
    done.length = std::min(done.length, static_cast<uint64_t>(answer.result));
    done.bytes = std::move(answer.bytes);
  }
  const auto result = static_cast<int64_t>(done.length);
  log_.add(std::move(done));
  co_return result;
}

// ---- Syncs

task<int64_t> gluster_file_core::sync() {
  auto work = [this] { return sync_here(); };
  co_return co_await rt::call_on(home_, work);
}

task<int64_t> gluster_file_core::sync_here() {
  const auto held = co_await syncing_.lock();
  if (fd_->servers_lost->exchange(false)) must_write_again_ = true;
  if (must_write_again_) {
    const int64_t again = co_await write_again();
    if (again < 0) co_return again;
  }
  const uint64_t order = log_.now();
  gluster_request what;
  what.what = kind::sync;
  gluster_answer answer = co_await call(std::move(what));
  // Lost meanwhile: the next one writes again.
  if (answer.result >= 0 && fd_->servers_lost->load(std::memory_order_acquire))
    answer.result = -EIO;
  if (answer.result < 0) {
    must_write_again_ = true;
    co_return answer.result;
  }
  must_write_again_ = false;
  log_.covered(order);
  log_.trim();
  co_return 0;
}

// Nobody can tell what of the changes since the last good sync has reached the servers' disks.
task<int64_t> gluster_file_core::write_again() {
  co_await changes_.close();
  const auto all = log_.newest();
  int64_t result = 0;
  for (const unsynced_piece& p : all) {
    result = co_await write_again(p);
    if (result < 0) break;
  }
  co_await changes_.open();
  if (result >= 0 && !all.empty())
    base::log_info("gluster",
                   name_ + ": " + std::to_string(all.size()) + " unsynced pieces written again");
  co_return result;
}

task<int64_t> gluster_file_core::write_again(const unsynced_piece& p) {
  const unsynced_change& c = *p.of;
  for (uint64_t done = 0; done < p.length;) {
    gluster_request what;
    what.what = c.what == unsynced_change::kind::zero ? kind::zero : kind::discard;
    what.offset = p.offset + done;
    what.length = p.length - done;
    if (c.what == unsynced_change::kind::write) {
      what.what = kind::write;
      what.bytes = rt::buffer(what.length);
      std::memcpy(what.bytes.data(), c.bytes.data() + (what.offset - c.offset), what.length);
    }
    const gluster_answer answer = co_await call(std::move(what));
    if (answer.result < 0) co_return answer.result;
    if (c.what != unsynced_change::kind::write) break;
    if (answer.result == 0) co_return -EIO;
    done += static_cast<uint64_t>(answer.result);
  }
  co_return 0;
}

// The copies of unsynced writes are many: a sync frees them. 0, or why there is no room for more.
task<int64_t> gluster_file_core::keep_bounded() {
  int64_t result = 0;
  if (log_.held_bytes() > gluster_bounds::most_unsynced_bytes) {
    result = co_await sync();
    for (unsigned i = 0; i < runtime_.reactor_count(); ++i) {
      auto work = [this] { return trim_here(); };
      co_await rt::call_on(runtime_.at(i), work);
    }
  } else if (!background_.exchange(true)) {
    rt::spawn(sync_in_background(shared_from_this()));
  }
  co_return result;
}

task<void> gluster_file_core::sync_in_background(std::shared_ptr<gluster_file_core> core) {
  (void)co_await core->sync();
  for (unsigned i = 0; i < core->runtime_.reactor_count(); ++i) {
    auto work = [&core] { return core->trim_here(); };
    co_await rt::call_on(core->runtime_.at(i), work);
  }
  core->background_ = false;
}

// Inside the gate, as everything that touches the log.
task<bool> gluster_file_core::trim_here() {
  if (!changes_.try_enter()) co_return false;
  log_.trim();
  changes_.leave();
  co_return true;
}

// ---- Holes

task<base::result<rt::file_extent>> gluster_file_core::find_extent(uint64_t offset) {
  auto work = [this, offset] { return find_extent_here(offset); };
  co_return co_await rt::call_on(home_, work);
}

task<base::result<rt::file_extent>> gluster_file_core::find_extent_here(uint64_t offset) {
  // The library keeps a position per open file, which a seek moves: one after the other.
  const auto held = co_await seeking_.lock();
  struct found {
    int error = 0;
    rt::file_extent extent;
  };
  auto work = [fd = fd_, offset] {
    constexpr uint64_t far = INT64_MAX;
    found out;
    const auto at = static_cast<off_t>(offset);
    const off_t data = fd->api().lseek(fd->get(), at, SEEK_DATA);
    if (data < 0) {
      // Behind the last data; a server or translator that cannot seek says data.
      const bool hole = errno == ENXIO;
      if (!hole && errno != EINVAL && errno != EOPNOTSUPP && errno != ENOSYS) out.error = errno;
      if (means_loss(kind::read, -int64_t{out.error}))
        fd->servers_lost->store(true, std::memory_order_release);
      out.extent = {far - offset, hole};
    } else if (data > at) {
      out.extent = {static_cast<uint64_t>(data - at), true};
    } else {
      const off_t hole = fd->api().lseek(fd->get(), at, SEEK_HOLE);
      out.extent = {hole <= at ? far - offset : static_cast<uint64_t>(hole - at), false};
    }
    return out;
  };
  auto done = co_await rt::run_blocking<found>(fd_->volume().threads(), std::move(work), due_ns());
  if (!done) co_return base::io_error{base::errc::timed_out, 0};
  if (done->error != 0) co_return base::error_from_errno(done->error);
  co_return done->extent;
}

}  // namespace lbd::store
