// SPDX-License-Identifier: MIT
// One connection to an NBD server: many requests in flight, sends gathered at the end of a turn,
// replies received straight into their segments, reconnection. Belongs to one reactor.
//
// When the connection breaks, requests without an answer wait and are sent again on the next one,
// for at most `outage_limit_ns`; then they fail, and new ones fail at once, until the server is
// back. Sending again is safe for everything that does not write. A write is sent again only if
// nothing that overlaps it was written since, on any connection of the store: the old copy and the
// new one put the same bytes in the same place. Otherwise it fails with errc::io.
#pragma once

#include <array>
#include <atomic>
#include <coroutine>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "block/device.h"
#include "rt/buffer_pool.h"
#include "rt/socket.h"
#include "rt/sync.h"
#include "store/nbd/handshake.h"
#include "wire/nbd/reply_parser.h"

namespace lbd::store {

class nbd_connection;

// What the connections of one store share. Only the atomics change after the start.
struct nbd_shared {
  std::string peer;  // for people: "localhost:10809" or the socket's path
  std::string export_name;
  std::vector<rt::socket_address> addresses;
  uint64_t outage_limit_ns = 0;
  uint64_t reply_limit_ns = 0;
  uint64_t attempt_limit_ns = 0;
  nbd_session session;  // of the first connection; later ones must offer the same
  // The connections whose writes count when one has to be sent again.
  std::vector<std::weak_ptr<nbd_connection>> all;

  std::atomic<uint64_t> write_order{0};  // numbers the requests that write
  std::atomic<uint64_t> written{0};      // writes that were answered, not durable by themselves
  std::atomic<uint64_t> flushed{0};      // of them durable
  std::atomic<bool> lost_writes{false};  // a connection broke while some were not durable
  std::atomic<uint64_t> reconnections{0};
};

// One request on its way; lives in the frame of whoever awaits it.
struct nbd_call {
  nbd_call(nbd::command type, uint16_t flags, uint64_t offset, uint32_t length,
           const block::io_opts& io)
      : reply(nbd::request{type, flags, 0, offset, length}),
        cancel(io.cancel),
        deadline_ns(io.deadline_ns) {}

  const nbd::request& asked() const noexcept { return reply.asked; }
  bool writes() const noexcept {
    return asked().type == nbd::command::write || asked().type == nbd::command::trim ||
           asked().type == nbd::command::write_zeroes;
  }

  nbd::reply_state reply;
  rt::segments data;                 // what is written, or where the read bytes go
  std::vector<nbd::extent> extents;  // block status: what the server said
  const block::cancel_token* cancel;
  uint64_t deadline_ns;
  uint64_t order = 0;  // of a write among the store's writes
  base::errc code = base::errc::ok;
  enum class stage : uint8_t { waiting, queued, sending, sent } where = stage::waiting;
  bool was_sent = false;  // at least once, perhaps in part
  bool answered = false;
  std::coroutine_handle<> waiter;
  // Told of a cancellation while the request waits for the server to come back.
  struct watch : rt::cancel_token::watcher {
    nbd_connection* owner = nullptr;
    nbd_call* call = nullptr;
  } canceled;
  bool watched = false;
  std::array<std::byte, nbd::request_bytes> header;
};

// The newest writes of a connection: which ranges were written after a given one?
class write_log {
 public:
  void add(uint64_t order, uint64_t offset, uint64_t length);
  // True also when it can no longer be known.
  bool overlapped_since(uint64_t order, uint64_t offset, uint64_t length) const noexcept;

 private:
  static constexpr size_t most = 2048;
  struct entry {
    uint64_t order, begin, end;
  };
  std::vector<entry> entries_;  // a ring once it is full
  uint64_t count_ = 0;
  uint64_t forgotten_ = 0;  // the newest order that was overwritten
};

class nbd_connection {
 public:
  nbd_connection(rt::reactor& home, std::shared_ptr<nbd_shared> shared);
  nbd_connection(const nbd_connection&) = delete;
  nbd_connection& operator=(const nbd_connection&) = delete;

  rt::reactor& home() const noexcept { return home_; }
  // Any reactor; a guess.
  bool is_up() const noexcept { return up_.load(std::memory_order_relaxed); }

  // The rest on the home reactor only.

