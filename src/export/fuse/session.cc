// SPDX-License-Identifier: MIT
#include "export/fuse/session.h"

#define FUSE_USE_VERSION 312
#include <fcntl.h>
#include <fuse_lowlevel.h>

#include <algorithm>

#include "base/log.h"
#include "export/fuse/mount_point.h"

namespace lbd::fuse {

using base::errc;
using base::failure;
using base::outcome;
using base::result;
using rt::task;

namespace {

// libfuse's own messages.
void log_message(fuse_log_level level, const char* format, va_list values) {
  char text[512];
  const int n = std::vsnprintf(text, sizeof text, format, values);
  std::string_view line(text,
                        std::min<size_t>(n < 0 ? 0 : static_cast<size_t>(n), sizeof text - 1));
  while (line.ends_with('\n')) line.remove_suffix(1);
  if (level <= FUSE_LOG_WARNING)
    base::log_warn("mount", line);
  else
    base::log_debug("mount", line);
}

}  // namespace

void open_file::let_go() {
  if (users_.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  owner_.at_home([this] {
    owner_.closed(*this);
    delete this;
  });
}

session::session(rt::runtime& runtime, catalog& devices, std::string folder, mount_options options)
    : runtime_(runtime), devices_(devices), folder_(std::move(folder)), options_(options) {
  const unsigned reactors = runtime.reactor_count();
  const unsigned wanted = std::clamp(options_.reactors, 1u, reactors);
  readers_.resize(reactors);
  for (unsigned i = 0; i < wanted; ++i)
    readers_[i] = std::make_unique<reader>(*this, runtime.at(i), wanted);
}

session::~session() {
  if (handle_ != nullptr) fuse_session_destroy(handle_);
}

mount_info session::info() const {
  mount_info i;
  i.folder = folder_;
  i.open_files = static_cast<unsigned>(open_files_.size());
  for (const auto& r : readers_)
    if (r) {
      i.requests += r->requests();
      i.in_flight += r->in_flight();
    }
  return i;
}

// On the worker's thread.
outcome<void> session::mount_now() {
  CHECK(check_fuse());
  TRY(mount_point at, prepare_mount_point(folder_));
  folder_ = std::move(at.folder);
  made_seconds_ = at.changed_seconds;
  fuse_set_log_func(log_message);
  fuse_args args = FUSE_ARGS_INIT(0, nullptr);
  fuse_opt_add_arg(&args, "lbd");
  fuse_opt_add_arg(&args, "-o");
  fuse_opt_add_arg(&args, options_.others ? "fsname=lbd,subtype=lbd,allow_other,default_permissions"
                                          : "fsname=lbd,subtype=lbd");
  handle_ = fuse_session_new(&args, &operations(), sizeof(fuse_lowlevel_ops), this);
  fuse_opt_free_args(&args);
  if (handle_ == nullptr) return failure{errc::inval, "libfuse refuses the options of the mount"};
  if (fuse_session_mount(handle_, folder_.c_str()) != 0)
    return failure{errc::access, "cannot mount on " + folder_ +
                                     " (without root this takes fusermount3 of the package fuse3, "
                                     "and a folder of one's own)"};
  descriptor_ = fuse_session_fd(handle_);
  ::fcntl(descriptor_, F_SETFL, ::fcntl(descriptor_, F_GETFL) | O_NONBLOCK);
  return {};
}

task<outcome<void>> session::start() {
  std::function<outcome<void>()> work = [this] { return mount_now(); };
  const outcome<void> mounted = *co_await rt::run_blocking(worker_, std::move(work), 0);
  if (!mounted) co_return mounted;
  for (const auto& r : readers_) {
    if (!r) continue;
    auto begin = [one = r.get()] { return one->start(); };
    co_await rt::call_on(r->where(), begin);
  }
  co_return outcome<void>{};
}

task<outcome<void>> session::stop(bool in_use) {
  const auto held = co_await stop_lock_.lock();
  if (stopped_) co_return outcome<void>{};
  stopping_ = true;
  if (!ended_ && !in_use) {
    std::function<outcome<void>()> politely = [this] { return unmount(folder_, false); };
    const outcome<void> done = *co_await rt::run_blocking(worker_, std::move(politely), 0);
    stopping_ = done || ended_;
    if (!stopping_) {
      for (const uint64_t id : std::exchange(missed_, {})) changed(id);
      co_return done;
    }
  }
  // What the worker tells the kernel may wait for requests to be answered: it goes last but one.
  for (const auto& r : readers_) {
    if (!r) continue;
    auto refuse = [one = r.get()] { return one->refuse(); };
    co_await rt::call_on(r->where(), refuse);
  }
  std::function<bool()> nothing = [] { return true; };
  co_await rt::run_blocking(worker_, std::move(nothing), 0);
  for (const auto& r : readers_) {
    if (!r) continue;
    auto end = [one = r.get()] { return one->stop_reading(); };
    co_await rt::call_on(r->where(), end);
  }
  std::function<bool()> finally = [this] {
    fuse_session_unmount(handle_);
    return true;
  };
  co_await rt::run_blocking(worker_, std::move(finally), 0);
  for (const auto& r : readers_) {
    if (!r) continue;
    auto drain = [one = r.get()] { return one->drained(); };
    co_await rt::call_on(r->where(), drain);
  }
  drop_left_over();
  stopped_ = true;
  co_return outcome<void>{};
}

// The kernel does not tell any more that these were closed.
void session::drop_left_over() {
  listings_.clear();
  std::vector<open_file*> left;
  for (const auto& [id, f] : open_files_) left.push_back(f);
  for (open_file* f : left) f->let_go();
}

task<void> session::settle() {
  for (const auto& r : readers_) {
    if (!r) continue;
    auto settle = [one = r.get()] { return one->settle(); };
    co_await rt::call_on(r->where(), settle);
  }
}

void session::ended() {
  if (std::exchange(ended_, true) || stopping_) return;
  base::log_info("mount", folder_ + " was unmounted");
  if (told_end_) told_end_();
}

void session::changed(uint64_t id) {
  if (ended_ || !is_open(id)) return;
  if (stopping_)
    missed_.insert(id);
  else
    rt::spawn(forget_cached(id));
}

task<void> session::forget_cached(uint64_t id) {
  std::function<int()> work = [this, id] {
    return fuse_lowlevel_notify_inval_inode(handle_, inode_of(id), 0, 0);
  };
  co_await rt::run_blocking(worker_, std::move(work), 0);
}

result<open_file*> session::open(uint64_t id, bool writable) {
  const auto e = devices_.find(id);
  if (!e) return base::error_from_errno(ENOENT);
  auto opened = devices_.open(id, writable);
  if (!opened) return base::io_error{opened.error().code, 0};
  auto* f = new open_file(*this, id, *std::move(opened), writable);
  open_files_.emplace(id, f);
  return f;
}

void session::closed(const open_file& f) {
  const auto [first, last] = open_files_.equal_range(f.id());
  const auto at = std::find_if(first, last, [&f](const auto& e) { return e.second == &f; });
  if (at != last) open_files_.erase(at);
}

listing& session::open_listing() {
  listings_.push_back(std::make_unique<listing>(listing{devices_.list()}));
  return *listings_.back();
}

void session::close_listing(const listing& l) {
  std::erase_if(listings_, [&l](const auto& one) { return one.get() == &l; });
}

}  // namespace lbd::fuse
