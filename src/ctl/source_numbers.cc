// SPDX-License-Identifier: MIT
#include "ctl/source_numbers.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <charconv>

namespace lbd::ctl {
namespace {

using base::errc;
using base::failure;
using base::outcome;

constexpr uint32_t minors = 1u << 20, majors = 1u << 12;

std::string escape(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '\\') out += "\\\\";
    if (c == '\n') out += "\\n";
    if (c != '\\' && c != '\n') out += c;
  }
  return out;
}

std::string unescape(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool escaped = text[i] == '\\' && i + 1 < text.size();
    if (escaped) ++i;
    out += escaped && text[i] == 'n' ? '\n' : text[i];
  }
  return out;
}

// "512:7 TEXT"
std::optional<std::pair<device_number, std::string>> parse_line(const std::string& line) {
  device_number n;
  const char* end = line.data() + line.size();
  const auto major = std::from_chars(line.data(), end, n.major);
  if (major.ec != std::errc{} || major.ptr == end || *major.ptr != ':') return std::nullopt;
  const auto minor = std::from_chars(major.ptr + 1, end, n.minor);
  if (minor.ec != std::errc{} || minor.ptr == end || *minor.ptr != ' ') return std::nullopt;
  if (n.major < first_source_major || n.major >= majors || n.minor >= minors) return std::nullopt;
  std::string source = unescape(std::string(minor.ptr + 1, end));
  if (source.empty()) return std::nullopt;
  return std::pair{n, std::move(source)};
}

device_number after(device_number n) {
  if (++n.minor == minors) return {n.major + 1, 0};
  return n;
}

}  // namespace

// Keeps other daemons of this user away while one reads and appends.
class source_numbers::file_lock {
 public:
  explicit file_lock(int fd) : fd_(fd), held_(::flock(fd, LOCK_EX) == 0) {}
  ~file_lock() {
    if (held_) ::flock(fd_, LOCK_UN);
  }
  file_lock(const file_lock&) = delete;
  file_lock& operator=(const file_lock&) = delete;
  bool held() const { return held_; }

 private:
  const int fd_;
  const bool held_;
};

failure source_numbers::failed(const char* what) const {
  const auto code = static_cast<errc>(errno);
  return failure{code, std::string("cannot ") + what + " the numbers of sources in '" + path_ +
                           "': " + base::to_string(code)};
}

outcome<std::unique_ptr<source_numbers>> source_numbers::open(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (fd < 0) {
    const auto code = static_cast<errc>(errno);
    return failure{code, "cannot keep the numbers of sources in '" + path + "': " +
                             base::to_string(code) + " (give another folder with LBD_STATE_DIR)"};
  }
  std::unique_ptr<source_numbers> out(new source_numbers(path, fd));
  const file_lock locked(fd);
  if (!locked.held()) return out->failed("lock");
  CHECK(out->read_on());
  CHECK(out->keep_name());
  return out;
}

source_numbers::~source_numbers() { ::close(fd_); }

outcome<void> source_numbers::take_line(const std::string& line) {
  ++lines_;
  auto entry = parse_line(line);
  const bool known =
      entry && (by_number_.contains(entry->first) || by_source_.contains(entry->second));
  if (!entry || known)
    return failure{errc::inval, "'" + path_ + "', line " + std::to_string(lines_) + ": " +
                                    (known ? "a number or source that is there twice"
                                           : "not of the form MAJOR:MINOR SOURCE") +
                                    " (mend or remove the line; numbers in saved tables depend on "
                                    "this file)"};
  if (entry->first >= next_) next_ = after(entry->first);
  by_source_.emplace(entry->second, entry->first);
  by_number_.emplace(entry->first, std::move(entry->second));
  return {};
}

// The file itself survives a crash.
outcome<void> source_numbers::keep_name() const {
  const std::string folder = path_.substr(0, path_.rfind('/') + 1) + ".";
  const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  const bool kept = fd >= 0 && ::fsync(fd) == 0;
  const failure why = failed("keep");
  if (fd >= 0) ::close(fd);
  if (!kept) return why;
  return {};
}

outcome<void> source_numbers::read_on() {
  struct stat st {};
  if (::fstat(fd_, &st) != 0) return failed("read");
  if (static_cast<uint64_t>(st.st_size) < read_bytes_)
    return failure{errc::inval, "'" + path_ + "' has become shorter: restart the daemon"};
  std::string text;
  char part[65536];
  for (;;) {
    const ssize_t got =
        ::pread(fd_, part, sizeof part, static_cast<off_t>(read_bytes_ + text.size()));
    if (got < 0) return failed("read");
    if (got == 0) break;
    text.append(part, static_cast<size_t>(got));
  }
  size_t at = 0;
  for (size_t end; (end = text.find('\n', at)) != std::string::npos; at = end + 1)
    CHECK(take_line(text.substr(at, end - at)));
  read_bytes_ += at;
  // The beginning of a line that a crash cut off: its number was never used.
  if (at != text.size() && ::ftruncate(fd_, static_cast<off_t>(read_bytes_)) != 0)
    return failed("mend");
  return {};
}

outcome<void> source_numbers::append(const std::string& line) {
  if (::write(fd_, line.data(), line.size()) != static_cast<ssize_t>(line.size()))
    return failed("write");
  if (::fdatasync(fd_) != 0) return failed("write");
  return {};
}

outcome<device_number> source_numbers::number_of(const std::string& source) {
  if (const auto found = by_source_.find(source); found != by_source_.end()) return found->second;
  const file_lock locked(fd_);
  if (!locked.held()) return failed("lock");
  CHECK(read_on());
  if (const auto found = by_source_.find(source); found != by_source_.end()) return found->second;
  if (next_.major >= majors)
    return failure{errc::nospc, "no more numbers for sources in '" + path_ + "'"};
  CHECK(append(next_.text() + " " + escape(source) + "\n"));
  CHECK(read_on());
  if (const auto found = by_source_.find(source); found != by_source_.end()) return found->second;
  return failure{errc::io, "'" + path_ + "' does not hold what was written: restart the daemon"};
}

std::optional<std::string> source_numbers::find(device_number number) {
  if (const auto found = by_number_.find(number); found != by_number_.end()) return found->second;
  if (number.major < first_source_major) return std::nullopt;
  // Another daemon may have given it since.
  const file_lock locked(fd_);
  if (!locked.held() || !read_on()) return std::nullopt;
  const auto found = by_number_.find(number);
  return found == by_number_.end() ? std::nullopt : std::optional(found->second);
}

}  // namespace lbd::ctl
