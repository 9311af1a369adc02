// SPDX-License-Identifier: MIT
// What programs under `lbd run` say to the daemon, by the library that is loaded into them: one
// request and one answer per connection of a Unix socket, both a header of fixed size and as many
// bytes as it says, in the host's order. Plain data, so that the library needs nothing else.
#pragma once

#include <stdint.h>
#include <sys/ioctl.h>

namespace lbd::dm::face {

constexpr uint32_t magic = 0x4d44424c;  // "LBDM"

enum op : uint16_t {
  // `detail` is the command. Bytes: the caller's directory, a NUL, the caller's buffer. Answer:
  // what
  // goes over the buffer's beginning; after an error the version is in it.
  op_ioctl = 1,
  // Bytes: an absolute path without "." and "..". Answer: a node, then its path.
  op_look_up = 2,
  // Bytes: major and minor, two uint32_t. Answer: a node, then its path.
  op_find = 3,
  // Bytes: the inode number of a device's file in the mounted folder, a uint64_t. Answer: a node,
  // then its path.
  op_find_file = 4,
  // Bytes: major, minor, and the sectors to read ahead, three uint32_t.
  op_set_read_ahead = 5,
  // The connection is an open control node. The answer comes at once, without bytes; then for each
  // byte from the caller (it is armed) one byte comes back at the next change of any device.
  op_watch = 6,
};

struct request_header {
  uint32_t magic;
  uint16_t op;
  uint16_t detail;
  uint32_t bytes;
};
struct answer_header {
  int32_t error;  // an errno value, 0: none
  uint32_t bytes;
};
constexpr uint32_t largest_request_bytes = 64u << 20;
constexpr uint32_t largest_path_bytes = 4096;

enum node_kind : uint32_t {
  node_elsewhere = 0,  // nothing of LBD's: what the path says is meant
  node_control = 1,    // the control node
  node_device = 2,     // a mapped device
  node_disk = 3,       // a disk file
  node_file = 4,       // a file or folder that lies at another place: `path`
  node_link = 5,       // a link to `path`, a mapped device's
};

struct node {
  uint32_t kind;
  uint32_t major, minor;
  uint32_t read_only;  // 0 or 1
  uint32_t readable;   // 0: a device without a table; 1
  uint32_t claimed;    // 1: a table uses it
  uint64_t size_bytes;
  uint32_t block_bytes, physical_block_bytes, io_min_bytes, io_optimal_bytes;
  uint32_t discard_bytes;  // the granularity; 0: cannot
  uint32_t read_ahead_sectors;
  uint32_t geometry[4];  // cylinders, heads, sectors, start; 0 cylinders: none
  uint32_t path_bytes;   // of what follows: the file with the bytes; 0: there is none
  uint32_t padding;
};

// An ioctl of a device's file in a mounted folder: discards a range, two uint64_t, offset and
// length in bytes. (Punching a hole promises zeros, which a device's discard does not.) Errors:
// EINVAL, EBADF, EOPNOTSUPP; elsewhere ENOTTY.
constexpr unsigned long discard_of_file = _IOW(0xdb, 1, uint64_t[2]);

}  // namespace lbd::dm::face
