// SPDX-License-Identifier: MIT
// The flat file store: a regular file or block device of sectors, byte for byte.
#pragma once

#include <memory>
#include <string>

#include "block/file_device.h"
#include "rt/file.h"

namespace lbd::store {

struct file_options {
  bool writable = false;
  // O_DIRECT: past the page cache. Requests that the disk cannot take as they are go through an
  // aligned buffer.
  bool direct = false;
  // False: the caller holds the file's lock by another descriptor (block/image_lock.h).
  bool lock = true;
};

// Opens on the calling reactor, which becomes the home of unaligned direct writes, and locks the
// file as QEMU does. Blocks (control path). Errors: what open said, busy when another program has
// it, inval for a direct file whose size is no multiple of its alignment; each names the path and
// the remedy.
base::outcome<std::unique_ptr<block::file_device>> open_file_store(rt::file_system& files,
                                                                   const std::string& path,
                                                                   file_options options);

}  // namespace lbd::store
