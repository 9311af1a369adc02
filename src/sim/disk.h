// SPDX-License-Identifier: MIT
// A simulated disk with files on it. Durable bytes, unflushed writes and faults are kept apart:
// after crash() each 512-byte sector holds what was durable or any of the values written to it
// since, and a sync covers exactly what was answered before it was submitted.
//
// What is promised, and what is not:
//   - A sector is never torn; a request of several sectors may be, and in any order.
//   - A sync makes the bytes, the size and the existence of its file durable.
//   - Without a sync the size may or may not survive, independently of the bytes; a file made since
//     may be gone.
//   - A failed sync drops what it should have written (some sectors made it, the others count as
//     clean and are never written) or keeps it for the next one: drawn.
// Everything is drawn from one seed. One thread.
#pragma once

#include <list>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "rt/file.h"
#include "sim/random.h"

namespace lbd::sim {

inline constexpr uint64_t sector_bytes = 512;

struct disk_options {
  uint64_t latency_ns = 2'000'000;  // the longest; each request draws its own
  unsigned inline_percent = 30;     // reads and writes that complete without waiting (page cache)
  unsigned short_percent = 2;       // transfers that do less than was asked
  bool can_punch = true;            // otherwise punching and zeroing answer notsup
  uint64_t space_bytes = UINT64_MAX;
};

enum class fault : uint8_t {
  read_error,   // EIO
  write_error,  // EIO, some sectors written all the same (torn)
  sync_error,   // EIO, see above
  lost_write,   // answered, never done
  misdirected,  // done somewhere else in the file
  bit_rot,      // a bit of what is read has changed for good
  stuck,        // no answer until release_stuck(), or the crash
  false_alarm,  // a write answers EIO though it was done
};
inline constexpr size_t fault_count = 8;

class sim_disk final : public rt::file_system {
 public:
  sim_disk(uint64_t seed, disk_options options);
  ~sim_disk() override;
  sim_disk(const sim_disk&) = delete;
  sim_disk& operator=(const sim_disk&) = delete;

  base::outcome<std::unique_ptr<rt::file>> open(const std::string& path,
                                                rt::open_options options) override;

  // The chance of a fault, for each request that may have it.
  void set_chance(fault f, uint32_t per_million) noexcept {
    chance_[static_cast<size_t>(f)] = per_million;
  }
  // The next request that may have it has it; after `skip` others.
  void inject(fault f, uint32_t skip = 0) { planned_[static_cast<size_t>(f)] = skip + 1; }
  void clear_faults() noexcept;
  void set_space(uint64_t bytes) noexcept { options_.space_bytes = bytes; }
  uint64_t used_bytes() const noexcept { return used_sectors_ * sector_bytes; }

  // Lets all requests that are stuck go on.
  void release_stuck();

  // Power is lost now. What remains is drawn. Requests in flight, and all later ones on files that
  // are open now, end with EIO; open again to see what is left. Locks are gone.
  void crash();

  // Power losses so far.
  uint64_t boots() const noexcept { return boots_; }
  // Failed syncs since the last crash.
  unsigned failed_syncs() const noexcept { return failed_syncs_; }
  unsigned failed_syncs(const std::string& path) const;
  // Failed syncs after which clean but unwritten bytes have left the cache: from then on a reader
  // may find what was on the disk before, whatever that was, and no program can help it.
  unsigned forgotten() const noexcept { return forgotten_; }
  // Faults that happened so far.
  unsigned faults() const noexcept { return faults_; }

  // Files by name, and a file's bytes as a reader sees them now, for checks and dumps.
  std::vector<std::string> paths() const;
  bool exists(const std::string& path) const { return inodes_.count(path) != 0; }
  std::vector<std::byte> bytes_of(const std::string& path) const;
  // What a power loss now would surely leave of them where nothing newer has got to the disk.
  std::vector<std::byte> durable_bytes_of(const std::string& path) const;
  // Makes a file of these bytes, durable.
  void put(const std::string& path, base::bytes_view bytes);

 private:
  friend class sim_file;

  // A sector's content; none is a hole.
  struct sector_data;
  using data_ref = std::shared_ptr<const sector_data>;
  struct version {
    data_ref content;
    uint64_t change;  // number of the change that wrote it
  };
  struct sector {
    data_ref visible;
    data_ref durable;
    std::vector<version> unflushed;  // in the order in which they became visible
  };
  struct size_version {
    uint64_t bytes;
    uint64_t change;
  };
  struct lock_entry {
    const rt::file* owner;
    rt::lock_kind kind;
    uint64_t begin, end;
  };
  struct inode;
  static std::vector<std::byte> gather(const inode& at, uint64_t size_bytes,
                                       data_ref sector::*which);
  struct inode {
    uint64_t number = 0;
    bool created_durably = false;
    uint64_t size_bytes = 0;
    uint64_t durable_size_bytes = 0;
    std::vector<size_version> unflushed_sizes;
    std::map<uint64_t, sector> sectors;
    std::set<uint64_t> dirty;
    std::vector<lock_entry> locks;
    unsigned failed_syncs = 0;
  };
  using inode_ref = std::shared_ptr<inode>;

  // A request on its way. Freed when it is answered.
  struct pending;
  using pending_list = std::list<std::unique_ptr<pending>>;

  void start(const inode_ref& at, rt::io_request& r);
  void finish(pending& p);
  void answer(pending& p, int64_t result);
  // What a request does when it is done: bytes or -errno.
  int64_t perform(inode& at, rt::io_request& r, uint64_t covered);
  int64_t do_read(inode& at, const rt::io_request& r);
  int64_t do_write(inode& at, const rt::io_request& r);
  int64_t do_sync(inode& at, uint64_t covered);
  int64_t do_allocate(inode& at, const rt::io_request& r);
  int64_t do_resize(inode& at, uint64_t size_bytes);

  bool happens(fault f);
  uint64_t maybe_short(uint64_t offset, uint64_t length);
  // A write that overlaps reads in flight may be seen in part.
  void let_writes_shine_through(inode& at, const rt::io_request& reading);
  void put_bytes(inode& at, uint64_t offset, base::bytes_view content, bool torn);
  enum class fill { hole, zero, keep };
  void fill_range(inode& at, uint64_t begin, uint64_t end, fill how, uint64_t change);
  void set_sector(inode& at, uint64_t index, data_ref content, uint64_t change);
  void set_size(inode& at, uint64_t bytes, uint64_t change);
  void make_durable(inode& at, uint64_t index, uint64_t covered);
  void make_size_durable(inode& at, uint64_t covered);
  void count_failed_sync(inode& at) noexcept;
  void fail_sync(inode& at, uint64_t covered);
  uint64_t write_room(const inode& at, uint64_t offset, uint64_t length) const;
  void crash_inode(inode& at, unsigned style);
  bool survives(unsigned style, uint64_t salt, uint64_t cut, uint64_t change);

  disk_options options_;
  random random_;
  std::map<std::string, inode_ref> inodes_;
  pending_list flying_;
  uint64_t boots_ = 0;
  uint64_t changes_ = 0;
  uint64_t next_inode_ = 1;
  uint64_t used_sectors_ = 0;
  unsigned failed_syncs_ = 0;
  unsigned forgotten_ = 0;
  unsigned faults_ = 0;
  uint32_t chance_[fault_count] = {};
  uint32_t planned_[fault_count] = {};
};

}  // namespace lbd::sim