  // Connects for the first time. The connection keeps itself alive from then on until it is closed.
  // Fails soon (canceled) once `*abandoned` is true, which is looked at only until this returns.
  static rt::task<base::outcome<void>> open(std::shared_ptr<nbd_connection> self, bool first,
                                            const std::atomic<bool>* abandoned);
  // Sends the request and waits for its answer. Errors: the server's, timed_out and not_connected
  // (outage), io (cannot be sent again), canceled.
  rt::task<base::errc> perform(nbd_call& call);
  unsigned in_flight() const noexcept { return in_flight_; }
  // Tells the server, ends the connection and fails what is in flight (canceled).
  rt::task<void> close();

 private:
  // Awaitable: begins a call and resumes when it has its answer.
  struct answer_of {
    nbd_connection& connection;
    nbd_call& call;
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> h) const {
      call.waiter = h;
      connection.begin(call);
    }
    void await_resume() const noexcept {}
  };
  // The data of a read that go from the socket to where they belong.
  struct direct_read {
    nbd_call* call = nullptr;
    uint64_t offset = 0;  // in the call's segments
    uint32_t left = 0;
    bool done = false;
    nbd::wire_error error = nbd::wire_error::none;
  };
  struct owned_timer : rt::timer {
    nbd_connection* owner = nullptr;
  };
  struct owned_hook : rt::turn_hook {
    nbd_connection* owner = nullptr;
  };

  // Life.
  rt::task<base::outcome<rt::socket>> connect(uint64_t due_ns);
  rt::task<base::outcome<nbd_session>> establish(uint64_t due_ns);
  void limit_handshake(uint64_t due_ns);
  bool is_abandoned() const noexcept {
    return abandoned_ != nullptr && abandoned_->load(std::memory_order_relaxed);
  }
  static rt::task<void> run(std::shared_ptr<nbd_connection> self);
  rt::task<void> reconnect();
  rt::task<void> drop_socket();
  void lost(const std::string& why);
  rt::task<void> resume_calls();
  rt::task<base::errc> refusal_to_resend(nbd_call& call);
  static rt::task<bool> overlapped_here(const nbd_connection& c, const nbd_call& call);
  std::vector<nbd_call*> calls_in_order() const;
  rt::task<void> pause(uint64_t ns);
  void tick();
  void check_outage(uint64_t now);

  // Sending.
  void begin(nbd_call& call);
  void enqueue(nbd_call& call);
  void watch(nbd_call& call);
  static void unwatch(nbd_call& call) noexcept;
  void canceled(nbd_call& call);
  rt::task<void> send_queued();
  rt::task<base::errc> send_batch();

  // Receiving.
  rt::task<std::string> receive();
  std::string parse();
  void prepare_receive();
  void take_received(size_t bytes);
  void take_data(nbd_call& call, const nbd::reply_event& e);
  void take_extents(nbd_call& call, const nbd::reply_event& e);
  nbd_call* find(uint64_t cookie) noexcept;
  void answered(nbd_call& call, nbd::wire_error error);
  void complete(nbd_call& call, base::errc code);
  void fail_all(base::errc code);

  static constexpr size_t table_size = block::bounds::requests_per_connection;
  static constexpr size_t receive_buffer_bytes = 256 << 10;

  rt::reactor& home_;
  std::shared_ptr<nbd_shared> shared_;
  std::atomic<bool> up_{false};
  rt::socket socket_;
  const std::atomic<bool>* abandoned_ = nullptr;  // only while it opens
  bool closing_ = false;
  bool running_ = false;
  bool resuming_ = false;
  bool given_up_ = false;  // the outage has lasted longer than its limit
  bool server_leaves_ = false;
  uint64_t down_since_ns_ = 0;
  uint64_t last_progress_ns_ = 0;
  rt::event ended_;
  rt::event wake_;
  owned_timer watch_;
  owned_timer pause_;
  owned_timer limit_;
  uint64_t handshake_due_ns_ = 0;

  rt::semaphore slots_{table_size};
  std::array<nbd_call*, table_size> table_{};
  std::vector<uint16_t> free_;
  uint64_t serial_ = 0;
  unsigned in_flight_ = 0;
  write_log log_;

  owned_hook hook_;
  std::vector<nbd_call*> queue_;
  std::vector<nbd_call*> batch_;
  std::vector<iovec> send_iov_;
  bool sending_ = false;
  rt::event send_idle_;

  std::optional<nbd::reply_parser> parser_;
  rt::buffer buffer_;
  size_t begin_ = 0, end_ = 0;
  direct_read direct_;
  std::vector<iovec> receive_iov_;
};

}  // namespace lbd::store
