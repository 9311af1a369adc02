// SPDX-License-Identifier: MIT
// Opening a change file.
#include "store/qcow2/change_file.h"

#include <algorithm>

#include "base/log.h"
#include "block/image_lock.h"
#include "store/qcow2/layout.h"
#include "store/qcow2/read_header.h"
#include "store/qcow2/repair.h"

namespace lbd::store {

using base::failure;
using base::io_error;
using base::outcome;
using rt::task;

namespace {

uint64_t cache_bytes(const change_file_options& options) {
  if (options.cache_bytes != 0) return options.cache_bytes;
  return uint64_t{options.writable ? 64u : 8u} << 20;
}

}  // namespace

change_file::change_file(std::unique_ptr<rt::file> file, qcow2::header h,
                         change_file_options options)
    : io_(std::move(file)),
      file_(io_.file()),
      header_(std::move(h)),
      g_(header_.shape()),
      home_(rt::reactor::current()),
      writable_(options.writable),
      areas_(header_, file_.info().size_bytes),
      l2_(file_, g_.cluster_size(), cache_bytes(options) / 4 * 3),
      refcounts_(file_, areas_, g_, cache_bytes(options) / 4),
      used_bytes_(file_.info().size_bytes) {
  limits_.size_bytes = header_.size_bytes;
  limits_.preferred_bytes = static_cast<uint32_t>(std::max<uint64_t>(4096, g_.subcluster_size()));
  limits_.discard_granularity_bytes = g_.subcluster_size();
  limits_.read_only = !writable_;
  limits_.can_discard = writable_;
  limits_.can_write_zeroes = writable_;
}

change_file::~change_file() = default;

std::string change_file::describe() const { return "qcow2 " + path(); }

failure change_file::failed_to(const char* what, io_error e) const {
  std::string text = "'" + path() + "': cannot " + what + ": ";
  const qcow2::corruption reason = qcow2::corruption_of(e);
  text += reason == qcow2::corruption::none
              ? base::to_string(e.code)
              : std::string(qcow2::describe(reason)) + " (try 'qemu-img check -r all')";
  return {e.code, std::move(text)};
}

task<outcome<void>> change_file::load() {
  std::vector<std::byte> bytes(uint64_t{header_.l1_entries} * 8);
  auto read = co_await file_.read_all(header_.l1_offset, bytes);
  if (!read) co_return failed_to("read its L1 table", read.error());
  l1_.resize(header_.l1_entries);
  for (size_t i = 0; i < l1_.size(); ++i) l1_[i] = base::load_big<uint64_t>(bytes, i * 8);
  if (!writable_) co_return outcome<void>{};
  auto loaded = co_await refcounts_.load(header_);
  if (!loaded) co_return failed_to("read its refcount table", loaded.error());
  co_return outcome<void>{};
}

task<outcome<std::unique_ptr<change_file>>> change_file::open_locked(std::unique_ptr<rt::file> file,
                                                                     change_file_options options) {
  const std::string name = "'" + file->info().path + "'";
  uint64_t file_bytes = file->info().size_bytes;
  auto h = co_await read_header(*file, file_bytes);
  if (!h) co_return failure{h.error().code, name + ": " + h.error().message};
  if (options.writable) {
    auto ready = co_await make_writable(*file, *h);
    if (!ready) co_return failure{ready.error().code, name + ": " + ready.error().message};
  }
  std::unique_ptr<change_file> out(new change_file(std::move(file), *std::move(h), options));
  CO_CHECK(co_await out->load());
  co_return out;
}

task<outcome<std::unique_ptr<change_file>>> change_file::open(rt::file_system& files,
                                                              std::string path,
                                                              change_file_options options) {
  rt::open_options how;
  how.writable = options.writable;
  CO_TRY(auto file, files.open(path, how));
  CO_CHECK(block::lock_image(*file, options.writable));
  co_return co_await open_locked(std::move(file), options);
}

task<outcome<std::unique_ptr<change_file>>> change_file::create(rt::file_system& files,
                                                                std::string path,
                                                                new_change_file what) {
  CO_TRY(const new_image image, lay_out(what));
  rt::open_options how;
  how.writable = true;
  how.create = true;
  how.exclusive = true;
  CO_TRY(auto file, files.open(path, how));
  auto made = co_await fill(std::move(file), image);
  if (!made) files.remove(path);
  co_return made;
}

task<outcome<std::unique_ptr<change_file>>> change_file::fill(std::unique_ptr<rt::file> file,
                                                              const new_image& image) {
  CO_CHECK(block::lock_image(*file, true));
  auto written = co_await write_image(*file, image);
  if (!written) {
    co_return failure{written.error().code, "cannot write '" + file->info().path +
                                                "': " + base::to_string(written.error().code)};
  }
  change_file_options options;
  options.writable = true;
  std::unique_ptr<change_file> out(new change_file(std::move(file), image.header, options));
  CO_CHECK(co_await out->load());
  co_return out;
}

}  // namespace lbd::store
