// SPDX-License-Identifier: MIT
#include "ctl/serve.h"

#include <unistd.h>

#include <atomic>
#include <functional>

#include "base/log.h"
#include "ctl/management.h"
#include "ctl/paths.h"
#include "ctl/process.h"
#include "ctl/runtime_dir.h"
#include "ctl/say.h"
#include "ctl/serve_table.h"
#include "ctl/served_stack.h"
#include "export/nbd/server.h"

namespace lbd::ctl {
namespace {

using base::errc;
using base::failure;
using base::outcome;

const uri::endpoint default_endpoint{"localhost", 10809};

failure at_option(const std::string& option, const failure& why) {
  return failure{why.code, option + ": " + why.message};
}

// One server: its stacks, the NBD server, the management listeners.
class serving final : public management {
 public:
  serving(rt::runtime& runtime, const serve_command& what, stop_signals& signals)
      : runtime_(runtime),
        what_(what),
        signals_(signals),
        nbd_(runtime),
        started_ns_(rt::reactor::current().now_ns()),
        patience_end_ns_(started_ns_ + patience_ns) {
    add_management_methods(methods_, *this);
  }

  // Opens and listens, serves until asked to stop, closes everything. The first failure is
  // returned.
  rt::task<outcome<void>> run();

  server_report report() override;
  rt::task<outcome<void>> add_layer(std::string device, std::string file) override;
  void shutdown() override {
    stop_.set();
    stopped_ = true;
  }

 private:
  rt::task<outcome<void>> open();
  outcome<void> add_export(served_stack& stack);
  using listen_function = std::function<outcome<void>(const rt::socket_address&)>;
  rt::task<outcome<void>> patiently(std::function<outcome<void>()> attempt);
  // `option` is named in errors.
  rt::task<outcome<void>> listen_tcp(std::string option, uri::endpoint at, listen_function listen);
  rt::task<outcome<void>> listen_unix(std::string option, std::string path, listen_function listen);
  rt::task<outcome<void>> listen_to_clients();
  rt::task<outcome<void>> listen_to_managers();
  rt::task<outcome<void>> open_stacks();
  rt::task<void> wait_for_signal();
  rt::task<void> wait_for_last_client();
  rt::task<outcome<void>> close();
  outcome<served_stack*> find(const std::string& device);
  void announce() const;

