// SPDX-License-Identifier: MIT
#include "store/gluster/file.h"

#include <fcntl.h>

#include <cerrno>
#include <chrono>

#include "base/log.h"
#include "store/gluster/file_core.h"
#include "store/gluster/lock.h"

namespace lbd::store {
namespace {

using base::errc;
using base::failure;
using base::outcome;
using rt::task;

constexpr uint64_t second_ns = 1'000'000'000;
constexpr uint64_t close_limit_ns = 5 * second_ns;
constexpr uint64_t open_limit_s = 60;
constexpr mode_t new_file_mode = 0644;

class core_file final : public gluster_file {
 public:
  core_file(std::shared_ptr<gluster_file_core> core, rt::file_info info, rt::lock_kind held)
      : core_(std::move(core)), held_(held) {
    info_ = std::move(info);
  }

  rt::file_extent extent_at(uint64_t offset) noexcept override {
    return {INT64_MAX - offset, false};
  }
  task<base::result<rt::file_extent>> find_extent(uint64_t offset) override {
    return core_->find_extent(offset);
  }
  // The servers were asked when the file was opened: their locks block on the network.
  base::result<void> lock(rt::lock_kind kind, uint64_t first, uint64_t count) noexcept override {
    if (held_ == rt::lock_kind::none) return base::io_error{errc::notsup, 0};
    if (kind == rt::lock_kind::none) {
      become_reader();
      return {};
    }
    if (!gluster_lock_covers(held_, first, count)) return base::io_error{errc::again, 0};
    return {};
  }
  bool would_block(rt::lock_kind, uint64_t, uint64_t) noexcept override { return false; }
  bool locks_are_fences() const noexcept override { return false; }
  bool try_now(rt::io_request&) noexcept override { return false; }
  void start(rt::io_request& r) override { rt::spawn(serve(core_, r)); }

  task<void> close() override {
    const uint64_t due = rt::reactor::current().now_ns() + close_limit_ns;
    while (core_->syncs_by_itself() && rt::reactor::current().now_ns() < due)
      co_await rt::sleep_for(std::chrono::milliseconds(1));
    // Their end closes the file: a write that was given up may still reach the servers, and nobody
    // else is to write before that.
    if (core_->syncs_by_itself() || core_->has_late_calls()) co_return;
    const std::shared_ptr<gluster_fd> fd = core_->fd();
    auto work = [fd] {
      const int rc = fd->api().close(fd->release());
      if (fd->lock != nullptr) fd->lock->give_back();
      return rc;
    };
    (void)co_await rt::run_blocking<int>(fd->volume().threads(), std::move(work), due);
  }

 private:
  static task<void> serve(std::shared_ptr<gluster_file_core> core, rt::io_request& r) {
    r.result = co_await core->perform(r);
    r.done = true;
    // Not from here: the waiter may not have finished suspending.
    rt::reactor::current().schedule(r.waiter);
  }

  void become_reader() {
    if (held_ != rt::lock_kind::exclusive) return;
    held_ = rt::lock_kind::shared;
    const std::shared_ptr<gluster_image_lock> lock = core_->fd()->lock;
    lock->volume().threads().run([lock] { lock->become_reader(); });
  }

  const std::shared_ptr<gluster_file_core> core_;
  rt::lock_kind held_;
};

// Removes an image that was made in vain, and nothing that has taken its name since: `inode` is the
// image's, 0 right after it was made. Blocks.
void remove_made(const gluster_volume& volume, const std::string& path, uint64_t inode) {
  const gfapi& api = volume.api();
  errno = 0;
  if (inode != 0) {
    struct stat s {};
    const bool there = api.stat(volume.fs(), path.c_str(), &s) == 0;
    if (there ? s.st_ino != inode : errno == ENOENT) return;
  }
  if (api.unlink(volume.fs(), path.c_str()) == 0 || errno == ENOENT) return;
  base::log_warn("gluster", "'" + path + "' was made in vain and stays: " +
                                base::to_string(static_cast<errc>(errno)));
}

// An image that was made just now; removed again unless somebody keeps it.
class made_image {
 public:
  made_image(std::shared_ptr<gluster_volume> volume, std::string path)
      : volume_(std::move(volume)), path_(std::move(path)) {}
  ~made_image() {
    if (volume_ == nullptr) return;
    auto work = [volume = volume_, path = path_] { remove_made(*volume, path, 0); };
    volume_->threads().run(std::move(work));
  }
  made_image(const made_image&) = delete;
  made_image& operator=(const made_image&) = delete;
  void keep() noexcept { volume_ = nullptr; }
  void remove() {
    remove_made(*volume_, path_, 0);
    keep();
  }

