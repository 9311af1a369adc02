// SPDX-License-Identifier: MIT
// The client side of one NBD connection, built for load: requests are collected and leave in one
// sendmsg, replies are taken in with one large recv and parsed from there. Nothing here blocks once
// the handshake is done. Source of the byte layouts: the NBD project's doc/proto.md.
#pragma once

#include <sys/uio.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <stdexcept>
#include <string>
#include <vector>

namespace lbd::bench {

// A broken connection, a refused export or a reply that breaks the protocol.
struct nbd_error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct endpoint {
  std::string unix_path;  // empty: TCP
  std::string host = "localhost";
  std::string port = "10809";
  std::string export_name;
  bool structured = false;  // ask for structured replies
};

enum class command : std::uint16_t { read = 0, write = 1, disconnect = 2, flush = 3 };

// What the content of a device must be when it is verified: the 8-byte word at device offset o
// depends on o and the seed alone, so that any split of the writes gives the same bytes.
class pattern {
 public:
  explicit pattern(std::uint64_t seed) : seed_(seed) {}
  void fill(std::uint64_t offset, std::byte* data, std::size_t size) const;
  bool matches(std::uint64_t offset, const std::byte* data, std::size_t size) const;

 private:
  std::uint64_t word_at(std::uint64_t offset) const;
  std::uint64_t seed_;
};

// One request that has been answered.
struct completion {
  command cmd;
  std::uint64_t issued_ns;
  std::uint32_t length;
  std::uint32_t error;  // NBD error number, 0 when the request succeeded
  bool mismatch;        // verify was on and the bytes differ from the pattern
};

class connection {
 public:
  // Connects, shakes hands and opens the export; throws nbd_error. `depth` is the largest number of
  // requests in flight, `max_length` the longest one. With `check`, which must outlive the
  // connection, writes carry its bytes and reads are compared with them.
  connection(const endpoint& where, unsigned depth, std::uint32_t max_length, const pattern* check);
  ~connection();
  connection(const connection&) = delete;
  connection& operator=(const connection&) = delete;

  int fd() const { return fd_; }
  std::uint64_t size_bytes() const { return size_; }
  unsigned in_flight() const { return static_cast<unsigned>(slots_.size() - free_.size()); }
  bool can_issue() const { return !free_.empty(); }
  bool wants_to_send() const { return !unsent_.empty(); }
  std::uint64_t recv_calls() const { return recv_calls_; }
  std::uint64_t send_calls() const { return send_calls_; }

  // Queues one request; send() puts it on the wire. Requires can_issue().
  void issue(command cmd, std::uint64_t offset, std::uint32_t length, std::uint64_t time_ns);
  // Sends what is queued, as far as the socket takes it.
  void send();
  // One recv, at most; appends what it completed. Throws nbd_error when the server has closed.
  void receive(std::vector<completion>& done);
  // Tells the server goodbye; no reply comes.
  void disconnect();

 private:
  static constexpr std::size_t request_size = 28;
  static constexpr std::size_t receive_size = 256 * 1024;
  static constexpr std::size_t longest_header = 32;

  struct slot {
    std::uint64_t offset = 0;
    std::uint64_t issued_ns = 0;
    std::uint32_t length = 0;
    std::uint32_t received = 0;
    std::uint32_t error = 0;
    std::uint16_t turn = 0;  // how often the slot was used: tells a second reply from the right one
    command cmd = command::read;
    bool busy = false;
    bool mismatch = false;
  };

  void connect_unix(const std::string& path);
  void connect_tcp(const std::string& host, const std::string& port);
  void handshake(const endpoint& where);
  void open_export(const std::string& name);
  void negotiate_structured();
  void send_all(const void* data, std::size_t size);
  void recv_all(void* data, std::size_t size);
  void send_option(std::uint32_t option, const std::vector<std::byte>& data);
  std::uint32_t recv_option_reply(std::uint32_t option, std::vector<std::byte>& data);

  void queue_bytes(const std::byte* data, std::size_t size);
  std::size_t parse(const std::byte* data, std::size_t size, std::vector<completion>& done);
  std::size_t parse_simple(const std::byte* data, std::size_t size, std::vector<completion>& done);
  std::size_t parse_chunk(const std::byte* data, std::size_t size, std::vector<completion>& done);
  void begin_data(slot& s, std::uint64_t offset, std::uint64_t length);
  std::size_t take_body(const std::byte* data, std::size_t size, std::vector<completion>& done);
  slot& slot_of(std::uint64_t cookie);
  void finish(slot& s, std::vector<completion>& done);

  int fd_ = -1;
  std::uint64_t size_ = 0;
  bool structured_ = false;
  const pattern* check_;

  std::vector<slot> slots_;
  std::deque<unsigned> free_;  // indexes of slots not in use, the longest free first
  std::vector<std::array<std::byte, request_size>> headers_;  // one per slot; neighbours merge
  std::vector<std::byte> payload_;  // with check_ one block per slot, else one for all
  std::uint32_t max_length_;
  std::vector<iovec> unsent_;
  std::size_t unsent_head_ = 0;

  std::vector<std::byte> buffer_;
  std::size_t kept_ = 0;  // bytes of an incomplete header at the start of buffer_

  slot* body_slot_ = nullptr;  // whose reply's body is being taken in; null: the body is skipped
  std::uint64_t body_offset_ = 0;
  std::uint64_t body_left_ = 0;
  bool body_is_last_ = false;  // the request is complete after this body

  std::uint64_t recv_calls_ = 0;
  std::uint64_t send_calls_ = 0;
};

}  // namespace lbd::bench
