// SPDX-License-Identifier: MIT
// What all commands share in declaring their options and in reading them back.
#pragma once

#include <string>
#include <vector>

#include "base/log.h"
#include "base/result.h"

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace lbd::app {

// An option with a value; `type` is shown in --help.
CLI::Option* add_value(CLI::App& to, const std::string& names, const char* type,
                       const std::string& about, const char* group = "Options");
void add_switch(CLI::App& to, const std::string& names, const std::string& about);
// Words without an option: exactly one that is needed, one that may be left out, or any number.
enum class word_count { one, at_most_one, any };
void add_words(CLI::App& to, const std::string& name, const std::string& about, word_count count);

// One option as it stood on the command line. Order matters: layers are named topmost first.
struct occurrence {
  std::string option;  // the long name without dashes
  std::string value;
};
using occurrences = std::vector<occurrence>;

// "serve", or "device create" for a command of a command; empty for the program itself.
std::string title_of(const CLI::App& command);

// "lbd serve: TEXT (see lbd serve --help)"; an empty command: "lbd: ...".
base::failure usage(const std::string& command, const std::string& text);

// Reads the occurrences of one command into its struct.
class reader {
 public:
  explicit reader(const CLI::App& from);

  const occurrences& all() const { return all_; }
  base::failure wrong(const std::string& text) const;
  base::failure wrong_value(const std::string& option, const std::string& text) const;

  // The value of an option that may stand once; empty when it is not there.
  base::outcome<std::string> once(const std::string& option) const;
  // A number that may stand once; `fallback` when it is not there.
  base::outcome<uint64_t> number(const std::string& option, uint64_t most, uint64_t fallback) const;
  std::vector<std::string> each(const std::string& option) const;
  bool has(const std::string& option) const { return !each(option).empty(); }
  // Of add_words().
  std::vector<std::string> words(const std::string& name) const;
  base::outcome<std::string> word(const std::string& name) const;

 private:
  const CLI::App& app_;
  occurrences all_;
};

// The option --log-level; warnings where it is not there.
base::outcome<base::log_level> read_log_level(const reader& from);

}  // namespace lbd::app
