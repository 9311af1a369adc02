// SPDX-License-Identifier: MIT
#include "store/gluster/gfapi.h"

#include <dlfcn.h>

#include <cstdlib>
#include <string>

namespace lbd::store {
namespace {

using base::errc;
using base::failure;
using base::outcome;

constexpr const char* library_name = "libgfapi.so.0";

// Fills the table; remembers the first function that is missing.
class loader {
 public:
  explicit loader(void* library) : library_(library) {}

  template <class F>
  void take(F& function, const char* name, const char* version) {
    void* found = ::dlvsym(library_, name, version);
    if (found == nullptr && missing_.empty()) missing_ = std::string(name) + "@" + version;
    function = reinterpret_cast<F>(found);
  }
  const std::string& missing() const { return missing_; }

 private:
  void* library_;
  std::string missing_;
};

std::string take_all(void* library, gfapi& api) {
  constexpr const char *v3_4 = "GFAPI_3.4.0", *v3_5 = "GFAPI_3.5.0", *v3_10 = "GFAPI_3.10.7",
                       *v6 = "GFAPI_6.0";
  loader from(library);
  from.take(api.make, "glfs_new", v3_4);
  from.take(api.set_volfile_server, "glfs_set_volfile_server", v3_4);
  from.take(api.set_logging, "glfs_set_logging", v3_4);
  from.take(api.set_xlator_option, "glfs_set_xlator_option", v3_4);
  from.take(api.init, "glfs_init", v3_4);
  from.take(api.fini, "glfs_fini", v3_4);
  from.take(api.open, "glfs_open", v3_4);
  from.take(api.creat, "glfs_creat", v3_4);
  from.take(api.close, "glfs_close", v3_4);
  from.take(api.stat, "glfs_stat", v3_4);
  from.take(api.fstat, "glfs_fstat", v3_4);
  from.take(api.unlink, "glfs_unlink", v3_4);
  from.take(api.lseek, "glfs_lseek", v3_4);
  from.take(api.fd_set_lkowner, "glfs_fd_set_lkowner", v3_10);
  from.take(api.posix_lock, "glfs_posix_lock", v3_4);
  from.take(api.opendir, "glfs_opendir", v3_4);
  from.take(api.readdirplus, "glfs_readdirplus", v3_5);
  from.take(api.closedir, "glfs_closedir", v3_4);
  from.take(api.preadv_async, "glfs_preadv_async", v6);
  from.take(api.pwritev_async, "glfs_pwritev_async", v6);
  from.take(api.fdatasync_async, "glfs_fdatasync_async", v6);
  from.take(api.ftruncate_async, "glfs_ftruncate_async", v6);
  from.take(api.discard_async, "glfs_discard_async", v6);
  from.take(api.zerofill_async, "glfs_zerofill_async", v6);
  return from.missing();
}

outcome<gfapi> load(const char* name) {
  void* library = ::dlopen(name, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* why = ::dlerror();
    return failure{errc::notsup, "Gluster's client library cannot be loaded (" +
                                     std::string(why != nullptr ? why : name) +
                                     "): install the package libgfapi0 (Debian, Ubuntu) or "
                                     "glusterfs-api (Fedora, RHEL)"};
  }
  gfapi api{};
  const std::string missing = take_all(library, api);
  if (!missing.empty())
    return failure{errc::notsup, "Gluster's client library " + std::string(name) + " has no " +
                                     missing + ": version 6 or later is needed"};
  return api;
}

}  // namespace

outcome<const gfapi*> load_gfapi() {
  // Never unloaded and never destroyed: threads that end connections may outlive everything else.
  static const auto* const loaded = [] {
    const char* other = ::getenv("LBD_GFAPI");
    return new outcome<gfapi>(load(other != nullptr ? other : library_name));
  }();
  if (!*loaded) return loaded->error();
  return &**loaded;
}

}  // namespace lbd::store
