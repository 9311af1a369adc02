// SPDX-License-Identifier: MIT
// The Gluster store: an image on a Gluster volume as a block device, through the volume's own
// client library; and what is done to images at rest.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "block/file_device.h"
#include "rt/runtime.h"
#include "store/gluster/file.h"
#include "wire/uri/gluster_uri.h"

namespace lbd::store {

// Any reactor. Durability is told in file.h.
class gluster_device final : public block::file_device {
 public:
  // Opens on the calling reactor. Errors name the image and the servers.
  static rt::task<base::outcome<std::unique_ptr<gluster_device>>> open(
      rt::runtime& runtime, uri::gluster_source from, bool writable,
      gluster_lock lock = gluster_lock::yes);
  // Makes a new image, all zeros, and opens it. Errors: exist; nothing stays of it after others.
  static rt::task<base::outcome<std::unique_ptr<gluster_device>>> make(rt::runtime& runtime,
                                                                       uri::gluster_source from,
                                                                       uint64_t size_bytes);
  rt::task<base::result<void>> extents(uint64_t offset, uint64_t length, block::extent_list& out,
                                       block::io_opts io) override;
  // Closes and waits for that, at most 5 s. REQUIRES: no request in flight; none follows.
  rt::task<void> close();

 private:
  explicit gluster_device(std::unique_ptr<gluster_file> file);
  gluster_file& image() noexcept { return static_cast<gluster_file&>(file()); }
};

// The files of a volume for stores that open files by name: it hands out the one that was opened
// before, once, whatever the name.
class opened_gluster_file final : public rt::file_system {
 public:
  explicit opened_gluster_file(std::unique_ptr<gluster_file> file) : file_(std::move(file)) {}
  base::outcome<std::unique_ptr<rt::file>> open(const std::string& path,
                                                rt::open_options options) override;

 private:
  std::unique_ptr<gluster_file> file_;
};

// ---- Images at rest. All errors name the image and the remedy.

struct gluster_image_info {
  std::string name;  // of the file, without folders
  bool is_folder = false;
  uint64_t size_bytes = 0;
  uint64_t allocated_bytes = 0;
};
rt::task<base::outcome<gluster_image_info>> gluster_image_status(rt::runtime& runtime,
                                                                 uri::gluster_source image);
// Refuses to make an image smaller unless `shrink`, and then if anybody uses it.
rt::task<base::outcome<void>> resize_gluster_image(rt::runtime& runtime, uri::gluster_source image,
                                                   uint64_t size_bytes, bool shrink);
rt::task<base::outcome<void>> remove_gluster_image(rt::runtime& runtime, uri::gluster_source image);
// What lies in a folder, by name.
rt::task<base::outcome<std::vector<gluster_image_info>>> list_gluster_folder(
    rt::runtime& runtime, uri::gluster_source folder);

}  // namespace lbd::store