  rt::runtime& runtime_;
  const serve_command& what_;
  stop_signals& signals_;
  nbd_server::server nbd_;
  static constexpr uint64_t patience_ns = 1'000'000'000;
  const uint64_t started_ns_, patience_end_ns_;
  std::vector<std::unique_ptr<served_stack>> stacks_;
  rpc_methods methods_;
  rpc_handler rpc_{methods_};
  text_handler text_{*this};
  line_server control_{rpc_, "control"};
  line_server admin_{text_, "admin"};
  std::vector<std::string> uris_;
  pid_file pid_file_;
  rt::event stop_;
  std::atomic<bool> stopped_{false};  // the same, for what opens layers
  rt::event signal_waiter_done_;
  rt::event client_waiter_done_;
};

rt::task<outcome<void>> serving::run() {
  rt::spawn(wait_for_signal());
  outcome<void> first = co_await open();
  if (!first && stopped_) first = outcome<void>{};  // as asked: nothing was served yet
  if (first && !stopped_) {
    if (what_.standard_input) rt::spawn(wait_for_last_client());
    announce();
    co_await stop_.wait();
    notify_service_manager("STOPPING=1");
    if (what_.standard_input) co_await client_waiter_done_.wait();
  }
  signals_.cancel();
  co_await signal_waiter_done_.wait();
  const auto closed = co_await close();
  if (first) first = closed;
  co_return first;
}

rt::task<outcome<void>> serving::open_stacks() {
  using namespace std::chrono_literals;
  for (size_t i = 0; i < what_.devices.size();) {
    auto opened =
        co_await served_stack::open(runtime_, what_.devices[i], what_.change_files, &stopped_);
    const bool locked = !opened && opened.error().code == errc::busy;
    if (locked && !stopped_ && rt::reactor::current().now_ns() < patience_end_ns_) {
      co_await rt::sleep_for(20ms);
      continue;
    }
    if (!opened) co_return opened.error();
    stacks_.push_back(*std::move(opened));
    CO_CHECK(add_export(*stacks_.back()));
    ++i;
  }
  co_return outcome<void>{};
}

rt::task<outcome<void>> serving::open() {
  CO_CHECK(co_await open_stacks());
  CO_CHECK(co_await listen_to_managers());
  CO_CHECK(co_await listen_to_clients());
  if (!what_.pid_file.empty()) CO_CHECK(pid_file_.write(what_.pid_file));
  co_return outcome<void>{};
}

outcome<void> serving::add_export(served_stack& stack) {
  nbd_server::export_options options;
  options.name = stack.export_name();
  options.device = &stack.device();
  options.read_only = stack.read_only();
  const auto added = nbd_.add_export(std::move(options));
  if (!added) return at_option("--name", added.error());
  return {};
}

// Tries again while an address is taken or an image locked: a server that has just died gives its
// sockets and locks back a moment later than its process id.
rt::task<outcome<void>> serving::patiently(std::function<outcome<void>()> attempt) {
  using namespace std::chrono_literals;
  while (true) {
    outcome<void> done = attempt();
    const bool taken = !done && done.error().code == static_cast<errc>(EADDRINUSE);
    const bool over = stopped_ || rt::reactor::current().now_ns() > patience_end_ns_;
    if (!taken || over) co_return done;
    co_await rt::sleep_for(20ms);
  }
}

// A name may mean several addresses ("localhost": IPv4 and IPv6); one that works is enough where
// the host lacks the other's protocol, but none may be taken.
rt::task<outcome<void>> serving::listen_tcp(std::string option, uri::endpoint at,
                                            listen_function listen) {
  const auto addresses = rt::socket_address::resolve(at.host, std::to_string(at.port), true);
  if (!addresses) co_return at_option(option, addresses.error());
  outcome<void> answer = failure{errc::noent, "no address for " + uri::to_text(at)};
  bool any = false;
  for (const rt::socket_address& address : *addresses) {
    const std::function<outcome<void>()> attempt = [&listen, &address] { return listen(address); };
    answer = co_await patiently(attempt);
    any = any || answer;
    if (!answer && answer.error().code == static_cast<errc>(EADDRINUSE)) {
      any = false;
      break;
    }
  }
  if (any) co_return outcome<void>{};
  co_return at_option(option, answer.error());
}

rt::task<outcome<void>> serving::listen_unix(std::string option, std::string path,
                                             listen_function listen) {
  const auto address = rt::socket_address::unix_path(path);
  if (!address) co_return at_option(option, address.error());
  const std::function<outcome<void>()> attempt = [&listen, &address] { return listen(*address); };
  const outcome<void> done = co_await patiently(attempt);
  if (done) co_return done;
  co_return at_option(option, done.error());
}

rt::task<outcome<void>> serving::listen_to_clients() {
  if (what_.standard_input) {
    CO_TRY(rt::socket client, standard_input_socket());
    nbd_.adopt_connection(std::move(client));
    co_return outcome<void>{};
  }
  CO_TRY(auto inherited, inherited_listeners());
  const bool any = !inherited.empty();
  for (rt::socket& s : inherited) nbd_.adopt_listener(std::move(s));
  const listen_function listen = [this](const rt::socket_address& a) -> outcome<void> {
    CHECK(nbd_.listen(a));
    return {};
  };
  std::vector<uri::endpoint> tcp = what_.listen;
  if (!any && tcp.empty() && what_.unix_sockets.empty()) tcp.push_back(default_endpoint);
  for (const uri::endpoint& at : tcp) {
    CO_CHECK(co_await listen_tcp("-l", at, listen));
    uris_.push_back("nbd://" + uri::to_text(at) + "/");
  }
  for (const std::string& path : what_.unix_sockets) {
    CO_CHECK(co_await listen_unix("-u", path, listen));
    uri::nbd_source shown;
    shown.socket_path = absolute_path(path);
    uris_.push_back(uri::to_text(shown));
  }
  co_return outcome<void>{};
}

rt::task<outcome<void>> serving::listen_to_managers() {
  CO_TRY(const std::string path, choose_serve_socket(what_.control_socket));
  const listen_function control = [this](const rt::socket_address& a) -> outcome<void> {
    CHECK(control_.listen(a));
    return {};
  };
  CO_CHECK(co_await listen_unix("--socket", path, control));
  if (!what_.admin) co_return outcome<void>{};
  const listen_function admin = [this](const rt::socket_address& a) -> outcome<void> {
    CHECK(admin_.listen(a));
    return {};
  };
  co_return co_await listen_tcp("-a", *what_.admin, admin);
}

void serving::announce() const {
  for (const std::string& uri : uris_) {
    base::log_info("serve", "listens on " + uri);
    print(uri + "\n");
  }
  notify_service_manager("READY=1");
}

rt::task<void> serving::wait_for_signal() {
  const int number = co_await signals_.wait();
  if (number != 0) base::log_info("serve", "stops after signal " + std::to_string(number));
  shutdown();
  signal_waiter_done_.set();
}

rt::task<void> serving::wait_for_last_client() {
  using namespace std::chrono_literals;
  while (!stop_.is_set() && !nbd_.info().connections.empty()) co_await rt::sleep_for(50ms);
  stop_.set();
  client_waiter_done_.set();
}

rt::task<outcome<void>> serving::close() {
  outcome<void> first = co_await nbd_.stop();
  for (auto& stack : stacks_) {
    const auto closed = co_await stack->close();
    if (first) first = closed;
  }
  // Last, so that whoever asked for the shutdown sees when it is done.
  co_await admin_.stop();
  co_await control_.stop();
  co_return first;
}

outcome<served_stack*> serving::find(const std::string& device) {
  if (device.empty() && stacks_.size() == 1) return stacks_.front().get();
  std::string names;
  for (auto& stack : stacks_) {
    if (stack->name() == device) return stack.get();
    names += (names.empty() ? "" : ", ") + stack->name();
  }
  if (device.empty())
    return failure{errc::inval, "this server has several devices: say which (" + names + ")"};
  return failure{errc::noent, "no device '" + device + "' here: there is " + names};
}

rt::task<outcome<void>> serving::add_layer(std::string device, std::string file) {
  CO_TRY(served_stack * stack, find(device));
  co_return co_await stack->add_layer(std::move(file));
}

server_report serving::report() {
  const uint64_t now = rt::reactor::current().now_ns();
  const nbd_server::server_info info = nbd_.info();
  server_report out;
  out.version = LBD_VERSION;
  out.pid = ::getpid();
  out.uptime_ms = (now - started_ns_) / 1'000'000;
  out.io = rt::reactor::current().kind();
  out.reactors = runtime_.reactor_count();
  for (const auto& a : info.addresses)
    out.addresses.push_back(a.is_unix() ? absolute_path(a.text()) : a.text());
  out.accepted = info.accepted;
  out.refused = info.refused;
  for (auto& stack : stacks_) {
    device_report d = stack->report();
    for (const auto& c : info.connections) {
      if (c.handshaking || c.export_name != stack->export_name()) continue;
      d.clients.push_back(to_client_report(c, now));
    }
    out.devices.push_back(std::move(d));
  }
  return out;
}

rt::task<outcome<void>> serve(rt::runtime& runtime, const serve_command& what,
                              stop_signals& signals) {
  auto one = std::make_unique<serving>(runtime, what, signals);
  co_return co_await one->run();
}

}  // namespace

int run_serve(const serve_command& what) {
  if (what.table) return run_serve_table(what);
  base::set_log_level(what.log_level);
  raise_descriptor_limit();
  auto signals = stop_signals::make();
  if (!signals) return fail("serve", signals.error());
  rt::runtime_options options;
  options.reactors = what.runtime.reactors;
  options.how = what.runtime.how;
  const auto runtime = rt::runtime::start(options);
  if (!runtime) return fail("serve", runtime.error());
  const auto done = (*runtime)->run_until(serve(**runtime, what, **signals));
  if (!done) return fail("serve", done.error());
  return exit_ok;
}

}  // namespace lbd::ctl