 private:
  std::shared_ptr<gluster_volume> volume_;
  const std::string path_;
};

// What the blocking part of opening brings.
struct opened {
  int error = 0;
  std::shared_ptr<gluster_fd> fd;
  struct stat status {};
  std::unique_ptr<made_image> made;  // where it was
};

opened open_blocking(const std::shared_ptr<gluster_volume>& volume, const std::string& path,
                     rt::open_options options) {
  const gfapi& api = volume->api();
  const int flags = options.writable ? O_RDWR : O_RDONLY;
  opened out;
  errno = 0;
  glfs_fd* fd = nullptr;
  if (!options.create || !options.exclusive) fd = api.open(volume->fs(), path.c_str(), flags);
  if (fd == nullptr && options.create && (options.exclusive || errno == ENOENT)) {
    errno = 0;
    fd = api.creat(volume->fs(), path.c_str(), flags | O_CREAT | O_EXCL, new_file_mode);
    if (fd != nullptr) out.made = std::make_unique<made_image>(volume, path);
  }
  if (fd == nullptr) {
    out.error = errno != 0 ? errno : EIO;
    return out;
  }
  out.fd = std::make_shared<gluster_fd>(volume, fd);
  if (api.fstat(fd, &out.status) != 0) out.error = errno != 0 ? errno : EIO;
  if (out.error == 0 && !S_ISREG(out.status.st_mode)) out.error = EISDIR;
  if (out.error != 0 && out.made != nullptr) out.made->remove();
  return out;
}

failure open_failure(const uri::gluster_source& from, const rt::open_options& options, int error) {
  const auto code = static_cast<errc>(error);
  std::string text = options.create ? "cannot make" : "cannot open";
  text += " '" + uri::to_text(from) + "': ";
  if (error == EISDIR || error == ENOTDIR)
    return failure{errc::inval, text + "it is no regular file"};
  const bool no_folder = options.create && error == ENOENT;
  return failure{code, text + base::to_string(code) + (no_folder ? " (is its folder there?)" : "")};
}

}  // namespace

task<void> remove_made_gluster_image(rt::runtime& runtime, uri::gluster_source image,
                                     uint64_t inode) {
  const auto volume = co_await gluster_volumes::get(runtime, image);
  if (!volume) {
    base::log_warn("gluster", "'" + uri::to_text(image) +
                                  "' was made in vain and stays: " + volume.error().message);
    co_return;
  }
  const uint64_t limit_s = image.timeout_s != 0 ? image.timeout_s : open_limit_s;
  const uint64_t due = rt::reactor::current().now_ns() + limit_s * second_ns;
  auto work = [volume = *volume, path = image.path, inode] {
    remove_made(*volume, path, inode);
    return true;
  };
  (void)co_await rt::run_blocking<bool>((*volume)->threads(), std::move(work), due);
}

task<outcome<std::unique_ptr<gluster_file>>> open_gluster_file(rt::runtime& runtime,
                                                               uri::gluster_source from,
                                                               rt::open_options options,
                                                               gluster_lock lock) {
  CO_TRY(const std::shared_ptr<gluster_volume> volume,
         co_await gluster_volumes::get(runtime, from));
  const uint64_t limit_s = from.timeout_s != 0 ? from.timeout_s : open_limit_s;
  const uint64_t due = rt::reactor::current().now_ns() + limit_s * second_ns;
  auto work = [volume, path = from.path, options] { return open_blocking(volume, path, options); };
  auto done = co_await rt::run_blocking<opened>(volume->threads(), std::move(work), due);
  if (!done) co_return open_failure(from, options, ETIMEDOUT);
  if (done->error != 0) co_return open_failure(from, options, done->error);
  const bool made = done->made != nullptr;
  if (made) done->made->keep();
  rt::file_info info;
  info.path = uri::to_text(from);
  info.size_bytes = static_cast<uint64_t>(done->status.st_size);
  info.writable = options.writable;
  info.syncs_again = true;
  info.device_id = done->status.st_dev;
  info.inode = done->status.st_ino;
  rt::lock_kind held = rt::lock_kind::none;
  if (lock == gluster_lock::yes) {
    const auto locked = co_await lock_gluster_image(volume, done->fd, info, from.path, due);
    // Whoever has it by now found it in the moment since it was made.
    const bool taken = !locked && locked.error().code == errc::busy;
    if (!locked && made && !taken) co_await remove_made_gluster_image(runtime, from, info.inode);
    if (!locked) co_return locked.error();
    held = *locked;
    if (held != rt::lock_kind::none) co_await gluster_volumes::keep_locked(runtime, done->fd->lock);
  }
  auto core =
      std::make_shared<gluster_file_core>(runtime, done->fd, info.path, from.timeout_s * second_ns);
  std::unique_ptr<gluster_file> file =
      std::make_unique<core_file>(std::move(core), std::move(info), held);
  co_return file;
}

}  // namespace lbd::store
