// SPDX-License-Identifier: MIT
// One request to a running server over its management socket.
#pragma once

#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "base/result.h"
#include "ctl/commands.h"

namespace lbd::ctl {

// What a call does after the answer.
enum class after_answer { close, wait_for_end };

// Sends `method` and waits for the answer, at most `limit_ms` (0: as long as it takes). With
// wait_for_end it also waits until the server closes the connection (a server that shuts down does
// so when it is done). Errors name the socket; what the server refused comes as its own sentence.
base::outcome<std::shared_ptr<const nlohmann::json>> call_server(const client_target& to,
                                                                 const std::string& method,
                                                                 const nlohmann::json& params,
                                                                 after_answer then,
                                                                 uint64_t limit_ms);

// Sends `method`; calls `accepted` when the server has agreed, and gives every notification that
// comes to `take`, until that fails or the server closes the connection.
using take_line = std::function<base::outcome<void>(const nlohmann::json& notification)>;
base::outcome<void> follow_server(const client_target& to, const std::string& method,
                                  const nlohmann::json& params,
                                  const std::function<void()>& accepted, const take_line& take);

}  // namespace lbd::ctl
