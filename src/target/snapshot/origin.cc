// SPDX-License-Identifier: MIT
// snapshot-origin: the live device below snapshots, `snapshot-origin <origin>`. A write waits until
// all snapshots have what it replaces.
// State: none of its own (origin_group). After a crash: as the device below.
#include "target/snapshot/origin_group.h"

#include "block/segments.h"

namespace lbd::snapshot {
namespace {

using base::failure;
using base::outcome;

class origin_target final : public block::target, private block::crossing {
 public:
  origin_target(block::opened_device origin, std::shared_ptr<origin_group> group,
                uint64_t begin_bytes, uint64_t length_bytes)
      : origin_(std::move(origin)),
        group_(std::move(group)),
        begin_bytes_(begin_bytes),
        limits_(origin_.device->limits()) {
    limits_.size_bytes = length_bytes;
    limits_.can_discard = limits_.can_write_zeroes = limits_.fast_zero = false;
  }
  const block::limits& limits() const noexcept override { return limits_; }

  block::routed route(block::op what, uint64_t offset, uint64_t length,
                      block::path& way) noexcept override {
    if (what == block::op::read) return {origin_.device.get(), at(offset)};
    if (what != block::op::write) return {};
    const uint32_t inside = group_->enter_write();
    if (group_->needs_exception(at(offset), length, nullptr)) {
      group_->leave_write(inside);
      return {};
    }
    way.push(*this, inside);
    return {origin_.device.get(), at(offset)};
  }

  task<result<void>> read(uint64_t offset, segments to, io_opts io) override {
    return block::read(*origin_.device, at(offset), to, io);
  }
  task<result<void>> write(uint64_t offset, segments from, io_opts io) override {
    const uint64_t length = block::total_bytes(from);
    const uint32_t inside = co_await group_->enter_when_kept(at(offset), length, nullptr);
    const auto r = co_await block::write(*origin_.device, at(offset), from, io);
    group_->leave_write(inside);
    co_return r;
  }
  task<result<void>> flush(io_opts io) override { return origin_.device->flush(io); }
  task<result<void>> discard(uint64_t, uint64_t, io_opts) override {
    co_return io_error{errc::notsup, 0};
  }
  task<result<void>> extents(uint64_t offset, uint64_t length, block::extent_list& out,
                             io_opts io) override {
    return origin_.device->extents(at(offset), length, out, io);
  }

  task<std::string> status(block::status_request q) override {
    if (q.kind == block::status_kind::info) co_return std::string();
    co_return origin_.number.text();
  }
  void for_each_child(
      const std::function<void(const block::opened_device&)>& visit) const override {
    visit(origin_);
  }

 private:
  void leave(uint64_t cookie, errc) noexcept override {
    group_->leave_write(static_cast<uint32_t>(cookie));
  }
  // Requests keep their place in the mapped device.
  uint64_t at(uint64_t offset) const noexcept { return begin_bytes_ + offset; }

  const block::opened_device origin_;
  const std::shared_ptr<origin_group> group_;
  const uint64_t begin_bytes_;
  block::limits limits_;
};

task<outcome<std::shared_ptr<block::target>>> create_origin(block::target_context& context,
                                                            std::vector<std::string> args) {
  if (args.size() != 1) co_return failure{errc::inval, "origin: incorrect number of arguments"};
  auto origin = co_await context.open(args[0]);
  if (!origin) co_return failure{origin.error().code, "Cannot get target device"};
  CO_CHECK(context.check_area(*origin, 0, context.length_sectors()));
  rt::runtime& runtime = context.runtime();
  const std::function<std::shared_ptr<void>()> make_group = [&runtime] {
    return std::make_shared<origin_group>(runtime);
  };
  auto group = std::static_pointer_cast<origin_group>(
      context.shared_state("snapshot-origin " + origin->number.text(), make_group));
  co_return std::shared_ptr<block::target>(std::make_shared<origin_target>(
      *std::move(origin), std::move(group), context.begin_sector() * block::sector_bytes,
      context.length_sectors() * block::sector_bytes));
}

}  // namespace
}  // namespace lbd::snapshot

namespace lbd::target {

extern const block::target_type snapshot_origin_type;
const block::target_type snapshot_origin_type = {
    "snapshot-origin", {1, 9, 0}, 0, &snapshot::create_origin};

}  // namespace lbd::target
