// SPDX-License-Identifier: MIT
// The options of `lbd run` and `lbd dmsetup`.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "ctl/commands.h"

namespace CLI {
class App;
}  // namespace CLI

namespace lbd::app {

class reader;

void add_run(CLI::App& app);

// Where the program begins in the words of `lbd run` or `lbd dmsetup`, which are the program's own
// from there on: behind "--", or at the first word that is no option. nullopt for other commands.
std::optional<size_t> find_program_words(const std::vector<std::string>& words);

// `program` is empty when none was named.
base::outcome<ctl::command> read_run(const reader& from, const std::string& name,
                                     std::vector<std::string> program);

}  // namespace lbd::app
