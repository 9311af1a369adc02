// SPDX-License-Identifier: MIT
#include "store/gluster/gluster.h"

#include <dirent.h>

#include <algorithm>
#include <cerrno>
#include <functional>

#include "store/gluster/volume.h"

namespace lbd::store {

using base::errc;
using base::failure;
using base::outcome;
using base::result;
using rt::task;

namespace {

constexpr uint64_t second_ns = 1'000'000'000;
constexpr uint64_t answer_limit_s = 60;
constexpr uint64_t stat_block_bytes = 512;
constexpr size_t most_names = 1'000'000;

using volume_ptr = std::shared_ptr<gluster_volume>;

failure cannot(const char* what, const uri::gluster_source& from, int error) {
  const auto code = static_cast<errc>(error != 0 ? error : EIO);
  return failure{code, "cannot " + std::string(what) + " '" + uri::to_text(from) +
                           "': " + base::to_string(code)};
}

std::string last_part(const std::string& path) {
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? path : path.substr(slash + 1);
}

gluster_image_info info_of(std::string name, const struct stat& s) {
  gluster_image_info out;
  out.name = std::move(name);
  out.is_folder = S_ISDIR(s.st_mode);
  out.size_bytes = static_cast<uint64_t>(s.st_size);
  out.allocated_bytes = static_cast<uint64_t>(s.st_blocks) * stat_block_bytes;
  return out;
}

outcome<gluster_image_info> status_blocking(const volume_ptr& volume,
                                            const uri::gluster_source& image) {
  struct stat s {};
  errno = 0;
  if (volume->api().stat(volume->fs(), ("/" + image.path).c_str(), &s) != 0)
    return cannot("look at", image, errno);
  return info_of(last_part(image.path), s);
}

outcome<void> remove_blocking(const volume_ptr& volume, const uri::gluster_source& image) {
  errno = 0;
  if (volume->api().unlink(volume->fs(), image.path.c_str()) != 0)
    return cannot("remove", image, errno);
  return {};
}

outcome<std::vector<gluster_image_info>> list_blocking(const volume_ptr& volume,
                                                       const uri::gluster_source& folder) {
  const gfapi& api = volume->api();
  errno = 0;
  glfs_fd* fd = api.opendir(volume->fs(), ("/" + folder.path).c_str());
  if (fd == nullptr) return cannot("list", folder, errno);
  std::vector<gluster_image_info> out;
  struct stat s {};
  int error = 0;
  while (out.size() < most_names) {
    errno = 0;
    const dirent* entry = api.readdirplus(fd, &s);
    if (entry == nullptr) {
      error = errno;
      break;
    }
    const std::string name = entry->d_name;
    // ".trashcan" and the like are the servers' own.
    if (name == "." || name == ".." || (folder.path.empty() && name == ".trashcan")) continue;
    out.push_back(info_of(name, s));
  }
  api.closedir(fd);
  if (error != 0) return cannot("list", folder, error);
  std::sort(out.begin(), out.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  return out;
}

// Connects, and runs what blocks on one of the volume's threads.
template <class T>
task<outcome<T>> on_volume(rt::runtime& runtime, uri::gluster_source from, const char* what,
                           outcome<T> (*work)(const volume_ptr&, const uri::gluster_source&)) {
  CO_TRY(const volume_ptr volume, co_await gluster_volumes::get(runtime, from));
  const uint64_t limit_s = from.timeout_s != 0 ? from.timeout_s : answer_limit_s;
  const uint64_t due = rt::reactor::current().now_ns() + limit_s * second_ns;
  auto call = [volume, from, work] { return work(volume, from); };
  auto done = co_await rt::run_blocking<outcome<T>>(volume->threads(), std::move(call), due);
  if (!done) co_return cannot(what, from, ETIMEDOUT);
  co_return *std::move(done);
}

}  // namespace

gluster_device::gluster_device(std::unique_ptr<gluster_file> file)
    : file_device(std::move(file), size_rule::fixed) {}

task<outcome<std::unique_ptr<gluster_device>>> gluster_device::open(rt::runtime& runtime,
                                                                    uri::gluster_source from,
                                                                    bool writable,
                                                                    gluster_lock lock) {
  rt::open_options options;
  options.writable = writable;
  CO_TRY(std::unique_ptr<gluster_file> file,
         co_await open_gluster_file(runtime, std::move(from), options, lock));
  co_return std::unique_ptr<gluster_device>(new gluster_device(std::move(file)));
}

task<outcome<std::unique_ptr<gluster_device>>> gluster_device::make(rt::runtime& runtime,
                                                                    uri::gluster_source from,
                                                                    uint64_t size_bytes) {
  rt::open_options options;
  options.writable = options.create = options.exclusive = true;
  CO_TRY(std::unique_ptr<gluster_file> file, co_await open_gluster_file(runtime, from, options));
  auto sized = co_await file->resize(size_bytes);
  if (sized) {
    const auto synced = co_await file->sync_data();
    if (!synced) sized = synced.error();
  }
  if (sized) co_return std::unique_ptr<gluster_device>(new gluster_device(std::move(file)));
  // While it is locked: nobody else has it.
  co_await remove_made_gluster_image(runtime, from, file->info().inode);
  co_await file->close();
  co_return cannot("size", from, static_cast<int>(sized.error().code));
}

task<void> gluster_device::close() { return image().close(); }

task<result<void>> gluster_device::extents(uint64_t offset, uint64_t length,
                                           block::extent_list& out, block::io_opts io) {
  if ((io.flags & block::io_fast_only) != 0)
    co_return co_await block_device::extents(offset, length, out, io);
  const uint64_t end = offset + length;
  while (offset < end && !out.full()) {
    if (offset >= end_bytes()) {
      out.append({end - offset, true, true});
      break;
    }
    CO_TRY(const rt::file_extent e, co_await image().find_extent(offset));
    const uint64_t n = std::min(e.length_bytes, end - offset);
    if (n == 0) break;
    out.append({n, e.hole, e.hole});
    offset += n;
  }
  co_return result<void>{};
}

outcome<std::unique_ptr<rt::file>> opened_gluster_file::open(const std::string& path,
                                                             rt::open_options) {
  if (file_ == nullptr) return failure{errc::inval, "'" + path + "' is open already"};
  return std::unique_ptr<rt::file>(std::move(file_));
}

task<outcome<gluster_image_info>> gluster_image_status(rt::runtime& runtime,
                                                       uri::gluster_source image) {
  return on_volume(runtime, std::move(image), "look at", status_blocking);
}

task<outcome<void>> resize_gluster_image(rt::runtime& runtime, uri::gluster_source image,
                                         uint64_t size_bytes, bool shrink) {
  rt::open_options options;
  options.writable = true;
  const gluster_lock lock = shrink ? gluster_lock::yes : gluster_lock::no;
  CO_TRY(std::unique_ptr<gluster_file> file,
         co_await open_gluster_file(runtime, image, options, lock));
  const uint64_t has = file->info().size_bytes;
  outcome<void> done;
  if (size_bytes < has && !shrink) {
    done = failure{errc::inval, "'" + uri::to_text(image) + "' has " + std::to_string(has) +
                                    " bytes, and what lies behind the new end would be lost: say "
                                    "--shrink if that is meant"};
  } else {
    auto sized = co_await file->resize(size_bytes);
    if (sized) {
      const auto synced = co_await file->sync_data();
      if (!synced) sized = synced.error();
    }
    if (!sized) done = cannot("resize", image, static_cast<int>(sized.error().code));
  }
  co_await file->close();
  co_return done;
}

task<outcome<void>> remove_gluster_image(rt::runtime& runtime, uri::gluster_source image) {
  return on_volume(runtime, std::move(image), "remove", remove_blocking);
}

task<outcome<std::vector<gluster_image_info>>> list_gluster_folder(rt::runtime& runtime,
                                                                   uri::gluster_source folder) {
  return on_volume(runtime, std::move(folder), "list", list_blocking);
}

}  // namespace lbd::store
