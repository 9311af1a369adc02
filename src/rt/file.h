// SPDX-License-Identifier: MIT
// Files as stores see them: the operating system's (open_file) or the simulator's. All reactors may
// use one file at the same time; each operation runs on the calling reactor.
#pragma once

#include <fcntl.h>

#include <array>
#include <memory>
#include <string>

#include "base/bytes.h"
#include "base/result.h"
#include "rt/reactor.h"

namespace lbd::rt {

class file;

struct open_options {
  bool writable = false;
  bool create = false;     // make a new file if there is none
  bool exclusive = false;  // with create: fail if there is one (errc::exist)
  bool direct = false;     // O_DIRECT: offsets, lengths and addresses in multiples of direct_align
};

// Facts that do not change while the file is open, except the size (resize()).
struct file_info {
  std::string path;
  uint64_t size_bytes = 0;
  bool is_block_device = false;
  bool writable = false;
  // tmpfs and the like: reads and writes never wait for a device, so they are done inline.
  bool in_memory = false;
  // A sync that failed may be asked for again: the file keeps what no sync has covered, and a later
  // success covers that too. (The operating system's files drop it.)
  bool syncs_again = false;
  uint32_t direct_align_bytes = 1;  // 1: no alignment needed
  uint64_t device_id = 0, inode = 0;
};

// A run of data or of a hole, from SEEK_DATA and SEEK_HOLE.
struct file_extent {
  uint64_t length_bytes = 0;
  bool hole = false;
};

// Awaitable for one file operation; tries without blocking first.
class [[nodiscard]] file_op {
 public:
  file_op(file& f, io_request r) noexcept : file_(f), request_(r) {}
  bool await_ready() noexcept;
  void await_suspend(std::coroutine_handle<> h);
  // Bytes done (may be short), or the error.
  base::result<size_t> await_resume() const noexcept {
    if (request_.result < 0) return base::error_from_errno(static_cast<int>(-request_.result));
    return static_cast<size_t>(request_.result);
  }

 private:
  file& file_;
  io_request request_;
};

// Byte-range locks that vanish with the open file (OFD locks): [first, first + count) bytes.
enum class lock_kind { none, shared, exclusive };

class file {
 public:
  virtual ~file() = default;

  const file_info& info() const noexcept { return info_; }

  // At most IOV_MAX segments. Results may be short (read: end of file).
  file_op read(uint64_t offset, segments to) noexcept {
    return file_op(*this, vector_request(io_op::read, offset, to));
  }
  file_op write(uint64_t offset, segments from) noexcept {
    return file_op(*this, vector_request(io_op::write, offset, from));
  }
  // fdatasync: everything written (and answered) before is durable afterwards.
  file_op sync_data() noexcept { return file_op(*this, plain_request(io_op::sync_data, 0, 0, 0)); }
  // fallocate with the mode's FALLOC_FL_ flags; block devices take BLKDISCARD and BLKZEROOUT ways.
  file_op allocate(int mode, uint64_t offset, uint64_t length) noexcept {
    return file_op(*this, plain_request(io_op::fallocate, mode, offset, length));
  }
  // Changes the size of a regular file; info().size_bytes follows.
  task<base::result<void>> resize(uint64_t size_bytes);

  // Whole transfers: loop over short results; reading past the end of the file gives zeros.
  task<base::result<void>> read_all(uint64_t offset, base::bytes_span to);
  task<base::result<void>> write_all(uint64_t offset, base::bytes_view from);

  // The run that begins at `offset`; the last one of a file may reach beyond its end. A file that
  // cannot tell says "data". Does not block on the device. REQUIRES: offset < size.
  virtual file_extent extent_at(uint64_t offset) noexcept = 0;

  // Bytes of disk (or memory) that the file takes; the whole size where that cannot be told.
  virtual uint64_t allocated_bytes() const noexcept { return info_.size_bytes; }

  // The file's pages in memory, read-only, or an empty span; it may reach beyond the end of the
  // file, so that the file can grow into it. Touching pages beyond the end is fatal: only the
  // kernel may be given these addresses (send), which then fails with EFAULT.
  virtual base::bytes_view mapping() noexcept { return {}; }
  // Whether the pages of the range are in memory now (a guess may be wrong later, never fatal).
  virtual bool resident(uint64_t /*offset*/, uint64_t /*length*/) noexcept { return false; }

  // OFD locks, without waiting. Errors: again (somebody else holds it).
  virtual base::result<void> lock(lock_kind kind, uint64_t first, uint64_t count) noexcept = 0;
  // Whether somebody else's lock would refuse `kind` there.
  virtual bool would_block(lock_kind kind, uint64_t first, uint64_t count) noexcept = 0;
  // Whether every program heeds these locks that could use the file, and they last until they are
  // given up. Others keep mistakes away, no more.
  virtual bool locks_are_fences() const noexcept { return true; }

  // For file_op: completes the request at once if that cannot block (true), or starts it.
  virtual bool try_now(io_request& r) noexcept = 0;
  virtual void start(io_request& r) = 0;

 protected:
  file_info info_;

 private:
  static io_request vector_request(io_op op, uint64_t offset, segments s) noexcept {
    io_request r;
    r.op = op;
    r.offset = offset;
    r.iov = s.data();
    r.iov_count = static_cast<uint32_t>(s.size());
    return r;
  }
  static io_request plain_request(io_op op, int flags, uint64_t offset, uint64_t length) noexcept {
    io_request r;
    r.op = op;
    r.flags = flags;
    r.offset = offset;
    r.length = length;
    return r;
  }
};

inline bool file_op::await_ready() noexcept { return file_.try_now(request_); }
inline void file_op::await_suspend(std::coroutine_handle<> h) {
  request_.waiter = h;
  file_.start(request_);
}

// Opens the operating system's file (blocks: control path only). Errors name the path and the
// remedy.
base::outcome<std::unique_ptr<file>> open_file(const std::string& path, open_options options);

// Where stores get their files: the operating system, or the simulator's disk.
class file_system {
 public:
  virtual ~file_system() = default;
  virtual base::outcome<std::unique_ptr<file>> open(const std::string& path,
                                                    open_options options) = 0;
  // Removes a name, where this knows how and it can be done.
  virtual void remove(const std::string& /*path*/) noexcept {}
};
// The operating system's file system.
file_system& os_files() noexcept;

}  // namespace lbd::rt
