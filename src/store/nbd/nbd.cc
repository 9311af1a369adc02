// SPDX-License-Identifier: MIT
#include "store/nbd/nbd.h"

#include <algorithm>
#include <array>

#include "base/checked_math.h"
#include "base/log.h"
#include "block/segments.h"

namespace lbd::store {

using base::errc;
using base::failure;
using base::io_error;
using base::outcome;
using base::result;
using block::segment_list;
using rt::segments;
using rt::task;

namespace tf = nbd::transmission_flag;
namespace cf = nbd::command_flag;

namespace {

// Ranges of commands without payload: far below the 2^32 that a length field holds, so that the
// answer comes in time and a server's own arithmetic holds.
constexpr uint64_t longest_range = uint64_t{1} << 30;

std::string peer_name(const nbd_options& o) {
  if (!o.socket_path.empty()) return o.socket_path;
  const bool v6 = o.host.find(':') != std::string::npos;
  return (v6 ? "[" + o.host + "]" : o.host) + ":" + std::to_string(o.port);
}

outcome<std::vector<rt::socket_address>> addresses_of(const nbd_options& o) {
  if (o.socket_path.empty()) {
    return rt::socket_address::resolve(o.host, std::to_string(o.port), false);
  }
  TRY(const rt::socket_address one, rt::socket_address::unix_path(o.socket_path));
  return std::vector<rt::socket_address>{one};
}

task<bool> close_connection(nbd_connection& c) {
  co_await c.close();
  co_return true;
}

result<void> to_result(errc code) {
  if (code != errc::ok) return io_error{code, 0};
  return {};
}

}  // namespace

// ---- Life
// -------------------------------------------------------------------------------------------

nbd_device::nbd_device(rt::runtime& rt, const nbd_options& options,
                       std::shared_ptr<nbd_shared> shared)
    : runtime_(rt), options_(options), shared_(std::move(shared)), here_(rt.reactor_count()) {}

nbd_device::~nbd_device() {
  if (closed_) return;
  for (const auto& c : connections_)
    rt::tell(c->home(), [connection = c] { rt::spawn(connection->close()); });
}

task<outcome<std::unique_ptr<nbd_device>>> nbd_device::open(rt::runtime& rt, nbd_options options) {
  auto shared = std::make_shared<nbd_shared>();
  shared->peer = peer_name(options);
  shared->export_name = options.export_name;
  shared->outage_limit_ns = options.outage_limit_ns;
  shared->reply_limit_ns = options.reply_limit_ns;
  shared->attempt_limit_ns = options.attempt_limit_ns;
  CO_TRY(shared->addresses, addresses_of(options));
  std::unique_ptr<nbd_device> device(new nbd_device(rt, options, shared));
  const auto first = co_await device->connect_first();
  if (!first) {
    device->closed_ = true;
    co_return first.error();
  }
  device->set_limits();
  const bool may_share = shared->session.has(tf::can_multi_conn);
  const unsigned wanted = options.connections == 0 ? rt.reactor_count() : options.connections;
  if (may_share && wanted > 1) co_await device->connect_more(wanted);
  for (const auto& c : device->connections_) shared->all.push_back(c);
  co_return std::move(device);
}

task<outcome<void>> nbd_device::connect_first() {
  rt::reactor& here = rt::reactor::current();
  auto c = std::make_shared<nbd_connection>(here, shared_);
  const auto opened = co_await nbd_connection::open(c, true, options_.abandoned);
  if (!opened)
    co_return failure{opened.error().code,
                      "NBD server " + shared_->peer + ": " + opened.error().message};
  connections_.push_back(c);
  here_[here.index()].push_back(c.get());
  if (shared_->session.size_bytes > uint64_t{INT64_MAX}) {
    co_await close();
    co_return failure{errc::protocol,
                      "NBD server " + shared_->peer + ": the export's size is impossible"};
  }
  co_return outcome<void>{};
}

// One connection more on each of the other reactors, then around again. A server that does not want
// as many is left with those it took.
task<void> nbd_device::connect_more(unsigned count) {
  const unsigned reactors = runtime_.reactor_count();
  const unsigned mine = connections_.front()->home().index();
  for (unsigned i = 1; i < count; ++i) {
    rt::reactor& home = runtime_.at((mine + i) % reactors);
    auto c = std::make_shared<nbd_connection>(home, shared_);
    auto work = [this, &c] { return nbd_connection::open(c, false, options_.abandoned); };
    const auto opened = co_await rt::call_on(home, work);
    if (!opened) {
      base::log_info("nbd", shared_->peer + " takes " + std::to_string(connections_.size()) +
                                " connections: " + opened.error().message);
      co_return;
    }
    connections_.push_back(c);
    here_[home.index()].push_back(c.get());
  }
}

void nbd_device::set_limits() {
  const nbd_session& s = shared_->session;
  block_ = s.sizes.minimum;
  const uint64_t told = std::min<uint64_t>(s.sizes.maximum_payload, block::bounds::request_bytes);
  most_ = std::max<uint64_t>(base::round_down(told, block_), block_);
  limits_.size_bytes = base::round_down(s.size_bytes, block_);
  limits_.block_bytes = std::max<uint32_t>(512, block_);
  limits_.preferred_bytes = std::max(s.sizes.preferred, limits_.block_bytes);
  limits_.io_min_bytes = limits_.block_bytes;
  if (limits_.preferred_bytes > 4096) limits_.io_opt_bytes = limits_.preferred_bytes;
  limits_.max_transfer_bytes = most_;
  limits_.discard_granularity_bytes = limits_.preferred_bytes;
  limits_.read_only = options_.read_only || s.has(tf::read_only);
  limits_.can_discard = s.has(tf::send_trim) && !limits_.read_only;
  limits_.can_write_zeroes = s.has(tf::send_write_zeroes) && !limits_.read_only;
  limits_.fast_zero = limits_.can_write_zeroes && s.has(tf::send_fast_zero);
  limits_.rotational = s.has(tf::rotational);
}

task<void> nbd_device::close() {
  closed_ = true;
  for (auto& c : connections_) {
    auto work = [&c] { return close_connection(*c); };
    co_await rt::call_on(c->home(), work);
  }
}

std::string nbd_device::describe() const { return shared_->peer + "/" + shared_->export_name; }

// ---- One request
// ------------------------------------------------------------------------------------

// A connection of this reactor that is up, the least busy one; else any that is up; else any.
nbd_connection& nbd_device::choose() const noexcept {
  nbd_connection* best = nullptr;
  const unsigned index = rt::reactor::current().index();
  for (nbd_connection* c : here_[index]) {
    const bool better = best == nullptr || c->in_flight() < best->in_flight();
    if (c->is_up() && better) best = c;
  }
  if (best != nullptr) return *best;
  const size_t count = connections_.size();
  for (size_t i = 0; i < count; ++i) {
    nbd_connection& c = *connections_[(index + i) % count];
    if (c.is_up()) return c;
  }
  return here_[index].empty() ? *connections_[index % count] : *here_[index].front();
}

task<errc> nbd_device::perform(nbd_call& call) {
  nbd_connection& c = choose();
  if (&c.home() == &rt::reactor::current()) co_return co_await c.perform(call);
  auto work = [&c, &call] { return c.perform(call); };
  co_return co_await rt::call_on(c.home(), work);
}

task<result<void>> nbd_device::transfer(nbd::command what, uint64_t offset, segments data,
                                        block::io_opts io) {
  const bool fua = what == nbd::command::write && io.fua() && session().has(tf::send_fua);
  const uint16_t flags = fua ? cf::fua : uint16_t{0};
  const uint64_t length = block::total_bytes(data);
  if (length <= most_) {
    nbd_call call(what, flags, offset, static_cast<uint32_t>(length), io);
    call.data = data;
    co_return to_result(co_await perform(call));
  }
  for (uint64_t done = 0; done < length;) {
    const uint64_t n = std::min(length - done, most_);
    const segment_list part(data, done, n);
    nbd_call call(what, flags, offset + done, static_cast<uint32_t>(n), io);
    call.data = part.view();
    CO_CHECK(to_result(co_await perform(call)));
    done += n;
  }
  co_return result<void>{};
}

task<result<void>> nbd_device::command_range(nbd::command what, uint16_t flags, uint64_t offset,
                                             uint64_t length, block::io_opts io) {
  if (io.fua() && session().has(tf::send_fua)) flags |= cf::fua;
  const uint64_t most = base::round_down(longest_range, block_);
  while (length > 0) {
    const uint64_t n = std::min(length, most);
    nbd_call call(what, flags, offset, static_cast<uint32_t>(n), io);
    CO_CHECK(to_result(co_await perform(call)));
    offset += n;
    length -= n;
  }
  co_return result<void>{};
}

bool nbd_device::emulates_fua(const block::io_opts& io) const noexcept {
  return io.fua() && !session().has(tf::send_fua);
}

// ---- Reading
// ----------------------------------------------------------------------------------------

task<result<void>> nbd_device::read(uint64_t offset, segments to, block::io_opts io) {
  const uint64_t length = block::total_bytes(to);
  CO_CHECK(block::check_range(limits_, offset, length));
  if (offset % block_ == 0 && length % block_ == 0) {
    co_return co_await transfer(nbd::command::read, offset, to, io);
  }
  // What is asked for in the middle, what the server's blocks hold besides into scratch memory.
  const uint64_t begin = base::round_down(offset, block_);
  const uint64_t end = base::round_up(offset + length, block_);
  rt::buffer scratch(size_t{2} * block_);
  segment_list widened;
  widened.add({scratch.data(), offset - begin});
  for (const iovec& v : to) widened.add(v);
  widened.add({scratch.data() + block_, end - offset - length});
  co_return co_await transfer(nbd::command::read, begin, widened.view(), io);
}

task<result<void>> nbd_device::extents(uint64_t offset, uint64_t length, block::extent_list& out,
                                       block::io_opts io) {
  CO_CHECK(block::check_range(limits_, offset, length));
  if (!session().allocation_context || (io.flags & block::io_fast_only) != 0)
    co_return co_await block_device::extents(offset, length, out, io);
  const uint64_t begin = base::round_down(offset, block_);
  const uint64_t end = base::round_up(offset + std::min(length, longest_range), block_);
  nbd_call call(nbd::command::block_status, 0, begin, static_cast<uint32_t>(end - begin), io);
  CO_CHECK(to_result(co_await perform(call)));
  uint64_t at = begin;
  for (const nbd::extent& x : call.extents) {
    const uint64_t from = std::max(at, offset);
    const uint64_t until = std::min(at + x.length, offset + length);
    at += x.length;
    if (from >= until) continue;
    const bool hole = (x.flags & nbd::allocation_flag::hole) != 0;
    const bool zero = (x.flags & nbd::allocation_flag::zero) != 0;
    if (!out.append({until - from, hole, zero})) break;
  }
  // A first extent that ends before the asked offset (the server's blocks are larger) says nothing.
  if (out.total_bytes() == 0) out.append({length, false, false});
  co_return result<void>{};
}

// ---- Writing
// ----------------------------------------------------------------------------------------

task<result<void>> nbd_device::write(uint64_t offset, segments from, block::io_opts io) {
  CO_CHECK(block::check_range(limits_, offset, block::total_bytes(from)));
  if (limits_.read_only) co_return io_error{errc::rofs, 0};
  if (block_ == 1) {
    CO_CHECK(co_await transfer(nbd::command::write, offset, from, io));
  } else {
    auto work = [this, offset, from, io] { return locked_write(offset, from, io); };
    CO_CHECK(co_await rt::call_on(connections_.front()->home(), work));
  }
  if (emulates_fua(io)) CO_CHECK(co_await flush(io));
  co_return result<void>{};
}

// A write of part of a block reads the block first; nothing else may be written there meanwhile.
task<result<void>> nbd_device::locked_write(uint64_t offset, segments from, block::io_opts io) {
  const uint64_t begin = base::round_down(offset, block_);
  const uint64_t end = base::round_up(offset + block::total_bytes(from), block_);
  const auto held = co_await locks_.lock(begin, end - begin);
  co_return co_await write_any(offset, from, io);
}

// REQUIRES: the blocks are locked, or the range consists of whole blocks.
task<result<void>> nbd_device::write_any(uint64_t offset, segments from, block::io_opts io) {
  const uint64_t finish = offset + block::total_bytes(from);
  const uint64_t begin = base::round_down(offset, block_);
  const uint64_t end = base::round_up(finish, block_);
  if (begin == offset && end == finish) {
    co_return co_await transfer(nbd::command::write, offset, from, io);
  }
  rt::buffer edges(size_t{2} * block_);
  std::byte* const tail = edges.data() + block_;
  if (begin != offset) {
    const iovec v{edges.data(), block_};
    CO_CHECK(co_await transfer(nbd::command::read, begin, segments(&v, 1), io));
  }
  if (end != finish) {
    const iovec v{tail, block_};
    CO_CHECK(co_await transfer(nbd::command::read, end - block_, segments(&v, 1), io));
  }
  segment_list widened;
  widened.add({edges.data(), offset - begin});
  for (const iovec& v : from) widened.add(v);
  widened.add({tail + (block_ - (end - finish)), end - finish});
  co_return co_await transfer(nbd::command::write, begin, widened.view(), io);
}

task<result<void>> nbd_device::flush(block::io_opts io) {
  if (!session().has(tf::send_flush)) co_return result<void>{};
  if (shared_->lost_writes) co_return io_error{errc::io, 0};
  const uint64_t covered = shared_->written;
  nbd_call call(nbd::command::flush, 0, 0, 0, io);
  const errc code = co_await perform(call);
  if (code != errc::ok) co_return io_error{code, 0};
  // A connection may have broken on the way, and the answer may be another server's.
  if (shared_->lost_writes) co_return io_error{errc::io, 0};
  uint64_t known = shared_->flushed;
  while (known < covered && !shared_->flushed.compare_exchange_weak(known, covered)) {
  }
  co_return result<void>{};
}

task<result<void>> nbd_device::discard(uint64_t offset, uint64_t length, block::io_opts io) {
  CO_CHECK(block::check_range(limits_, offset, length));
  if (limits_.read_only) co_return io_error{errc::rofs, 0};
  const uint64_t begin = base::round_up(offset, block_);
  const uint64_t end = base::round_down(offset + length, block_);
  if (!limits_.can_discard || begin >= end) co_return result<void>{};
  if (block_ == 1) {
    CO_CHECK(co_await command_range(nbd::command::trim, 0, begin, end - begin, io));
  } else {
    auto work = [this, begin, end, io] { return locked_discard(begin, end - begin, io); };
    CO_CHECK(co_await rt::call_on(connections_.front()->home(), work));
  }
  if (emulates_fua(io)) CO_CHECK(co_await flush(io));
  co_return result<void>{};
}

task<result<void>> nbd_device::locked_discard(uint64_t offset, uint64_t length, block::io_opts io) {
  const auto held = co_await locks_.lock(offset, length);
  co_return co_await command_range(nbd::command::trim, 0, offset, length, io);
}

task<result<void>> nbd_device::write_zeroes(uint64_t offset, uint64_t length, block::io_opts io) {
  CO_CHECK(block::check_range(limits_, offset, length));
  if (limits_.read_only) co_return io_error{errc::rofs, 0};
  if ((io.flags & block::io_fast_only) != 0 && !limits_.fast_zero) {
    co_return io_error{errc::notsup, 0};
  }
  if (!limits_.can_write_zeroes) co_return co_await block_device::write_zeroes(offset, length, io);
  if (block_ == 1) {
    CO_CHECK(co_await zero_any(offset, length, io));
  } else {
    auto work = [this, offset, length, io] { return locked_zero(offset, length, io); };
    CO_CHECK(co_await rt::call_on(connections_.front()->home(), work));
  }
  if (emulates_fua(io)) CO_CHECK(co_await flush(io));
  co_return result<void>{};
}

task<result<void>> nbd_device::locked_zero(uint64_t offset, uint64_t length, block::io_opts io) {
  const uint64_t begin = base::round_down(offset, block_);
  const uint64_t end = base::round_up(offset + length, block_);
  const auto held = co_await locks_.lock(begin, end - begin);
  co_return co_await zero_any(offset, length, io);
}

task<result<void>> nbd_device::zero_any(uint64_t offset, uint64_t length, block::io_opts io) {
  const uint64_t finish = offset + length;
  const uint64_t begin = base::round_up(offset, block_);
  const uint64_t end = base::round_down(finish, block_);
  if (begin >= end) co_return co_await zero_edge(offset, length, io);
  uint16_t flags = 0;
  if ((io.flags & block::io_no_unmap) != 0) flags |= cf::no_hole;
  if ((io.flags & block::io_fast_only) != 0) flags |= cf::fast_zero;
  // The commands first: with io_fast_only they may be refused, and then nothing may have changed.
  CO_CHECK(co_await command_range(nbd::command::write_zeroes, flags, begin, end - begin, io));
  if (offset < begin) CO_CHECK(co_await zero_edge(offset, begin - offset, io));
  if (end < finish) CO_CHECK(co_await zero_edge(end, finish - end, io));
  co_return result<void>{};
}

// Less than a block at either end.
task<result<void>> nbd_device::zero_edge(uint64_t offset, uint64_t length, block::io_opts io) {
  rt::buffer zeros(length);
  std::memset(zeros.data(), 0, length);
  const iovec v{zeros.data(), length};
  co_return co_await write_any(offset, segments(&v, 1), io);
}

}  // namespace lbd::store
