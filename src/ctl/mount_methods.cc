// SPDX-License-Identifier: MIT
// The mount.* methods.
#include <nlohmann/json.hpp>

#include "ctl/mounts.h"

namespace lbd::ctl {

using base::errc;
using base::failure;
using nlohmann::json;
using rt::task;

namespace {

task<rpc_answer> add(mounts& all, rpc_call call) {
  rpc_params p(call);
  std::string folder = p.needed_text("folder");
  fuse::mount_options how;
  how.others = p.flag("others");
  if (!folder.starts_with('/')) p.refuse("folder is to begin with /");
  if (const auto fine = p.finish(); !fine) co_return rpc_answer::wrong_params(fine.error());
  const auto added = co_await all.add(std::move(folder), how);
  if (!added) co_return rpc_answer::failed(added.error());
  const json out = {{"folder", *added}};
  co_return rpc_answer::result(out);
}

task<rpc_answer> remove(mounts& all, rpc_call call) {
  rpc_params p(call);
  std::string folder = p.needed_text("folder");
  const bool in_use = p.flag("force");
  if (const auto fine = p.finish(); !fine) co_return rpc_answer::wrong_params(fine.error());
  const auto removed = co_await all.remove(std::move(folder), in_use);
  if (!removed) co_return rpc_answer::failed(removed.error());
  co_return rpc_answer::result(true);
}

task<rpc_answer> list(mounts& all, rpc_call call) {
  rpc_params p(call);
  if (const auto fine = p.finish(); !fine) co_return rpc_answer::wrong_params(fine.error());
  json out = json::array();
  for (const fuse::mount_info& m : all.list())
    out.push_back({{"folder", m.folder},
                   {"open_files", m.open_files},
                   {"requests", m.requests},
                   {"in_flight", m.in_flight}});
  co_return rpc_answer::result(out);
}

}  // namespace

mounts& add_mounts(daemon& to) {
  auto made = std::make_unique<mounts>(to);
  mounts& all = *made;
  to.add_service(std::move(made));
  const auto method = [&](const char* name, task<rpc_answer> (*run)(mounts&, rpc_call)) {
    to.methods().add(name, [&all, run](rpc_call c) { return run(all, std::move(c)); });
  };
  method("mount.add", add);
  method("mount.remove", remove);
  method("mount.list", list);
  return all;
}

}  // namespace lbd::ctl
