// SPDX-License-Identifier: MIT
// Layers that lie on Gluster volumes. Like stack_builder, one of the few places that know a store.
#pragma once

#include <string>

#include "base/result.h"
#include "ctl/stack_builder.h"
#include "rt/file.h"
#include "rt/runtime.h"
#include "wire/uri/gluster_uri.h"

namespace lbd::ctl {

// An image as it is, byte for byte; `lock`: one writer or several readers, of all hosts.
rt::task<base::outcome<open_layer>> open_gluster_flat(rt::runtime& runtime,
                                                      uri::gluster_source from, bool writable,
                                                      bool lock);
// A new one, all zeros. Errors: exist; nothing stays of it after others.
rt::task<base::outcome<open_layer>> make_gluster_flat(rt::runtime& runtime, std::string text,
                                                      uint64_t size_bytes);
// A change file (qcow2) named by its URI.
rt::task<base::outcome<open_layer>> open_gluster_change_file(rt::runtime& runtime, std::string text,
                                                             bool writable);
// A new one; nothing stays of it after an error.
rt::task<base::outcome<open_layer>> make_gluster_change_file(rt::runtime& runtime, std::string text,
                                                             store::new_change_file what);
rt::task<base::outcome<bool>> gluster_image_exists(rt::runtime& runtime, std::string text);

// Files by path or by URI.
rt::task<base::outcome<void>> remove_image(rt::runtime& runtime, std::string name);
rt::task<base::outcome<std::unique_ptr<rt::file>>> open_image_file(rt::runtime& runtime,
                                                                   std::string name,
                                                                   rt::open_options options);

}  // namespace lbd::ctl
