// SPDX-License-Identifier: MIT
// flakey: a device that works for some seconds and misbehaves for some, in turn (params.h has the
// line). State: when it was made, and a random sequence. Whether it is up is decided when a request
// begins. After a crash: as the device below; with drop_writes, what was answered while down is
// lost.
#include <atomic>

#include "block/segments.h"
#include "block/target.h"
#include "rt/buffer_pool.h"
#include "target/flakey/params.h"

namespace lbd::target {
namespace {

using base::failure;
using base::outcome;
using base::result;
using block::errc;
using block::io_error;
using block::io_opts;
using rt::segments;
using rt::task;

constexpr uint64_t ns_per_s = 1'000'000'000;

// The kernel's bi_opf of a request: operation and flags, as far as ours have them.
constexpr uint32_t opf_read = 0, opf_write = 1, opf_fua = 1u << 17;

uint32_t opf_of(bool is_write, const io_opts& io) noexcept {
  return (is_write ? opf_write : opf_read) | (io.fua() ? opf_fua : 0);
}

class flakey final : public block::target {
 public:
  flakey(flakey_params params, block::opened_device child, uint64_t length_sectors)
      : params_(params),
        child_(std::move(child)),
        start_(params.start_sector * block::sector_bytes),
        made_ns_(rt::reactor::current().now_ns()),
        random_(made_ns_),
        limits_(child_.device->limits()) {
    limits_.size_bytes = length_sectors * block::sector_bytes;
    const bool none = params_.no_features();
    error_reads_ = params_.error_reads || none;
    error_writes_ = params_.error_writes || none;
  }
  const block::limits& limits() const noexcept override { return limits_; }

  block::routed route(block::op, uint64_t offset, uint64_t, block::path&) noexcept override {
    if (down()) return {};
    return {child_.device.get(), start_ + offset};
  }

  task<result<void>> read(uint64_t offset, segments to, io_opts io) override {
    const bool is_down = down();
    if (is_down && error_reads_) co_return io_error{errc::io, 0};
    CO_CHECK(co_await block::read(*child_.device, start_ + offset, to, io));
    if (!is_down) co_return result<void>{};
    if (!params_.corrupt_writes && corrupts(false, io))
      change(to, params_.corrupt_byte - 1, params_.corrupt_value);
    if (drawn(params_.random_read_corrupt)) change_any(to);
    co_return result<void>{};
  }

  task<result<void>> write(uint64_t offset, segments from, io_opts io) override {
    if (!down()) co_return co_await block::write(*child_.device, start_ + offset, from, io);
    if (params_.drop_writes) co_return result<void>{};
    if (error_writes_) co_return io_error{errc::io, 0};
    const bool byte = params_.corrupt_writes && corrupts(true, io);
    const bool any = drawn(params_.random_write_corrupt);
    if (!byte && !any) co_return co_await block::write(*child_.device, start_ + offset, from, io);
    // The caller's data stays what it is.
    rt::buffer changed(block::total_bytes(from));
    block::copy_from(from, changed.span());
    const iovec v{changed.data(), changed.size()};
    const segments all(&v, 1);
    if (byte) change(all, params_.corrupt_byte - 1, params_.corrupt_value);
    if (any) change_any(all);
    co_return co_await block::write(*child_.device, start_ + offset, all, io);
  }

  task<result<void>> flush(io_opts io) override {
    if (const auto answer = without_data()) co_return *answer;
    co_return co_await child_.device->flush(io);
  }
  task<result<void>> discard(uint64_t offset, uint64_t length, io_opts io) override {
    if (const auto answer = without_data()) co_return *answer;
    co_return co_await child_.device->discard(start_ + offset, length, io);
  }
  task<result<void>> write_zeroes(uint64_t offset, uint64_t length, io_opts io) override {
    if (const auto answer = without_data()) co_return *answer;
    co_return co_await child_.device->write_zeroes(start_ + offset, length, io);
  }
  // While it is down nothing is promised about what reads as zeros.
  task<result<void>> extents(uint64_t offset, uint64_t length, block::extent_list& out,
                             io_opts io) override {
    if (down()) return target::extents(offset, length, out, io);
    return child_.device->extents(start_ + offset, length, out, io);
  }

  task<std::string> status(block::status_request q) override {
    if (q.kind == block::status_kind::info) co_return std::string();
    co_return child_.number.text() + " " + flakey_text(params_);
  }
  void for_each_child(
      const std::function<void(const block::opened_device&)>& visit) const override {
    visit(child_);
  }

 private:
  bool down() const noexcept {
    if (params_.down_s == 0) return false;
    const uint64_t passed_s = (rt::reactor::current().now_ns() - made_ns_) / ns_per_s;
    return passed_s % (params_.up_s + params_.down_s) >= params_.up_s;
  }
  // What a write without data gets while down; nothing: it passes.
  std::optional<result<void>> without_data() const noexcept {
    if (!down()) return std::nullopt;
    if (params_.drop_writes) return result<void>{};
    if (error_writes_) return result<void>(io_error{errc::io, 0});
    return std::nullopt;
  }
  bool corrupts(bool is_write, const io_opts& io) const noexcept {
    return params_.corrupt_byte != 0 &&
           (opf_of(is_write, io) & params_.corrupt_flags) == params_.corrupt_flags;
  }

  static void change(segments s, uint64_t at, uint8_t value) noexcept {
    for (const iovec& v : s) {
      if (at < v.iov_len) {
        static_cast<uint8_t*>(v.iov_base)[at] = value;
        return;
      }
      at -= v.iov_len;
    }
  }
  void change_any(segments s) noexcept {
    const uint64_t n = draw();
    change(s, n % block::total_bytes(s), static_cast<uint8_t>(n >> 56));
  }
  bool drawn(uint32_t in_10e9) noexcept { return in_10e9 != 0 && draw() % ns_per_s < in_10e9; }
  // splitmix64; the state only counts, so that reactors can share it.
  uint64_t draw() noexcept {
    constexpr uint64_t step = 0x9E3779B97F4A7C15u;
    uint64_t x = random_.fetch_add(step, std::memory_order_relaxed) + step;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return x ^ x >> 31;
  }

  const flakey_params params_;
  const block::opened_device child_;
  const uint64_t start_;  // bytes
  const uint64_t made_ns_;
  std::atomic<uint64_t> random_;
  block::limits limits_;
  bool error_reads_ = false, error_writes_ = false;
};

task<outcome<std::shared_ptr<block::target>>> create_flakey(block::target_context& context,
                                                            std::vector<std::string> args) {
  if (args.size() < 4) co_return failure{errc::inval, "Invalid argument count"};
  auto params = parse_flakey(args);
  if (!params) co_return params.error();
  auto child = co_await context.open(args[0]);
  if (!child) co_return failure{child.error().code, "Device lookup failed"};
  CO_CHECK(context.check_area(*child, params->start_sector, context.length_sectors()));
  co_return std::shared_ptr<block::target>(
      std::make_shared<flakey>(*params, *std::move(child), context.length_sectors()));
}

}  // namespace

extern const block::target_type flakey_type;
const block::target_type flakey_type = {"flakey", {1, 5, 0}, 0, &create_flakey};

}  // namespace lbd::target
