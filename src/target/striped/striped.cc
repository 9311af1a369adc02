// SPDX-License-Identifier: MIT
// striped: chunks dealt out over devices in turn, `striped <n> <chunk> {<device> <start>}n`,
// sectors. State: an error counter per device, for status and events. After a crash: as the devices
// below; a request over several chunks may be done in part.
#include <algorithm>
#include <atomic>

#include "block/segments.h"
#include "block/target.h"

namespace lbd::target {
namespace {

using base::failure;
using base::result;
using block::errc;
using block::io_error;
using block::io_opts;
using rt::segments;
using rt::task;

// The first errors of a device raise an event each; later ones are only counted.
constexpr uint32_t errors_told = 14;

struct stripe {
  stripe(block::opened_device d, uint64_t at) : device(std::move(d)), start_sector(at) {}
  block::opened_device device;
  uint64_t start_sector;
  std::atomic<uint32_t> errors{0};
};

class striped final : public block::target, private block::crossing {
 public:
  using event_sink = std::function<void(std::vector<std::string>)>;
  striped(std::vector<std::unique_ptr<stripe>> stripes, uint32_t chunk_sectors,
          uint64_t length_sectors, event_sink told, rt::reactor& home)
      : stripes_(std::move(stripes)),
        chunk_sectors_(chunk_sectors),
        chunk_(uint64_t{chunk_sectors} * block::sector_bytes),
        told_(std::move(told)),
        home_(home) {
    limits_ = stripes_[0]->device.device->limits();
    for (const auto& s : stripes_) {
      const block::limits& l = s->device.device->limits();
      block::stack_io_sizes(limits_, l);
      limits_.read_only |= l.read_only;
      limits_.can_discard |= l.can_discard;
      limits_.can_write_zeroes &= l.can_write_zeroes;
      limits_.fast_zero &= l.fast_zero;
    }
    limits_.size_bytes = length_sectors * block::sector_bytes;
    // Whatever the devices like: a chunk is on one of them, and a row of chunks on all.
    const uint64_t row = chunk_ * stripes_.size();
    limits_.io_min_bytes = std::max(static_cast<uint32_t>(chunk_), limits_.block_bytes);
    limits_.io_opt_bytes = row <= UINT32_MAX ? static_cast<uint32_t>(row) : 0;
  }

  const block::limits& limits() const noexcept override { return limits_; }

  block::routed route(block::op, uint64_t offset, uint64_t length,
                      block::path& way) noexcept override {
    const piece p = map(offset, length);
    if (p.length != length) return {};
    way.push(*this, p.index);
    return {stripes_[p.index]->device.device.get(), p.offset};
  }

  task<result<void>> read(uint64_t offset, segments to, io_opts io) override {
    return each_piece(
        offset, block::total_bytes(to),
        [this, to, io](const piece& p, uint64_t done) { return read_piece(p, done, to, io); });
  }
  task<result<void>> write(uint64_t offset, segments from, io_opts io) override {
    return each_piece(
        offset, block::total_bytes(from),
        [this, from, io](const piece& p, uint64_t done) { return write_piece(p, done, from, io); });
  }
  task<result<void>> flush(io_opts io) override {
    std::vector<task<result<void>>> all;
    for (size_t i = 0; i < stripes_.size(); ++i) all.push_back(flush_stripe(i, io));
    return first_error(std::move(all));
  }
  task<result<void>> discard(uint64_t offset, uint64_t length, io_opts io) override {
    return each_stripe(offset, length, [this, io](const piece& p) { return discard_piece(p, io); });
  }
  task<result<void>> write_zeroes(uint64_t offset, uint64_t length, io_opts io) override {
    return each_stripe(offset, length, [this, io](const piece& p) { return zero_piece(p, io); });
  }
  task<result<void>> extents(uint64_t offset, uint64_t length, block::extent_list& out,
                             io_opts io) override {
    for (uint64_t done = 0; done < length && !out.full();) {
      const piece p = map(offset + done, length - done);
      const uint64_t before = out.total_bytes();
      CO_CHECK(co_await stripes_[p.index]->device.device->extents(p.offset, p.length, out, io));
      if (out.total_bytes() - before < p.length) break;
      done += p.length;
    }
    co_return result<void>{};
  }

  task<std::string> status(block::status_request q) override {
    std::string text = std::to_string(stripes_.size());
    if (q.kind == block::status_kind::table) {
      text += " " + std::to_string(chunk_sectors_);
      for (const auto& s : stripes_)
        text += " " + s->device.number.text() + " " + std::to_string(s->start_sector);
      co_return text;
    }
    for (const auto& s : stripes_) text += " " + s->device.number.text();
    text += " 1 ";
    for (const auto& s : stripes_) text += state_of(*s);
    co_return text;
  }
  std::string measured() const override {
    std::string text = ",stripes=" + std::to_string(stripes_.size()) +
                       ",chunk_size=" + std::to_string(chunk_sectors_);
    for (size_t i = 0; i < stripes_.size(); ++i) {
      const std::string name = ",stripe_" + std::to_string(i) + "_";
      text += name + "device_name=" + stripes_[i]->device.number.text();
      text += name + "physical_start=" + std::to_string(stripes_[i]->start_sector);
      text += name + "status=" + state_of(*stripes_[i]);
    }
    return text;
  }

  void for_each_child(
      const std::function<void(const block::opened_device&)>& visit) const override {
    for (const auto& s : stripes_) visit(s->device);
  }

 private:
  struct piece {
    size_t index;
    uint64_t offset, length;
  };

  static char state_of(const stripe& s) noexcept { return s.errors.load() == 0 ? 'A' : 'D'; }

