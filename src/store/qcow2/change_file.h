// SPDX-License-Identifier: MIT
// The change file: a qcow2 image as a layer of a stack.
//
// State      L1 table, recent L2 tables and refcount blocks in memory; changes to them are written
// by
//            commits: at flush(), in the background when there are many, and by close().
// Order      A commit writes refcounts, then waits until they and all data are durable; then L2
//            entries; then, where there are new L2 tables, waits again and writes L1 entries; then
//            waits once more. Clusters that the tables no longer name are used again only after
//            that.
// Crash      At any moment the file is a valid image with the content of the last flush, and
// perhaps
//            some of what was written since. Clusters may be leaked, never shared or lost.
// Failure    After a failed fdatasync (or a metadata write that failed for another reason than
//            missing space) nothing more is promised: every later flush and allocation fails; reads
//            go on, except of clusters that were new since the last flush. Missing space fails the
//            one call, and later ones may succeed.
// Threads    One home reactor, the one that opened it. read(), locate(), extents() and flush() may
// be
//            called on any reactor (others than home pay a hop); everything else at home.
//
// Used alone (without an overlay) it is a block device whose unwritten parts read as zeros.
// Source of the format: QEMU's docs/interop/qcow2.
#pragma once

#include <array>
#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "block/layer.h"
#include "format/qcow2/header.h"
#include "format/qcow2/l2_entry.h"
#include "rt/file.h"
#include "rt/sync.h"
#include "store/qcow2/image_device.h"
#include "store/qcow2/refcounts.h"
#include "store/qcow2/table_cache.h"
#include "store/qcow2/unpacked_clusters.h"
#include "store/qcow2/visits.h"

namespace lbd::store {

struct new_image;

struct change_file_options {
  bool writable = false;
  // Of metadata, about; 0: 64 MiB for writing, 8 MiB for reading.
  uint64_t cache_bytes = 0;
};

struct new_change_file {
  uint64_t size_bytes = 0;  // multiple of 512
  uint32_t cluster_bits = 16;
  bool extended_l2 = true;  // subclusters of 1/32 cluster (clusters of at least 16 KiB)
  uint32_t refcount_order = 4;
  std::optional<std::string> backing_name;    // recorded for QEMU's tools, never opened here
  std::optional<std::string> backing_format;  // "raw", "qcow2"
};

class change_file final : public block::change_layer {
 public:
  // Errors: of the file system, busy (locked by another program, or dirty where locks are no
  // fence), and whatever makes the image unusable, with the file's name and the remedy. Opening for
  // writing repairs the refcounts of an image that another program left dirty, and drops the
  // consistency bit of dirty bitmaps.
  static rt::task<base::outcome<std::unique_ptr<change_file>>> open(rt::file_system& files,
                                                                    std::string path,
                                                                    change_file_options options);
  // Makes a new file (exist: there is one) and opens it for writing. Durable when it returns,
  // except the directory's entry. After a failure the file, if it was made, is removed.
  static rt::task<base::outcome<std::unique_ptr<change_file>>> create(rt::file_system& files,
                                                                      std::string path,
                                                                      new_change_file what);
  // REQUIRES: close() has returned, or the file is read-only.
  ~change_file() override;

  // Commits everything, so that nothing is leaked; no more writes afterwards. At home.
  rt::task<base::result<void>> close();

  // block_device. write(), discard() and write_zeroes() as if nothing lay below: at home.
  const block::limits& limits() const noexcept override { return limits_; }
  rt::task<base::result<void>> read(uint64_t offset, rt::segments to, block::io_opts io) override;
  rt::task<base::result<void>> write(uint64_t offset, rt::segments from,
                                     block::io_opts io) override;
  rt::task<base::result<void>> flush(block::io_opts io) override;
  rt::task<base::result<void>> discard(uint64_t offset, uint64_t length,
                                       block::io_opts io) override;
  rt::task<base::result<void>> write_zeroes(uint64_t offset, uint64_t length,
                                            block::io_opts io) override;
  rt::task<base::result<void>> extents(uint64_t offset, uint64_t length, block::extent_list& out,
                                       block::io_opts io) override;

  // layer. Clusters that must not be written in place (shared with a snapshot, compressed) are
  // `opaque`, so that whoever writes them comes by allocate().
  rt::task<base::result<block::placement>> locate(uint64_t offset, uint64_t length) override;
  block::block_device& data_device() noexcept override { return io_; }
  std::string describe() const override;

  // change_layer. The last granule may reach beyond the size.
  uint64_t granule_bytes() const noexcept override { return g_.subcluster_size(); }
  uint64_t cluster_bytes() const noexcept override { return g_.cluster_size(); }
  rt::task<base::result<block::allocation>> allocate(uint64_t offset, uint64_t length) override;
  rt::task<base::result<void>> publish(const block::allocation& a) override;
  void abandon(const block::allocation& a) override;
  rt::task<base::result<void>> set_zero(uint64_t offset, uint64_t length, bool keep_space) override;
  void set_quiesce(std::function<rt::task<void>()> quiesce) override {
    quiesce_ = std::move(quiesce);
  }
  rt::task<base::result<void>> seal() override;
  uint64_t allocated_bytes() const noexcept override {
    return used_bytes_.load(std::memory_order_relaxed);
  }

  const qcow2::header& header() const noexcept { return header_; }
  const std::string& path() const noexcept { return file_.info().path; }

