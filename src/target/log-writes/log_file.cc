// SPDX-License-Identifier: MIT
#include "target/log-writes/log_file.h"

#include <algorithm>

#include "block/segments.h"
#include "block/target.h"

namespace lbd::target {

using base::result;
using block::errc;
using block::io_error;
using block::sector_bytes;
using rt::task;

task<result<void>> log_file::append(const log_entry& e) {
  const uint64_t at = next_sector_;
  next_sector_ += e.log_sectors();
  ++entries_;
  // The kernel gives up at the last sector, not behind it.
  if (next_sector_ >= device_->limits().size_bytes / sector_bytes)
    co_return io_error{errc::nospc, 0};
  rt::buffer header(sector_bytes);
  const base::bytes_span h = header.span();
  std::fill(h.begin(), h.end(), std::byte{0});
  base::store_little(h, 0, e.sector);
  base::store_little(h, 8, e.sectors);
  base::store_little(h, 16, e.flags);
  base::store_little(h, 24, uint64_t{e.text.size()});
  std::copy_n(base::as_bytes(e.text).begin(), e.text.size(), h.begin() + header_bytes);
  block::segment_list all{base::bytes_view(h)};
  if (e.data) all.add(iovec{const_cast<std::byte*>(e.data.data()), e.data.size()});
  CO_CHECK(co_await block::write(*device_, at * sector_bytes, all.view(), {}));
  if (!e.tells_super()) co_return result<void>{};
  co_return co_await write_super();
}

// What it counts is durable before it.
task<result<void>> log_file::write_super() {
  CO_CHECK(co_await device_->flush({}));
  rt::buffer super(sector_bytes);
  const base::bytes_span s = super.span();
  std::fill(s.begin(), s.end(), std::byte{0});
  base::store_little(s, 0, magic);
  base::store_little(s, 8, version);
  base::store_little(s, 16, entries_);
  base::store_little(s, 24, static_cast<uint32_t>(sector_bytes));
  const block::segment_list all{base::bytes_view(s)};
  block::io_opts durable;
  durable.flags = block::io_fua;
  co_return co_await block::write(*device_, 0, all.view(), durable);
}

}  // namespace lbd::target
