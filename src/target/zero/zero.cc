// SPDX-License-Identifier: MIT
// zero: reads are zeros, writes vanish, `zero` without arguments.
// State: none. After a crash: as before.
#include "block/segments.h"
#include "block/target.h"

namespace lbd::target {
namespace {

using base::failure;
using base::result;
using block::errc;
using block::io_opts;
using rt::segments;
using rt::task;

class zero final : public block::target {
 public:
  explicit zero(uint64_t length_sectors) {
    limits_.size_bytes = length_sectors * block::sector_bytes;
    limits_.can_write_zeroes = true;
    limits_.fast_zero = true;
  }
  const block::limits& limits() const noexcept override { return limits_; }
  task<result<void>> read(uint64_t, segments to, io_opts) override {
    block::fill_zero(to);
    co_return result<void>{};
  }
  task<result<void>> write(uint64_t, segments, io_opts) override { co_return result<void>{}; }
  task<result<void>> flush(io_opts) override { co_return result<void>{}; }
  task<result<void>> discard(uint64_t, uint64_t, io_opts) override {
    co_return block::io_error{errc::notsup, 0};
  }
  task<result<void>> write_zeroes(uint64_t, uint64_t, io_opts) override {
    co_return result<void>{};
  }
  task<result<void>> extents(uint64_t, uint64_t length, block::extent_list& out, io_opts) override {
    out.append({length, true, true});
    co_return result<void>{};
  }
  task<std::string> status(block::status_request) override { co_return std::string(); }
  void for_each_child(const std::function<void(const block::opened_device&)>&) const override {}

 private:
  block::limits limits_;
};

task<base::outcome<std::shared_ptr<block::target>>> create_zero(block::target_context& context,
                                                                std::vector<std::string> args) {
  if (!args.empty()) co_return failure{errc::inval, "No arguments required"};
  co_return std::shared_ptr<block::target>(std::make_shared<zero>(context.length_sectors()));
}

}  // namespace

extern const block::target_type zero_type;
const block::target_type zero_type = {"zero", {1, 1, 0}, 0, &create_zero};

}  // namespace lbd::target
