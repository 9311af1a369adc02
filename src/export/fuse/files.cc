// SPDX-License-Identifier: MIT
// The folder's names and the files' attributes. The kernel is told to keep none of them, so that a
// device that comes, goes, grows or is renamed is seen at once.
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <string>

#include "export/fuse/callbacks.h"
#include "export/fuse/errors.h"
#include "export/fuse/session.h"

namespace lbd::fuse {
namespace {

constexpr unsigned block_bytes = 512;
constexpr double forever_seconds = 86400;
constexpr unsigned name_bytes = 127;

void set_times(struct stat& st, int64_t seconds) noexcept {
  st.st_atim.tv_sec = st.st_mtim.tv_sec = st.st_ctim.tv_sec = seconds;
}

struct stat folder_attributes(const session& s) noexcept {
  struct stat st {};
  st.st_ino = folder_inode;
  st.st_mode = S_IFDIR | 0500;
  st.st_nlink = 2;
  st.st_uid = ::geteuid();
  st.st_gid = ::getegid();
  set_times(st, s.made_seconds());
  return st;
}

struct stat file_attributes(const session& s, const entry& e) noexcept {
  struct stat st {};
  st.st_ino = inode_of(e.id);
  st.st_mode = S_IFREG | (e.read_only ? 0400 : 0600);
  st.st_nlink = 1;
  st.st_uid = ::geteuid();
  st.st_gid = ::getegid();
  st.st_size = static_cast<off_t>(e.size_bytes);
  st.st_blocks = static_cast<blkcnt_t>(e.size_bytes / block_bytes);
  st.st_blksize = static_cast<blksize_t>(std::max(e.preferred_bytes, 4096u));
  set_times(st, s.made_seconds());
  return st;
}

void reply_attributes(session& s, fuse_req_t from, fuse_ino_t inode) {
  if (inode == folder_inode) {
    const struct stat st = folder_attributes(s);
    fuse_reply_attr(from, &st, forever_seconds);
    return;
  }
  const auto e = s.devices().find(id_of(inode));
  if (!e) {
    fuse_reply_err(from, ENOENT);
    return;
  }
  const struct stat st = file_attributes(s, *e);
  fuse_reply_attr(from, &st, 0);
}

void reply_lookup(session& s, fuse_req_t from, const std::string& name) {
  const auto e = s.devices().find(name);
  if (!e) {
    fuse_reply_err(from, ENOENT);
    return;
  }
  fuse_entry_param p{};
  p.ino = inode_of(e->id);
  p.attr = file_attributes(s, *e);
  fuse_reply_entry(from, &p);
}

void reply_open(session& s, fuse_req_t from, fuse_ino_t inode, fuse_file_info info) {
  const uint64_t id = id_of(inode);
  // As of a block device: the first one to open it finds nothing in the page cache.
  info.keep_cache = s.is_open(id) ? 1 : 0;
  const auto f = s.open(id, (info.flags & O_ACCMODE) != O_RDONLY);
  if (!f) {
    fuse_reply_err(from, errno_of(f.error().code));
    return;
  }
  info.fh = reinterpret_cast<uint64_t>(*f);
  // Nobody waits for it any more: there will be no release.
  if (fuse_reply_open(from, &info) == -ENOENT) (*f)->let_go();
}

void reply_statfs(session& s, fuse_req_t from) {
  struct statvfs v {};
  v.f_bsize = v.f_frsize = 4096;
  v.f_namemax = name_bytes;
  for (const entry& e : s.devices().list()) {
    v.f_blocks += e.size_bytes / v.f_frsize;
    ++v.f_files;
  }
  fuse_reply_statfs(from, &v);
}

void refuse(fuse_req_t from) { fuse_reply_err(from, EPERM); }

}  // namespace

namespace callbacks {

void init(void*, fuse_conn_info* kernel) {
  // O_TRUNC comes as a change of the size then, which can be answered with the true one.
  kernel->want &= ~static_cast<unsigned>(FUSE_CAP_ATOMIC_O_TRUNC | FUSE_CAP_SPLICE_READ |
                                         FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE |
                                         FUSE_CAP_AUTO_INVAL_DATA | FUSE_CAP_WRITEBACK_CACHE);
  kernel->want |= kernel->capable & (FUSE_CAP_ASYNC_READ | FUSE_CAP_ASYNC_DIO);
  kernel->max_write = reader::most_bytes;
  // What waits for one device must not keep the others' from coming.
  kernel->max_background = block::bounds::background_requests_per_mount;
}

void lookup(fuse_req_t from, fuse_ino_t parent, const char* name) {
  if (parent != folder_inode) {
    fuse_reply_err(from, ENOTDIR);
    return;
  }
  session& s = session_of(from);
  s.at_home([&s, from, n = std::string(name)] { reply_lookup(s, from, n); });
}

void getattr(fuse_req_t from, fuse_ino_t inode, fuse_file_info*) {
  session& s = session_of(from);
  s.at_home([&s, from, inode] { reply_attributes(s, from, inode); });
}

// Times may be set, without effect. So may the size to 0 by a name, which is how O_TRUNC arrives:
// it means nothing to a block device. Everything else is refused.
void setattr(fuse_req_t from, fuse_ino_t inode, struct stat* wanted, int which,
             fuse_file_info* info) {
  session& s = session_of(from);
  if ((which & (FUSE_SET_ATTR_MODE | FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID)) != 0)
    return refuse(from);
  const bool sized = (which & FUSE_SET_ATTR_SIZE) != 0;
  const bool truncated = sized && info == nullptr && wanted->st_size == 0;
  s.at_home([&s, from, inode, strict = sized && !truncated, bytes = wanted->st_size] {
    const auto e = inode == folder_inode ? std::nullopt : s.devices().find(id_of(inode));
    if (strict && e && static_cast<uint64_t>(bytes) != e->size_bytes) return refuse(from);
    reply_attributes(s, from, inode);
  });
}

void open(fuse_req_t from, fuse_ino_t inode, fuse_file_info* info) {
  session& s = session_of(from);
  s.at_home([&s, from, inode, i = *info] { reply_open(s, from, inode, i); });
}

void release(fuse_req_t from, fuse_ino_t, fuse_file_info* info) {
  file_of(info).let_go();
  fuse_reply_err(from, 0);
}

void opendir(fuse_req_t from, fuse_ino_t, fuse_file_info* info) {
  session& s = session_of(from);
  s.at_home([&s, from, i = *info]() mutable {
    listing& l = s.open_listing();
    i.fh = reinterpret_cast<uint64_t>(&l);
    if (fuse_reply_open(from, &i) == -ENOENT) s.close_listing(l);
  });
}

void readdir(fuse_req_t from, fuse_ino_t, size_t bytes, off_t offset, fuse_file_info* info) {
  const auto& entries = reinterpret_cast<const listing*>(info->fh)->entries;
  std::vector<char> out(std::min(bytes, reader::most_bytes));
  size_t used = 0;
  for (size_t i = static_cast<size_t>(offset); i < entries.size() + 2; ++i) {
    struct stat st {};
    st.st_ino = i < 2 ? folder_inode : inode_of(entries[i - 2].id);
    st.st_mode = i < 2 ? S_IFDIR : S_IFREG;
    const char* name = i == 0 ? "." : i == 1 ? ".." : entries[i - 2].name.c_str();
    const size_t n = fuse_add_direntry(from, out.data() + used, out.size() - used, name, &st,
                                       static_cast<off_t>(i + 1));
    if (n > out.size() - used) break;
    used += n;
  }
  fuse_reply_buf(from, out.data(), used);
}

void releasedir(fuse_req_t from, fuse_ino_t, fuse_file_info* info) {
  session& s = session_of(from);
  s.at_home([&s, l = reinterpret_cast<const listing*>(info->fh)] { s.close_listing(*l); });
  fuse_reply_err(from, 0);
}

void statfs(fuse_req_t from, fuse_ino_t) {
  session& s = session_of(from);
  s.at_home([&s, from] { reply_statfs(s, from); });
}

}  // namespace callbacks

const ::fuse_lowlevel_ops& operations() noexcept {
  static const ::fuse_lowlevel_ops ops = [] {
    ::fuse_lowlevel_ops o{};
    o.init = callbacks::init;
    o.lookup = callbacks::lookup;
    o.getattr = callbacks::getattr;
    o.setattr = callbacks::setattr;
    o.open = callbacks::open;
    o.release = callbacks::release;
    o.read = callbacks::read;
    o.write_buf = callbacks::write_buf;
    o.fsync = callbacks::fsync;
    o.fallocate = callbacks::fallocate;
    o.lseek = callbacks::lseek;
    o.ioctl = callbacks::ioctl;
    o.opendir = callbacks::opendir;
    o.readdir = callbacks::readdir;
    o.releasedir = callbacks::releasedir;
    o.statfs = callbacks::statfs;
    o.mknod = [](fuse_req_t r, fuse_ino_t, const char*, mode_t, dev_t) { refuse(r); };
    o.mkdir = [](fuse_req_t r, fuse_ino_t, const char*, mode_t) { refuse(r); };
    o.create = [](fuse_req_t r, fuse_ino_t, const char*, mode_t, fuse_file_info*) { refuse(r); };
    o.symlink = [](fuse_req_t r, const char*, fuse_ino_t, const char*) { refuse(r); };
    o.link = [](fuse_req_t r, fuse_ino_t, fuse_ino_t, const char*) { refuse(r); };
    o.unlink = [](fuse_req_t r, fuse_ino_t, const char*) { refuse(r); };
    o.rmdir = [](fuse_req_t r, fuse_ino_t, const char*) { refuse(r); };
    o.rename = [](fuse_req_t r, fuse_ino_t, const char*, fuse_ino_t, const char*, unsigned) {
      refuse(r);
    };
    return o;
  }();
  return ops;
}

}  // namespace lbd::fuse