  // The part of the range that lies in its first chunk.
  piece map(uint64_t offset, uint64_t length) const noexcept {
    const uint64_t n = stripes_.size();
    const uint64_t chunk = offset / chunk_, inside = offset % chunk_;
    const stripe& s = *stripes_[chunk % n];
    return {static_cast<size_t>(chunk % n),
            s.start_sector * block::sector_bytes + chunk / n * chunk_ + inside,
            std::min(length, chunk_ - inside)};
  }

  template <class Do>
  task<result<void>> each_piece(uint64_t offset, uint64_t length, Do action) {
    std::vector<task<result<void>>> all;
    for (uint64_t done = 0; done < length;) {
      const piece p = map(offset + done, length - done);
      all.push_back(action(p, done));
      done += p.length;
    }
    return first_error(std::move(all));
  }
  // Where on stripe `index` a range begins or ends that does so at `offset`.
  uint64_t edge(uint64_t offset, size_t index) const noexcept {
    const uint64_t n = stripes_.size();
    const uint64_t chunk = offset / chunk_, row = chunk / n * chunk_;
    if (index == chunk % n) return row + offset % chunk_;
    return index < chunk % n ? row + chunk_ : row;
  }
  // What a range without data has on a stripe is one piece there, however many chunks it is.
  template <class Do>
  task<result<void>> each_stripe(uint64_t offset, uint64_t length, Do action) {
    std::vector<task<result<void>>> all;
    for (size_t i = 0; i < stripes_.size(); ++i) {
      const uint64_t begin = edge(offset, i), end = edge(offset + length, i);
      const uint64_t start = stripes_[i]->start_sector * block::sector_bytes;
      if (begin < end) all.push_back(action(piece{i, start + begin, end - begin}));
    }
    return first_error(std::move(all));
  }
  static task<result<void>> first_error(std::vector<task<result<void>>> all) {
    const auto results = co_await rt::when_all(std::move(all));
    for (const auto& r : results)
      if (!r) co_return r;
    co_return result<void>{};
  }

  block::block_device& device_of(const piece& p) noexcept {
    return *stripes_[p.index]->device.device;
  }
  task<result<void>> read_piece(const piece p, uint64_t done, segments to, io_opts io) {
    const block::segment_list part(to, done, p.length);
    const auto r = co_await block::read(device_of(p), p.offset, part.view(), io);
    note(p.index, base::code_of(r));
    co_return r;
  }
  task<result<void>> write_piece(const piece p, uint64_t done, segments from, io_opts io) {
    const block::segment_list part(from, done, p.length);
    const auto r = co_await block::write(device_of(p), p.offset, part.view(), io);
    note(p.index, base::code_of(r));
    co_return r;
  }
  task<result<void>> discard_piece(const piece p, io_opts io) {
    const auto r = co_await device_of(p).discard(p.offset, p.length, io);
    note(p.index, base::code_of(r));
    co_return r;
  }
  task<result<void>> zero_piece(const piece p, io_opts io) {
    const auto r = co_await device_of(p).write_zeroes(p.offset, p.length, io);
    note(p.index, base::code_of(r));
    co_return r;
  }
  task<result<void>> flush_stripe(size_t index, io_opts io) {
    const auto r = co_await stripes_[index]->device.device->flush(io);
    note(index, base::code_of(r));
    co_return r;
  }

  void leave(uint64_t cookie, errc code) noexcept override { note(cookie, code); }

  // Counts an error of a device, and tells of the first ones on reactor 0.
  void note(size_t index, errc code) noexcept {
    if (code == errc::ok || code == errc::notsup || code == errc::canceled) return;
    if (stripes_[index]->errors.fetch_add(1) >= errors_told) return;
    rt::tell(home_, [told = told_] { told({}); });
  }

  const std::vector<std::unique_ptr<stripe>> stripes_;
  const uint32_t chunk_sectors_;
  const uint64_t chunk_;  // bytes
  const event_sink told_;
  rt::reactor& home_;
  block::limits limits_;
};

failure refused(const char* text) { return failure{errc::inval, text}; }

task<base::outcome<std::shared_ptr<block::target>>> create_striped(block::target_context& context,
                                                                   std::vector<std::string> args) {
  if (args.size() < 2) co_return refused("Not enough arguments");
  const auto count = block::parse_kstrtouint(args[0]);
  if (!count || *count == 0) co_return refused("Invalid stripe count");
  const auto chunk = block::parse_kstrtouint(args[1]);
  if (!chunk || *chunk == 0) co_return refused("Invalid chunk_size");
  const uint64_t length = context.length_sectors();
  if (length % *count != 0) co_return refused("Target length not divisible by number of stripes");
  if (length / *count % *chunk != 0) co_return refused("Target length not divisible by chunk size");
  if (args.size() != 2 + uint64_t{2} * *count)
    co_return refused("Not enough destinations specified");
  std::vector<std::unique_ptr<stripe>> stripes;
  for (uint32_t i = 0; i < *count; ++i) {
    const auto start = block::parse_u64(args[3 + 2 * i]);
    if (!start) co_return refused("Couldn't parse stripe destination");
    auto device = co_await context.open(args[2 + 2 * i]);
    if (!device) co_return failure{device.error().code, "Couldn't parse stripe destination"};
    CO_CHECK(context.check_area(*device, *start, length / *count));
    stripes.push_back(std::make_unique<stripe>(*std::move(device), *start));
  }
  co_return std::shared_ptr<block::target>(std::make_shared<striped>(
      std::move(stripes), *chunk, length, context.event_sink(), rt::reactor::current()));
}

}  // namespace

extern const block::target_type striped_type;
const block::target_type striped_type = {"striped", {1, 6, 0}, 0, &create_striped};

}  // namespace lbd::target
