// SPDX-License-Identifier: MIT
#include "target/log-writes/log_file.h"

#include "base/checked_math.h"
#include "block/segments.h"
#include "block/target.h"

namespace lbd::target {

using base::result;
using block::errc;
using block::io_error;
using rt::task;

task<result<void>> log_file::append(const log_item& e) {
  const uint64_t at = next_bytes_;
  next_bytes_ += sector_bytes_ + (e.data ? e.data.size() : 0);
  // As the kernel does: it gives up at the last 512 bytes, not behind them, and counts the room of
  // the entry for which there is none, but not the entry.
  if (next_bytes_ >= base::round_down(device_->limits().size_bytes, block::sector_bytes))
    co_return io_error{errc::nospc, 0};
  ++entries_;
  rt::buffer header(sector_bytes_);
  dm_log_writes::store_entry(header.first(sector_bytes_), e, e.text);
  block::segment_list all{base::bytes_view(header.first(sector_bytes_))};
  if (e.data) all.add(iovec{const_cast<std::byte*>(e.data.data()), e.data.size()});
  CO_CHECK(co_await block::write(*device_, at, all.view(), {}));
  if (!e.tells_super()) co_return result<void>{};
  co_return co_await write_super();
}

// What it counts is durable before it.
task<result<void>> log_file::write_super() {
  CO_CHECK(co_await device_->flush({}));
  rt::buffer sector(sector_bytes_);
  dm_log_writes::super s;
  s.entries = entries_;
  s.sector_bytes = sector_bytes_;
  dm_log_writes::store_super(sector.first(sector_bytes_), s);
  const block::segment_list all{base::bytes_view(sector.first(sector_bytes_))};
  block::io_opts durable;
  durable.flags = block::io_fua;
  co_return co_await block::write(*device_, 0, all.view(), durable);
}

}  // namespace lbd::target
