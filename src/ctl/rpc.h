// SPDX-License-Identifier: MIT
// JSON-RPC over a line server: a table of methods, which every part of a server adds its own to.
// Reactor 0 only.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "ctl/line_server.h"
#include "rt/task.h"

namespace lbd::ctl {

struct rpc_call {
  std::shared_ptr<const nlohmann::json> params;  // an object or an array; never nullptr
  line_peer* from = nullptr;                     // who asks; outlives the call
};

// What a method answers: a result, or an error with a code of JSON-RPC or an errno value.
class rpc_answer {
 public:
  static rpc_answer result(const nlohmann::json& value);
  // The operation failed.
  static rpc_answer failed(const base::failure& why);
  // The parameters are wrong (-32602).
  static rpc_answer wrong_params(const base::failure& why);

  const std::shared_ptr<const nlohmann::json>& value() const noexcept { return value_; }
  // REQUIRES: value() is nullptr.
  int code() const noexcept { return code_; }
  const std::string& message() const noexcept { return message_; }

 private:
  std::shared_ptr<const nlohmann::json> value_;
  int code_ = 0;
  std::string message_;
};

using rpc_method = std::function<rt::task<rpc_answer>(rpc_call)>;

class rpc_methods {
 public:
  // REQUIRES: no method has this name yet.
  void add(std::string name, rpc_method method);
  // nullptr: there is none.
  const rpc_method* find(const std::string& name) const;
  std::vector<std::string> names() const;

 private:
  std::map<std::string, rpc_method> by_name_;
};

// The named parameters of a call. Reading never fails: the first thing that is wrong is kept and
// told by finish(), which also refuses names that nobody asked for.
class rpc_params {
 public:
  // Outlived by the call.
  explicit rpc_params(const rpc_call& call);

  bool has(const char* name);
  std::string text(const char* name);  // empty when left out
  std::string needed_text(const char* name);
  std::vector<std::string> texts(const char* name);
  bool flag(const char* name);  // false when left out
  std::optional<uint64_t> number(const char* name);
  // Any value; nullptr when left out.
  const nlohmann::json* value(const char* name);
  // Something that only the method knows is wrong.
  void refuse(std::string why);

  base::outcome<void> finish();

 private:
  const nlohmann::json& params_;
  std::vector<std::string> known_;
  std::optional<std::string> wrong_;
};

class rpc_handler final : public line_handler {
 public:
  // `methods` outlives the handler and may grow.
  explicit rpc_handler(const rpc_methods& methods) : methods_(methods) {}
  rt::task<line_reply> handle(std::string line, line_peer& from) override;
  std::string too_long() override;
  size_t max_line_bytes() const override;

 private:
  const rpc_methods& methods_;
};

}  // namespace lbd::ctl
