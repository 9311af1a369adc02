// SPDX-License-Identifier: MIT
#include "app/options.h"

#include <CLI/CLI.hpp>
#include <charconv>
#include <map>

namespace lbd::app {
namespace {

using base::errc;
using base::failure;
using base::outcome;

// "-E" for an option's long name, as a message shows it.
std::string shown(const CLI::Option& option) {
  if (!option.get_snames().empty()) return "-" + option.get_snames().front();
  return "--" + option.get_lnames().front();
}

occurrences in_order(const CLI::App& command) {
  occurrences out;
  std::map<const CLI::Option*, size_t> taken;
  for (const CLI::Option* option : command.parse_order()) {
    const size_t index = taken[option]++;
    std::string value = index < option->results().size() ? option->results()[index] : "";
    const auto& names = option->get_lnames();
    out.push_back({names.empty() ? option->get_name() : names.front(), std::move(value)});
  }
  return out;
}

}  // namespace

CLI::Option* add_value(CLI::App& to, const std::string& names, const char* type,
                       const std::string& about, const char* group) {
  return to.add_option(names, about)
      ->type_name(type)
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->group(group);
}

void add_switch(CLI::App& to, const std::string& names, const std::string& about) {
  to.add_flag(names, about);
}

void add_words(CLI::App& to, const std::string& name, const std::string& about, word_count count) {
  CLI::Option& made = *to.add_option(name, about);
  made.type_name("")->group("Positionals")->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  made.required(count == word_count::one);
  made.expected(count == word_count::any ? -1 : 1);
}

std::string title_of(const CLI::App& command) {
  const CLI::App* above = command.get_parent();
  if (above == nullptr) return "";
  const std::string before = title_of(*above);
  return before.empty() ? command.get_name() : before + " " + command.get_name();
}

failure usage(const std::string& command, const std::string& text) {
  const std::string prefix = command.empty() ? "lbd" : "lbd " + command;
  return failure{errc::inval, prefix + ": " + text + " (see " + prefix + " --help)"};
}

reader::reader(const CLI::App& from) : app_(from), all_(in_order(from)) {}

failure reader::wrong(const std::string& text) const { return usage(title_of(app_), text); }

failure reader::wrong_value(const std::string& option, const std::string& text) const {
  return wrong(shown(*app_.get_option("--" + option)) + ": " + text);
}

outcome<std::string> reader::once(const std::string& option) const {
  const occurrence* found = nullptr;
  for (const occurrence& o : all_) {
    if (o.option != option) continue;
    if (found != nullptr) return wrong_value(option, "given twice");
    if (o.value.empty()) return wrong_value(option, "its value is empty");
    found = &o;
  }
  return found == nullptr ? std::string() : found->value;
}

outcome<uint64_t> reader::number(const std::string& option, uint64_t most,
                                 uint64_t fallback) const {
  TRY(const std::string text, once(option));
  if (text.empty()) return fallback;
  uint64_t out = 0;
  const char* end = text.data() + text.size();
  const auto [at, error] = std::from_chars(text.data(), end, out);
  if (error != std::errc{} || at != end || out > most)
    return wrong_value(option,
                       "must be a number from 0 to " + std::to_string(most) + ", not " + text);
  return out;
}

std::vector<std::string> reader::each(const std::string& option) const {
  std::vector<std::string> out;
  for (const occurrence& o : all_)
    if (o.option == option) out.push_back(o.value);
  return out;
}

std::vector<std::string> reader::words(const std::string& name) const {
  return app_.get_option(name)->results();
}

outcome<std::string> reader::word(const std::string& name) const {
  const auto all = words(name);
  if (all.empty()) return std::string();
  if (all.front().empty()) return wrong(name + " is empty");
  return all.front();
}

base::outcome<base::log_level> read_log_level(const reader& from) {
  TRY(const std::string text, from.once("log-level"));
  static const std::map<std::string, base::log_level> levels = {
      {"", base::log_level::warn},       {"debug", base::log_level::debug},
      {"info", base::log_level::info},   {"warn", base::log_level::warn},
      {"error", base::log_level::error}, {"off", base::log_level::off}};
  const auto found = levels.find(text);
  if (found == levels.end())
    return from.wrong_value("log-level", "must be debug, info, warn, error or off, not " + text);
  return found->second;
}

}  // namespace lbd::app
