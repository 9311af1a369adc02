// SPDX-License-Identifier: MIT
#include <map>
#include <string>

#include "app/command_line.h"

namespace lbd::app {
namespace {

// What may follow an option, as arguments of compgen; empty: nothing can be offered.
std::string offers(const option_entry& option) {
  if (option.takes == "FILE" || option.takes == "PATH" || option.takes == "SOCKET") return "-f";
  if (option.takes == "FILE|URI") return "-f";
  if (option.takes == "flush|fua|N") return "-W 'flush fua'";
  if (option.takes == "uring|threads|auto") return "-W 'uring threads auto'";
  if (option.takes == "LEVEL") return "-W 'debug info warn error off'";
  return "";
}

std::string joined(const std::vector<std::string>& words, const char* between) {
  std::string out;
  for (const std::string& word : words) out += (out.empty() ? "" : between) + word;
  return out;
}

std::string command_case(const command_entry& command) {
  std::string words, after;
  for (const option_entry& option : command.options) {
    words += (words.empty() ? "" : " ") + joined(option.names, " ");
    if (option.takes.empty()) continue;
    after += "        " + joined(option.names, "|") + ") ";
    const std::string offer = offers(option);
    // Names of files may have blanks in them.
    after += offer.empty() ? "return"
                           : "mapfile -t COMPREPLY < <(compgen " + offer + " -- \"$word\"); return";
    after += " ;;\n";
  }
  const bool nested = command.name.find(' ') != std::string::npos;
  std::string out = "    " + (nested ? "'" + command.name + "'" : command.name) + ")\n";
  if (!after.empty()) out += "      case \"$before\" in\n" + after + "      esac\n";
  out += "      COMPREPLY=($(compgen -W '" + words + "' -- \"$word\"))\n";
  if (command.name == "add-layer")
    out += "      [[ $word == -* ]] || mapfile -t COMPREPLY < <(compgen -f -- \"$word\")\n";
  if (command.name == "completion") out += "      COMPREPLY=($(compgen -W bash -- \"$word\"))\n";
  return out + "      ;;\n";
}

}  // namespace

std::string bash_completion() {
  std::string names, groups, group_cases, cases;
  std::map<std::string, std::string> below;  // commands of commands
  for (const command_entry& command : list_commands()) {
    const size_t blank = command.name.find(' ');
    const std::string first = command.name.substr(0, blank);
    if (blank == std::string::npos || !below.contains(first)) names += first + " ";
    if (blank != std::string::npos) below[first] += command.name.substr(blank + 1) + " ";
    cases += command_case(command);
  }
  for (const auto& [first, verbs] : below) {
    groups += (groups.empty() ? "" : "|") + first;
    group_cases += "    " + first + ") COMPREPLY=($(compgen -W '" + verbs +
                   "--help' -- \"$word\")); return ;;\n";
  }
  return "# bash completion for lbd; load it with: source <(lbd completion bash)\n"
         "_lbd() {\n"
         "  local word=${COMP_WORDS[COMP_CWORD]//\\\\/} before=${COMP_WORDS[COMP_CWORD-1]}\n"
         "  local command=${COMP_WORDS[1]}\n"
         "  # --option=VALUE comes as three words.\n"
         "  [[ $word == = ]] && word=\n"
         "  [[ $before == = ]] && before=${COMP_WORDS[COMP_CWORD-2]}\n"
         "  COMPREPLY=()\n"
         "  if ((COMP_CWORD == 1)); then\n"
         "    COMPREPLY=($(compgen -W '" +
         names +
         "--help --version' -- \"$word\"))\n"
         "    return\n"
         "  fi\n"
         "  ((COMP_CWORD == 2)) && case $command in\n" +
         group_cases +
         "  esac\n"
         "  case $command in " +
         groups +
         ") command+=\" ${COMP_WORDS[2]}\" ;; esac\n"
         "  case $command in\n" +
         cases +
         "  esac\n"
         "}\n"
         "complete -o filenames -F _lbd lbd\n";
}

}  // namespace lbd::app
