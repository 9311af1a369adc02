// SPDX-License-Identifier: MIT
#include "ctl/program.h"

#include <elf.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "base/bytes.h"

namespace lbd::ctl {
namespace {

using base::errc;
using base::failure;
using base::outcome;
namespace fs = std::filesystem;

constexpr size_t looked_at_bytes = 65536;

std::string first_bytes(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::string text(looked_at_bytes, '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(in.gcount()));
  return text;
}

template <class T>
bool take(const std::string& from, size_t at, T& to) {
  if (at > from.size() || from.size() - at < sizeof to) return false;
  std::memcpy(&to, from.data() + at, sizeof to);
  return true;
}

// As the program that asks: what runs it, is found beside it.
const Elf64_Half own_machine = [] {
  Elf64_Ehdr own{};
  return take(first_bytes("/proc/self/exe"), 0, own) ? own.e_machine : Elf64_Half{EM_NONE};
}();

std::string why_not_elf(const std::string& bytes) {
  Elf64_Ehdr head{};
  if (!take(bytes, 0, head)) return "it is no program";
  if (head.e_ident[EI_CLASS] != ELFCLASS64 || head.e_machine != own_machine)
    return "it is for another kind of machine";
  for (unsigned i = 0; i < head.e_phnum; ++i) {
    Elf64_Phdr part{};
    if (!take(bytes, head.e_phoff + size_t{i} * head.e_phentsize, part)) break;
    if (part.p_type == PT_INTERP) return "";
  }
  return "it is linked statically";
}

// What the first line of a script names; empty: it is none.
std::string interpreter_of(const std::string& bytes) {
  if (!bytes.starts_with("#!")) return "";
  const std::string line = bytes.substr(2, bytes.find('\n') - 2);
  const size_t begin = line.find_first_not_of(" \t");
  if (begin == std::string::npos) return "";
  return line.substr(begin, line.find_first_of(" \t\r", begin) - begin);
}

bool gains_rights(const std::string& path) {
  struct stat st {};
  if (::stat(path.c_str(), &st) != 0) return false;
  if ((st.st_mode & S_ISUID) != 0 && st.st_uid != ::geteuid()) return true;
  if ((st.st_mode & S_ISGID) != 0 && st.st_gid != ::getegid()) return true;
  return ::geteuid() != 0 && ::getxattr(path.c_str(), "security.capability", nullptr, 0) > 0;
}

}  // namespace

outcome<std::string> find_program(const std::string& command) {
  if (command.find('/') != std::string::npos) {
    if (::access(command.c_str(), X_OK) == 0) return command;
    return failure{static_cast<errc>(errno),
                   command + ": " + base::to_string(static_cast<errc>(errno))};
  }
  const char* path = std::getenv("PATH");
  std::string list = path == nullptr ? "/usr/bin:/bin" : path;
  // Programs for devices lie where the search of ordinary users does not look.
  list += ":/usr/sbin:/sbin";
  for (size_t at = 0; at <= list.size();) {
    const size_t end = std::min(list.find(':', at), list.size());
    const std::string found = list.substr(at, end - at) + "/" + command;
    std::error_code error;
    if (end > at && fs::is_regular_file(found, error) && ::access(found.c_str(), X_OK) == 0)
      return found;
    at = end + 1;
  }
  return failure{errc::noent, command + ": no such program"};
}

std::string why_not_preloaded(const std::string& path) {
  std::string at = path;
  for (int steps = 0; steps < 4; ++steps) {
    if (gains_rights(at))
      return at +
             " runs with other rights than yours (setuid), and the system loads nothing into it";
    const std::string bytes = first_bytes(at);
    const std::string interpreter = interpreter_of(bytes);
    if (interpreter.empty()) {
      // A file of text without a first line is run by the shell.
      if (!bytes.starts_with(ELFMAG)) return "";
      const std::string why = why_not_elf(bytes);
      return why.empty() ? "" : at + " cannot be made to see LBD's devices: " + why;
    }
    at = interpreter;
  }
  return "";
}

outcome<std::string> find_preload_library() {
  const std::string name = "liblbd-preload.so";
  std::error_code error;
  const fs::path own = fs::read_symlink("/proc/self/exe", error).parent_path();
  for (const fs::path& folder : {own, own / LBD_LIBRARY_FOLDER})
    if (fs::exists(folder / name, error)) return fs::canonical(folder / name, error).string();
  return failure{errc::noent, name + " lies neither beside " + own.string() +
                                  "/lbd nor in the library folder: install LBD again"};
}

}  // namespace lbd::ctl
