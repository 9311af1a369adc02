// SPDX-License-Identifier: MIT
// What programs do with the bytes of an open file. Runs on the reader's reactor.
#include <sys/types.h>

#include <fcntl.h>
#include <linux/falloc.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "base/checked_math.h"
#include "export/fuse/callbacks.h"
#include "export/fuse/session.h"
#include "wire/dm/face.h"

namespace lbd::fuse::callbacks {
namespace {

uint64_t size_of(const open_file& f) noexcept { return f.device().limits().size_bytes; }

}  // namespace

void read(fuse_req_t from, fuse_ino_t, size_t bytes, off_t offset, fuse_file_info* info) {
  open_file& f = file_of(info);
  const uint64_t at = static_cast<uint64_t>(offset), size = size_of(f);
  const uint64_t n = at < size ? std::min<uint64_t>(bytes, size - at) : 0;
  if (n == 0) {
    fuse_reply_buf(from, nullptr, 0);
    return;
  }
  reader& here = session_of(from).reader_here();
  if (request* r = here.begin(from, f, at, n)) here.start_read(*r);
}

void write_buf(fuse_req_t from, fuse_ino_t, fuse_bufvec* bytes, off_t offset,
               fuse_file_info* info) {
  open_file& f = file_of(info);
  const uint64_t at = static_cast<uint64_t>(offset), size = size_of(f);
  const uint64_t wanted = bytes->buf[0].size;
  const uint64_t n = at < size ? std::min(wanted, size - at) : 0;
  if (n == 0) {  // as a block device that has come to its end
    if (wanted == 0)
      fuse_reply_write(from, 0);
    else
      fuse_reply_err(from, ENOSPC);
    return;
  }
  reader& here = session_of(from).reader_here();
  request* r = here.begin(from, f, at, n);
  if (r == nullptr) return;
  // A shorter count would be right, but of a direct write the kernel makes EIO from that.
  if (n < wanted && (info->flags & O_DIRECT) != 0) r->cut = base::errc::nospc;
  here.start_write(*r);
}

void fsync(fuse_req_t from, fuse_ino_t, int, fuse_file_info* info) {
  reader& here = session_of(from).reader_here();
  if (request* r = here.begin(from, file_of(info), 0, 0)) here.start_flush(*r);
}

void fallocate(fuse_req_t from, fuse_ino_t, int mode, off_t offset, off_t length,
               fuse_file_info* info) {
  open_file& f = file_of(info);
  const bool punch = mode == (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE);
  const bool keep_size = (mode & FALLOC_FL_KEEP_SIZE) != 0;
  if (!punch && (mode & ~FALLOC_FL_KEEP_SIZE) != FALLOC_FL_ZERO_RANGE) {
    fuse_reply_err(from, EOPNOTSUPP);
    return;
  }
  const uint64_t at = static_cast<uint64_t>(offset), size = size_of(f);
  uint64_t n = static_cast<uint64_t>(length);
  if (!f.writable() || at >= size || (!keep_size && !base::range_fits(at, n, size))) {
    fuse_reply_err(from, f.writable() ? EINVAL : EBADF);
    return;
  }
  n = std::min(n, size - at);
  reader& here = session_of(from).reader_here();
  // Not discard: programs count on a punched hole to read as zeros.
  if (request* r = here.begin(from, f, at, n)) here.start_zero(*r, !punch);
}

void lseek(fuse_req_t from, fuse_ino_t, off_t offset, int whence, fuse_file_info* info) {
  open_file& f = file_of(info);
  const uint64_t at = static_cast<uint64_t>(offset), size = size_of(f);
  if (whence != SEEK_DATA && whence != SEEK_HOLE) {
    fuse_reply_err(from, EINVAL);
    return;
  }
  if (offset < 0 || at >= size) {
    fuse_reply_err(from, ENXIO);
    return;
  }
  reader& here = session_of(from).reader_here();
  if (request* r = here.begin(from, f, at, size - at)) here.start_seek(*r, whence == SEEK_HOLE);
}

void ioctl(fuse_req_t from, fuse_ino_t, unsigned request, void*, fuse_file_info* info,
           unsigned flags, const void* in, size_t in_bytes, size_t) {
  uint64_t range[2];
  if (request != dm::face::discard_of_file || (flags & FUSE_IOCTL_DIR) != 0 ||
      in_bytes != sizeof range) {
    fuse_reply_err(from, ENOTTY);
    return;
  }
  std::memcpy(range, in, sizeof range);
  open_file& f = file_of(info);
  const block::limits& l = f.device().limits();
  const bool fits = range[1] != 0 && base::range_fits(range[0], range[1], l.size_bytes);
  if (!f.writable() || !fits || !l.can_discard) {
    fuse_reply_err(from, !f.writable() ? EBADF : !fits ? EINVAL : EOPNOTSUPP);
    return;
  }
  reader& here = session_of(from).reader_here();
  if (lbd::fuse::request* r = here.begin(from, f, range[0], range[1])) here.start_discard(*r);
}

}  // namespace lbd::fuse::callbacks
