// SPDX-License-Identifier: MIT
// The daemon's part for programs under `lbd run`: the ioctl server, and `dm.socket`, by which they
// find it.
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "base/log.h"
#include "ctl/daemon.h"
#include "ctl/dm_server.h"
#include "ctl/mounts.h"

namespace lbd::ctl {

using base::errc;
using base::failure;
using base::outcome;

namespace {

// The sources that are files.
class source_disks final : public disk_directory {
 public:
  explicit source_disks(source_registry& sources) : sources_(sources) {}
  outcome<block::device_number> number_of(const std::string& path) override {
    return sources_.number_of(path);
  }
  outcome<std::string> path_of(block::device_number number) override {
    // The host's block devices are its kernel's to show.
    if (number.major < first_source_major)
      return failure{static_cast<errc>(ENXIO), "no file has the number " + number.text()};
    TRY(std::string source, sources_.source_of(number));
    if (!source.starts_with("/")) return failure{errc::inval, "'" + source + "' is no file"};
    if (sources_.refuses(source))
      return failure{static_cast<errc>(ENXIO), "'" + source + "' is hidden by a mounted folder"};
    return source;
  }
  bool refuses(const std::string& path) const override { return sources_.refuses(path); }

 private:
  source_registry& sources_;
};

// The daemon's own mounted folder.
class mounted_folder final : public device_folder {
 public:
  explicit mounted_folder(const mounts& folders) : folders_(folders) {}
  std::string path() const override { return folders_.private_path(); }
  std::optional<block::device_number> device_of_inode(uint64_t inode) const override {
    return folders_.device_of_inode(inode);
  }

 private:
  const mounts& folders_;
};

class dm_service final : public service {
 public:
  dm_service(daemon& d, mounts& folders)
      : folders_(folders),
        devices_(d.devices()),
        disks_(d.sources()),
        base_(d.runtime_folder() + "/dm-" + std::to_string(::getpid())),
        files_(folders),
        server_(d.devices(), disks_, files_, base_) {
    devices_.on_change([this] { server_.changed(); });
  }

  outcome<void> listen() { return server_.listen(socket()); }
  rt::task<outcome<void>> close() override {
    devices_.on_change({});
    co_await server_.stop();
    co_return outcome<void>{};
  }
  rt::task<rpc_answer> tell_socket(rpc_call call) {
    rpc_params params(call);
    const auto read = params.finish();
    if (!read) co_return rpc_answer::wrong_params(read.error());
    // Programs see the devices even where they cannot be mounted.
    const auto folder = co_await folders_.private_folder();
    if (!folder) base::log_warn("dm", folder.error().message);
    const nlohmann::json told = {
        {"socket", socket()}, {"view", base_}, {"mount", folders_.private_path()}};
    co_return rpc_answer::result(told);
  }
  rt::task<rpc_answer> add_disk(rpc_call call) {
    rpc_params params(call);
    const std::string path = params.needed_text("path");
    const auto read = params.finish();
    if (!read) co_return rpc_answer::wrong_params(read.error());
    const auto number = server_.add_disk(path);
    if (!number) co_return rpc_answer::failed(number.error());
    const nlohmann::json told = {{"major", number->major}, {"minor", number->minor}};
    co_return rpc_answer::result(told);
  }

 private:
  std::string socket() const { return base_ + ".sock"; }

  mounts& folders_;
  stack::device_manager& devices_;
  source_disks disks_;
  const std::string base_;
  const mounted_folder files_;
  dm_server server_;
};

}  // namespace

void add_dm_service(daemon& to, mounts& folders) {
  auto made = std::make_unique<dm_service>(to, folders);
  dm_service* const s = made.get();
  const auto listening = s->listen();
  if (!listening) base::log_warn("dm", listening.error().message);
  to.methods().add("dm.socket", [s](rpc_call call) { return s->tell_socket(std::move(call)); });
  to.methods().add("dm.disk", [s](rpc_call call) { return s->add_disk(std::move(call)); });
  to.add_service(std::move(made));
}

}  // namespace lbd::ctl
