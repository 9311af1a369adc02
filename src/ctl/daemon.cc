// SPDX-License-Identifier: MIT
#include "ctl/daemon.h"

#include <unistd.h>

#include <nlohmann/json.hpp>

#include "base/log.h"
#include "ctl/device_major.h"
#include "ctl/served_stack.h"
#include "stack/device_name.h"

namespace lbd::ctl {

using base::failure;
using base::outcome;

outcome<std::unique_ptr<daemon>> daemon::make(rt::runtime& runtime, daemon_places places) {
  TRY(auto numbers, source_numbers::open(places.state_folder + "/sources"));
  return std::unique_ptr<daemon>(new daemon(runtime, std::move(places), std::move(numbers)));
}

daemon::daemon(rt::runtime& runtime, daemon_places places, std::unique_ptr<source_numbers> numbers)
    : runtime_(runtime),
      places_(std::move(places)),
      started_ns_(rt::reactor::current().now_ns()),
      sources_(runtime, std::move(numbers)),
      devices_(runtime, sources_, {choose_device_major()}) {
  add_server_methods(methods_, *this);
  add_event_methods(methods_, events_);
  add_parts(*this);
}

daemon::~daemon() = default;

outcome<void> daemon::listen(const std::string& path) {
  TRY(const auto address, rt::socket_address::unix_path(path));
  CHECK(control_.listen(address));
  return {};
}

outcome<std::string> daemon::keep_listener(rt::socket made) {
  const rt::socket_address at = made.local_address();
  const std::string text = at.text();
  if (text.empty() || text == "?")
    return failure{base::errc::inval,
                   "a socket from the service manager has neither a path nor a port"};
  const std::string address = (at.is_unix() ? "unix:" : "tcp:") + text;
  kept_listeners_[address] = std::move(made);
  return address;
}

rt::socket daemon::take_listener(const std::string& address) {
  auto kept = kept_listeners_.extract(address);
  return kept.empty() ? rt::socket() : std::move(kept.mapped());
}

namespace {

// Whoever asks from inside takes answers only.
class inner_peer final : public line_peer {
 public:
  bool notify(std::string /*line*/) override { return false; }
  void dismiss(std::string /*last_line*/) override {}
  bool is_gone() const override { return false; }
  void on_end(std::function<void()> /*told*/) override {}
};

}  // namespace

rt::task<outcome<std::shared_ptr<const nlohmann::json>>> daemon::call(
    std::string method, std::shared_ptr<const nlohmann::json> params) {
  const rpc_method* const found = methods_.find(method);
  if (found == nullptr) co_return failure{base::errc::inval, "no method '" + method + "'"};
  inner_peer self;
  rpc_call call;
  call.params = std::move(params);
  call.from = &self;
  const rpc_answer answer = co_await (*found)(std::move(call));
  if (answer.value() != nullptr) co_return answer.value();
  const bool is_errno = answer.code() > 0;
  co_return failure{is_errno ? static_cast<base::errc>(answer.code()) : base::errc::inval,
                    answer.message()};
}

server_report daemon::report() {
  server_report out;
  out.version = LBD_VERSION;
  out.pid = ::getpid();
  out.uptime_ms = (rt::reactor::current().now_ns() - started_ns_) / 1'000'000;
  out.io = rt::reactor::current().kind();
  out.reactors = runtime_.reactor_count();
  for (const stack::device_state& s : devices_.list()) {
    device_report d;
    d.name = stack::shown_name(s.name);
    d.size_bytes = s.size_bytes;
    d.read_only = s.read_only;
    if (const stack::device* device = devices_.find_device({s.name, {}, {}}))
      d.operations = to_operations(device->totals());
    out.devices.push_back(std::move(d));
  }
  for (const auto& s : services_) s->add_to(out);
  out.missing = missing_;
  return out;
}

rt::task<void> daemon::close_services(outcome<void>& first) {
  for (auto at = services_.rbegin(); at != services_.rend(); ++at) {
    const auto closed = co_await (*at)->close();
    if (!closed) base::log_error("daemon", closed.error().message);
    if (first) first = closed;
  }
}

// Services wait for the requests that they have accepted. Those that a suspended device or a target
// holds back go on, or fail, when the device is resumed.
rt::task<void> daemon::let_requests_go(const rt::event& until) {
  using namespace std::chrono_literals;
  struct device {
    static rt::task<bool> let_go(stack::device_manager& all, std::string name) {
      const stack::device_key key{std::move(name), {}, {}};
      (void)co_await all.clear(key);
      (void)co_await all.suspend(key, {});
      (void)co_await all.resume(key, {});
      co_return true;
    }
  };
  while (!until.is_set()) {
    // At the same time: what one of them waits for may be held by another.
    std::vector<rt::task<bool>> all;
    for (stack::device_state& s : devices_.list())
      all.push_back(device::let_go(devices_, std::move(s.name)));
    for (const bool one : co_await rt::when_all(std::move(all))) (void)one;
    for (int i = 0; i < 25 && !until.is_set(); ++i) co_await rt::sleep_for(20ms);
  }
}

rt::task<void> daemon::remove_devices() {
  // A table that was only loaded may keep devices open, even its own.
  for (const stack::device_state& s : devices_.list()) {
    stack::device_key key{s.name, {}, {}};
    (void)co_await devices_.clear(std::move(key));
  }
  const size_t left = co_await devices_.remove_all(false);
  if (left != 0) base::log_error("daemon", std::to_string(left) + " devices stay open");
}

rt::task<outcome<void>> daemon::close() {
  stop_.set();
  outcome<void> first;
  rt::event services_closed, requests_gone;
  struct help {
    static rt::task<void> run(daemon& d, const rt::event& until, rt::event& done) {
      co_await d.let_requests_go(until);
      done.set();
    }
  };
  rt::spawn(help::run(*this, services_closed, requests_gone));
  co_await close_services(first);
  services_closed.set();
  co_await requests_gone.wait();
  co_await remove_devices();
  const auto closed = co_await sources_.close();
  if (first) first = closed;
  // Last, so that whoever asked for the shutdown sees when it is done.
  co_await control_.stop();
  co_return first;
}

}  // namespace lbd::ctl
