// SPDX-License-Identifier: MIT
#include "export/nbd/session.h"

#include "base/log.h"

namespace lbd::nbd_server {
namespace {

using nbd::option;
using nbd::option_reply;
using rt::reactor;
using rt::task;

constexpr uint16_t offered_flags =
    nbd::handshake_flag::fixed_newstyle | nbd::handshake_flag::no_zeroes;
// More than any client has reason for.
constexpr unsigned most_options = 4096;
constexpr size_t drain_step_bytes = 64 << 10;

// Cuts the connection when the client takes too long.
class deadline : rt::timer {
 public:
  deadline(connection& c, uint64_t after_ns) : connection_(c) {
    run = [](rt::timer& t) { static_cast<deadline&>(t).connection_.abort(); };
    reactor::current().start_timer(*this, reactor::current().now_ns() + after_ns);
  }
  ~deadline() { stop(); }
  deadline(const deadline&) = delete;
  deadline& operator=(const deadline&) = delete;
  void stop() noexcept { reactor::current().stop_timer(*this); }

 private:
  connection& connection_;
};

bool is_known(option o) noexcept {
  switch (o) {
    case option::export_name:
    case option::abort:
    case option::list:
    case option::info:
    case option::go:
    case option::structured_reply:
    case option::list_meta_context:
    case option::set_meta_context:
      return true;
    case option::starttls:
    case option::extended_headers:
      return false;
  }
  return false;
}

}  // namespace

task<std::optional<agreement>> session::run() {
  deadline limit(connection_, limit_ns_);
  const bool greeted = co_await greet();
  if (!greeted) co_return std::nullopt;
  for (unsigned n = 0; n < most_options; ++n) {
    std::byte raw[nbd::option_header_bytes];
    const auto received = co_await connection_.socket.recv_all(raw);
    if (!received) co_return std::nullopt;
    const auto header = nbd::decode_option_header(raw);
    if (!header) co_return std::nullopt;
    const bool data_came = co_await receive_data(*header);
    if (!data_came) co_return std::nullopt;
    out_.clear();
    verdict v = handle(*header);
    if (v == verdict::enter) {
      limit.stop();
      const bool clear = co_await registry_.lost_ones_done(target_->device(), limit_ns_);
      if (!clear || target_->removed) {
        if (header->type == option::export_name) co_return std::nullopt;
        out_.clear();
        refuse(header->type, option_reply::err_platform,
               "requests of a lost connection are still running: try again");
        v = verdict::last_words;
      }
    }
    if (v == verdict::drop) co_return std::nullopt;
    const auto sent = co_await connection_.socket.send_all(out_);
    if (!sent || v == verdict::last_words) co_return std::nullopt;
    if (v == verdict::enter) co_return agreed();
  }
  co_return std::nullopt;
}

agreement session::agreed() const {
  return {target_, structured_, structured_ && selected_for_ == target_};
}

task<bool> session::greet() {
  nbd::append_newstyle_greeting(out_, offered_flags);
  const auto sent = co_await connection_.socket.send_all(out_);
  if (!sent) co_return false;
  std::byte raw[nbd::client_flags_bytes];
  const auto received = co_await connection_.socket.recv_all(raw);
  if (!received) co_return false;
  const auto flags = nbd::decode_client_flags(raw, offered_flags);
  if (!flags) co_return false;
  fixed_newstyle_ = (*flags & nbd::client_flag::fixed_newstyle) != 0;
  no_zeroes_ = (*flags & nbd::client_flag::no_zeroes) != 0;
  co_return true;
}

// What is too long to be looked at is read over, so that the next option is found.
task<bool> session::receive_data(const nbd::option_header& h) {
  if (h.length > nbd::max_drained_option_bytes) co_return false;
  if (h.type == option::export_name && h.length > nbd::max_string_bytes) co_return false;
  const bool keep = is_known(h.type) && h.length <= nbd::max_option_bytes;
  uint32_t left = h.length;
  data_.resize(std::min<size_t>(h.length, keep ? h.length : drain_step_bytes));
  while (left > 0) {
    const size_t n = std::min<size_t>(left, data_.size());
    const auto received = co_await connection_.socket.recv_all(std::span(data_).first(n));
    if (!received) co_return false;
    left -= static_cast<uint32_t>(n);
  }
  co_return true;
}

session::verdict session::refuse(option to, option_reply type, std::string_view why) {
  nbd::append_error(out_, to, type, why);
  return verdict::go_on;
}

session::verdict session::handle(const nbd::option_header& h) {
  if (!fixed_newstyle_ && h.type != option::export_name) return verdict::drop;
  if (registry_.stopping() && h.type != option::export_name && h.type != option::abort) {
    refuse(h.type, option_reply::err_shutdown, "the server is shutting down");
    return verdict::last_words;
  }
  if (!is_known(h.type))
    return refuse(h.type, option_reply::err_unsup, "this option is not supported");
  if (h.length > nbd::max_option_bytes)
    return refuse(h.type, option_reply::err_too_big, "the option's data are too long");
  switch (h.type) {
    case option::export_name:
      return export_name();
    case option::abort:
      nbd::append_ack(out_, option::abort);
      return verdict::last_words;
    case option::list:
      return list();
    case option::info:
    case option::go:
      return info(h.type);
    case option::structured_reply:
      return structured_reply();
    default:
      return meta_context(h.type);
  }
}

session::verdict session::export_name() {
  const auto name = nbd::parse_export_name(data_);
  if (!name || registry_.stopping()) return verdict::drop;
  target_ = registry_.find(*name);
  if (target_ == nullptr) return verdict::drop;
  nbd::append_export_name_reply(out_, target_->size_bytes.load(std::memory_order_relaxed),
                                target_->transmission_flags(structured_), no_zeroes_);
  return verdict::enter;
}

session::verdict session::list() {
  if (!data_.empty()) return refuse(option::list, option_reply::err_invalid, "LIST takes no data");
  for (const auto& e : registry_.exports())
    nbd::append_server(out_, e->options.name, e->options.description);
  nbd::append_ack(out_, option::list);
  return verdict::go_on;
}

session::verdict session::info(option which) {
  const auto request = nbd::parse_info_request(data_);
  if (!request) return refuse(which, request.error().type, request.error().message);
  const auto found = registry_.find(request->name);
  if (found == nullptr)
    return refuse(which, option_reply::err_unknown, "there is no export of this name");
  nbd::append_info_export(out_, which, found->size_bytes.load(std::memory_order_relaxed),
                          found->transmission_flags(structured_));
  if (request->wants_name) nbd::append_info_name(out_, which, found->options.name);
  if (request->wants_description)
    nbd::append_info_description(out_, which, found->options.description);
  if (request->wants_block_size) nbd::append_info_block_size(out_, which, found->block_sizes());
  nbd::append_ack(out_, which);
  if (which == option::info) return verdict::go_on;
  target_ = found;
  return verdict::enter;
}

session::verdict session::structured_reply() {
  if (!data_.empty())
    return refuse(option::structured_reply, option_reply::err_invalid,
                  "STRUCTURED_REPLY takes no data");
  structured_ = true;
  nbd::append_ack(out_, option::structured_reply);
  return verdict::go_on;
}

session::verdict session::meta_context(option which) {
  const bool listing = which == option::list_meta_context;
  // A failed selection leaves none.
  if (!listing) selected_for_ = nullptr;
  if (!structured_)
    return refuse(which, option_reply::err_invalid, "structured replies come first");
  const auto request = nbd::parse_meta_context_request(data_);
  if (!request) return refuse(which, request.error().type, request.error().message);
  const auto found = registry_.find(request->name);
  if (found == nullptr)
    return refuse(which, option_reply::err_unknown, "there is no export of this name");
  if (nbd::selects(*request, nbd::base_allocation, listing)) {
    nbd::append_meta_context(out_, which, listing ? 0 : allocation_context_id,
                             nbd::base_allocation);
    if (!listing) selected_for_ = found;
  }
  nbd::append_ack(out_, which);
  return verdict::go_on;
}

}  // namespace lbd::nbd_server
