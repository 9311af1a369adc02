// SPDX-License-Identifier: MIT
// multipath: several ways to the same storage, in groups by priority.
//   `multipath <#features> ... <#handler words> ... <#groups> <initial> {<group>}`
// Invariants: a request fails for its way's sake only when no way is left; a way that failed is not
// used until it is reinstated. State: which ways work, and the group in use. After a crash: as the
// storage below; a write that was sent again on another way may have been done twice.
//
// A request is routed to the path that its group's selector chooses. When it fails for the path's
// sake, the path is marked, and the walk begins anew; without a path the request waits or fails
// here. Groups and paths change by control calls on reactor 0, and by failures on any reactor:
// flags that all may read are atomics; each reactor keeps the order of the working paths for
// itself and looks at the flags again when `changes_` has moved.
#pragma once

#include <atomic>
#include <vector>

#include "rt/sync.h"
#include "rt/waiting_room.h"
#include "target/multipath/params.h"

namespace lbd::target {

class multipath final : public block::target, private block::crossing {
 public:
  using event_sink = std::function<void(std::vector<std::string>)>;
  using opener = std::function<rt::task<base::outcome<block::opened_device>>(std::string)>;

  static rt::task<base::outcome<std::shared_ptr<block::target>>> create(
      block::target_context& context, std::vector<std::string> args);

  multipath(multipath_params params, block::target_context& context);

  const block::limits& limits() const noexcept override { return limits_; }
  bool request_based() const noexcept override { return !features_.bio; }
  block::routed route(block::op what, uint64_t offset, uint64_t length,
                      block::path& way) noexcept override;
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

  rt::task<std::string> status(block::status_request q) override;
  std::string measured() const override;
  rt::task<base::outcome<std::string>> message(std::vector<std::string> words) override;
  rt::task<void> presuspend(bool no_flush) override;
  rt::task<void> presuspend_undone() override;
  rt::task<void> postsuspend() override;
  rt::task<void> resumed() override;
  rt::task<void> closed() override;
  void for_each_child(const std::function<void(const block::opened_device&)>& visit) const override;

 private:
  static constexpr uint32_t none = UINT32_MAX;

  // What a reactor keeps for itself: the working paths of each group in its selector's order.
  struct alignas(64) view {
    uint64_t seen = 0;  // of changes_
    std::vector<path_list> working;
    std::vector<uint32_t> fail_counts;  // by path, when it came into its list
    std::vector<char> listed;           // by path
  };

  // Choosing and failing (multipath.cc); any reactor.
  multipath_path* choose(uint64_t bytes, block::moment& now) noexcept;
  multipath_path* choose_in(view& v, uint32_t group, uint64_t bytes, block::moment& now) noexcept;
  void look_again(view& v) const;
  void look_again(view& v, uint32_t group) const;
  void leave(uint64_t cookie, block::errc code) noexcept override;
  void leave_at(uint64_t cookie, block::errc code, block::moment& end) noexcept override;
  bool again(uint64_t cookie, block::errc code) noexcept override;
  void fail(multipath_path& p) noexcept;
  void log_path(const char* what, const multipath_path& p) const;
  bool may_go_on() const noexcept;
  void tell(const multipath_path& p, const char* action, uint32_t working) const;
  rt::task<base::result<multipath_path*>> wait_for_path(uint64_t bytes, block::io_opts io);
  template <class Send>
  rt::task<base::result<void>> on_a_path(uint64_t bytes, block::io_opts io, Send send);
  rt::task<base::result<void>> extents_on(block::block_device& d, uint64_t offset, uint64_t length,
                                          block::extent_list& out, block::io_opts io);

  // Control (control.cc); home reactor.
  char state_of_group(uint32_t index) const noexcept;
  std::string info_text() const;
  std::string table_text() const;
  uint32_t shown_group() const noexcept;
  rt::task<void> wake();
  rt::task<void> set_queueing(bool on);
  rt::task<base::outcome<std::string>> path_message(std::string action, std::string device);
  rt::task<base::outcome<std::string>> group_message(std::string action, std::string number);
  rt::task<base::outcome<block::device_number>> number_of(std::string device);
  rt::task<void> reinstate(multipath_path& p);
  // Probing.
  struct probe_timer : rt::timer {
    multipath* of = nullptr;
  };
  void start_probing();
  rt::task<void> probe();
  rt::task<base::errc> probe_path(const multipath_path& p);

  const multipath_features features_;
  const std::string hw_handler_;
  const std::vector<std::unique_ptr<multipath_group>> groups_;
  std::vector<multipath_path*> paths_;
  rt::runtime& runtime_;
  rt::reactor& home_;
  const block::device_number number_;
  const event_sink told_;
  const opener open_;
  block::limits limits_;

  std::atomic<uint64_t> changes_{0};  // of paths' flags
  std::atomic<uint32_t> working_{0};
  std::atomic<uint32_t> current_{none}, next_{none};  // groups
  std::atomic<bool> choosing_{true};                  // no group has been chosen yet
  // Requests without a path wait; saved over a suspension, in which those that wait fail or,
  // without a flush, are given back.
  std::atomic<bool> queueing_, giving_back_{false};
  bool saved_queueing_ = false, suspended_ = false;
  uint64_t reinstatements_ = 0;
  std::vector<view> views_;
  std::vector<rt::waiting_room> rooms_;  // one per reactor

  probe_timer probe_timer_;
  rt::cancel_token probe_over_;
  bool probing_ = false, closed_ = false;
  rt::event probe_ended_;
};

}  // namespace lbd::target
