// SPDX-License-Identifier: MIT
// What programs under `lbd run` see of the kernel's files about block devices: /dev/mapper,
// /dev/dm-N, names that only LBD has in /dev, /sys/dev/block/MAJ:MIN, /sys/block, /proc/devices and
// the like. Files and folders are made in a folder of ours when somebody asks for them, and the
// answer says where.
#pragma once

#include <map>
#include <set>
#include <string>
#include <string_view>

#include "ctl/dm_commands.h"
#include "stack/device_manager.h"
#include "wire/dm/face.h"

namespace lbd::ctl {

// The files that are disks, by number.
class disk_directory {
 public:
  virtual ~disk_directory() = default;
  // Gives an existing file its number. Errors: nodev (no such file).
  virtual base::outcome<block::device_number> number_of(const std::string& path) = 0;
  // Errors: ENXIO; inval: it is no file.
  virtual base::outcome<std::string> path_of(block::device_number number) = 0;
  // It leads to what this process serves itself: to touch it would be to wait for ourselves.
  virtual bool refuses(const std::string& path) const = 0;
};

// The folder in which devices are files by their names, if there is one.
class device_folder {
 public:
  virtual ~device_folder() = default;
  virtual std::string path() const = 0;  // empty: there is none
  virtual std::optional<block::device_number> device_of_inode(uint64_t inode) const = 0;
};

// A volume of LVM by its device's name and uuid.
struct volume_name {
  std::string group, name;
};
// Nothing: the device is no visible volume, or has never been resumed.
std::optional<volume_name> volume_of(const stack::device_state& s);

class dm_view final : public dm_names {
 public:
  struct node {
    dm::face::node facts{};
    std::string path;
  };

  // All outlive this. `folder` is made when it is needed and removed with the object.
  dm_view(stack::device_manager& devices, disk_directory& disks, const device_folder& files,
          dm_attributes& attributes, std::string folder);
  ~dm_view() override;
  dm_view(const dm_view&) = delete;
  dm_view& operator=(const dm_view&) = delete;

  // What an absolute path without "." and ".." is. Errors: noent where the kernel would have
  // nothing, and those of our folder.
  base::outcome<node> look_up(const std::string& path);
  // Errors: ENXIO.
  base::outcome<node> find(block::device_number number);
  // The device whose file in the device folder has this inode number. Errors: ENXIO.
  base::outcome<node> find_file(uint64_t inode);
  base::outcome<node> add_disk(const std::string& path);
  // The number, as text, of a disk or a volume of LVM by a path below /dev that the machine does
  // not have. All others stay as they are.
  std::string meaning_of(const std::string& path) override;

 private:
  // One block device as sysfs shows it.
  struct block_entry {
    node what;
    std::string kernel_name;  // dm-0, or a disk file's name
    std::string name, uuid;   // of mapped devices
    bool mapped = false, suspended = false;
  };
  using contents = std::map<std::string, std::string>;

  node device_node(const stack::device_state& s);
  base::outcome<node> disk_node(block::device_number number, const std::string& path);
  base::outcome<block_entry> entry_of(block::device_number number);
  base::outcome<block_entry> entry_named(const std::string& kernel_name);
  std::vector<block_entry> all_entries();
  const std::string& kernel_name_of(block::device_number number, const std::string& path);
  bool is_ours(block::device_number number);
  // Of a disk or a volume, by its name in /dev.
  std::optional<block::device_number> number_of_name(const std::string& name) const;
  bool is_used_by_tables(block::device_number number) const;

  base::outcome<node> look_up_dev(const std::string& name);
  base::outcome<node> look_up_volume(const std::string& group, const std::string& name);
  base::outcome<node> look_up_number(std::string_view rest);
  base::outcome<node> look_up_block(const std::string& folder, std::string_view rest);
  base::outcome<node> look_up_udev(std::string_view rest);
  base::outcome<node> list_dev();
  base::outcome<node> list_mapper();
  base::outcome<node> list_group(const std::string& group);
  base::outcome<node> list_numbers();
  base::outcome<node> list_block(const std::string& folder);
  bool is_hidden(const std::string& kernel_name) const;
  base::outcome<node> show_proc(const std::string& name);

  // Makes the entry's folder below sys/devices/virtual/block up to date.
  base::outcome<void> show(const block_entry& e);
  contents attributes_of(const block_entry& e);
  base::outcome<void> show_users(const block_entry& e);
  base::outcome<void> show_all_if_led_on(std::string_view path);
  base::outcome<void> put_file(const std::string& path, const std::string& content);
  base::outcome<void> put_link(const std::string& path, const std::string& to);
  // With what is in it, but nothing that a link leads to.
  void remove(const std::string& path);
  // Links, for `own` names empty files, and folders; others of the folder go.
  base::outcome<void> put_folder(const std::string& path, const contents& links,
                                 const std::set<std::string>& own,
                                 const std::set<std::string>& folders = {});
  node file_node(const std::string& path) const;

  stack::device_manager& devices_;
  disk_directory& disks_;
  const device_folder& files_;
  dm_attributes& attributes_;
  const std::string folder_;
  std::map<std::string, std::string> shown_;  // files and links as they stand
  std::map<block::device_number, std::string> disk_names_;
};

}  // namespace lbd::ctl
