// SPDX-License-Identifier: MIT
// A scripted NBD server for tests: well-behaved parts that a test puts together and spoils. One
// thread, blocking sockets, one connection after the other: the first gets the first script, and so
// on; when the scripts are used up nobody listens any more.
#pragma once

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "wire/nbd/handshake.h"
#include "wire/nbd/transmission.h"

namespace lbd::store {

inline constexpr uint16_t fake_flags =
    nbd::transmission_flag::has_flags | nbd::transmission_flag::send_flush |
    nbd::transmission_flag::send_fua | nbd::transmission_flag::send_trim |
    nbd::transmission_flag::send_write_zeroes;

struct fake_export {
  uint64_t size_bytes = 1 << 20;
  uint16_t flags = fake_flags;
  bool structured = true;
  bool knows_go = true;
  nbd::block_sizes sizes;
};

// What one side writes before it sends, the other sees after it has received. The sockets see to
// that; this tells the thread sanitizer.
inline std::atomic<uint64_t> handed_over{0};
inline void hand_over() { handed_over.fetch_add(1, std::memory_order_acq_rel); }

// The server's end of one connection. After the client has closed, everything fails quietly.
class conversation {
 public:
  explicit conversation(int fd) : fd_(fd) {}
  ~conversation() { ::close(fd_); }
  conversation(const conversation&) = delete;
  conversation& operator=(const conversation&) = delete;

  bool ok() const { return ok_; }
  void send(base::bytes_view bytes) {
    hand_over();
    while (ok_ && !bytes.empty()) {
      const ssize_t n = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      ok_ = n > 0;
      if (ok_) bytes = bytes.subspan(static_cast<size_t>(n));
    }
  }
  void send(std::string_view text) { send(base::as_bytes(text)); }
  std::string receive(size_t bytes) {
    std::string out(bytes, '\0');
    size_t have = 0;
    while (ok_ && have < bytes) {
      const ssize_t n = ::recv(fd_, out.data() + have, bytes - have, 0);
      ok_ = n > 0;
      if (ok_) have += static_cast<size_t>(n);
    }
    out.resize(have);
    hand_over();
    return out;
  }

  void greet(uint16_t flags = 3) {
    nbd::byte_buffer out;
    nbd::append_newstyle_greeting(out, flags);
    send(out);
    receive(nbd::client_flags_bytes);
  }
  // The next option; its data go to `data`.
  nbd::option next_option(std::string& data) {
    const std::string raw = receive(nbd::option_header_bytes);
    if (!ok_) return nbd::option::abort;
    const auto header = nbd::decode_option_header(base::as_bytes(raw));
    ok_ = header.has_value();
    if (!ok_) return nbd::option::abort;
    data = receive(header->length);
    return header->type;
  }
  void shake_hands(const fake_export& e) {
    greet();
    std::string data;
    while (ok_) {
      const nbd::option what = next_option(data);
      nbd::byte_buffer out;
      if (what == nbd::option::structured_reply && e.structured) {
        nbd::append_ack(out, what);
      } else if (what == nbd::option::set_meta_context && e.structured) {
        nbd::append_meta_context(out, what, 7, nbd::base_allocation);
        nbd::append_ack(out, what);
      } else if (what == nbd::option::go && e.knows_go) {
        nbd::append_info_export(out, what, e.size_bytes, e.flags);
        nbd::append_info_block_size(out, what, e.sizes);
        nbd::append_ack(out, what);
        return send(out);
      } else if (what == nbd::option::export_name) {
        nbd::append_export_name_reply(out, e.size_bytes, e.flags, true);
        return send(out);
      } else {
        nbd::append_error(out, what, nbd::option_reply::err_unsup, "what?");
      }
      send(out);
    }
  }

  // A request and its payload.
  nbd::request next(std::string& payload, bool take_payload = true) {
    const std::string raw = receive(nbd::request_bytes);
    if (!ok_) return {nbd::command::disc, 0, 0, 0, 0};
    const auto r = nbd::decode_request(base::as_bytes(raw).first<nbd::request_bytes>());
    ok_ = r.has_value();
    if (!ok_) return {nbd::command::disc, 0, 0, 0, 0};
    payload = take_payload ? receive(nbd::payload_bytes(*r)) : "";
    return *r;
  }
  nbd::request next() {
    std::string payload;
    return next(payload);
  }
  void simple(uint64_t cookie, nbd::wire_error error = nbd::wire_error::none) {
    std::array<std::byte, nbd::simple_reply_bytes> raw;
    nbd::encode_simple_reply(raw, error, cookie);
    send(raw);
  }
  void data(const nbd::request& r, std::string_view bytes) { chunk(r, r.offset, bytes, true); }
  void chunk(const nbd::request& r, uint64_t offset, std::string_view bytes, bool done) {
    std::array<std::byte, nbd::data_chunk_header_bytes> raw;
    nbd::encode_data_chunk(raw, r.cookie, offset, static_cast<uint32_t>(bytes.size()), done);
    send(raw);
    send(bytes);
  }

  // Serves `disk` well until the client goes, or at most `count` requests.
  void serve(std::string& disk, unsigned count = ~0u) {
    std::string payload;
    for (; ok_ && count > 0; --count) {
      const nbd::request r = next(payload);
      switch (r.type) {
        case nbd::command::read:
          data(r, std::string_view(disk).substr(r.offset, r.length));
          break;
        case nbd::command::write:
          disk.replace(r.offset, r.length, payload);
          simple(r.cookie);
          break;
        case nbd::command::write_zeroes:
          disk.replace(r.offset, r.length, std::string(r.length, '\0'));
          simple(r.cookie);
          break;
        case nbd::command::disc:
          return;
        default:
          simple(r.cookie);
      }
    }
  }

 private:
  int fd_;
  bool ok_ = true;
};

class fake_server {
 public:
  using script = std::function<void(conversation&)>;

  fake_server(std::string path, std::vector<script> scripts)
      : path_(std::move(path)), scripts_(std::move(scripts)) {
    listener_ = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un a{};
    a.sun_family = AF_UNIX;
    std::memcpy(a.sun_path, path_.data(), path_.size());
    ::unlink(path_.c_str());
    if (::bind(listener_, reinterpret_cast<sockaddr*>(&a), sizeof a) != 0) std::abort();
    if (::listen(listener_, 16) != 0) std::abort();
    thread_ = std::thread([this] { run(); });
  }
  ~fake_server() {
    ::shutdown(listener_, SHUT_RDWR);
    thread_.join();
    ::close(listener_);
  }
  // Connections that were accepted.
  unsigned accepted() const { return accepted_.load(); }

 private:
  void run() {
    for (const script& s : scripts_) {
      const int fd = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
      if (fd < 0) break;
      accepted_.fetch_add(1);
      conversation c(fd);
      s(c);
    }
    // Nobody listens; the descriptor stays until the end, so that its number is nobody else's.
    ::shutdown(listener_, SHUT_RDWR);
    ::unlink(path_.c_str());
  }

  std::string path_;
  std::vector<script> scripts_;
  int listener_ = -1;
  std::atomic<unsigned> accepted_{0};
  std::thread thread_;
};

}  // namespace lbd::store
