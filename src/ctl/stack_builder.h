// SPDX-License-Identifier: MIT
// From a list of layers as the user named them to open stores. The only place that knows all kinds
// of stores.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "ctl/commands.h"
#include "rt/runtime.h"
#include "store/gluster/gluster.h"
#include "store/memory/memory.h"
#include "store/nbd/nbd.h"
#include "store/qcow2/change_file.h"
#include "target/overlay/overlay.h"
#include "wire/uri/uri.h"

namespace lbd::ctl {

// A layer with everything that its kind offers beyond reading and writing.
struct open_layer {
  std::string kind;  // "expandable", "qcow2", "flat", "nbd", "gluster", "memory", "null"
  std::string path;  // or URI
  bool writable = false;
  std::shared_ptr<store::change_file> change;      // expandable, qcow2
  std::shared_ptr<block::block_device> flat;       // all others
  std::shared_ptr<block::file_device> file;        // the same object as `flat`
  std::shared_ptr<store::nbd_device> nbd;          // the same object as `flat`
  std::shared_ptr<store::memory_device> memory;    // the same object as `flat`
  std::shared_ptr<store::gluster_device> gluster;  // the same object as `flat`

  block::block_device& device() const noexcept {
    return change != nullptr ? static_cast<block::block_device&>(*change) : *flat;
  }
  // Its end takes time: close_layers() waits for it.
  bool ends_slowly() const noexcept { return nbd != nullptr || gluster != nullptr; }
  uint64_t size_bytes() const noexcept { return device().limits().size_bytes; }
};

// Topmost first.
struct open_layers {
  std::vector<open_layer> layers;
  uint64_t size_bytes = 0;  // of the device they make
};

struct open_mode {
  // The layer that is opened for writing, where its kind allows it.
  std::optional<size_t> writable;
  // The topmost layer is made if it is a change file that does not exist (writable is 0 then).
  bool create = false;
  change_file_options change_files;
  // Opening fails soon (canceled) after this has become true.
  const std::atomic<bool>* abandoned = nullptr;
};

// Opens all layers, from the bottom up, on the calling reactor, which becomes their home. The size
// is the one given, or that of the topmost layer that has one. Errors name the layer and the
// remedy; nothing stays open then.
rt::task<base::outcome<open_layers>> open_stack(rt::runtime& runtime, const stack_spec& spec,
                                                open_mode mode);

struct source_options {
  bool writable = false;
  bool locked = false;  // the caller holds the lock of a file already
  // Opening fails soon (canceled) after this has become true.
  const std::atomic<bool>* abandoned = nullptr;
};
// Any source but a qcow2 image, by itself. Errors name the source and the remedy.
rt::task<base::outcome<open_layer>> open_source(rt::runtime& runtime, uri::source from,
                                                source_options how);

// A flat file or block device, locked for writing. Errors name the path and the remedy.
base::outcome<std::unique_ptr<block::block_device>> open_flat(const std::string& path);

// A new change file on top of `below` (topmost first; may be empty), with the name of the layer
// below recorded for QEMU's tools where they can follow it. Its name is durable; nothing stays of
// it after an error.
rt::task<base::outcome<open_layer>> make_change_file(rt::runtime& runtime, std::string path,
                                                     uint64_t size_bytes,
                                                     const std::vector<open_layer>& below,
                                                     change_file_options options);

// Writes out and closes what needs that. Returns the first failure, closes everything all the same.
rt::task<base::outcome<void>> close_layers(std::vector<open_layer>& layers);

// As the overlay takes them.
std::vector<overlay::member> to_members(const std::vector<open_layer>& layers);

// Logs a warning where the lowest image records a layer below it that the user did not name: LBD
// follows only what is named.
void warn_about_backing(const std::vector<open_layer>& layers);

// "-E top.qcow2", for messages.
std::string to_text(const layer_spec& spec);

}  // namespace lbd::ctl
