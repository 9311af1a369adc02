// SPDX-License-Identifier: MIT
#include "ctl/dm_server.h"

#include <algorithm>
#include <cstring>

#include "base/log.h"
#include "block/bounds.h"

namespace lbd::ctl {

using base::errc;
using base::failure;
using base::outcome;
using rt::task;

namespace {

namespace face = dm::face;

constexpr size_t piece_bytes = size_t{1} << 20;

// Ends a connection whose peer takes too long.
class patience : rt::timer {
 public:
  explicit patience(rt::socket& s) : socket_(s) {
    run = [](rt::timer& t) { static_cast<patience&>(t).socket_.shutdown(); };
  }
  ~patience() { rt::reactor::current().stop_timer(*this); }
  patience(const patience&) = delete;
  patience& operator=(const patience&) = delete;
  void begin(uint64_t ns) {
    rt::reactor& here = rt::reactor::current();
    here.stop_timer(*this);
    here.start_timer(*this, here.now_ns() + ns);
  }

 private:
  rt::socket& socket_;
};

std::vector<std::byte> bytes_of(const void* from, size_t count) {
  const auto* first = static_cast<const std::byte*>(from);
  return {first, first + count};
}

}  // namespace

struct dm_server::connection {
  explicit connection(rt::socket s) : socket(std::move(s)) {}
  rt::socket socket;
  face::request_header request{};
  std::vector<std::byte> bytes;
  stack::waiting waiting;
  bool busy = false;   // a command is carried out
  bool armed = false;  // a watcher that waits for news

