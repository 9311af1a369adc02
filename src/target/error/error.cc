// SPDX-License-Identifier: MIT
// error: every request fails with EIO, `error` with any arguments, which are not kept.
// State: none. After a crash: as before.
#include "block/target.h"

namespace lbd::target {
namespace {

using base::result;
using block::errc;
using block::io_error;
using block::io_opts;
using rt::segments;
using rt::task;

class error final : public block::target {
 public:
  explicit error(uint64_t length_sectors) {
    limits_.size_bytes = length_sectors * block::sector_bytes;
  }
  const block::limits& limits() const noexcept override { return limits_; }
  task<result<void>> read(uint64_t, segments, io_opts) override { return fail(); }
  task<result<void>> write(uint64_t, segments, io_opts) override { return fail(); }
  // The kernel sends no flush to this target: an empty flush succeeds.
  task<result<void>> flush(io_opts) override { co_return result<void>{}; }
  task<result<void>> discard(uint64_t, uint64_t, io_opts) override { return fail(); }
  task<result<void>> write_zeroes(uint64_t, uint64_t, io_opts) override { return fail(); }
  task<std::string> status(block::status_request) override { co_return std::string(); }
  void for_each_child(const std::function<void(const block::opened_device&)>&) const override {}

 private:
  static task<result<void>> fail() { co_return io_error{errc::io, 0}; }
  block::limits limits_;
};

task<base::outcome<std::shared_ptr<block::target>>> create_error(block::target_context& context,
                                                                 std::vector<std::string>) {
  co_return std::shared_ptr<block::target>(std::make_shared<error>(context.length_sectors()));
}

}  // namespace

extern const block::target_type error_type;
const block::target_type error_type = {
    "error", {1, 5, 0}, block::target_type::wildcard, &create_error};

}  // namespace lbd::target
