// SPDX-License-Identifier: MIT
#include "ctl/mounts.h"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <filesystem>

#include "base/log.h"
#include "export/fuse/mount_point.h"

namespace lbd::ctl {

using base::errc;
using base::failure;
using base::outcome;
namespace fs = std::filesystem;

namespace {

const std::string private_prefix = "mount-";
constexpr int most_links = 40;

failure not_mounted(const std::string& folder) {
  return failure{errc::noent, folder + " is not mounted by this daemon"};
}

}  // namespace

uint64_t device_catalog::id_of(block::device_number number) const {
  const auto [at, fresh] = ids_.emplace(number, last_id_ + 1);
  if (fresh) ++last_id_;
  return at->second;
}

fuse::entry device_catalog::entry_of(const stack::device_state& s) const {
  fuse::entry e;
  e.id = id_of(s.number);
  e.name = s.name;
  e.size_bytes = s.size_bytes;
  e.read_only = s.read_only;
  if (const stack::device* d = devices_.find_device({s.name, {}, {}}))
    e.preferred_bytes = d->limits().preferred_bytes;
  return e;
}

std::vector<fuse::entry> device_catalog::list() const {
  std::vector<fuse::entry> all;
  for (const stack::device_state& s : devices_.list())
    if (s.name != "." && s.name != "..") all.push_back(entry_of(s));
  return all;
}

std::optional<fuse::entry> device_catalog::find(const std::string& name) const {
  const auto s = devices_.state({name, {}, {}});
  if (!s) return std::nullopt;
  return entry_of(*s);
}

std::optional<block::device_number> device_catalog::number_of(uint64_t id) const {
  const auto at =
      std::ranges::find_if(ids_, [id](const auto& known) { return known.second == id; });
  if (at == ids_.end()) return std::nullopt;
  return at->first;
}

std::optional<fuse::entry> device_catalog::find(uint64_t id) const {
  const auto number = number_of(id);
  if (!number) return std::nullopt;
  const auto s = devices_.state({{}, {}, *number});
  if (!s) return std::nullopt;
  return entry_of(*s);
}

outcome<block::opened_device> device_catalog::open(uint64_t id, bool) {
  const auto e = find(id);
  if (!e) return failure{errc::noent, "no such device"};
  return devices_.open({e->name, {}, {}});
}

mounts::mounts(daemon& d) : daemon_(d), catalog_(d.devices()) {
  d.events().listen([this](const stack::device_event& e) { hear(e); });
  d.sources().refuse_paths([this](const std::string& path) { return leads_inside(path); });
  d.devices().before_busy([this] { return settle(); });
}

mounts::~mounts() = default;

void mounts::hear(const stack::device_event& e) {
  if (closing_) return;
  if (e.action == "remove") return catalog_.forget(e.number);
  const uint64_t id = catalog_.id_of(e.number);
  if (e.action != "change") return;
  for (const auto& m : mounts_) m->changed(id);
}

rt::task<outcome<std::string>> mounts::add(std::string folder, fuse::mount_options how) {
  if (closing_) co_return failure{errc::shutdown, "the daemon is shutting down"};
  // From the moment of mounting this thread must not go there.
  std::error_code error;
  const fs::path coming = leads_inside(folder) ? fs::path() : fs::canonical(folder, error);
  const auto mark = coming_.insert(coming.native());
  auto started = co_await fuse::mount::start(daemon_.runtime(), catalog_, std::move(folder), how);
  coming_.erase(mark);
  if (!started) co_return started.error();
  std::shared_ptr<fuse::mount> m = *std::move(started);
  m->on_end([this, which = m.get()] { ended(which); });
  mounts_.push_back(m);
  std::string path = m->folder();
  // What began before close() and ended after it had looked.
  if (closing_) (void)co_await stop(std::move(m), true);
  co_return path;
}

rt::task<outcome<void>> mounts::stop(std::shared_ptr<fuse::mount> m, bool in_use) {
  const auto stopped = co_await m->stop(in_use);
  if (stopped) std::erase(mounts_, m);
  co_return stopped;
}

rt::task<outcome<void>> mounts::remove(std::string folder, bool in_use) {
  const auto at =
      std::ranges::find_if(mounts_, [&folder](const auto& m) { return m->folder() == folder; });
  if (at == mounts_.end()) co_return not_mounted(folder);
  co_return co_await stop(*at, in_use);
}

void mounts::ended(const fuse::mount* which) {
  if (!closing_) rt::spawn(drop(which));
}

rt::task<void> mounts::drop(const fuse::mount* which) {
  const auto at = std::ranges::find_if(mounts_, [=](const auto& m) { return m.get() == which; });
  if (at == mounts_.end()) co_return;
  if ((*at)->folder() == private_) private_.clear();
  (void)co_await stop(*at, true);
}

std::vector<fuse::mount_info> mounts::list() const {
  std::vector<fuse::mount_info> all;
  for (const auto& m : mounts_) all.push_back(m->info());
  return all;
}

rt::task<void> mounts::settle() {
  const auto all = mounts_;
  for (const auto& m : all) co_await m->settle();
}

// Folders of daemons that have died.
void mounts::remove_leftovers() {
  std::error_code error;
  for (const auto& e : fs::directory_iterator(daemon_.runtime_folder(), error)) {
    const std::string name = e.path().filename();
    if (!name.starts_with(private_prefix)) continue;
    pid_t pid = 0;
    std::from_chars(name.data() + private_prefix.size(), name.data() + name.size(), pid);
    if (pid <= 0 || ::kill(pid, 0) == 0 || errno != ESRCH) continue;
    if (fuse::drop_dead_mount(e.path())) fs::remove(e.path(), error);
  }
}

rt::task<outcome<std::string>> mounts::private_folder() {
  const auto held = co_await making_private_.lock();
  if (!private_.empty()) co_return private_;
  remove_leftovers();
  const std::string folder =
      daemon_.runtime_folder() + "/" + private_prefix + std::to_string(::getpid());
  std::error_code error;
  fs::create_directory(folder, error);
  if (error) co_return failure{static_cast<errc>(error.value()), folder + ": " + error.message()};
  fuse::mount_options how;
  const auto path = co_await add(folder, how);
  if (!path) {
    fs::remove(folder, error);
    co_return path.error();
  }
  private_ = *path;
  co_return private_;
}

bool mounts::leads_inside(const std::string& path) const {
  fs::path done = "/";
  fs::path rest = fs::path(path).relative_path();
  for (int links = 0; !rest.empty();) {
    const fs::path next = *rest.begin();
    fs::path after;
    for (auto i = std::next(rest.begin()); i != rest.end(); ++i) after /= *i;
    rest = after;
    if (next == "..")
      done = done.parent_path();
    else if (!next.empty() && next != ".")
      done /= next;
    for (const auto& m : mounts_)
      if (done == m->folder()) return true;
    if (coming_.contains(done.native())) return true;
    std::error_code error;
    const fs::path target = fs::read_symlink(done, error);
    if (error) continue;  // no link, or nothing
    if (++links > most_links) return false;
    done = target.is_absolute() ? fs::path("/") : done.parent_path();
    rest = target.relative_path() / rest;
  }
  return false;
}

rt::task<outcome<void>> mounts::close() {
  closing_ = true;
  outcome<void> first;
  const auto all = mounts_;
  for (const auto& m : all) {
    const auto stopped = co_await stop(m, true);
    if (first) first = stopped;
  }
  std::error_code error;
  if (!private_.empty()) fs::remove(private_, error);
  private_.clear();
  co_return first;
}

}  // namespace lbd::ctl
