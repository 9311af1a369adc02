// SPDX-License-Identifier: MIT
#include "ctl/line_server.h"

#include <poll.h>
#include <string.h>
#include <sys/stat.h>

#include <deque>

#include "base/log.h"
#include "rt/buffer_pool.h"
#include "wire/line/line_splitter.h"

namespace lbd::ctl {

// One client. Answers and notices are lines that never mix: whoever sends one holds the lock.
class line_server::connection final : public line_peer {
 public:
  explicit connection(rt::socket s) : socket(std::move(s)) {
    impatience_.owner = this;
    impatience_.run = [](rt::timer& t) { static_cast<impatience&>(t).owner->socket.shutdown(); };
  }
  ~connection() override { rt::reactor::current().stop_timer(impatience_); }

  bool notify(std::string line) override {
    if (dismissed_ || notices_.size() >= most_notices) return false;
    queue(std::move(line));
    return true;
  }

  void dismiss(std::string last_line) override {
    if (std::exchange(dismissed_, true)) return;
    notices_.clear();
    queue(std::move(last_line));
    rt::reactor& here = rt::reactor::current();
    here.start_timer(impatience_, here.now_ns() + last_line_ns);
  }

  bool is_gone() const override {
    pollfd p{socket.fd(), 0, 0};
    return ::poll(&p, 1, 0) > 0 && (p.revents & (POLLHUP | POLLERR)) != 0;
  }

  void on_end(std::function<void()> told) override { ended_ = std::move(told); }

  rt::task<bool> send(std::string text) {
    const auto held = co_await sending_.lock();
    const auto sent = co_await socket.send_all(base::as_bytes(text));
    co_return bool(sent);
  }

  // Nothing is sent or received any more. REQUIRES: no line is being handled.
  rt::task<void> end() {
    if (ended_) std::exchange(ended_, {})();
    dismissed_ = true;
    notices_.clear();
    socket.shutdown();
    if (busy_with_notices_) co_await notices_done_.wait();
  }

  rt::socket socket;
  bool busy = false;

 private:
  static constexpr size_t most_notices = 1024;
  static constexpr uint64_t last_line_ns = 5'000'000'000;
  struct impatience : rt::timer {
    connection* owner = nullptr;
  };

  void queue(std::string line) {
    notices_.push_back(std::move(line));
    if (std::exchange(busy_with_notices_, true)) return;
    notices_done_.reset();
    rt::spawn(send_notices());
  }

  rt::task<void> send_notices() {
    bool good = true;
    while (good && !notices_.empty()) {
      std::string line = std::move(notices_.front());
      notices_.pop_front();
      good = co_await send(std::move(line));
    }
    // The reader sees it and ends the connection.
    if (!good || dismissed_) socket.shutdown();
    busy_with_notices_ = false;
    notices_done_.set();
  }

  std::deque<std::string> notices_;
  bool busy_with_notices_ = false, dismissed_ = false;
  rt::event notices_done_;
  rt::mutex sending_;
  impatience impatience_;
  std::function<void()> ended_;
};

line_server::line_server(line_handler& handler, std::string scope)
    : handler_(handler), scope_(std::move(scope)) {
  admit();
}

line_server::~line_server() = default;

base::outcome<rt::socket_address> line_server::listen(const rt::socket_address& address) {
  TRY(rt::socket made, rt::socket::listen(address, S_IRUSR | S_IWUSR));
  const rt::socket_address bound = made.local_address();
  accept_on(std::move(made), rt::socket_file(address));
  return bound;
}

void line_server::adopt_listener(rt::socket made) { accept_on(std::move(made), {}); }

void line_server::accept_on(rt::socket socket, rt::socket_file file) {
  listeners_.push_back({std::move(socket), std::move(file)});
  ++running_;
  rt::spawn(accept_all(listeners_.back()));
}

rt::task<void> line_server::accept_all(listener& from) {
  using namespace std::chrono_literals;
  co_await admitted_.wait();
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
    connections_.emplace_back(*std::move(accepted));
    ++running_;
    rt::spawn(serve(std::prev(connections_.end())));
  }
  gone();
}

rt::task<void> line_server::serve(std::list<connection>::iterator at) {
  wire::line_splitter lines(handler_.max_line_bytes());
  rt::buffer buffer(4096);
  bool go_on = true;
  while (go_on && !stopping_) {
    const auto got = co_await at->socket.recv_some(buffer.span());
    if (!got || *got == 0) break;
    lines.push(base::as_text(buffer.first(*got)));
    ::explicit_bzero(buffer.data(), *got);  // a request may bring a key, and buffers are kept
    at->busy = true;
    while (go_on) {
      const auto line = lines.next();
      if (!line) break;
      line_reply reply = co_await handler_.handle(std::string(*line), *at);
      if (!reply.text.empty()) go_on = co_await at->send(std::move(reply.text));
      go_on = go_on && !reply.close;
    }
    if (go_on && lines.too_long()) {
      std::string refusal = handler_.too_long();
      co_await at->send(std::move(refusal));
      go_on = false;
    }
    at->busy = false;
  }
  co_await at->end();
  connections_.erase(at);
  gone();
}

void line_server::gone() {
  if (--running_ == 0 && stopping_) idle_.set();
}

rt::task<void> line_server::stop() {
  stopping_ = true;
  admit();
  for (listener& l : listeners_) {
    l.socket.shutdown();
    l.file.remove();
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
