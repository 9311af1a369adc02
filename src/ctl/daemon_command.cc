// SPDX-License-Identifier: MIT
#include "ctl/daemon_command.h"

#include "base/log.h"
#include "ctl/daemon.h"
#include "ctl/process.h"
#include "ctl/runtime_dir.h"
#include "ctl/say.h"

namespace lbd::ctl {
namespace {

using base::outcome;

outcome<daemon_places> prepare_places() {
  const runtime_environment env = current_environment();
  daemon_places places{runtime_dir(env), state_dir(env)};
  CHECK(prepare_runtime_dir(places.runtime_folder, env.uid));
  CHECK(prepare_state_dir(places.state_folder));
  return places;
}

// The sockets that the service manager made, or one of our own. Returns what to tell people.
outcome<std::string> listen(daemon& d, const daemon_command& what) {
  TRY(auto inherited, inherited_listeners());
  std::string shown;
  for (rt::socket& s : inherited) {
    shown = s.local_address().text();
    d.adopt_listener(std::move(s));
  }
  if (!inherited.empty() && what.socket.empty()) return shown;
  const runtime_environment env = current_environment();
  std::string path = what.socket.empty() ? env.socket : what.socket;
  if (path.empty()) path = daemon_socket_path(d.runtime_folder());
  CHECK(d.listen(path));
  return path;
}

rt::task<void> wait_for_signal(daemon& d, stop_signals& signals, rt::event& done) {
  const int number = co_await signals.wait();
  if (number != 0) base::log_info("daemon", "stops after signal " + std::to_string(number));
  d.shutdown();
  done.set();
}

rt::task<outcome<void>> serve(daemon& d, const daemon_command& what, stop_signals& signals) {
  rt::event signal_waiter_done;
  rt::spawn(wait_for_signal(d, signals, signal_waiter_done));
  pid_file pid;
  const auto at = listen(d, what);
  outcome<void> first;
  if (!at) first = at.error();
  if (first && !what.pid_file.empty()) first = pid.write(what.pid_file);
  if (first) {
    print(*at + "\n");
    notify_service_manager("READY=1");
    co_await d.stopped().wait();
    notify_service_manager("STOPPING=1");
  }
  signals.cancel();
  co_await signal_waiter_done.wait();
  const auto closed = co_await d.close();
  if (first) first = closed;
  co_return first;
}

rt::task<outcome<void>> run(rt::runtime& runtime, const daemon_command& what,
                            stop_signals& signals) {
  CO_TRY(daemon_places places, prepare_places());
  CO_TRY(const auto d, daemon::make(runtime, std::move(places)));
  co_return co_await serve(*d, what, signals);
}

}  // namespace

int run_daemon(const daemon_command& what) {
  base::set_log_level(what.log_level);
  raise_descriptor_limit();
  auto signals = stop_signals::make();
  if (!signals) return fail("daemon", signals.error());
  rt::runtime_options options;
  options.reactors = what.runtime.reactors;
  options.how = what.runtime.how;
  const auto runtime = rt::runtime::start(options);
  if (!runtime) return fail("daemon", runtime.error());
  const auto done = (*runtime)->run_until(run(**runtime, what, **signals));
  if (!done) return fail("daemon", done.error());
  return exit_ok;
}

}  // namespace lbd::ctl
