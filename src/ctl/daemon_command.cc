// SPDX-License-Identifier: MIT
#include "ctl/daemon_command.h"

#include "base/log.h"
#include "ctl/daemon_config.h"
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

// A socket of our own, unless the service manager has made some and none is asked for. Returns what
// to tell people.
outcome<std::string> listen(daemon& d, const daemon_command& what,
                            const std::vector<rt::socket>& inherited) {
  if (!inherited.empty() && what.socket.empty())
    return inherited.back().local_address().text() + "\n";
  const runtime_environment env = current_environment();
  std::string path = what.socket.empty() ? env.socket : what.socket;
  if (path.empty()) path = daemon_socket_path(d.runtime_folder());
  CHECK(d.listen(path));
  return path + "\n";
}

rt::task<outcome<std::string>> begin(daemon& d, const daemon_command& what,
                                     const daemon_config& config) {
  CO_TRY(auto inherited, inherited_listeners());
  // A client finds everything there.
  d.hold_clients();
  CO_TRY(std::string shown, listen(d, what, inherited));
  const std::vector<base::failure> missing = co_await restore(d, config, what.strict);
  if (!missing.empty() && what.strict) co_return missing.front();
  for (const base::failure& m : missing) {
    base::log_error("config", m.message);
    d.note_missing(m.message);
  }
  for (rt::socket& s : inherited) d.adopt_listener(std::move(s));
  d.admit_clients();
  co_return shown;
}

rt::task<void> wait_for_signal(daemon& d, const std::string& title, stop_signals& signals,
                               rt::event& done) {
  const int number = co_await signals.wait();
  if (number != 0) base::log_info(title, "stops after signal " + std::to_string(number));
  d.shutdown();
  done.set();
}

rt::task<outcome<void>> hold(daemon& d, const daemon_process& how, stop_signals& signals) {
  rt::event signal_waiter_done;
  rt::spawn(wait_for_signal(d, how.title, signals, signal_waiter_done));
  pid_file pid;
  const auto begun = co_await how.begin(d);
  outcome<void> first;
  // A signal that comes before it is ready is no failure.
  if (!begun && !d.stopped().is_set()) first = begun.error();
  if (begun && !how.pid_file.empty()) first = pid.write(how.pid_file);
  if (begun && first) {
    print(*begun);
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

rt::task<outcome<void>> run(rt::runtime& runtime, const daemon_process& how,
                            stop_signals& signals) {
  CO_TRY(daemon_places places, prepare_places());
  CO_TRY(const auto d, daemon::make(runtime, std::move(places)));
  co_return co_await hold(*d, how, signals);
}

}  // namespace

int run_daemon_process(const daemon_process& how) {
  base::set_log_level(how.log_level);
  raise_descriptor_limit();
  auto signals = stop_signals::make();
  if (!signals) return fail(how.title, signals.error());
  rt::runtime_options options;
  options.reactors = how.runtime.reactors;
  options.how = how.runtime.how;
  const auto runtime = rt::runtime::start(options);
  if (!runtime) return fail(how.title, runtime.error());
  const auto done = (*runtime)->run_until(run(**runtime, how, **signals));
  if (!done) return fail(how.title, done.error());
  return exit_ok;
}

int run_daemon(const daemon_command& what) {
  daemon_config config;
  if (!what.config.empty()) {
    auto read = read_config(what.config);
    if (!read) return fail("daemon", read.error());
    config = *std::move(read);
  }
  daemon_process how;
  how.title = "daemon";
  how.pid_file = what.pid_file;
  how.runtime = what.runtime;
  how.log_level = what.log_level;
  how.begin = [&what, &config](daemon& d) { return begin(d, what, config); };
  return run_daemon_process(how);
}

}  // namespace lbd::ctl
