// SPDX-License-Identifier: MIT
// A file on a Gluster volume as rt::file, so that everything that stands on files (flat images,
// change files) stands on Gluster too.
//
// Durability. A write that was answered is with the servers (volume.cc sets the options that make
// it so), not yet on their disks: that is what a sync is for. The file keeps a copy of what no sync
// has covered. When a sync fails, or does not answer, the next one first writes all of that again,
// while new writes wait; it succeeds only if everything that was answered is on the disks. So a
// sync that fails is never forgotten, and service returns by itself when the servers do.
#pragma once

#include <memory>

#include "rt/file.h"
#include "rt/runtime.h"
#include "wire/uri/gluster_uri.h"

namespace lbd::store {

namespace gluster_bounds {
// One request to the library; longer ones are answered short, and callers go on.
inline constexpr uint64_t request_bytes = uint64_t{4} << 20;
inline constexpr uint64_t zeroes_bytes = uint64_t{256} << 20;
// Requests of one file and reactor that are with the library; others wait.
inline constexpr unsigned requests_per_reactor = 128;
// Reads of one file that were given up and have not ended; above it reads fail at once.
inline constexpr uint64_t most_late_reads = 64;
// Copies of unsynced writes per file: from the first on a sync begins by itself, from the second on
// writes wait for it.
inline constexpr uint64_t unsynced_bytes = uint64_t{16} << 20;
inline constexpr uint64_t most_unsynced_bytes = uint64_t{64} << 20;
}  // namespace gluster_bounds

// A file that can say where its holes are; that blocks on the network, so it is a task.
class gluster_file : public rt::file {
 public:
  // The run that begins at `offset`. REQUIRES: offset < size.
  virtual rt::task<base::result<rt::file_extent>> find_extent(uint64_t offset) = 0;
  // Closes now and waits for that, 5 s at most; what was given up and has not ended closes it in
  // its own time. REQUIRES: no request in flight; none follows.
  virtual rt::task<void> close() = 0;
};

// Whether an image is locked while it is open: one writer or several readers, of all hosts. The
// servers keep the lock while the connection lives, and forget it one by one when they are started
// anew: it keeps mistakes away, and is no fence. QEMU's driver takes and heeds none.
enum class gluster_lock { no, yes };

// Opens on the calling reactor, which becomes the home of the file's syncs. options.direct is not
// used. Errors: as the servers say (noent, exist, access ...), timed_out, busy (locked by another
// program); each names the image and the servers. Nothing stays of an image that was made for an
// opening that failed, also if it comes to be made only when nobody waits any more; but one that
// another program has locked meanwhile is that program's.
rt::task<base::outcome<std::unique_ptr<gluster_file>>> open_gluster_file(
    rt::runtime& runtime, uri::gluster_source from, rt::open_options options,
    gluster_lock lock = gluster_lock::yes);

// Removes an image that its maker cannot use, if its name still means it: `inode` is the one of its
// file_info. Where that fails the log says so.
rt::task<void> remove_made_gluster_image(rt::runtime& runtime, uri::gluster_source image,
                                         uint64_t inode);

}  // namespace lbd::store
