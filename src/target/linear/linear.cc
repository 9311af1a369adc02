// SPDX-License-Identifier: MIT
#include "target/linear/linear.h"

namespace lbd::target {

using base::failure;
using base::result;
using block::errc;
using block::io_opts;
using rt::segments;
using rt::task;

task<base::outcome<std::shared_ptr<block::target>>> linear::create(block::target_context& context,
                                                                   std::vector<std::string> args) {
  if (args.size() != 2) co_return failure{errc::inval, "Invalid argument count"};
  const auto start = block::parse_u64(args[1]);
  if (!start) co_return failure{errc::inval, "Invalid device sector"};
  auto child = co_await context.open(args[0]);
  if (!child) co_return failure{child.error().code, "Device lookup failed"};
  CO_CHECK(context.check_area(*child, *start, context.length_sectors()));
  co_return std::shared_ptr<block::target>(
      std::make_shared<linear>(*std::move(child), *start, context.length_sectors()));
}

linear::linear(block::opened_device child, uint64_t start_sector, uint64_t length_sectors)
    : child_(std::move(child)),
      start_sector_(start_sector),
      start_(start_sector * block::sector_bytes),
      limits_(child_.device->limits()) {
  limits_.size_bytes = length_sectors * block::sector_bytes;
}

block::routed linear::route(block::op, uint64_t offset, uint64_t, block::path&) noexcept {
  return {child_.device.get(), start_ + offset};
}
task<result<void>> linear::read(uint64_t offset, segments to, io_opts io) {
  return block::read(*child_.device, start_ + offset, to, io);
}
task<result<void>> linear::write(uint64_t offset, segments from, io_opts io) {
  return block::write(*child_.device, start_ + offset, from, io);
}
task<result<void>> linear::flush(io_opts io) { return child_.device->flush(io); }
task<result<void>> linear::discard(uint64_t offset, uint64_t length, io_opts io) {
  return child_.device->discard(start_ + offset, length, io);
}
task<result<void>> linear::write_zeroes(uint64_t offset, uint64_t length, io_opts io) {
  return child_.device->write_zeroes(start_ + offset, length, io);
}
task<result<void>> linear::extents(uint64_t offset, uint64_t length, block::extent_list& out,
                                   io_opts io) {
  return child_.device->extents(start_ + offset, length, out, io);
}

task<std::string> linear::status(block::status_request q) {
  if (q.kind == block::status_kind::info) co_return std::string();
  co_return child_.number.text() + " " + std::to_string(start_sector_);
}

std::string linear::measured() const {
  return ",device_name=" + child_.number.text() + ",start=" + std::to_string(start_sector_);
}

void linear::for_each_child(const std::function<void(const block::opened_device&)>& visit) const {
  visit(child_);
}

extern const block::target_type linear_type;
const block::target_type linear_type = {"linear", {1, 4, 0}, 0, &linear::create};

}  // namespace lbd::target
