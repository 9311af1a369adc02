// SPDX-License-Identifier: MIT
// The NBD store: an export of another server as a block device. One connection per reactor where
// the server lets several clients share it (CAN_MULTI_CONN), otherwise one in all.
//
// What survives a lost connection is told in connection.h. Durability: a flush fails, and all later
// ones do, when a connection broke after a write was answered and before it was flushed: a server
// that crashed may have lost it, and nobody could tell.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "block/device.h"
#include "rt/runtime.h"
#include "rt/sync.h"
#include "store/nbd/connection.h"

namespace lbd::store {

struct nbd_options {
  std::string host;  // or, for a Unix socket, socket_path
  uint16_t port = nbd::default_port;
  std::string socket_path;
  std::string export_name;
  bool read_only = false;
  unsigned connections = 0;                    // at most; 0: one per reactor
  uint64_t outage_limit_ns = 30'000'000'000;   // how long requests wait for a lost server
  uint64_t reply_limit_ns = 60'000'000'000;    // without any answer a connection counts as lost
  uint64_t attempt_limit_ns = 10'000'000'000;  // for connecting and shaking hands
  // open() fails soon (canceled) after this has become true; not looked at later.
  const std::atomic<bool>* abandoned = nullptr;
};

class nbd_device final : public block::block_device {
 public:
  // Connects. On a reactor; names are resolved once, here, which blocks. Errors name the server.
  static rt::task<base::outcome<std::unique_ptr<nbd_device>>> open(rt::runtime& rt,
                                                                   nbd_options options);
  // Ends the connections without waiting for that (close() does). REQUIRES: no request in flight.
  ~nbd_device() override;
  // Says goodbye to the server and waits until the connections are gone. On a reactor.
  rt::task<void> close();

  const block::limits& limits() const noexcept override { return limits_; }
  rt::task<base::result<void>> read(uint64_t offset, rt::segments to, block::io_opts io) override;
  rt::task<base::result<void>> write(uint64_t offset, rt::segments from,
                                     block::io_opts io) override;
  rt::task<base::result<void>> flush(block::io_opts io) override;
  rt::task<base::result<void>> discard(uint64_t offset, uint64_t length,
                                       block::io_opts io) override;
  rt::task<base::result<void>> write_zeroes(uint64_t offset, uint64_t length,
                                            block::io_opts io) override;
  rt::task<base::result<void>> extents(uint64_t offset, uint64_t length, block::extent_list& out,
                                       block::io_opts io) override;

  // "localhost:10809/disk": for people.
  std::string describe() const;
  const nbd_session& session() const noexcept { return shared_->session; }
  size_t connection_count() const noexcept { return connections_.size(); }
  // Connections that were lost and came back.
  uint64_t reconnections() const noexcept { return shared_->reconnections.load(); }

 private:
  nbd_device(rt::runtime& rt, const nbd_options& options, std::shared_ptr<nbd_shared> shared);

  rt::task<base::outcome<void>> connect_first();
  rt::task<void> connect_more(unsigned count);
  void set_limits();
  nbd_connection& choose() const noexcept;
  rt::task<base::errc> perform(nbd_call& call);

  // These split at the largest payload; ranges are multiples of the server's minimum block.
  rt::task<base::result<void>> transfer(nbd::command what, uint64_t offset, rt::segments data,
                                        block::io_opts io);
  rt::task<base::result<void>> command_range(nbd::command what, uint16_t flags, uint64_t offset,
                                             uint64_t length, block::io_opts io);
  rt::task<base::result<void>> write_any(uint64_t offset, rt::segments from, block::io_opts io);
  rt::task<base::result<void>> zero_any(uint64_t offset, uint64_t length, block::io_opts io);
  rt::task<base::result<void>> zero_edge(uint64_t offset, uint64_t length, block::io_opts io);
  rt::task<base::result<void>> locked_write(uint64_t offset, rt::segments from, block::io_opts io);
  rt::task<base::result<void>> locked_zero(uint64_t offset, uint64_t length, block::io_opts io);
  rt::task<base::result<void>> locked_discard(uint64_t offset, uint64_t length, block::io_opts io);
  bool emulates_fua(const block::io_opts& io) const noexcept;

  rt::runtime& runtime_;
  const nbd_options options_;
  std::shared_ptr<nbd_shared> shared_;
  std::vector<std::shared_ptr<nbd_connection>> connections_;
  std::vector<std::vector<nbd_connection*>> here_;  // per reactor
  block::limits limits_;
  uint32_t block_ = 1;  // the server's minimum
  uint64_t most_ = 0;   // largest payload, a multiple of block_
  bool closed_ = false;
  rt::range_lock locks_;  // of the first connection's reactor; used where block_ > 1
};

}  // namespace lbd::store
