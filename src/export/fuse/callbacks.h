// SPDX-License-Identifier: MIT
// The functions that libfuse calls, one per kind of request, with libfuse's signatures.
#pragma once

#define FUSE_USE_VERSION 312
#include <fuse_lowlevel.h>

#include <cstdint>

#include "export/fuse/session.h"

namespace lbd::fuse::callbacks {

inline session& session_of(fuse_req_t from) noexcept {
  return *static_cast<session*>(fuse_req_userdata(from));
}
inline open_file& file_of(const fuse_file_info* info) noexcept {
  return *reinterpret_cast<open_file*>(info->fh);
}

// Bytes (data.cc).
void read(fuse_req_t from, fuse_ino_t, size_t bytes, off_t offset, fuse_file_info* info);
void write_buf(fuse_req_t from, fuse_ino_t, fuse_bufvec* bytes, off_t offset, fuse_file_info* info);
void fsync(fuse_req_t from, fuse_ino_t, int, fuse_file_info* info);
void fallocate(fuse_req_t from, fuse_ino_t, int mode, off_t offset, off_t length,
               fuse_file_info* info);
void lseek(fuse_req_t from, fuse_ino_t, off_t offset, int whence, fuse_file_info* info);
void ioctl(fuse_req_t from, fuse_ino_t, unsigned request, void*, fuse_file_info* info,
           unsigned flags, const void* in, size_t in_bytes, size_t out_bytes);

// Names and attributes (files.cc).
void init(void* user_data, fuse_conn_info* kernel);
void lookup(fuse_req_t from, fuse_ino_t parent, const char* name);
void getattr(fuse_req_t from, fuse_ino_t inode, fuse_file_info* info);
void setattr(fuse_req_t from, fuse_ino_t inode, struct stat* wanted, int which,
             fuse_file_info* info);
void open(fuse_req_t from, fuse_ino_t inode, fuse_file_info* info);
void release(fuse_req_t from, fuse_ino_t inode, fuse_file_info* info);
void opendir(fuse_req_t from, fuse_ino_t inode, fuse_file_info* info);
void readdir(fuse_req_t from, fuse_ino_t inode, size_t bytes, off_t offset, fuse_file_info* info);
void releasedir(fuse_req_t from, fuse_ino_t inode, fuse_file_info* info);
void statfs(fuse_req_t from, fuse_ino_t inode);

}  // namespace lbd::fuse::callbacks
