// SPDX-License-Identifier: MIT
#include "store/gluster/lock.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>

#include "base/log.h"

namespace lbd::store {
namespace {

using base::errc;
using base::failure;
using base::outcome;
using rt::lock_kind;
using rt::task;

constexpr uint64_t patience_ns = 2'000'000'000;
constexpr auto pause = std::chrono::milliseconds(50);

// A writer locks all the bytes, a reader those that say that nobody may write.
struct range {
  off_t first, end;
};
constexpr range writers{100, 300}, readers{201, 204};

// 0 or errno. Blocks.
int set_lock(gluster_fd& fd, short type, range on) {
  struct flock l {};
  l.l_type = type;
  l.l_whence = SEEK_SET;
  l.l_start = on.first;
  l.l_len = on.end - on.first;
  errno = 0;
  if (fd.api().posix_lock(fd.get(), F_SETLK, &l) == 0) return 0;
  return errno != 0 ? errno : EIO;
}

// What other errors say is that there are locks, perhaps somebody else's.
bool servers_have_no_locks(int error) noexcept {
  return error == EOPNOTSUPP || error == ENOSYS || error == ENOLCK;
}

std::string cannot_be_locked(const std::string& name, int error) {
  return "'" + name + "' cannot be locked: " + base::to_string(static_cast<errc>(error));
}

failure busy(const std::string& name, bool writable) {
  const char* why = writable ? "' is in use by another program; stop it first, or put a new change "
                               "file on top"
                             : "' is open for writing in another program; stop it first";
  return failure{errc::busy, "'" + name + why};
}

}  // namespace

int gluster_image_lock::ask() {
  return set_lock(*holder_, info_.writable ? F_WRLCK : F_RDLCK, info_.writable ? writers : readers);
}

int gluster_image_lock::take_by_new_file() {
  const gfapi& api = volume_->api();
  errno = 0;
  glfs_fd* fd = api.open(volume_->fs(), path_.c_str(), info_.writable ? O_RDWR : O_RDONLY);
  if (fd == nullptr) return errno != 0 ? errno : EIO;
  auto file = std::make_shared<gluster_fd>(volume_, fd);
  struct stat s {};
  if (api.fstat(fd, &s) != 0) return errno != 0 ? errno : EIO;
  if (s.st_ino != info_.inode) return ESTALE;  // another image has this name by now
  // Every open file is an owner of its own.
  auto owner = reinterpret_cast<uintptr_t>(fd);
  if (api.fd_set_lkowner(fd, &owner, sizeof owner) != 0) return EOPNOTSUPP;
  holder_ = std::move(file);
  return ask();
}

int gluster_image_lock::take() {
  const std::lock_guard only(calls_);
  return take_by_new_file();
}

void gluster_image_lock::renew() {
  const std::lock_guard only(calls_);
  if (holder_ == nullptr) return;  // given back
  int error = ask();
  // A file that the library could not move to its new translators.
  if (error == EBADFD || error == EBADF) error = take_by_new_file();
  if (error == ENOTCONN || error == ETIMEDOUT)
    servers_lost_->store(true, std::memory_order_release);
  tell(error);
}

// Servers that are away say nothing about the lock. The lock of a connection that the library is
// just giving up may be in the way once.
void gluster_image_lock::tell(int error) {
  if (error == 0) {
    if (refused_ > 1) base::log_warn("gluster", info_.path + ": is locked again");
    refused_ = 0;
  } else if ((error == EAGAIN || error == EACCES) && ++refused_ == 2) {
    base::log_error("gluster", info_.path +
                                   ": its lock was lost, and another program has taken it: stop "
                                   "one of the two");
  }
}

void gluster_image_lock::become_reader() {
  const std::lock_guard only(calls_);
  info_.writable = false;
  if (holder_ == nullptr) return;
  // What fails is held longer than needed: safe.
  (void)ask();
  (void)set_lock(*holder_, F_UNLCK, {writers.first, readers.first});
  (void)set_lock(*holder_, F_UNLCK, {readers.end, writers.end});
}

void gluster_image_lock::give_back() {
  const std::lock_guard only(calls_);
  if (holder_ == nullptr) return;
  volume_->api().close(holder_->release());
  holder_ = nullptr;
}

task<outcome<lock_kind>> lock_gluster_image(std::shared_ptr<gluster_volume> volume,
                                            std::shared_ptr<gluster_fd> image, rt::file_info info,
                                            std::string path, uint64_t due_ns) {
  const uint64_t patience = rt::reactor::current().now_ns() + patience_ns;
  const bool writable = info.writable;
  for (;;) {
    auto lock = std::make_shared<gluster_image_lock>(volume, info, path, image->servers_lost);
    auto work = [lock] { return lock->take(); };
    const auto done = co_await rt::run_blocking<int>(volume->threads(), std::move(work), due_ns);
    const int error = done.value_or(ETIMEDOUT);
    if (error == 0) {
      image->lock = std::move(lock);
      co_return writable ? lock_kind::exclusive : lock_kind::shared;
    }
    if (servers_have_no_locks(error)) {
      base::log_warn("image", cannot_be_locked(info.path, error));
      co_return lock_kind::none;
    }
    if (error != EAGAIN && error != EACCES)
      co_return failure{static_cast<errc>(error), cannot_be_locked(info.path, error)};
    if (rt::reactor::current().now_ns() >= patience) co_return busy(info.path, writable);
    co_await rt::sleep_for(pause);
  }
}

bool gluster_lock_covers(lock_kind held, uint64_t first, uint64_t count) noexcept {
  constexpr uint64_t reads = 100;  // QEMU's byte for "reads"; who reads lets others do so
  if (held == lock_kind::exclusive) return true;
  const auto begin = static_cast<uint64_t>(readers.first), end = static_cast<uint64_t>(readers.end);
  return held == lock_kind::shared &&
         ((first == reads && count == 1) || (first >= begin && first + count <= end));
}

}  // namespace lbd::store
