// SPDX-License-Identifier: MIT
// The transient store: chunks one after the other from the device's start, and nothing to tell what
// they are.
#include "block/segments.h"
#include "target/snapshot/exception_store.h"

namespace lbd::snapshot {

task<result<void>> exception_store::read_bytes(uint64_t offset, base::bytes_span to) {
  if (!base::range_fits(offset, to.size(), device_bytes())) co_return io_error{errc::io, 0};
  const iovec v{to.data(), to.size()};
  const rt::segments whole(&v, 1);
  co_return co_await block::read(*device_.device, offset, whole, {});
}

task<result<void>> exception_store::write_bytes(uint64_t offset, base::bytes_view from,
                                                uint32_t flags) {
  if (!base::range_fits(offset, from.size(), device_bytes())) co_return io_error{errc::io, 0};
  const block::segment_list whole(from);
  block::io_opts io;
  io.flags = flags;
  co_return co_await block::write(*device_.device, offset, whole.view(), io);
}

namespace {

class transient_store final : public exception_store {
 public:
  transient_store(block::opened_device device, uint32_t chunk_sectors)
      : exception_store(std::move(device), {}) {
    chunk_sectors_ = chunk_sectors;
  }
  uint64_t place_of(uint64_t new_chunk) const noexcept override {
    return new_chunk * chunk_bytes();
  }
  store_usage usage() const noexcept override {
    return {next_ * chunk_sectors_, device_bytes() / block::sector_bytes, 0};
  }
  task<result<loaded>> load(exception_map&) override { co_return loaded{}; }
  result<space> allocate(uint64_t most) override {
    const uint64_t chunks = device_bytes() / chunk_bytes();
    if (next_ >= chunks) return io_error{errc::nospc, 0};
    const space s{next_, std::min(most, chunks - next_)};
    next_ += s.count;
    return s;
  }
  void commit(pending_ref p, bool copied) override { done_(std::move(p), copied); }
  task<void> drop() override { co_return; }
  task<void> idle() override { co_return; }

 private:
  uint64_t next_ = 0;
};

}  // namespace

std::unique_ptr<exception_store> make_transient_store(block::opened_device device,
                                                      uint32_t chunk_sectors) {
  return std::make_unique<transient_store>(std::move(device), chunk_sectors);
}

}  // namespace lbd::snapshot
