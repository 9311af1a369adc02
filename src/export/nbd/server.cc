// SPDX-License-Identifier: MIT
#include "export/nbd/server.h"

#include <algorithm>

#include "base/log.h"
#include "export/nbd/registry.h"
#include "export/nbd/session.h"
#include "export/nbd/stoppable_io.h"
#include "export/nbd/transmission.h"

namespace lbd::nbd_server {

using base::errc;
using base::failure;
using base::outcome;
using rt::reactor;
using rt::task;

namespace {

constexpr uint64_t pause_after_failure_ns = 50'000'000;
constexpr uint64_t look_again_ns = 1'000'000;

struct listener {
  rt::socket socket;
  rt::socket_address address;
  rt::socket_file file;  // goes with it
  bool accepting = false;
  stoppable_io io;
};

bool out_of_descriptors(int64_t rc) noexcept {
  return rc == -EMFILE || rc == -ENFILE || rc == -ENOBUFS || rc == -ENOMEM;
}

// Anything else may pass: accept() also reports the errors of the connection that it takes.
bool is_no_listener(int64_t rc) noexcept {
  return rc == -EBADF || rc == -EINVAL || rc == -ENOTSOCK;
}

void add(traffic& to, const traffic& t) noexcept {
  to.requests += t.requests;
  to.bytes_read += t.bytes_read;
  to.bytes_written += t.bytes_written;
  to.errors += t.errors;
}

task<bool> drain_on(rt::runtime& rt, std::shared_ptr<connection> c) {
  // Held here: the connection may come to its end meanwhile.
  const std::shared_ptr<transmission> running = c->running;
  if (running == nullptr) co_return false;
  auto work = [&running] { return running->drain(); };
  co_return co_await rt::call_on(rt.at(c->reactor), work);
}

// A device that waits for something far away hears that nobody waits for it any more.
void cut_off(connection& c) {
  const std::shared_ptr<transmission> running = c.running;
  if (running != nullptr) running->give_up();
  c.abort();
}

}  // namespace

class server::impl {
 public:
  impl(rt::runtime& rt, server_options options)
      : rt_(rt), options_(options), load_(rt.reactor_count()) {}

  void accept_on(rt::socket s, bool ours) {
    auto l = std::make_unique<listener>();
    l->address = s.local_address();
    l->socket = std::move(s);
    if (ours) l->file = rt::socket_file(l->address);
    listeners_.push_back(std::move(l));
    rt::spawn(accept_all(*listeners_.back()));
  }
  void add_export(export_options options) {
    std::shared_ptr<lost_changes> lost = registry_.lost_changes_of(*options.device);
    if (lost == nullptr) lost = std::make_shared<lost_changes>(rt_.at(0));
    registry_.add(std::make_shared<export_entry>(std::move(options), std::move(lost)));
  }
  void welcome(rt::socket s);
  server_info info() const;
  task<void> end_connections(const export_entry* of);
  task<outcome<void>> stop();

  rt::runtime& rt_;
  const server_options options_;
  registry registry_;

 private:
  task<void> accept_all(listener& l);
  task<void> serve(std::shared_ptr<connection> c);
  task<void> transmit(connection& c, agreement agreed);
  void make_room_for_handshake();
  task<void> stop_listening();
  task<outcome<void>> flush_devices();

