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

class line_reader {
 public:
  line_reader(rt::socket& from, exchange& e) : from_(from), exchange_(e) {}
  // Errors: the connection has ended, or the line is too long.
  rt::task<base::outcome<std::string>> next() {
    while (true) {
      if (const auto line = lines_.next()) co_return std::string(*line);
      if (lines_.too_long()) co_return broken(exchange_, "sent an answer that is too long");
      const auto got = co_await from_.recv_some(buffer_.span());
      if (!got || *got == 0) {
        ended_ = true;
        co_return broken(exchange_, "closed the connection without an answer");
      }
      lines_.push(base::as_text(buffer_.first(*got)));
    }
  }
  bool ended() const noexcept { return ended_; }

 private:
  rt::socket& from_;
  exchange& exchange_;
  wire::line_splitter lines_{jsonrpc::max_response_bytes};
  rt::buffer buffer_{65536};
  bool ended_ = false;
};

rt::task<base::outcome<rt::socket>> connect_and_ask(exchange& e) {
  CO_TRY(const rt::socket_address address, rt::socket_address::unix_path(e.path));
  auto connected = co_await rt::socket::connect(address);
  if (!connected)
    co_return base::failure{
        connected.error().code,
        "no server answers at " + e.path + ": " + base::to_string(connected.error().code) +
            " (start one with lbd serve or lbd daemon, or name another with --socket)"};
  rt::socket s = *std::move(connected);
  const auto sent = co_await s.send_all(base::as_bytes(e.request));
  if (!sent) co_return broken(e, "does not take the request");
  co_return s;
}

answer to_answer(const std::string& line, exchange& e) {
  const auto response = jsonrpc::parse_response(line);
  if (!response) return broken(e, "does not speak JSON-RPC: " + response.error().message);
  if (response->result != nullptr) return response->result;
  base::failure why = jsonrpc::to_failure(*response);
  if (response->code == jsonrpc::method_not_found)
    why.message = "the server at " + e.path +
                  " is of another kind (lbd serve has layers, lbd daemon " +
                  "devices): " + why.message;
  return why;
}

rt::task<answer> exchange_lines(exchange& e) {
  CO_TRY(rt::socket s, co_await connect_and_ask(e));
  time_limit limit(s, e);
  line_reader lines(s, e);
  CO_TRY(const std::string line, co_await lines.next());
  auto answered = to_answer(line, e);
  if (!answered || e.then == after_answer::close) co_return answered;
  while (!lines.ended()) (void)co_await lines.next();
  if (e.timed_out) co_return broken(e, "");
  co_return answered;
}

rt::task<base::outcome<void>> exchange_stream(exchange& e, const std::function<void()>& accepted,
                                              const take_line& take) {
  CO_TRY(rt::socket s, co_await connect_and_ask(e));
  line_reader lines(s, e);
  while (true) {
    const auto line = co_await lines.next();
    if (!line && lines.ended()) co_return base::outcome<void>{};
    if (!line) co_return line.error();
    const auto message = nlohmann::json::parse(*line, nullptr, false);
    if (!message.contains("method")) {
      const auto answered = to_answer(*line, e);
      if (!answered) co_return answered.error();
      accepted();
      continue;
    }
    const auto taken = take(message);
    if (!taken) co_return taken.error();
  }
}

base::outcome<exchange> make_exchange(const client_target& to, const std::string& method,
                                      const nlohmann::json& params) {
  exchange e;
  TRY(e.path, find_socket(to.socket));
  e.request = jsonrpc::build_request(jsonrpc::number_id(1), method, params);
  return e;
}

base::outcome<std::unique_ptr<rt::runtime>> client_runtime() {
  rt::runtime_options options;
  options.reactors = 1;
  options.how = rt::backend::threads;
  return rt::runtime::start(options);
}

}  // namespace

answer call_server(const client_target& to, const std::string& method, const nlohmann::json& params,
                   after_answer then, uint64_t limit_ms) {
  TRY(exchange e, make_exchange(to, method, params));
  TRY(const auto runtime, client_runtime());
  e.then = then;
  e.limit_ms = limit_ms;
  return runtime->run_until(exchange_lines(e));
}

base::outcome<void> follow_server(const client_target& to, const std::string& method,
                                  const nlohmann::json& params,
                                  const std::function<void()>& accepted, const take_line& take) {
  TRY(exchange e, make_exchange(to, method, params));
  TRY(const auto runtime, client_runtime());
  return runtime->run_until(exchange_stream(e, accepted, take));
}

}  // namespace lbd::ctl
