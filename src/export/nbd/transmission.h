// SPDX-License-Identifier: MIT
// The transmission phase of one connection: requests in, replies out. Lives on one reactor.
#pragma once

#include "export/nbd/connection.h"
#include "export/nbd/output_queue.h"
#include "export/nbd/receive_buffer.h"
#include "export/nbd/request_slot.h"
#include "wire/nbd/request_check.h"

namespace lbd::nbd_server {

// The one metadata context, base:allocation, once a client has selected it.
inline constexpr uint32_t allocation_context_id = 1;

// What the handshake agreed on.
struct agreement {
  std::shared_ptr<export_entry> target;
  bool structured_replies = false;
  bool block_status = false;
};

class transmission {
 public:
  transmission(connection& c, const agreement& agreed, uint64_t stalled_ns);
  transmission(const transmission&) = delete;
  transmission& operator=(const transmission&) = delete;

  // Serves until the client leaves or drain() was called; all requests have then completed.
  rt::task<bool> serve();
  // serve() answers what has arrived, then ends. Same reactor; also before and after it.
  rt::task<bool> drain();
  // Any thread: nobody wants the outcome of what is in flight any more.
  void give_up() { cancel_.cancel(); }

 private:
  // What the request at the front of the input waits for.
  enum class need { nothing, input, slot, memory, payload, clearance, skip, stop };

  // transmission.cc: the input
  rt::task<void> receive_requests();
  rt::task<bool> provide(need what);
  need next_request();
  need take_request(const nbd::request& r);
  rt::task<bool> receive_more();
  rt::task<int64_t> receive_into(base::bytes_span to, int flags);
  rt::task<bool> receive_payload();
  rt::task<bool> refuse_write();
  rt::task<void> tell_lost();
  void look_for_hang_up();
  rt::task<void> linger();
  void start(request_slot& s);
  void start_read(request_slot& s);
  void start_write(request_slot& s);

  // requests.cc: what does not complete on the spot
  rt::task<void> read_from(request_slot& s);
  rt::task<void> read_runs(request_slot& s, bool look_for_holes);
  rt::task<base::result<void>> read_range(request_slot& s, uint64_t begin, uint64_t length);
  void end_write(request_slot& s, base::errc code);
  rt::task<void> write(request_slot& s);
  rt::task<void> flush(request_slot& s);
  rt::task<void> discard(request_slot& s);
  rt::task<void> write_zeroes(request_slot& s);
  rt::task<void> block_status(request_slot& s);
  block::io_opts options_of(const request_slot& s) const noexcept;

  // The end of a request.
  void finish(request_slot& s, base::errc code);
  void fail(request_slot& s, nbd::wire_error error);
  void answer(request_slot& s);
  void answer_read(request_slot& s);
  void failed_read(request_slot& s, base::errc code);

  connection& connection_;
  const std::shared_ptr<export_entry> export_;
  block::block_device& device_;
  nbd::export_facts facts_;
  const bool structured_;
  const bool tcp_;
  const uint64_t stalled_ns_;
  block::cancel_token cancel_;
  slot_pool pool_;
  receive_buffer input_{pool_};
  output_queue output_;
  stoppable_io receiving_;
  request_slot* pending_ = nullptr;  // taken for the request at the front
  nbd::request front_{};
  bool cleared_ = false;            // nothing lost overlaps it
  bool waiting_for_input_ = false;  // receiving_ waits for a request, not for a payload
  bool draining_ = false;
  bool drained_ = false;         // has looked once more since
  bool last_was_large_ = false;  // a payload was received into a buffer of its own
  bool told_lost_ = false;
  bool disconnected_ = false;  // the client said so
};

}  // namespace lbd::nbd_server
