// SPDX-License-Identifier: MIT
#include "ctl/line_server.h"

#include <sys/stat.h>
#include <unistd.h>

#include <array>

#include "base/log.h"
#include "rt/buffer_pool.h"
#include "wire/line/line_splitter.h"

namespace lbd::ctl {

line_server::line_server(line_handler& handler, std::string scope)
    : handler_(handler), scope_(std::move(scope)) {}

line_server::~line_server() = default;

base::outcome<rt::socket_address> line_server::listen(const rt::socket_address& address) {
  TRY(rt::socket made, rt::socket::listen(address, S_IRUSR | S_IWUSR));
  const rt::socket_address bound = made.local_address();
  std::string unlink_path;
  if (address.is_unix()) unlink_path = address.text();
  listeners_.push_back({std::move(made), std::move(unlink_path)});
  ++running_;
  rt::spawn(accept_all(listeners_.back()));
  return bound;
}

rt::task<void> line_server::accept_all(listener& from) {
  using namespace std::chrono_literals;
  while (!stopping_) {
    auto accepted = co_await from.socket.accept();
    if (stopping_) break;
    if (!accepted) {
      // Out of descriptors, most likely: try again when some may be free.
      base::log_warn(scope_, "cannot accept: " + base::to_string(accepted.error().code));
      co_await rt::sleep_for(100ms);
      continue;
    }
    if (connections_.size() >= most_connections) continue;
    connections_.push_back({*std::move(accepted), false});
    ++running_;
    rt::spawn(serve(std::prev(connections_.end())));
  }
  gone();
}

rt::task<bool> line_server::answer(connection& c, line_reply reply) {
  if (!reply.text.empty()) {
    const auto sent = co_await c.socket.send_all(base::as_bytes(reply.text));
    if (!sent) co_return false;
  }
  co_return !reply.close;
}

rt::task<void> line_server::serve(std::list<connection>::iterator at) {
  wire::line_splitter lines(handler_.max_line_bytes());
  rt::buffer buffer(4096);
  bool go_on = true;
  while (go_on && !stopping_) {
    const auto got = co_await at->socket.recv_some(buffer.span());
    if (!got || *got == 0) break;
    lines.push(base::as_text(buffer.first(*got)));
    at->busy = true;
    while (go_on) {
      const auto line = lines.next();
      if (!line) break;
      line_reply reply = co_await handler_.handle(std::string(*line));
      go_on = co_await answer(*at, std::move(reply));
    }
    if (go_on && lines.too_long()) {
      line_reply refusal{handler_.too_long(), true};
      go_on = co_await answer(*at, std::move(refusal));
    }
    at->busy = false;
  }
  connections_.erase(at);
  gone();
}

void line_server::gone() {
  if (--running_ == 0 && stopping_) idle_.set();
}

rt::task<void> line_server::stop() {
  stopping_ = true;
  for (listener& l : listeners_) {
    l.socket.shutdown();
    if (!l.unlink_path.empty()) ::unlink(l.unlink_path.c_str());
  }
  for (connection& c : connections_)
    if (!c.busy) c.socket.shutdown();
  // A peer that does not take its answer is not waited for any longer.
  struct impatience : rt::timer {
    std::list<connection>* connections = nullptr;
  } limit;
  limit.connections = &connections_;
  limit.run = [](rt::timer& t) {
    for (connection& c : *static_cast<impatience&>(t).connections) c.socket.shutdown();
  };
  rt::reactor& here = rt::reactor::current();
  here.start_timer(limit, here.now_ns() + stop_grace_ns);
  if (running_ != 0) co_await idle_.wait();
  here.stop_timer(limit);
  listeners_.clear();
}

}  // namespace lbd::ctl
