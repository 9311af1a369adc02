// SPDX-License-Identifier: MIT
#include "store/gluster/volume.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <iterator>
#include <thread>

#include "base/bytes.h"
#include "base/log.h"
#include "rt/socket.h"
#include "store/gluster/lock.h"

namespace lbd::store {
namespace {

using base::errc;
using base::failure;
using base::outcome;
using rt::task;

using volume_ptr = std::shared_ptr<gluster_volume>;

// Threads for opening, closing and seeking of one volume. Several, so that one hanging call does
// not hold up the others; they are made when they are needed.
constexpr unsigned threads_per_volume = 8;
constexpr uint64_t second_ns = 1'000'000'000;
constexpr uint64_t connect_limit_s = 60;
constexpr uint64_t resolve_limit_ns = 5 * second_ns, probe_limit_ns = 2 * second_ns;

// A process that ends now ends its connections by that. The library's own end would tell the log
// that all servers are lost.
constexpr auto end_delay = std::chrono::milliseconds(100);

// What makes two sources share a connection.
std::string key_of(const uri::gluster_source& from) {
  uri::gluster_source same;
  same.servers = from.servers;
  same.socket_path = from.socket_path;
  same.volume = from.volume;
  same.write_behind = from.write_behind;
  return uri::to_text(same);
}

struct option {
  const char *translator, *key, *value;
};

// Options of the client's translators; they work only when they are set before init.
//
// By default the client answers a write as soon as it holds it in memory, and forgets it when the
// servers are lost before it was sent. Without write-behind an answered write is with the servers;
// with it, one that failed is kept and sent again until a sync has succeeded.
constexpr option safe_writes[] = {{"*-write-behind", "pass-through", "true"}};
constexpr option kept_writes[] = {{"*-write-behind", "resync-failed-syncs-after-fsync", "on"}};
// Caches that help small files and cost image files a copy: the clients above cache for
// themselves. What another client has written is seen at once.
constexpr option no_caches[] = {{"*-io-cache", "pass-through", "true"},
                                {"*-read-ahead", "pass-through", "true"},
                                {"*-open-behind", "pass-through", "true"}};

template <size_t N>
int set_options(const gfapi& api, glfs* fs, const option (&options)[N]) {
  for (const option& o : options)
    if (api.set_xlator_option(fs, o.translator, o.key, o.value) != 0) return -1;
  return 0;
}

// The volume's own translator of statistics sets the level of the library's log again, so it has to
// be told, too.
const char* level_name(unsigned level) {
  constexpr const char* names[] = {"NONE",    "CRITICAL", "CRITICAL", "CRITICAL", "ERROR",
                                   "WARNING", "WARNING",  "INFO",     "DEBUG",    "TRACE"};
  return names[std::min<size_t>(level, std::size(names) - 1)];
}

// Where the library's log goes. "-" is standard error as it stands: opening it again by a name
// fails where it is a socket, and writes over what a file there holds.
std::string log_place(const uri::gluster_source& from) {
  if (from.log_file.empty()) return ::fcntl(STDERR_FILENO, F_GETFD) >= 0 ? "-" : "/dev/null";
  // The library makes the folder before the last slash, and takes a name without one for a folder.
  return from.log_file.find('/') != std::string::npos ? from.log_file : "./" + from.log_file;
}

int configure(const gfapi& api, glfs* fs, const uri::gluster_source& from) {
  if (!from.socket_path.empty() &&
      api.set_volfile_server(fs, "unix", from.socket_path.c_str(), 0) != 0)
    return -1;
  for (const uri::endpoint& server : from.servers)
    if (api.set_volfile_server(fs, "tcp", server.host.c_str(), server.port) != 0) return -1;
  if (api.set_xlator_option(fs, from.volume.c_str(), "log-level", level_name(from.log_level)) != 0)
    return -1;
  const int rc =
      from.write_behind ? set_options(api, fs, kept_writes) : set_options(api, fs, safe_writes);
  return rc != 0 ? rc : set_options(api, fs, no_caches);
}

std::string who(const uri::gluster_source& from) {
  return "Gluster volume '" + from.volume + "' on " + servers_text(from);
}

// Blocks until the volume is there or the servers say no.
outcome<volume_ptr> connect(const uri::gluster_source& from,
                            const std::shared_ptr<rt::blocking_threads>& threads) {
  TRY(const gfapi* api, load_gfapi());
  glfs* fs = api->make(from.volume.c_str());
  if (fs == nullptr) return failure{errc::nomem, who(from) + ": " + base::to_string(errc::nomem)};
  int error = 0;
  errno = 0;
  const bool logs =
      api->set_logging(fs, log_place(from).c_str(), static_cast<int>(from.log_level)) == 0;
  if (!logs || configure(*api, fs, from) != 0) error = errno != 0 ? errno : EINVAL;
  const bool configured = error == 0;
  errno = 0;
  if (configured && api->init(fs) != 0) error = errno != 0 ? errno : ENOTCONN;
  // From here on the object ends the connection, also a failed one.
  auto volume = std::make_shared<gluster_volume>(*api, fs, threads);
  if (error == 0) return volume;
  const auto code = static_cast<errc>(error);
  if (!logs)
    return failure{code, "cannot write the log of Gluster's library to '" + log_place(from) +
                             "': " + base::to_string(code) + " (logfile= in the URI)"};
  const char* remedy = configured ? " (do the servers run glusterd, and is the volume started? "
                                    "gluster volume info, on one of them)"
                                  : "";
  return failure{code, "cannot connect to " + who(from) + ": " + base::to_string(code) + remedy};
}

using addresses = std::vector<rt::socket_address>;

// A call of the servers' management program that does nothing: any reply shows that the server
// works, not only its system. RFC 5531, and Gluster's numbers of its handshake; a record of 40
// bytes.
constexpr uint32_t last_record = 0x80000000, handshake_program = 14398633, handshake_version = 2;
constexpr size_t call_bytes = 40, null_words = 1 + call_bytes / 4;
constexpr uint32_t null_call[null_words] = {
    last_record | call_bytes, 1, 0, 2, handshake_program, handshake_version, 0, 0, 0, 0, 0};

task<bool> replies(rt::socket to, uint64_t due_ns) {
  struct limit : rt::timer {
    rt::socket* on = nullptr;
  } late;
  late.on = &to;
  late.run = [](rt::timer& t) { static_cast<limit&>(t).on->shutdown(); };
  rt::reactor::current().start_timer(late, due_ns);
  std::byte bytes[sizeof null_call];
  for (size_t i = 0; i < null_words; ++i)
    base::store_big<uint32_t>(bytes, i * sizeof(uint32_t), null_call[i]);
  bool replied = false;
  const auto sent = co_await to.send_all(bytes);
  if (sent) {
    std::byte first[1];
    const auto got = co_await to.recv_all(first);
    replied = got.has_value();
  }
  rt::reactor::current().stop_timer(late);
  co_return replied;
}

task<bool> answers(addresses of, uint64_t due_ns) {
  for (const auto& address : of) {
    auto connected = co_await rt::socket::connect(address, due_ns);
    if (!connected) continue;
    const bool replied = co_await replies(*std::move(connected), due_ns);
    if (replied) co_return true;
  }
  co_return false;
}

// The servers that answer now before those that do not. The library asks one after the other, and
// waits for one that is gone as long as the system does, minutes, and for one that hangs for ever.
task<uri::gluster_source> living_servers_first(uri::gluster_source from,
                                               rt::blocking_threads& threads) {
  if (from.servers.size() < 2) co_return from;
  auto resolve = [servers = from.servers] {
    std::vector<addresses> out;
    for (const uri::endpoint& s : servers) {
      auto found = rt::socket_address::resolve(s.host, std::to_string(s.port), false);
      out.push_back(found ? *std::move(found) : addresses{});
    }
    return out;
  };
  const uint64_t now = rt::reactor::current().now_ns();
  const auto found = co_await rt::run_blocking<std::vector<addresses>>(threads, std::move(resolve),
                                                                       now + resolve_limit_ns);
  if (!found) co_return from;
  const uint64_t due = rt::reactor::current().now_ns() + probe_limit_ns;
  std::vector<task<bool>> probes;
  for (const addresses& of : *found) probes.push_back(answers(of, due));
  const std::vector<bool> living = co_await rt::when_all(std::move(probes));
  std::vector<uri::endpoint> first, last;
  for (size_t i = 0; i < living.size(); ++i) (living[i] ? first : last).push_back(from.servers[i]);
  first.insert(first.end(), last.begin(), last.end());
  from.servers = std::move(first);
  co_return from;
}

}  // namespace

gluster_volume::~gluster_volume() {
  auto end = [api = &api_, fs = fs_] {
    std::this_thread::sleep_for(end_delay);
    api->fini(fs);
  };
  // The thread that destroys may be the library's own, or a reactor.
  threads_->run(std::move(end));
}

gluster_fd::~gluster_fd() {
  glfs_fd* left = release();
  if (left == nullptr) return;
  auto end = [volume = volume_, fd = left] { volume->api().close(fd); };
  volume_->threads().run(std::move(end));
}

std::string servers_text(const uri::gluster_source& from) {
  std::string out = from.socket_path;
  for (const uri::endpoint& server : from.servers) {
    if (!out.empty()) out += ", ";
    out += uri::to_text(server);
  }
  return out;
}

task<outcome<volume_ptr>> gluster_volumes::get_here(uri::gluster_source from) {
  std::erase_if(entries_, [](const auto& e) {
    return e.second.volume.expired() && !e.second.connecting.locked();
  });
  entry& e = entries_[key_of(from)];
  const auto held = co_await e.connecting.lock();
  if (auto volume = e.volume.lock()) {
    keep_a_while(volume);
    co_return volume;
  }
  auto threads = std::make_shared<rt::blocking_threads>(threads_per_volume);
  const uri::gluster_source asked = co_await living_servers_first(from, *threads);
  auto work = [asked, threads] { return connect(asked, threads); };
  const uint64_t limit_s = from.timeout_s != 0 ? from.timeout_s : connect_limit_s;
  const uint64_t due = rt::reactor::current().now_ns() + limit_s * second_ns;
  auto connected = co_await rt::run_blocking<outcome<volume_ptr>>(*threads, std::move(work), due);
  if (!connected)
    co_return failure{errc::timed_out, "cannot connect to " + who(from) + ": no answer in " +
                                           std::to_string(limit_s) + " s"};
  if (*connected) {
    e.volume = **connected;
    keep_a_while(**connected);
  }
  co_return *std::move(connected);
}

gluster_volumes::gluster_volumes() {
  forget_.owner = this;
  forget_.run = [](rt::timer& t) { static_cast<alarm&>(t).owner->last_used_.reset(); };
  renew_.owner = this;
  renew_.run = [](rt::timer& t) { static_cast<alarm&>(t).owner->renew_locks(); };
}

gluster_volumes::~gluster_volumes() {
  home_.stop_timer(forget_);
  home_.stop_timer(renew_);
}

task<void> gluster_volumes::keep_locked(rt::runtime& runtime,
                                        std::shared_ptr<gluster_image_lock> lock) {
  struct here {
    static task<bool> keep(gluster_volumes& all, std::weak_ptr<gluster_image_lock> one) {
      all.locks_.push_back(std::move(one));
      if (!all.renew_.armed) all.home_.start_timer(all.renew_, all.home_.now_ns() + renew_ns);
      co_return true;
    }
  };
  auto work = [&runtime, &lock] { return here::keep(runtime.shared<gluster_volumes>(), lock); };
  (void)co_await rt::call_on(runtime.at(0), work);
}

// One thread of a volume at a time, whatever hangs there.
void gluster_volumes::renew_locks() {
  std::erase_if(locks_, [](const auto& lock) { return lock.expired(); });
  std::map<gluster_volume*, std::vector<std::shared_ptr<gluster_image_lock>>> by_volume;
  for (const auto& weak : locks_)
    if (auto lock = weak.lock()) by_volume[&lock->volume()].push_back(std::move(lock));
  for (auto& [volume, locks] : by_volume) {
    if (volume->renews_locks.exchange(true)) continue;
    auto work = [of = volume, all = std::move(locks)] {
      for (const auto& lock : all) lock->renew();
      of->renews_locks = false;
    };
    volume->threads().run(std::move(work));
  }
  if (!locks_.empty()) home_.start_timer(renew_, home_.now_ns() + renew_ns);
}

void gluster_volumes::keep_a_while(std::shared_ptr<gluster_volume> volume) {
  last_used_ = std::move(volume);
  home_.start_timer(forget_, home_.now_ns() + keep_ns);
}

task<outcome<volume_ptr>> gluster_volumes::get(rt::runtime& runtime, uri::gluster_source from) {
  if (from.rdma)
    base::log_warn("gluster", "'" + uri::to_text(from) +
                                  "': Gluster has no RDMA transport any more; it is tcp instead");
  auto work = [&runtime, &from] { return runtime.shared<gluster_volumes>().get_here(from); };
  co_return co_await rt::call_on(runtime.at(0), work);
}

}  // namespace lbd::store
