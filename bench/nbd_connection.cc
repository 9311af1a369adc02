// SPDX-License-Identifier: MIT
#include "nbd_connection.h"

#include <endian.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>

namespace lbd::bench {
namespace {

constexpr std::uint64_t magic_greeting = 0x4e42444d41474943;      // "NBDMAGIC"
constexpr std::uint64_t magic_option = 0x49484156454f5054;        // "IHAVEOPT"
constexpr std::uint64_t magic_option_reply = 0x0003e889045565a9;  // after every option
constexpr std::uint32_t magic_request = 0x25609513;
constexpr std::uint32_t magic_simple = 0x67446698;
constexpr std::uint32_t magic_chunk = 0x668e33ef;

constexpr std::uint16_t handshake_fixed_newstyle = 1U << 0;
constexpr std::uint32_t client_fixed_newstyle = 1U << 0;
constexpr std::uint32_t client_no_zeroes = 1U << 1;
constexpr std::uint32_t option_go = 7;
constexpr std::uint32_t option_structured_reply = 8;
constexpr std::uint32_t reply_ack = 1;
constexpr std::uint32_t reply_info = 3;
constexpr std::uint16_t info_export = 0;
constexpr std::uint16_t info_block_size = 3;

constexpr std::uint16_t chunk_flag_done = 1;
constexpr std::uint16_t chunk_none = 0;
constexpr std::uint16_t chunk_offset_data = 1;
constexpr std::uint16_t chunk_offset_hole = 2;
constexpr std::uint16_t chunk_error_bit = 1U << 15;

constexpr std::size_t simple_size = 16;
constexpr std::size_t chunk_size = 20;
constexpr std::size_t iov_limit = 1024;

template <typename T>
T load_be(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  if constexpr (sizeof(T) == 8) return be64toh(value);
  if constexpr (sizeof(T) == 4) return be32toh(value);
  if constexpr (sizeof(T) == 2) return be16toh(value);
}

template <typename T>
void store_be(std::byte* to, T value) {
  if constexpr (sizeof(T) == 8) value = htobe64(value);
  if constexpr (sizeof(T) == 4) value = htobe32(value);
  if constexpr (sizeof(T) == 2) value = htobe16(value);
  std::memcpy(to, &value, sizeof value);
}

template <typename T>
void append_be(std::vector<std::byte>& to, T value) {
  to.resize(to.size() + sizeof value);
  store_be(to.data() + to.size() - sizeof value, value);
}

[[noreturn]] void fail_errno(const std::string& what) {
  throw nbd_error(what + ": " + std::strerror(errno));
}

}  // namespace

std::uint64_t pattern::word_at(std::uint64_t offset) const {
  std::uint64_t x = seed_ + offset * 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

void pattern::fill(std::uint64_t offset, std::byte* data, std::size_t size) const {
  while (size > 0) {
    const std::size_t skip = offset % 8;
    const std::size_t part = std::min<std::size_t>(8 - skip, size);
    const std::uint64_t word = word_at(offset - skip);
    std::memcpy(data, reinterpret_cast<const std::byte*>(&word) + skip, part);
    offset += part;
    data += part;
    size -= part;
  }
}

bool pattern::matches(std::uint64_t offset, const std::byte* data, std::size_t size) const {
  while (size > 0) {
    const std::size_t skip = offset % 8;
    const std::size_t part = std::min<std::size_t>(8 - skip, size);
    const std::uint64_t word = word_at(offset - skip);
    if (std::memcmp(data, reinterpret_cast<const std::byte*>(&word) + skip, part) != 0) {
      return false;
    }
    offset += part;
    data += part;
    size -= part;
  }
  return true;
}

connection::connection(const endpoint& where, unsigned depth, std::uint32_t max_length,
                       const pattern* check)
    : check_(check), slots_(depth), headers_(depth), max_length_(max_length) {
  for (unsigned i = 0; i < depth; i++) free_.push_back(i);
  payload_.resize(static_cast<std::size_t>(max_length) * (check != nullptr ? depth : 1));
  if (check == nullptr) pattern{0}.fill(0, payload_.data(), payload_.size());
  buffer_.resize(longest_header + receive_size);
  if (where.unix_path.empty()) {
    connect_tcp(where.host, where.port);
  } else {
    connect_unix(where.unix_path);
  }
  try {
    handshake(where);
    if (fcntl(fd_, F_SETFL, O_NONBLOCK) != 0) fail_errno("fcntl");
  } catch (...) {
    close(fd_);
    throw;
  }
}

connection::~connection() { close(fd_); }

void connection::connect_unix(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) throw nbd_error("socket path too long: " + path);
  path.copy(address.sun_path, path.size());
  fd_ = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd_ < 0) fail_errno("socket");
  if (connect(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    const int saved = errno;
    close(fd_);
    errno = saved;
    fail_errno("connect to " + path);
  }
}

void connection::connect_tcp(const std::string& host, const std::string& port) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (getaddrinfo(host.c_str(), port.c_str(), &hints, &found) != 0) {
    throw nbd_error("cannot resolve " + host + ":" + port);
  }
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owner(found, &freeaddrinfo);
  for (const addrinfo* a = found; a != nullptr; a = a->ai_next) {
    fd_ = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol);
    if (fd_ < 0) continue;
    if (connect(fd_, a->ai_addr, a->ai_addrlen) == 0) {
      const int on = 1;
      setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
      return;
    }
    close(fd_);
  }
  fail_errno("connect to " + host + ":" + port);
}

