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

struct attempt {
  int error = 0;
  std::shared_ptr<gluster_fd> holder;
};

attempt try_lock(const std::shared_ptr<gluster_volume>& volume, const std::string& path,
                 bool writable) {
  const gfapi& api = volume->api();
  attempt out;
  errno = 0;
  glfs_fd* fd = api.open(volume->fs(), path.c_str(), writable ? O_RDWR : O_RDONLY);
  if (fd == nullptr) {
    out.error = errno != 0 ? errno : EIO;
    return out;
  }
  out.holder = std::make_shared<gluster_fd>(volume, fd);
  // Every open file is an owner of its own.
  auto owner = reinterpret_cast<uintptr_t>(fd);
  if (api.fd_set_lkowner(fd, &owner, sizeof owner) != 0)
    out.error = EOPNOTSUPP;
  else
    out.error = set_lock(*out.holder, writable ? F_WRLCK : F_RDLCK, writable ? writers : readers);
  return out;
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

task<outcome<lock_kind>> lock_gluster_image(std::shared_ptr<gluster_volume> volume,
                                            std::shared_ptr<gluster_fd> image, rt::file_info info,
                                            std::string path, uint64_t due_ns) {
  const uint64_t patience = rt::reactor::current().now_ns() + patience_ns;
  const bool writable = info.writable;
  for (;;) {
    auto work = [volume, path, writable] { return try_lock(volume, path, writable); };
    auto done = co_await rt::run_blocking<attempt>(volume->threads(), std::move(work), due_ns);
    const int error = done ? done->error : ETIMEDOUT;
    if (error == 0) {
      image->lock = std::move(done->holder);
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

void downgrade_gluster_lock(gluster_fd& holder) {
  // What fails is held longer than needed: safe.
  (void)set_lock(holder, F_RDLCK, readers);
  (void)set_lock(holder, F_UNLCK, {writers.first, readers.first});
  (void)set_lock(holder, F_UNLCK, {readers.end, writers.end});
}

bool gluster_lock_covers(lock_kind held, uint64_t first, uint64_t count) noexcept {
  constexpr uint64_t reads = 100;  // QEMU's byte for "reads"; who reads lets others do so
  if (held == lock_kind::exclusive) return true;
  const auto begin = static_cast<uint64_t>(readers.first), end = static_cast<uint64_t>(readers.end);
  return held == lock_kind::shared &&
         ((first == reads && count == 1) || (first >= begin && first + count <= end));
}

}  // namespace lbd::store
