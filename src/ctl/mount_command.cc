// SPDX-License-Identifier: MIT
#include "ctl/mount_command.h"

#include <filesystem>
#include <nlohmann/json.hpp>

#include "ctl/client.h"
#include "ctl/paths.h"
#include "ctl/runtime_dir.h"
#include "ctl/say.h"

namespace lbd::ctl {
namespace {

using base::errc;
using base::outcome;
using nlohmann::json;
namespace fs = std::filesystem;

// Unmounting waits for requests in flight.
constexpr uint64_t answer_ms = 120'000;

// Without symbolic links; a dead mount, which has no path, as it was given.
std::string true_path(const std::string& folder) {
  std::error_code error;
  const fs::path whole = absolute_path(folder);
  const fs::path found = fs::canonical(whole, error);
  std::string path = error ? whole : found;
  if (path.size() > 1 && path.ends_with('/')) path.pop_back();
  return path;
}

outcome<std::string> ask(const client_target& to, const mount_command& what) {
  std::string text;
  json params = json::object();
  if (what.folder.empty()) {
    TRY(const auto all, call_server(to, "mount.list", params, after_answer::close, answer_ms));
    if (what.json) return all->dump(2) + "\n";
    for (const json& m : *all) text += m.value("folder", "") + "\n";
    return text;
  }
  params["folder"] = true_path(what.folder);
  if (what.unmount && what.force) params["force"] = true;
  if (!what.unmount && what.others) params["others"] = true;
  const char* method = what.unmount ? "mount.remove" : "mount.add";
  TRY(const auto done, call_server(to, method, params, after_answer::close, answer_ms));
  if (what.json) text = done->dump(2) + "\n";
  return text;
}

}  // namespace

int run_mount(const mount_command& what) {
  const auto path = find_daemon_socket(what.to.socket);
  if (!path) return fail("mount", path.error());
  return finish("mount", ask({*path}, what));
}

}  // namespace lbd::ctl