void connection::send_all(const void* data, std::size_t size) {
  const auto* from = static_cast<const std::byte*>(data);
  while (size > 0) {
    const ssize_t n = ::send(fd_, from, size, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_errno("send");
    from += n;
    size -= static_cast<std::size_t>(n);
  }
}

void connection::recv_all(void* data, std::size_t size) {
  auto* to = static_cast<std::byte*>(data);
  while (size > 0) {
    const ssize_t n = ::recv(fd_, to, size, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_errno("recv");
    if (n == 0) throw nbd_error("server closed the connection during the handshake");
    to += n;
    size -= static_cast<std::size_t>(n);
  }
}

void connection::handshake(const endpoint& where) {
  std::array<std::byte, 18> greeting{};
  recv_all(greeting.data(), greeting.size());
  if (load_be<std::uint64_t>(greeting.data()) != magic_greeting ||
      load_be<std::uint64_t>(&greeting[8]) != magic_option ||
      (load_be<std::uint16_t>(&greeting[16]) & handshake_fixed_newstyle) == 0) {
    throw nbd_error("the server does not speak the fixed newstyle protocol");
  }
  std::array<std::byte, 4> flags{};
  store_be(flags.data(), client_fixed_newstyle | client_no_zeroes);
  send_all(flags.data(), flags.size());
  if (where.structured) negotiate_structured();
  open_export(where.export_name);
}

void connection::send_option(std::uint32_t option, const std::vector<std::byte>& data) {
  std::vector<std::byte> message;
  append_be(message, magic_option);
  append_be(message, option);
  append_be(message, static_cast<std::uint32_t>(data.size()));
  message.insert(message.end(), data.begin(), data.end());
  send_all(message.data(), message.size());
}

std::uint32_t connection::recv_option_reply(std::uint32_t option, std::vector<std::byte>& data) {
  std::array<std::byte, 20> head{};
  recv_all(head.data(), head.size());
  const auto length = load_be<std::uint32_t>(&head[16]);
  if (load_be<std::uint64_t>(head.data()) != magic_option_reply ||
      load_be<std::uint32_t>(&head[8]) != option || length > 65536) {
    throw nbd_error("malformed option reply");
  }
  data.resize(length);
  recv_all(data.data(), length);
  return load_be<std::uint32_t>(&head[12]);
}

void connection::negotiate_structured() {
  std::vector<std::byte> data;
  send_option(option_structured_reply, data);
  structured_ = recv_option_reply(option_structured_reply, data) == reply_ack;
  if (!structured_) throw nbd_error("the server has no structured replies");
}

void connection::open_export(const std::string& name) {
  std::vector<std::byte> data;
  append_be(data, static_cast<std::uint32_t>(name.size()));
  const auto* bytes = reinterpret_cast<const std::byte*>(name.data());
  data.insert(data.end(), bytes, bytes + name.size());
  append_be(data, std::uint16_t{1});
  append_be(data, info_block_size);
  send_option(option_go, data);
  while (true) {
    const std::uint32_t type = recv_option_reply(option_go, data);
    if (type == reply_ack) return;
    if (type != reply_info || data.size() < 2) {
      throw nbd_error("the server refuses export \"" + name + "\"");
    }
    if (load_be<std::uint16_t>(data.data()) == info_export && data.size() >= 12) {
      size_ = load_be<std::uint64_t>(&data[2]);
    }
  }
}

void connection::queue_bytes(const std::byte* data, std::size_t size) {
  auto* base = const_cast<std::byte*>(data);  // iovec has no const; sendmsg does not write
  if (!unsent_.empty()) {
    iovec& last = unsent_.back();
    if (static_cast<std::byte*>(last.iov_base) + last.iov_len == base) {
      last.iov_len += size;
      return;
    }
  }
  unsent_.push_back({base, size});
}

void connection::issue(command cmd, std::uint64_t offset, std::uint32_t length,
                       std::uint64_t time_ns) {
  const unsigned index = free_.front();
  free_.pop_front();
  slot& s = slots_[index];
  const auto turn = static_cast<std::uint16_t>(s.turn + 1);
  s = slot{.offset = offset,
           .issued_ns = time_ns,
           .length = length,
           .turn = turn,
           .cmd = cmd,
           .busy = true};
  std::byte* head = headers_[index].data();
  store_be(head, magic_request);
  store_be(head + 4, std::uint16_t{0});
  store_be(head + 6, static_cast<std::uint16_t>(cmd));
  store_be(head + 8, std::uint64_t{index} | std::uint64_t{turn} << 32);
  store_be(head + 16, offset);
  store_be(head + 24, length);
  queue_bytes(head, request_size);
  if (cmd != command::write) return;
  std::byte* bytes = payload_.data();
  if (check_ != nullptr) {
    bytes += static_cast<std::size_t>(index) * max_length_;
    check_->fill(offset, bytes, length);
  }
  queue_bytes(bytes, length);
}

void connection::send() {
  while (unsent_head_ < unsent_.size()) {
    msghdr message{};
    message.msg_iov = &unsent_[unsent_head_];
    message.msg_iovlen = std::min(unsent_.size() - unsent_head_, iov_limit);
    const ssize_t sent = sendmsg(fd_, &message, MSG_NOSIGNAL);
    send_calls_++;
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0 && errno == EAGAIN) return;
    if (sent < 0) fail_errno("send");
    auto left = static_cast<std::size_t>(sent);
    while (left > 0) {
      iovec& first = unsent_[unsent_head_];
      const std::size_t part = std::min(left, first.iov_len);
      first.iov_base = static_cast<std::byte*>(first.iov_base) + part;
      first.iov_len -= part;
      left -= part;
      if (first.iov_len == 0) unsent_head_++;
    }
  }
  unsent_.clear();
  unsent_head_ = 0;
}

void connection::receive(std::vector<completion>& done) {
  const ssize_t got = recv(fd_, buffer_.data() + kept_, buffer_.size() - kept_, 0);
  recv_calls_++;
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (got < 0) fail_errno("recv");
  if (got == 0) throw nbd_error("the server closed the connection");
  const std::size_t size = kept_ + static_cast<std::size_t>(got);
  std::size_t at = 0;
  while (at < size) {
    const std::size_t used = parse(buffer_.data() + at, size - at, done);
    if (used == 0) break;
    at += used;
  }
  kept_ = size - at;
  std::memmove(buffer_.data(), buffer_.data() + at, kept_);
}

// Takes one header or a piece of a body; returns the bytes used, 0 when more are needed.
std::size_t connection::parse(const std::byte* data, std::size_t size,
                              std::vector<completion>& done) {
  if (body_left_ > 0) return take_body(data, size, done);
  if (size < simple_size) return 0;
  const auto magic = load_be<std::uint32_t>(data);
  if (magic == magic_simple) return parse_simple(data, size, done);
  if (magic == magic_chunk && structured_) return parse_chunk(data, size, done);
  throw nbd_error("reply with a wrong magic number");
}

connection::slot& connection::slot_of(std::uint64_t cookie) {
  const auto index = static_cast<std::uint32_t>(cookie);
  if (index >= slots_.size() || !slots_[index].busy || slots_[index].turn != cookie >> 32) {
    throw nbd_error("reply to a request that is not in flight");
  }
  return slots_[index];
}

std::size_t connection::parse_simple(const std::byte* data, std::size_t,
                                     std::vector<completion>& done) {
  slot& s = slot_of(load_be<std::uint64_t>(data + 8));
  s.error = load_be<std::uint32_t>(data + 4);
  if (structured_ && s.cmd == command::read) throw nbd_error("simple reply to a structured read");
  if (s.cmd == command::read && s.error == 0) {
    begin_data(s, s.offset, s.length);
    body_is_last_ = true;
  } else {
    finish(s, done);
  }
  return simple_size;
}

std::size_t connection::parse_chunk(const std::byte* data, std::size_t size,
                                    std::vector<completion>& done) {
  if (size < chunk_size) return 0;
  const auto flags = load_be<std::uint16_t>(data + 4);
  const auto type = load_be<std::uint16_t>(data + 6);
  const auto length = load_be<std::uint32_t>(data + 16);
  const bool last = (flags & chunk_flag_done) != 0;
  slot& s = slot_of(load_be<std::uint64_t>(data + 8));
  const bool is_error = (type & chunk_error_bit) != 0;
  const std::size_t fixed = type == chunk_offset_data   ? 8U
                            : type == chunk_offset_hole ? 12U
                            : is_error                  ? 4U
                                                        : 0U;
  if (length < fixed || (type == chunk_none && length != 0)) throw nbd_error("malformed chunk");
  if (size < chunk_size + fixed) return 0;
  const std::byte* payload = data + chunk_size;
  if (is_error) {
    s.error = load_be<std::uint32_t>(payload);
    body_slot_ = nullptr;
    body_left_ = length - fixed;
  } else if (type == chunk_offset_data) {
    begin_data(s, load_be<std::uint64_t>(payload), length - fixed);
  } else if (type == chunk_offset_hole) {
    s.received += load_be<std::uint32_t>(payload + 8);
    if (check_ != nullptr) s.mismatch = true;  // the pattern has no zero words worth a hole
  } else if (type != chunk_none) {
    throw nbd_error("chunk of an unknown type");
  }
  body_is_last_ = last && body_left_ > 0;
  if (body_is_last_) body_slot_ = &s;
  if (last && body_left_ == 0) finish(s, done);
  return chunk_size + fixed;
}

void connection::begin_data(slot& s, std::uint64_t offset, std::uint64_t length) {
  if (offset < s.offset || length > s.length || offset - s.offset > s.length - length) {
    throw nbd_error("reply with data outside the request");
  }
  body_slot_ = &s;
  body_offset_ = offset;
  body_left_ = length;
}

std::size_t connection::take_body(const std::byte* data, std::size_t size,
                                  std::vector<completion>& done) {
  const auto part = static_cast<std::size_t>(std::min<std::uint64_t>(size, body_left_));
  if (body_slot_ != nullptr && body_slot_->error == 0) {
    if (check_ != nullptr && !check_->matches(body_offset_, data, part)) {
      body_slot_->mismatch = true;
    }
    body_slot_->received += static_cast<std::uint32_t>(part);
  }
  body_offset_ += part;
  body_left_ -= part;
  if (body_left_ == 0 && body_is_last_) finish(*body_slot_, done);
  return part;
}

void connection::finish(slot& s, std::vector<completion>& done) {
  if (s.cmd == command::read && s.error == 0 && s.received != s.length) {
    throw nbd_error("reply with less or more data than asked for");
  }
  done.push_back({.cmd = s.cmd,
                  .issued_ns = s.issued_ns,
                  .length = s.length,
                  .error = s.error,
                  .mismatch = s.mismatch});
  s.busy = false;
  body_slot_ = nullptr;
  body_is_last_ = false;
  free_.push_back(static_cast<unsigned>(&s - slots_.data()));
}

void connection::disconnect() {
  std::array<std::byte, request_size> request{};
  store_be(request.data(), magic_request);
  store_be(&request[6], static_cast<std::uint16_t>(command::disconnect));
  // A server that has gone already needs no goodbye.
  (void)::send(fd_, request.data(), request.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
}

}  // namespace lbd::bench
