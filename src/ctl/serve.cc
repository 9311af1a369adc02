// SPDX-License-Identifier: MIT
#include "ctl/serve.h"

#include <unistd.h>

#include <cstdlib>

#include "base/log.h"
#include "ctl/management.h"
#include "ctl/process.h"
#include "ctl/runtime_dir.h"
#include "ctl/say.h"
#include "ctl/served_stack.h"
#include "export/nbd/server.h"

namespace lbd::ctl {
namespace {

using base::errc;
using base::failure;
using base::outcome;

const uri::endpoint default_endpoint{"localhost", 10809};

// One server: its stacks, the NBD server, the management listeners.
class serving final : public management {
 public:
  serving(rt::runtime& runtime, const serve_command& what, stop_signals& signals)
      : runtime_(runtime),
        what_(what),
        signals_(signals),
        nbd_(runtime),
        started_ns_(rt::reactor::current().now_ns()) {}

  // Opens and listens, serves until asked to stop, closes everything. The first failure is returned.
  rt::task<outcome<void>> run();

  server_report report() override;
  rt::task<outcome<void>> add_layer(std::string device, std::string file) override;
  void shutdown() override { stop_.set(); }

 private:
  rt::task<outcome<void>> open();
  outcome<void> add_export(served_stack& stack);
  outcome<void> listen_to_clients();
  outcome<void> listen_tcp(const uri::endpoint& at);
  outcome<void> listen_unix(const std::string& path);
  outcome<void> listen_to_managers();
  outcome<std::string> control_path() const;
  rt::task<void> wait_for_signal();
  rt::task<void> wait_for_last_client();
  rt::task<outcome<void>> close();
  outcome<served_stack*> find(const std::string& device);
  void announce() const;

  rt::runtime& runtime_;
  const serve_command& what_;
  stop_signals& signals_;
  nbd_server::server nbd_;
  const uint64_t started_ns_;
  std::vector<std::unique_ptr<served_stack>> stacks_;
  rpc_handler rpc_{*this};
  text_handler text_{*this};
  line_server control_{rpc_, "control"};
  line_server admin_{text_, "admin"};
  std::vector<std::string> uris_;
  pid_file pid_file_;
  rt::event stop_;
  rt::event signal_waiter_done_;
};

rt::task<outcome<void>> serving::run() {
  outcome<void> first = co_await open();
  if (first) {
    rt::spawn(wait_for_signal());
    if (what_.standard_input) rt::spawn(wait_for_last_client());
    announce();
    co_await stop_.wait();
    notify_service_manager("STOPPING=1");
    signals_.cancel();
    co_await signal_waiter_done_.wait();
  }
  const auto closed = co_await close();
  if (first) first = closed;
  co_return first;
}

rt::task<outcome<void>> serving::open() {
  for (const stack_spec& spec : what_.devices) {
    auto opened = co_await served_stack::open(runtime_, spec, what_.change_files);
    if (!opened) co_return opened.error();
    stacks_.push_back(*std::move(opened));
    CO_CHECK(add_export(*stacks_.back()));
  }
  CO_CHECK(listen_to_managers());
  CO_CHECK(listen_to_clients());
  if (!what_.pid_file.empty()) CO_CHECK(pid_file_.write(what_.pid_file));
  co_return outcome<void>{};
}

outcome<void> serving::add_export(served_stack& stack) {
  nbd_server::export_options options;
  options.name = stack.export_name();
  options.device = &stack.device();
  options.read_only = stack.read_only();
  return nbd_.add_export(std::move(options));
}

outcome<void> serving::listen_tcp(const uri::endpoint& at) {
  TRY(const auto addresses,
      rt::socket_address::resolve(at.host, std::to_string(at.port), true));
  // A name may mean several addresses ("localhost": IPv4 and IPv6); one that works is enough where the
  // host lacks the other's protocol.
  failure last{errc::noent, "no address for " + uri::to_text(at)};
  bool any = false;
  for (const rt::socket_address& address : addresses) {
    const auto bound = nbd_.listen(address);
    if (bound) {
      any = true;
      continue;
    }
    last = bound.error();
    if (last.code == errc::busy || last.code == static_cast<errc>(EADDRINUSE)) return last;
  }
  if (!any) return last;
  uris_.push_back("nbd://" + uri::to_text(at) + "/");
  return {};
}

outcome<void> serving::listen_unix(const std::string& path) {
  TRY(const auto address, rt::socket_address::unix_path(path));
  CHECK(nbd_.listen(address));
  uri::nbd_source shown;
  shown.socket_path = path;
  uris_.push_back(uri::to_text(shown));
  return {};
}

outcome<void> serving::listen_to_clients() {
  if (what_.standard_input) {
    TRY(rt::socket client, standard_input_socket());
    nbd_.adopt_connection(std::move(client));
    return {};
  }
  TRY(auto inherited, inherited_listeners());
  const bool any = !inherited.empty();
  for (rt::socket& s : inherited) nbd_.adopt_listener(std::move(s));
  for (const uri::endpoint& at : what_.listen) CHECK(listen_tcp(at));
  for (const std::string& path : what_.unix_sockets) CHECK(listen_unix(path));
  if (!any && what_.listen.empty() && what_.unix_sockets.empty())
    CHECK(listen_tcp(default_endpoint));
  return {};
}

outcome<std::string> serving::control_path() const {
  if (!what_.control_socket.empty()) return what_.control_socket;
  if (const char* set = std::getenv("LBD_SOCKET"); set != nullptr && set[0] != '\0')
    return std::string(set);
  const runtime_environment env = current_environment();
  const std::string dir = runtime_dir(env);
  CHECK(prepare_runtime_dir(dir, env.uid));
  return serve_socket_path(dir, ::getpid());
}

outcome<void> serving::listen_to_managers() {
  TRY(const std::string path, control_path());
  TRY(const auto address, rt::socket_address::unix_path(path));
  CHECK(control_.listen(address));
  if (!what_.admin) return {};
  TRY(const auto addresses, rt::socket_address::resolve(
                                what_.admin->host, std::to_string(what_.admin->port), true));
  failure last{errc::noent, "no address for " + uri::to_text(*what_.admin)};
  bool any = false;
  for (const rt::socket_address& at : addresses) {
    const auto bound = admin_.listen(at);
    any = any || bound;
    if (!bound) last = bound.error();
    if (!bound && last.code == static_cast<errc>(EADDRINUSE)) return last;
  }
  if (!any) return last;
  return {};
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
  stop_.set();
  signal_waiter_done_.set();
}

rt::task<void> serving::wait_for_last_client() {
  using namespace std::chrono_literals;
  while (!stop_.is_set() && !nbd_.info().connections.empty()) co_await rt::sleep_for(50ms);
  stop_.set();
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
  for (const auto& a : info.addresses) out.addresses.push_back(a.text());
  out.accepted = info.accepted;
  out.refused = info.refused;
  for (auto& stack : stacks_) {
    device_report d = stack->report();
    for (const auto& c : info.connections) {
      if (c.handshaking || c.export_name != stack->export_name()) continue;
      client_report client;
      client.id = c.id;
      client.peer = c.peer;
      client.connected_ms = now > c.connected_ns ? (now - c.connected_ns) / 1'000'000 : 0;
      client.in_flight = c.in_flight;
      client.requests = c.counters.requests;
      client.bytes_read = c.counters.bytes_read;
      client.bytes_written = c.counters.bytes_written;
      client.errors = c.counters.errors;
      d.clients.push_back(std::move(client));
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
  base::set_log_level(what.log_level);
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
