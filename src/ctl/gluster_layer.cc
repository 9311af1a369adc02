// SPDX-License-Identifier: MIT
#include "ctl/gluster_layer.h"

#include <filesystem>

#include "store/gluster/gluster.h"

namespace lbd::ctl {

using base::errc;
using base::failure;
using base::outcome;
using rt::task;

namespace {

open_layer as_change_layer(const uri::gluster_source& from, const char* kind, bool writable,
                           std::unique_ptr<store::change_file> file) {
  open_layer out;
  out.kind = kind;
  out.path = uri::to_text(from);
  out.writable = writable;
  out.change = std::move(file);
  return out;
}

open_layer as_flat_layer(const uri::gluster_source& from, bool writable,
                         std::unique_ptr<store::gluster_device> device) {
  open_layer out;
  out.kind = "gluster";
  out.path = uri::to_text(from);
  out.writable = writable;
  out.gluster = std::move(device);
  out.flat = out.gluster;
  return out;
}

}  // namespace

task<outcome<open_layer>> open_gluster_flat(rt::runtime& runtime, uri::gluster_source from,
                                            bool writable, bool lock) {
  const auto how = lock ? store::gluster_lock::yes : store::gluster_lock::no;
  CO_TRY(auto device, co_await store::gluster_device::open(runtime, from, writable, how));
  co_return as_flat_layer(from, writable, std::move(device));
}

task<outcome<open_layer>> make_gluster_flat(rt::runtime& runtime, std::string text,
                                            uint64_t size_bytes) {
  CO_TRY(const uri::gluster_source from, uri::parse_gluster(text));
  CO_TRY(auto device, co_await store::gluster_device::make(runtime, from, size_bytes));
  co_return as_flat_layer(from, true, std::move(device));
}

task<outcome<open_layer>> open_gluster_change_file(rt::runtime& runtime, std::string text,
                                                   bool writable) {
  CO_TRY(const uri::gluster_source from, uri::parse_gluster(text));
  rt::open_options how;
  how.writable = writable;
  CO_TRY(auto opened, co_await store::open_gluster_file(runtime, from, how));
  store::opened_gluster_file files(std::move(opened));
  store::change_file_options options;
  options.writable = writable;
  CO_TRY(auto file, co_await store::change_file::open(files, text, options));
  co_return as_change_layer(from, "qcow2", writable, std::move(file));
}

task<outcome<open_layer>> make_gluster_change_file(rt::runtime& runtime, std::string text,
                                                   store::new_change_file what) {
  CO_TRY(const uri::gluster_source from, uri::parse_gluster(text));
  rt::open_options how;
  how.writable = how.create = how.exclusive = true;
  CO_TRY(auto opened, co_await store::open_gluster_file(runtime, from, how));
  const uint64_t inode = opened->info().inode;
  store::opened_gluster_file files(std::move(opened));
  auto file = co_await store::change_file::create(files, text, what);
  if (!file) {
    co_await store::remove_made_gluster_image(runtime, from, inode);
    co_return file.error();
  }
  co_return as_change_layer(from, "expandable", true, *std::move(file));
}

task<outcome<bool>> gluster_image_exists(rt::runtime& runtime, std::string text) {
  CO_TRY(const uri::gluster_source from, uri::parse_gluster(text));
  const auto status = co_await store::gluster_image_status(runtime, from);
  if (!status && status.error().code != errc::noent) co_return status.error();
  co_return status.has_value();
}

task<outcome<void>> remove_image(rt::runtime& runtime, std::string name) {
  if (uri::has_gluster_scheme(name)) {
    CO_TRY(const uri::gluster_source from, uri::parse_gluster(name));
    co_return co_await store::remove_gluster_image(runtime, from);
  }
  std::error_code error;
  if (std::filesystem::remove(name, error)) co_return outcome<void>{};
  const std::string why = error ? error.message() : base::to_string(errc::noent);
  co_return failure{errc::io, "cannot remove '" + name + "': " + why};
}

task<outcome<std::unique_ptr<rt::file>>> open_image_file(rt::runtime& runtime, std::string name,
                                                         rt::open_options options) {
  if (!uri::has_gluster_scheme(name)) co_return rt::os_files().open(name, options);
  CO_TRY(const uri::gluster_source from, uri::parse_gluster(name));
  CO_TRY(auto file, co_await store::open_gluster_file(runtime, from, options));
  co_return std::unique_ptr<rt::file>(std::move(file));
}

}  // namespace lbd::ctl
