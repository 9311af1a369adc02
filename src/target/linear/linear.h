// SPDX-License-Identifier: MIT
// linear: a part of another device, `linear <device> <start sector>`.
// State: none. After a crash: as the device below.
#pragma once

#include "block/target.h"

namespace lbd::target {

class linear final : public block::target {
 public:
  static rt::task<base::outcome<std::shared_ptr<block::target>>> create(
      block::target_context& context, std::vector<std::string> args);

  linear(block::opened_device child, uint64_t start_sector, uint64_t length_sectors);

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
  block::routed route(block::op what, uint64_t offset, uint64_t length,
                      block::path& way) noexcept override;

  rt::task<std::string> status(block::status_request q) override;
  std::string measured() const override;
  void for_each_child(const std::function<void(const block::opened_device&)>& visit) const override;

 private:
  const block::opened_device child_;
  const uint64_t start_sector_;
  const uint64_t start_;  // bytes
  block::limits limits_;
};

}  // namespace lbd::target
