// SPDX-License-Identifier: MIT
// snapshot: an origin as it was, with changes of its own in a store (params.h has the line).
// State: snapshot_core. After a crash: every sector holds its last flushed value or one written
// later; a sector that was never written is that of the origin when the snapshot was made.
#include "target/snapshot/store_user.h"

namespace lbd::snapshot {

block::routed snapshot_target::route(block::op what, uint64_t offset, uint64_t length,
                                     block::path& way) noexcept {
  snapshot_core* c = core();
  if (c == nullptr) return {};
  if (what == block::op::read) return c->route_read(at(offset), length, way);
  if (what == block::op::write) return c->route_write(at(offset), length);
  return {};
}

task<result<void>> snapshot_target::read(uint64_t offset, segments to, io_opts io) {
  if (core() == nullptr) co_return io_error{errc::io, 0};
  co_return co_await core()->read(at(offset), to, io);
}

task<result<void>> snapshot_target::write(uint64_t offset, segments from, io_opts io) {
  if (core() == nullptr) co_return io_error{errc::io, 0};
  co_return co_await core()->write(at(offset), from, io);
}

// What the snapshot has written lies in the store alone.
task<result<void>> snapshot_target::flush(io_opts io) { return store_device().flush(io); }

task<result<void>> snapshot_target::discard(uint64_t offset, uint64_t length, io_opts io) {
  if (!made_.words.discard_zeroes_cow) co_return io_error{errc::notsup, 0};
  if (core() == nullptr) co_return io_error{errc::io, 0};
  CO_CHECK(co_await core()->zero_exceptions(at(offset), length, io));
  if (!made_.words.discard_passdown_origin) co_return result<void>{};
  co_return co_await origin().discard(at(offset), length, io);
}

task<result<void>> snapshot_target::extents(uint64_t offset, uint64_t length,
                                            block::extent_list& out, io_opts io) {
  if (core() == nullptr) co_return io_error{errc::io, 0};
  co_return co_await core()->extents(at(offset), length, out, io);
}

namespace {

task<base::outcome<std::shared_ptr<block::target>>> create_snapshot(block::target_context& context,
                                                                    std::vector<std::string> args) {
  return store_user::create(context, std::move(args), false);
}

}  // namespace
}  // namespace lbd::snapshot

namespace lbd::target {

extern const block::target_type snapshot_type;
const block::target_type snapshot_type = {"snapshot", {1, 16, 0}, 0, &snapshot::create_snapshot};

}  // namespace lbd::target
