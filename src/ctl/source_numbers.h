// SPDX-License-Identifier: MIT
// The numbers of sources: each source that was ever used in a table has a MAJ:MIN of its own, from
// 512:0 upwards, which is never given to another, so that a table that was printed yesterday cannot
// hit another file today. Kept in a file, one line a number, which several daemons may share:
//
//   512:0 /srv/disk.img
//
// A backslash stands before a backslash, and "\n" for a line break. Blocks (control path).
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>

#include "base/result.h"
#include "block/target.h"

namespace lbd::ctl {

using block::device_number;

// Below it are the numbers of block devices.
constexpr uint32_t first_source_major = 512;

class source_numbers {
 public:
  // Opens the file, or makes it. Errors name the file, the line and the remedy.
  static base::outcome<std::unique_ptr<source_numbers>> open(const std::string& path);
  ~source_numbers();
  source_numbers(const source_numbers&) = delete;
  source_numbers& operator=(const source_numbers&) = delete;

  // The number of a source (its canonical text); a new one, durable before it is returned, if it
  // has none yet. Errors: of the file; nospc when there are no more numbers.
  base::outcome<device_number> number_of(const std::string& source);
  // The source that has the number, if any.
  std::optional<std::string> find(device_number number);

 private:
  class file_lock;
  source_numbers(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}
  // Takes in what stands in the file beyond what was read before. REQUIRES: the file is locked.
  base::outcome<void> read_on();
  base::outcome<void> keep_name() const;
  base::outcome<void> take_line(const std::string& line);
  base::outcome<void> append(const std::string& line);
  base::failure failed(const char* what) const;

  const std::string path_;
  const int fd_;
  uint64_t read_bytes_ = 0;
  uint64_t lines_ = 0;
  device_number next_{first_source_major, 0};
  std::map<std::string, device_number> by_source_;
  std::map<device_number, std::string> by_number_;
};

}  // namespace lbd::ctl
