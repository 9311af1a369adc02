// SPDX-License-Identifier: MIT
// A device: a name, a gate, a live table, and counters. Everything that clients see of a stack
// passes here; tables are swapped under load while the gate is closed, so that no request fails and
// none is lost.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "block/device.h"
#include "rt/gate.h"
#include "rt/runtime.h"
#include "stack/counters.h"
#include "stack/region_stats.h"
#include "stack/table.h"

namespace lbd::stack {

class device final : public block::block_device, private block::crossing {
 public:
  // `first` is live at once.
  device(rt::runtime& runtime, std::string name, std::unique_ptr<table> first);
  // REQUIRES: no request is in flight.
  ~device() override;

  const std::string& name() const noexcept { return name_; }
  // Changes only with the table; safe from any thread.
  const block::limits& limits() const noexcept override {
    return *limits_.load(std::memory_order_acquire);
  }

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
  block::routed route(block::op what, uint64_t offset, uint64_t length,
                      block::path& way) noexcept override;

  // Control. All on reactor 0, one after the other (a lock inside sees to it).

  // From now on until the next resume(), requests that a target gives back with errc::again wait
  // for that and are sent again. Before a suspension in which targets may do so.
  void keep_given_back();
  // Waits for the requests in flight and holds new ones. With `flush` the targets are flushed while
  // nothing runs; its failure is returned, the device is suspended all the same.
  rt::task<base::result<void>> suspend(bool flush);
  // Ends a suspend() that waits for requests: it answers canceled. New ones are held until resume()
  // all the same, so that targets know before.
  rt::task<void> give_up_suspension();
  // Lets the held requests go on. No-op when not suspended.
  rt::task<void> resume();
  bool suspended() const noexcept { return suspended_; }

  // Swaps the table while nothing is in flight: suspends if needed, asks `build` for the new table
  // (it may keep targets of the old one), resumes if it suspended. A failure of `build` leaves the
  // old table working.
  using builder = std::function<rt::task<base::outcome<std::unique_ptr<table>>>(const table&)>;
  rt::task<base::outcome<void>> replace_table(builder build);

  // What a device without a table says of itself until it has one: these limits, and the size 0.
  void expect_limits(block::limits of_next_table);

  // Whether its limits say that it is read-only. False: they said so already.
  bool set_read_only(bool now);

  // The live table. Reactor 0; valid until the next co_await.
  const table& live() const noexcept { return *live_; }

  device_totals totals() const noexcept { return counters_.totals(); }
  // What is counted in parts of it.
  region_stats& regions() noexcept { return regions_; }
  // Called on reactor 0 after a table with another size went live.
  void on_resize(std::function<void(uint64_t size_bytes)> told) { resized_ = std::move(told); }

 private:
  class visit;
  void leave(uint64_t cookie, base::errc code) noexcept override;
  void leave_at(uint64_t cookie, base::errc code, block::moment& end) noexcept override;
  bool again(uint64_t cookie, base::errc code) noexcept override;
  // Whether a request that ended so is to be sent again; then it has waited until it can be.
  rt::task<bool> given_back(base::errc code);
  rt::task<bool> resumed_here();
  // Returns the cookie for count_end().
  uint64_t count_start(block::op what, uint64_t bytes, block::moment& begin) noexcept;
  void count_end(uint64_t cookie, base::errc code, block::moment& end) noexcept;
  // Inside the gate.
  bool refuses_writes() const noexcept { return live_->refuses_writes(); }
  rt::task<base::result<void>> flush_targets(block::io_opts io);
  // Inside the gate, whole units.
  rt::task<base::result<void>> read_inside(uint64_t offset, rt::segments to, block::io_opts io);
  rt::task<base::result<void>> write_inside(uint64_t offset, rt::segments from, block::io_opts io);
  rt::task<base::result<void>> discard_inside(uint64_t offset, uint64_t length, block::io_opts io);
  rt::task<base::result<void>> zero_inside(uint64_t offset, uint64_t length, block::io_opts io);
  rt::task<base::result<void>> extents_inside(uint64_t offset, uint64_t length,
                                              block::extent_list& out, block::io_opts io);
  // The part of a range that lies in one segment.
  struct piece;
  template <class Serve>
  rt::task<base::result<void>> each_piece(uint64_t offset, uint64_t length, Serve serve);
  template <class Serve>
  rt::task<base::result<void>> several_pieces(uint64_t offset, uint64_t length, Serve serve);
  // Any range (device_sectors.cc). The writing ones run alone, on reactor 0, outside the gate.
  rt::task<base::result<void>> read_partial(uint64_t offset, rt::segments to, block::io_opts io);
  rt::task<base::result<void>> extents_partial(uint64_t offset, uint64_t length,
                                               block::extent_list& out, block::io_opts io);
  rt::task<base::result<void>> write_partial(uint64_t offset, rt::segments from, block::io_opts io);
  rt::task<base::result<void>> zero_partial(uint64_t offset, uint64_t length, block::io_opts io);
  rt::task<base::result<void>> write_parts(uint64_t offset, rt::segments from, block::io_opts io);
  rt::task<base::result<void>> zero_parts(uint64_t offset, uint64_t length, block::io_opts io);
  rt::task<base::result<void>> write_edge(uint64_t offset, rt::segments from, block::io_opts io);
  using work = std::function<rt::task<base::result<void>>()>;
  rt::task<base::result<void>> alone(block::op what, uint64_t offset, uint64_t bytes,
                                     const work& w);
  void adopt(std::unique_ptr<table> next);

  rt::runtime& runtime_;
  const std::string name_;
  rt::gate gate_;
  std::unique_ptr<table> live_;
  std::atomic<const block::limits*> limits_;
  // Limits of earlier tables: somebody may still look at them.
  std::vector<std::unique_ptr<const block::limits>> all_limits_;
  device_counters counters_;
  region_stats regions_;
  rt::mutex control_;
  bool suspended_ = false;
  bool draining_ = false, given_up_ = false;  // a suspension waits; is to wait no longer
  std::atomic<bool> keeping_{false};          // written on reactor 0
  rt::event kept_go_;                         // reactor 0
  std::function<void(uint64_t)> resized_;
};

}  // namespace lbd::stack
