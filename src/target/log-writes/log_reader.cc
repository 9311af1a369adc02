// SPDX-License-Identifier: MIT
#include "target/log-writes/log_reader.h"

#include "base/checked_math.h"
#include "block/segments.h"
#include "rt/buffer_pool.h"

namespace lbd::target {

using base::errc;
using base::failure;
using base::outcome;
using rt::task;

namespace {

task<base::result<void>> read_bytes(block::block_device& from, uint64_t offset,
                                    base::bytes_span to) {
  if (!base::range_fits(offset, to.size(), from.limits().size_bytes))
    co_return base::io_error{errc::io, 0};
  const block::segment_list all{base::bytes_view(to)};
  co_return co_await block::read(from, offset, all.view(), {});
}

}  // namespace

task<outcome<log_reader>> log_reader::open(block::block_device& log, std::string name) {
  log_reader out(log, std::move(name));
  rt::buffer sector(dm_log_writes::least_sector_bytes);
  const base::bytes_span bytes = sector.first(dm_log_writes::least_sector_bytes);
  const auto got = co_await read_bytes(out.device(), 0, bytes);
  if (!got)
    co_return failure{got.error().code, "cannot read the first sector of '" + out.name_ +
                                            "': " + base::to_string(got.error().code)};
  out.head_ = dm_log_writes::load_super(bytes);
  if (const char* wrong = dm_log_writes::super_error(out.head_))
    co_return failure{errc::inval, "'" + out.name_ + "' " + wrong};
  co_return out;
}

task<outcome<std::optional<log_reader::item>>> log_reader::next(place& at) const {
  if (at.number >= head_.entries) co_return std::optional<item>();
  const uint64_t unit = head_.sector_bytes;
  const uint64_t header = at.offset == 0 ? unit : at.offset;
  rt::buffer sector(unit);
  const base::bytes_span bytes = sector.first(unit);
  const auto got = co_await read_bytes(*log_, header, bytes);
  if (!got)
    co_return failure{got.error().code,
                      "entry " + std::to_string(at.number) + " of '" + name_ +
                          "' cannot be read: " + base::to_string(got.error().code)};
  item out;
  out.what = dm_log_writes::load_entry(bytes);
  out.data_offset = header + unit;
  const uint64_t left = log_->limits().size_bytes - out.data_offset;
  if (!dm_log_writes::is_sound(out.what, head_.sector_bytes, left))
    co_return failure{errc::inval, "entry " + std::to_string(at.number) + " of '" + name_ +
                                       "' is damaged: the log is of use up to there only"};
  out.number = at.number;
  out.text = dm_log_writes::text_of(bytes, out.what);
  out.offset = out.what.sector * unit;
  out.length = out.what.sectors * unit;
  ++at.number;
  at.offset = out.data_offset + out.what.data_sectors() * unit;
  co_return std::optional<item>(std::move(out));
}

}  // namespace lbd::target