  std::string_view text() const { return base::as_text(bytes); }
};

dm_server::dm_server(stack::device_manager& devices, disk_directory& disks,
                     const device_folder& files, std::string folder)
    : commands_(devices, attributes_),
      view_(devices, disks, files, attributes_, std::move(folder)) {}

dm_server::~dm_server() = default;

outcome<void> dm_server::listen(const std::string& socket_path) {
  TRY(const auto address, rt::socket_address::unix_path(socket_path));
  TRY(listener_, rt::socket::listen(address, 0600));
  socket_file_ = rt::socket_file(address);
  ++running_;
  rt::spawn(accept_all());
  return {};
}

task<void> dm_server::accept_all() {
  using namespace std::chrono_literals;
  while (!stopping_) {
    auto accepted = co_await listener_.accept();
    if (stopping_) break;
    if (!accepted) {
      base::log_warn("dm", "cannot accept: " + base::to_string(accepted.error().code));
      co_await rt::sleep_for(100ms);
      continue;
    }
    if (connections_.size() >= block::bounds::connections) continue;
    const auto c = std::make_shared<connection>(*std::move(accepted));
    connections_.push_back(c);
    ++running_;
    rt::spawn(serve(c));
  }
  gone();
}

task<bool> dm_server::receive(connection_ptr c) {
  patience limit(c->socket);
  limit.begin(block::bounds::handshake_ns);
  const base::bytes_span head(reinterpret_cast<std::byte*>(&c->request), sizeof c->request);
  const auto got = co_await c->socket.recv_all(head);
  if (!got || c->request.magic != face::magic) co_return false;
  if (c->request.bytes > face::largest_request_bytes) co_return false;
  // Memory is taken as bytes arrive, not as they are promised.
  while (c->bytes.size() < c->request.bytes) {
    const size_t at = c->bytes.size();
    c->bytes.resize(std::min<size_t>(c->request.bytes, at + piece_bytes));
    limit.begin(block::bounds::handshake_ns);
    const auto more = co_await c->socket.recv_all(base::bytes_span(c->bytes).subspan(at));
    if (!more) co_return false;
  }
  co_return true;
}

task<void> dm_server::serve(connection_ptr c) {
  const bool whole = co_await receive(c);
  if (whole && !stopping_) {
    if (c->request.op == face::op_watch) {
      co_await serve_watcher(c);
    } else {
      c->busy = true;
      dm_answer a = co_await answer(c);
      co_await reply(c, std::move(a));
    }
  }
  c->socket.shutdown();
  connections_.remove(c);
  gone();
}

task<void> dm_server::reply(connection_ptr c, dm_answer a) {
  patience limit(c->socket);
  limit.begin(block::bounds::stalled_send_ns);
  const face::answer_header head{a.error, static_cast<uint32_t>(a.bytes.size())};
  std::vector<std::byte> out = bytes_of(&head, sizeof head);
  out.insert(out.end(), a.bytes.begin(), a.bytes.end());
  (void)co_await c->socket.send_all(out);
  std::fill(out.begin(), out.end(), std::byte{});  // it may have held keys
}

task<dm_answer> dm_server::answer(connection_ptr c) {
  switch (c->request.op) {
    case face::op_ioctl:
      co_return co_await run_ioctl(c);
    case face::op_look_up:
    case face::op_find:
    case face::op_find_file:
      co_return look_up(*c);
    case face::op_set_read_ahead:
      co_return set_read_ahead(*c);
    default:
      co_return dm_answer{EINVAL, {}};
  }
}

// A caller that goes away gives its wait up.
task<void> dm_server::notice_end(connection_ptr c) {
  std::byte one;
  (void)co_await c->socket.recv_some({&one, 1});
  c->waiting.cancel();
  gone();
}

task<dm_answer> dm_server::run_ioctl(connection_ptr c) {
  const size_t end = c->text().find('\0');
  // The directory is kept with each line of a table.
  if (end == std::string_view::npos || end > face::largest_path_bytes)
    co_return dm_answer{EINVAL, {}};
  dm_caller caller{std::string(c->text().substr(0, end)), &c->waiting, &view_};
  std::vector<std::byte> buffer(c->bytes.begin() + static_cast<ptrdiff_t>(end) + 1, c->bytes.end());
  std::fill(c->bytes.begin(), c->bytes.end(), std::byte{});
  ++running_;
  rt::spawn(notice_end(c));
  co_return co_await commands_.run(c->request.detail, std::move(buffer), std::move(caller));
}

dm_answer dm_server::told(const outcome<dm_view::node>& n) {
  if (!n) return {static_cast<int>(n.error().code), {}};
  face::node facts = n->facts;
  facts.path_bytes = static_cast<uint32_t>(n->path.size());
  dm_answer out{0, bytes_of(&facts, sizeof facts)};
  const auto path = base::as_bytes(n->path);
  out.bytes.insert(out.bytes.end(), path.begin(), path.end());
  return out;
}

dm_answer dm_server::look_up(const connection& c) {
  if (c.request.op == face::op_find) {
    uint32_t number[2];
    if (c.bytes.size() != sizeof number) return {EINVAL, {}};
    std::memcpy(number, c.bytes.data(), sizeof number);
    return told(view_.find({number[0], number[1]}));
  }
  if (c.request.op == face::op_find_file) {
    uint64_t inode = 0;
    if (c.bytes.size() != sizeof inode) return {EINVAL, {}};
    std::memcpy(&inode, c.bytes.data(), sizeof inode);
    return told(view_.find_file(inode));
  }
  const std::string path(c.text());
  if (path.empty() || path.size() > face::largest_path_bytes || path[0] != '/' ||
      path.find('\0') != std::string::npos)
    return {EINVAL, {}};
  return told(view_.look_up(path));
}

outcome<block::device_number> dm_server::add_disk(const std::string& path) {
  TRY(const dm_view::node n, view_.add_disk(path));
  return block::device_number{n.facts.major, n.facts.minor};
}

dm_answer dm_server::set_read_ahead(const connection& c) {
  uint32_t what[3];
  if (c.bytes.size() != sizeof what) return {EINVAL, {}};
  std::memcpy(what, c.bytes.data(), sizeof what);
  const block::device_number number{what[0], what[1]};
  if (!view_.find(number)) return {ENXIO, {}};
  attributes_.of(number).read_ahead_sectors = what[2];
  return {};
}

task<void> dm_server::serve_watcher(connection_ptr c) {
  dm_answer welcome;
  co_await reply(c, std::move(welcome));
  // Each byte of the caller arms it once more; what it did not take yet counts as one.
  std::byte some[64];
  while (!stopping_) {
    const auto got = co_await c->socket.recv_some(some);
    if (!got || *got == 0) break;
    c->armed = true;
  }
}

task<void> dm_server::send_news(connection_ptr c) {
  static constexpr std::byte news[1] = {};
  (void)co_await c->socket.send_all(news);
  gone();
}

void dm_server::changed() {
  for (const connection_ptr& c : connections_) {
    if (!std::exchange(c->armed, false)) continue;
    ++running_;
    rt::spawn(send_news(c));
  }
}

void dm_server::gone() {
  if (--running_ == 0 && stopping_) idle_.set();
}

task<void> dm_server::stop() {
  stopping_ = true;
  if (!listener_) co_return;
  listener_.shutdown();
  socket_file_.remove();
  const std::vector<connection_ptr> all(connections_.begin(), connections_.end());
  for (const connection_ptr& c : all) {
    c->waiting.cancel();
    if (!c->busy) c->socket.shutdown();
  }
  if (running_ != 0) co_await idle_.wait();
  listener_.close();
}

}  // namespace lbd::ctl