  std::vector<std::unique_ptr<listener>> listeners_;
  std::vector<unsigned> load_;  // transmitting connections per reactor
  uint64_t next_id_ = 1;
  uint64_t accepted_ = 0, refused_ = 0;
  traffic gone_;
};

task<void> server::impl::accept_all(listener& l) {
  l.accepting = true;
  bool complained = false;
  while (!registry_.stopping()) {
    const int64_t fd = co_await l.io.accept(l.socket.fd());
    if (fd >= 0) {
      complained = false;
      welcome(rt::socket(static_cast<int>(fd)));
      continue;
    }
    if (registry_.stopping()) break;
    if (is_no_listener(fd)) {
      base::log_error("nbd", "no more clients on " + l.address.text() + ": " +
                                 base::to_string(static_cast<errc>(-fd)));
      break;
    }
    if (out_of_descriptors(fd) && !std::exchange(complained, true))
      base::log_warn("nbd", "no more descriptors for clients on " + l.address.text());
    co_await rt::sleep_for(std::chrono::nanoseconds(pause_after_failure_ns));
  }
  l.accepting = false;
}

void server::impl::welcome(rt::socket s) {
  if (registry_.stopping()) return;
  if (registry_.connections().size() >= options_.connections) {
    ++refused_;
    return base::log_debug("nbd", "too many connections: one refused");
  }
  make_room_for_handshake();
  ++accepted_;
  s.tune();
  const int fd = s.fd();
  auto c = std::make_shared<connection>(next_id_++, describe_peer(fd), std::move(s),
                                        reactor::current().now_ns());
  registry_.add(c);
  rt::spawn(serve(c));
}

// Whoever opens connections and says nothing only pushes out others who do the same.
void server::impl::make_room_for_handshake() {
  unsigned handshaking = 0;
  connection* oldest = nullptr;
  for (const auto& c : registry_.connections()) {
    if (!c->handshaking || c->aborted.load(std::memory_order_relaxed)) continue;
    ++handshaking;
    if (oldest == nullptr) oldest = c.get();
  }
  if (handshaking < options_.handshakes) return;
  ++refused_;
  oldest->abort();
}

task<void> server::impl::serve(std::shared_ptr<connection> c) {
  base::log_debug("nbd", "client " + c->peer + " connected");
  {
    session s(*c, registry_, options_.handshake_ns);
    const std::optional<agreement> agreed = co_await s.run();
    c->handshaking = false;
    if (agreed && !registry_.stopping()) co_await transmit(*c, *agreed);
  }
  base::log_debug("nbd", "client " + c->peer + " is gone");
  // Somebody may still hold the connection, but the client is to see its end now.
  c->socket.shutdown();
  add(gone_, c->counters.snapshot());
  registry_.remove(*c);
}

task<void> server::impl::transmit(connection& c, agreement agreed) {
  c.target = agreed.target;
  c.reactor = static_cast<unsigned>(std::min_element(load_.begin(), load_.end()) - load_.begin());
  c.running = std::make_shared<transmission>(c, agreed, options_.stalled_ns);
  ++load_[c.reactor];
  auto work = [&c] { return c.running->serve(); };
  co_await rt::call_on(rt_.at(c.reactor), work);
  --load_[c.reactor];
  c.running = nullptr;
}

server_info server::impl::info() const {
  server_info out;
  for (const auto& l : listeners_) out.addresses.push_back(l->address);
  out.total = gone_;
  out.accepted = accepted_;
  out.refused = refused_;
  for (const auto& e : registry_.exports())
    out.exports.push_back({e->options.name, e->options.description,
                           e->size_bytes.load(std::memory_order_relaxed), e->read_only(), 0});
  for (const auto& c : registry_.connections()) {
    connection_info i;
    i.id = c->id;
    i.peer = c->peer;
    i.handshaking = c->target == nullptr;
    i.reactor = c->reactor;
    i.connected_ns = c->connected_ns;
    i.counters = c->counters.snapshot();
    i.in_flight = i.counters.requests - std::min(c->counters.answered.get(), i.counters.requests);
    if (c->target != nullptr) i.export_name = c->target->options.name;
    for (size_t n = 0; n < out.exports.size(); ++n)
      if (registry_.exports()[n] == c->target) ++out.exports[n].connections;
    add(out.total, i.counters);
    out.connections.push_back(std::move(i));
  }
  return out;
}

// Ends the connections to one export, or all: those in their handshake at once, the others when
// what has arrived is answered, or when the grace is over.
task<void> server::impl::end_connections(const export_entry* of) {
  const auto concerned = [of](const connection& c) {
    return of == nullptr || c.target.get() == of;
  };
  const auto present = registry_.connections();
  for (const auto& c : present) {
    if (!concerned(*c)) continue;
    if (c->running == nullptr)
      c->abort();
    else
      co_await drain_on(rt_, c);
  }
  const uint64_t cut_off_ns = reactor::current().now_ns() + options_.stop_grace_ns;
  for (;;) {
    const bool over = reactor::current().now_ns() >= cut_off_ns;
    bool any = false;
    for (const auto& c : registry_.connections()) {
      if (!concerned(*c)) continue;
      any = true;
      if (over) cut_off(*c);
    }
    if (!any) co_return;
    co_await rt::sleep_for(std::chrono::nanoseconds(look_again_ns));
  }
}

task<void> server::impl::stop_listening() {
  for (const auto& l : listeners_) {
    l->io.cancel();
    while (l->accepting) co_await rt::sleep_for(std::chrono::nanoseconds(look_again_ns));
    l->file.remove();
    l->socket.close();
  }
}

task<outcome<void>> server::impl::flush_devices() {
  outcome<void> first;
  for (const auto& e : registry_.exports()) {
    // A device that is read-only now may have been written with the table before.
    if (e->options.read_only) continue;
    const auto r = co_await e->device().flush({});
    if (!r && first)
      first = failure{r.error().code, "export '" + e->options.name + "' could not be flushed: " +
                                          base::to_string(r.error().code)};
  }
  co_return first;
}

task<outcome<void>> server::impl::stop() {
  registry_.stop();
  co_await stop_listening();
  co_await end_connections(nullptr);
  auto flushed = co_await flush_devices();
  listeners_.clear();
  co_return flushed;
}

server::server(rt::runtime& rt, server_options options)
    : impl_(std::make_unique<impl>(rt, options)) {}

server::~server() = default;

outcome<rt::socket_address> server::listen(const rt::socket_address& address) {
  auto made = rt::socket::listen(address);
  if (!made) return made.error();
  const rt::socket_address bound = made->local_address();
  impl_->accept_on(*std::move(made), true);
  return bound;
}

void server::adopt_listener(rt::socket listener) { impl_->accept_on(std::move(listener), false); }

void server::adopt_connection(rt::socket connected) { impl_->welcome(std::move(connected)); }

outcome<void> server::add_export(export_options options) {
  if (!nbd::is_valid_string(options.name) || !nbd::is_valid_string(options.description))
    return failure{errc::inval,
                   "an export's name and description are UTF-8 texts of at most 4096 bytes"};
  for (const auto& e : impl_->registry_.exports())
    if (e->options.name == options.name)
      return failure{errc::exist, "there is an export named '" + options.name + "' already"};
  impl_->add_export(std::move(options));
  return {};
}

task<outcome<void>> server::remove_export(std::string name) {
  const auto found = impl_->registry_.find_exactly(name);
  if (found == nullptr) co_return failure{errc::noent, "there is no export named '" + name + "'"};
  found->removed = true;
  impl_->registry_.remove(*found);
  co_await impl_->end_connections(found.get());
  co_return outcome<void>{};
}

outcome<void> server::resize_export(const std::string& name) {
  const auto found = impl_->registry_.find_exactly(name);
  if (found == nullptr) return failure{errc::noent, "there is no export named '" + name + "'"};
  found->size_bytes.store(found->device().limits().size_bytes, std::memory_order_relaxed);
  return {};
}

server_info server::info() const { return impl_->info(); }

task<outcome<void>> server::stop() { return impl_->stop(); }

}  // namespace lbd::nbd_server
