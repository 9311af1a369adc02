// SPDX-License-Identifier: MIT
#include "ctl/client.h"

#include <nlohmann/json.hpp>

#include "ctl/runtime_dir.h"
#include "rt/buffer_pool.h"
#include "rt/runtime.h"
#include "rt/socket.h"
#include "wire/jsonrpc/jsonrpc.h"
#include "wire/line/line_splitter.h"

namespace lbd::ctl {
namespace {

using answer = base::outcome<std::shared_ptr<const nlohmann::json>>;

struct exchange {
  std::string path;
  std::string request;
  after_answer then = after_answer::close;
  uint64_t limit_ms = 0;
  bool timed_out = false;
};

base::failure broken(const exchange& e, const std::string& why) {
  if (e.timed_out)
    return base::failure{base::errc::timed_out, "the server at " + e.path +
                                                    " did not answer within " +
                                                    std::to_string(e.limit_ms / 1000) + " s"};
  return base::failure{base::errc::io, "the server at " + e.path + " " + why};
}

// Closes the socket when the time is over, which ends whatever waits on it.
struct time_limit : rt::timer {
  time_limit(rt::socket& s, exchange& e) : which(s), why(e) {
    run = [](rt::timer& t) {
      auto& self = static_cast<time_limit&>(t);
      self.why.timed_out = true;
      self.which.shutdown();
    };
    rt::reactor& here = rt::reactor::current();
    if (e.limit_ms != 0) here.start_timer(*this, here.now_ns() + e.limit_ms * 1'000'000);
  }
  ~time_limit() { rt::reactor::current().stop_timer(*this); }
  time_limit(const time_limit&) = delete;
  time_limit& operator=(const time_limit&) = delete;
  rt::socket& which;
  exchange& why;
};

rt::task<base::outcome<std::string>> receive_line(rt::socket& from, exchange& e) {
  wire::line_splitter lines(jsonrpc::max_message_bytes * 16);
  rt::buffer buffer(65536);
  while (true) {
    if (const auto line = lines.next()) co_return std::string(*line);
    if (lines.too_long()) co_return broken(e, "sent an answer that is too long");
    const auto got = co_await from.recv_some(buffer.span());
    if (!got || *got == 0) co_return broken(e, "closed the connection without an answer");
    lines.push(base::as_text(buffer.first(*got)));
  }
}

rt::task<answer> exchange_lines(exchange& e) {
  CO_TRY(const rt::socket_address address, rt::socket_address::unix_path(e.path));
  auto connected = co_await rt::socket::connect(address);
  if (!connected)
    co_return base::failure{connected.error().code,
                            "no server answers at " + e.path + ": " +
                                base::to_string(connected.error().code) +
                                " (start one with lbd serve, or name another with --socket)"};
  rt::socket& s = *connected;
  time_limit limit(s, e);
  const auto sent = co_await s.send_all(base::as_bytes(e.request));
  if (!sent) co_return broken(e, "does not take the request");
  auto line = co_await receive_line(s, e);
  if (!line) co_return line.error();
  auto response = jsonrpc::parse_response(*line);
  if (!response) co_return broken(e, "does not speak JSON-RPC: " + response.error().message);
  if (response->result == nullptr) co_return jsonrpc::to_failure(*response);
  if (e.then == after_answer::wait_for_end) {
    rt::buffer rest(4096);
    while (true) {
      const auto more = co_await s.recv_some(rest.span());
      if (!more || *more == 0) break;
    }
    if (e.timed_out) co_return broken(e, "");
  }
  co_return response->result;
}

}  // namespace

answer call_server(const client_target& to, const std::string& method, const nlohmann::json& params,
                   after_answer then, uint64_t limit_ms) {
  TRY(std::string path, find_socket(to.socket));
  rt::runtime_options options;
  options.reactors = 1;
  options.how = rt::backend::threads;
  TRY(const auto runtime, rt::runtime::start(options));
  exchange e;
  e.path = std::move(path);
  e.request = jsonrpc::build_request(jsonrpc::number_id(1), method, params);
  e.then = then;
  e.limit_ms = limit_ms;
  return runtime->run_until(exchange_lines(e));
}

}  // namespace lbd::ctl