 private:
  // A host cluster that a caller of allocate() is writing to.
  struct pending_cluster {
    uint64_t host_offset = 0;
    uint32_t users = 0;
    bool fresh = false;  // no table names it yet
  };
  // Everything that one commit writes, copied at its start.
  struct commit_list {
    std::vector<file_change> refcount_blocks, refcount_table, l2, l1;
    std::vector<uint64_t> dropped;
    bool tables() const noexcept { return !l2.empty() || !l1.empty(); }
    bool refcounts() const noexcept { return !refcount_blocks.empty() || !refcount_table.empty(); }
  };

  change_file(std::unique_ptr<rt::file> file, qcow2::header h, change_file_options options);

  // change_file.cc: opening.
  static rt::task<base::outcome<std::unique_ptr<change_file>>> open_locked(
      std::unique_ptr<rt::file> file, change_file_options options);
  static rt::task<base::outcome<std::unique_ptr<change_file>>> fill(std::unique_ptr<rt::file> file,
                                                                    const new_image& image);
  rt::task<base::outcome<void>> load();
  base::failure failed_to(const char* what, base::io_error e) const;

  // mapping.cc: guest addresses to host clusters.
  rt::task<base::result<table_block*>> l2_for_reading(uint64_t l1_index);  // nullptr: none
  rt::task<base::result<table_block*>> l2_for_writing(uint64_t l1_index);
  rt::task<base::result<void>> new_l2_table(uint64_t l1_index, uint64_t copy_of);
  base::result<qcow2::cluster_mapping> entry_at(const table_block& l2, uint64_t offset);
  // Logs the first corruption that is met; passes the result on.
  template <class Result>
  Result tell(Result r) {
    if (!r) tell_corruption(r.error());
    return r;
  }
  void tell_corruption(base::io_error e);
  void put_entry(table_block& l2, uint64_t offset, const qcow2::cluster_mapping& m);
  rt::task<base::result<block::placement>> locate_home(uint64_t offset, uint64_t length);
  block::placement run_at(const table_block& l2, const qcow2::cluster_mapping& first,
                          uint64_t offset, uint64_t length);
  block::placement piece_of(const qcow2::cluster_mapping& m, uint64_t offset, uint64_t length);
  rt::task<base::result<qcow2::cluster_mapping>> mapping_of(uint64_t offset);
  rt::task<base::result<void>> read_opaque(uint64_t offset, rt::segments to);
  unpacked_clusters* unpacked_here();
  rt::task<base::result<void>> read_cluster(qcow2::cluster_mapping m, base::bytes_span to);
  void set_l1(uint64_t index, qcow2::l1_entry e);

  // allocation.cc: changing the map.
  rt::task<base::result<uint64_t>> allocate_cluster();
  rt::task<base::result<void>> write_at(uint64_t offset, base::bytes_view bytes);
  rt::task<base::result<qcow2::cluster_mapping>> make_own(uint64_t offset,
                                                          qcow2::cluster_mapping m);
  rt::task<base::result<void>> zero_cluster(uint64_t offset, uint64_t length, bool keep_space);
  void drop_references(const qcow2::cluster_mapping& m);
  uint32_t mask_of(uint64_t offset, uint64_t length) const noexcept;
  rt::task<base::result<void>> write_granules(uint64_t offset, rt::segments from);
  rt::task<base::result<void>> write_piece(uint64_t offset, rt::segments from);
  rt::task<base::result<void>> wait_for_room();

  // commit.cc: writing metadata.
  bool metadata_dirty() const noexcept;
  commit_list take_changes();
  rt::task<base::result<void>> run_commit();
  rt::task<base::result<void>> write_commit(commit_list& c);
  rt::task<base::result<void>> write_changes(const std::vector<file_change>& changes);
  rt::task<base::result<void>> sync();
  rt::task<void> give_back_in_background();
  rt::task<void> punch(const std::vector<uint64_t>& clusters);
  rt::task<base::result<void>> flush_home();
  rt::task<void> commit_in_background();
  void commit_if_much();

  image_device io_;
  rt::file& file_;
  qcow2::header header_;
  const qcow2::geometry g_;
  rt::reactor& home_;
  block::limits limits_;
  bool writable_;
  bool sealed_ = false;

  std::vector<uint64_t> l1_;     // words as on disk
  std::set<uint64_t> dirty_l1_;  // indices
  qcow2::fixed_areas areas_;
  table_cache l2_;
  refcount_store refcounts_;
  // By reactor, made when first needed; larger clusters are unpacked each time.
  static constexpr uint64_t most_kept_cluster_bytes = uint64_t{512} << 10;
  std::array<std::unique_ptr<unpacked_clusters>, 16> unpacked_;
  std::map<uint64_t, pending_cluster> pending_;  // by guest cluster
  std::vector<uint64_t> dropped_;                // host clusters, one reference each
  std::set<uint64_t> old_tables_;                // of these, tables that were copied
  // Offsets of clusters handed out since the last commit that succeeded, and by the one under way.
  std::vector<uint64_t> fresh_, committing_fresh_;
  std::atomic<uint64_t> used_bytes_{0};
  std::atomic<bool> corruption_told_{false};

  rt::mutex map_lock_;     // changes of the map that wait for I/O
  rt::range_lock writes_;  // for write() and its like
  std::function<rt::task<void>()> quiesce_;
  visits reads_;  // of read() at home, which no overlay knows of

  // Commits, one at a time. `ended_` counts them; a flush needs one that began after it.
  uint64_t begun_ = 0, ended_ = 0;
  bool committing_ = false;
  bool background_ = false;
  rt::event commit_done_;
  std::vector<uint64_t> returning_;  // dropped by tables that are durable
  bool giving_back_ = false;
  bool closing_ = false;
  rt::event gave_back_;
  base::result<void> last_commit_;
  std::optional<base::io_error> failed_;  // for good
};

}  // namespace lbd::store
