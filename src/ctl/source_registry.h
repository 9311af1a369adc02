// SPDX-License-Identifier: MIT
// What tables name where the kernel takes a device: files, block devices, URIs and MAJ:MIN. Each
// source has a number (source_numbers.h; a block device its own), and is opened once for all who
// use it at the same time. Reactor 0 only.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "ctl/source_numbers.h"
#include "rt/runtime.h"
#include "rt/sync.h"
#include "stack/device_manager.h"
#include "wire/uri/uri.h"

namespace lbd::ctl {

class source_registry final : public stack::source_opener {
 public:
  source_registry(rt::runtime& runtime, std::unique_ptr<source_numbers> numbers);
  // REQUIRES: close() has returned, and no opened device lives.
  ~source_registry() override;

  // A path or URI, or MAJ:MIN. The device is shared by all who have it open, and stays open as long
  // as somebody holds it. Files are locked against other programs; a file that is open here for
  // reading can be opened for writing besides. Errors: nodev (no such path, or no source at all),
  // ENXIO (nothing has this number), busy, access.
  rt::task<base::outcome<block::opened_device>> open(std::string source, bool writable) override;
  std::string absolute(std::string source, const std::string& directory) override;

  // Without opening it: the number of a source, which must be there. Errors as of open().
  base::outcome<device_number> number_of(const std::string& source);
  // The canonical text of the source with this number. Errors: ENXIO.
  base::outcome<std::string> source_of(device_number number);
  // Its size in bytes; opens it if it is no file. Errors as of open().
  rt::task<base::outcome<uint64_t>> size_of(std::string source);

  struct source_info {
    std::string source;
    device_number number;
    uint64_t size_bytes = 0;
    bool writable = false;
  };
  std::vector<source_info> list_open() const;

  // Paths that this process must not touch: they are refused.
  void refuse_paths(std::function<bool(const std::string& path)> is_refused) {
    is_refused_ = std::move(is_refused);
  }
  bool refuses(const std::string& path) const { return is_refused_ && is_refused_(path); }

  // Sources that are being opened fail soon (canceled), and so do later ones.
  void abandon() noexcept { abandoned_ = true; }
  // Waits until what nobody uses any more is closed. Returns the first failure of closing since the
  // last call.
  rt::task<base::outcome<void>> close();

 private:
  struct identity;
  struct entry;
  class use;
  using entry_ptr = std::shared_ptr<entry>;

  base::outcome<identity> identify(const std::string& source);
  base::outcome<identity> identify_number(const std::string& text);
  base::outcome<identity> identify_file(uri::file_source file);
  base::outcome<device_number> number_of(const identity& what);
  rt::task<base::outcome<block::opened_device>> open_identified(identity what, bool writable);
  rt::task<base::outcome<std::shared_ptr<use>>> open_new(entry_ptr e, bool writable);
  void released(use& gone);
  rt::task<void> close_ended(entry_ptr e);
  void drop_unused();

  rt::runtime& runtime_;
  const std::unique_ptr<source_numbers> numbers_;
  std::map<std::string, entry_ptr> entries_;
  std::function<bool(const std::string&)> is_refused_;
  std::atomic<bool> abandoned_{false};
  unsigned closing_ = 0;
  rt::event idle_;
  base::outcome<void> first_failure_;
};

}  // namespace lbd::ctl
