// SPDX-License-Identifier: MIT
#include "export/fuse/mount.h"

#include "export/fuse/session.h"

namespace lbd::fuse {

rt::task<base::outcome<std::unique_ptr<mount>>> mount::start(rt::runtime& runtime, catalog& devices,
                                                             std::string folder,
                                                             mount_options options) {
  auto s = std::make_unique<session>(runtime, devices, std::move(folder), options);
  const auto started = co_await s->start();
  if (!started) co_return started.error();
  co_return std::unique_ptr<mount>(new mount(std::move(s)));
}

mount::mount(std::unique_ptr<session> s) : session_(std::move(s)) {}
mount::~mount() = default;

const std::string& mount::folder() const noexcept { return session_->folder(); }
mount_info mount::info() const { return session_->info(); }
rt::task<base::outcome<void>> mount::stop(bool in_use) { return session_->stop(in_use); }
void mount::on_end(std::function<void()> told) { session_->on_end(std::move(told)); }
rt::task<void> mount::settle() { return session_->settle(); }
void mount::changed(uint64_t id) { session_->changed(id); }

}  // namespace lbd::fuse
