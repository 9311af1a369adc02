// SPDX-License-Identifier: MIT
// The files and folders that stand for the kernel's.
#include <filesystem>
#include <fstream>
#include <sstream>

#include "ctl/dm_view.h"

namespace lbd::ctl {

using base::errc;
using base::failure;
using base::outcome;
using block::device_number;
using stack::device_state;

namespace fs = std::filesystem;

namespace {

failure failed(const std::string& path, const std::error_code& error) {
  const auto code = static_cast<errc>(error.value());
  return failure{code, "cannot make " + path + ": " + base::to_string(code)};
}

std::string line(uint64_t number) { return std::to_string(number) + "\n"; }

std::string read_file(const std::string& path) {
  std::ifstream in(path);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

std::string padded(const std::string& text, size_t width) {
  return std::string(width > text.size() ? width - text.size() : 0, ' ') + text;
}

}  // namespace

outcome<void> dm_view::put_file(const std::string& path, const std::string& content) {
  const auto shown = shown_.find(path);
  if (shown != shown_.end() && shown->second == content) return {};
  std::error_code error;
  fs::create_directories(fs::path(path).parent_path(), error);
  if (error) return failed(path, error);
  // Readers see the old or the new one.
  const std::string fresh = path + ".new";
  std::ofstream(fresh, std::ios::trunc) << content;
  fs::rename(fresh, path, error);
  if (error) return failed(path, error);
  shown_[path] = content;
  return {};
}

outcome<void> dm_view::put_link(const std::string& path, const std::string& to) {
  const auto shown = shown_.find(path);
  if (shown != shown_.end() && shown->second == to) return {};
  std::error_code error;
  fs::create_directories(fs::path(path).parent_path(), error);
  if (!error) fs::remove(path, error);
  if (!error) fs::create_symlink(to, path, error);
  if (error) return failed(path, error);
  shown_[path] = to;
  return {};
}

void dm_view::remove(const std::string& path) {
  std::error_code error;
  fs::remove_all(path, error);
  std::erase_if(shown_, [&path](const auto& shown) {
    return shown.first == path || shown.first.starts_with(path + "/");
  });
}

outcome<void> dm_view::put_folder(const std::string& path, const contents& links,
                                  const std::set<std::string>& own,
                                  const std::set<std::string>& folders) {
  std::error_code error;
  // What a link leads to is the machine's, and nothing of that may go.
  if (fs::is_symlink(fs::symlink_status(path, error))) remove(path);
  fs::create_directories(path, error);
  if (error) return failed(path, error);
  for (const auto& entry : fs::directory_iterator(path, error)) {
    const std::string name = entry.path().filename();
    const bool is_folder = fs::is_directory(entry.symlink_status(error));
    const bool stays =
        is_folder ? folders.contains(name) : links.contains(name) || own.contains(name);
    if (!stays) remove(entry.path());
  }
  for (const auto& name : folders) fs::create_directories(path + "/" + name, error);
  for (const auto& [name, to] : links) CHECK(put_link(path + "/" + name, to));
  for (const auto& name : own) CHECK(put_file(path + "/" + name, ""));
  return {};
}

dm_view::contents dm_view::attributes_of(const block_entry& e) {
  const dm::face::node& f = e.what.facts;
  const std::string number = device_number{f.major, f.minor}.text();
  contents out = {
      {"dev", number + "\n"},
      {"size", line(f.size_bytes / 512)},
      {"ro", line(f.read_only)},
      {"removable", "0\n"},
      {"hidden", "0\n"},
      {"range", "1\n"},
      {"ext_range", "1\n"},
      {"alignment_offset", "0\n"},
      {"discard_alignment", "0\n"},
      {"uevent", "MAJOR=" + std::to_string(f.major) + "\nMINOR=" + std::to_string(f.minor) +
                     "\nDEVNAME=" + e.kernel_name + "\nDEVTYPE=disk\n"},
      {"bdi/read_ahead_kb", line(f.read_ahead_sectors / 2)},
      {"queue/read_ahead_kb", line(f.read_ahead_sectors / 2)},
      {"queue/logical_block_size", line(f.block_bytes)},
      {"queue/hw_sector_size", line(f.block_bytes)},
      {"queue/physical_block_size", line(f.physical_block_bytes)},
      {"queue/minimum_io_size", line(f.io_min_bytes)},
      {"queue/optimal_io_size", line(f.io_optimal_bytes)},
      {"queue/discard_granularity", line(f.discard_bytes)},
      {"queue/discard_max_bytes", line(f.discard_bytes != 0 ? 4294966784 : 0)},
      {"queue/discard_zeroes_data", "0\n"},
      {"queue/max_sectors_kb", "1280\n"},
      {"queue/rotational", "0\n"},
      {"queue/zoned", "none\n"},
      {"queue/write_cache", "write back\n"},
      {"queue/dax", "0\n"},
  };
  if (!e.mapped) return out;
  out["dm/name"] = e.name + "\n";
  out["dm/uuid"] = e.uuid + "\n";
  out["dm/suspended"] = line(e.suspended);
  return out;
}

// Who uses it, and what it uses.
outcome<void> dm_view::show_users(const block_entry& e) {
  const device_number own{e.what.facts.major, e.what.facts.minor};
  contents holders, slaves;
  for (const device_state& s : devices_.list()) {
    const auto used = devices_.deps({s.name, {}, {}}, false);
    if (!used) continue;
    const std::string kernel_name = "dm-" + std::to_string(s.number.minor);
    for (const device_number n : *used) {
      if (n == own) holders[kernel_name] = "../../" + kernel_name;
      if (s.number != own) continue;
      const auto slave = entry_of(n);
      if (slave) slaves[slave->kernel_name] = "../../" + slave->kernel_name;
    }
  }
  const std::string folder = folder_ + "/sys/devices/virtual/block/" + e.kernel_name;
  CHECK(put_folder(folder + "/holders", holders, {}));
  return put_folder(folder + "/slaves", slaves, {});
}

outcome<void> dm_view::show(const block_entry& e) {
  const std::string folder = folder_ + "/sys/devices/virtual/block/" + e.kernel_name;
  for (const auto& [name, content] : attributes_of(e))
    CHECK(put_file(folder + "/" + name, content));
  CHECK(show_users(e));
  return put_link(folder + "/subsystem", "../../../../class/block");
}

// The machine's, and the names that only LBD has.
outcome<dm_view::node> dm_view::list_dev() {
  contents links;
  std::set<std::string> own, folders = {"mapper"};
  for (const device_state& s : devices_.list()) {
    if (s.loaded) own.insert("dm-" + std::to_string(s.number.minor));
    if (const auto volume = volume_of(s)) folders.insert(volume->group);
  }
  for (const auto& [number, name] : disk_names_)
    if (find(number)) own.insert(name);
  std::error_code error;
  for (const auto& entry : fs::directory_iterator("/dev", error)) {
    const std::string name = entry.path().filename();
    if (name == "mapper" || name.starts_with("dm-")) continue;
    own.erase(name);
    folders.erase(name);
    links[name] = entry.path();
  }
  CHECK(put_folder(folder_ + "/dev", links, own, folders));
  return file_node("/dev");
}

// A folder of LVM's volumes. One of the machine's with the same name is shown instead.
outcome<dm_view::node> dm_view::list_group(const std::string& group) {
  contents links;
  for (const device_state& s : devices_.list()) {
    const auto volume = volume_of(s);
    if (volume && volume->group == group) links[volume->name] = "../mapper/" + s.name;
  }
  std::error_code error;
  const std::string path = "/dev/" + group;
  if (links.empty() || disks_.refuses(path) || fs::exists(fs::symlink_status(path, error)))
    return node{};
  CHECK(put_folder(folder_ + "/dev/" + group, links, {}));
  return file_node("/dev/" + group);
}

outcome<dm_view::node> dm_view::list_mapper() {
  std::set<std::string> names = {"control"};
  for (const device_state& s : devices_.list())
    if (s.resumed && s.name != "." && s.name != "..") names.insert(s.name);
  CHECK(put_folder(folder_ + "/dev/mapper", {}, names));
  return file_node("/dev/mapper");
}

outcome<dm_view::node> dm_view::list_numbers() {
  contents links;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator("/sys/dev/block", error))
    if (!entry.path().filename().string().starts_with(std::to_string(devices_.major()) + ":"))
      links[entry.path().filename()] = entry.path();
  for (const auto& e : all_entries()) {
    CHECK(show(e));
    links[device_number{e.what.facts.major, e.what.facts.minor}.text()] =
        "../../devices/virtual/block/" + e.kernel_name;
  }
  CHECK(put_folder(folder_ + "/sys/dev/block", links, {}));
  return file_node("/sys/dev/block");
}

// A disk of the machine that has the name or the number of one of ours.
bool dm_view::is_hidden(const std::string& kernel_name) const {
  return kernel_name.starts_with("dm-") || read_file("/sys/class/block/" + kernel_name + "/dev")
                                               .starts_with(std::to_string(devices_.major()) + ":");
}

outcome<dm_view::node> dm_view::list_block(const std::string& folder) {
  contents links;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error))
    if (!is_hidden(entry.path().filename())) links[entry.path().filename()] = entry.path();
  const std::string up = folder == "/sys/block" ? "../devices/" : "../../devices/";
  for (const auto& e : all_entries()) {
    CHECK(show(e));
    links[e.kernel_name] = up + "virtual/block/" + e.kernel_name;
  }
  CHECK(put_folder(folder_ + folder, links, {}));
  return file_node(folder);
}

outcome<dm_view::node> dm_view::show_proc(const std::string& name) {
  std::string content;
  if (name == "devices") {
    // Ours comes in addition; where the kernel has given that number away, instead.
    std::istringstream lines(read_file("/proc/devices"));
    const std::string major = std::to_string(devices_.major());
    bool block = false;
    for (std::string text; std::getline(lines, text);) {
      block |= text.starts_with("Block");
      const bool dropped =
          block && (text.starts_with(padded(major, 3) + " ") || text.ends_with(" device-mapper"));
      if (!dropped) content += text + "\n";
    }
    content += padded(major, 3) + " device-mapper\n";
    // What tools know files as disks by.
    std::set<uint32_t> disks;
    for (const auto& [number, kernel_name] : disk_names_) disks.insert(number.major);
    for (const uint32_t number : disks) content += padded(std::to_string(number), 3) + " loop\n";
  } else if (name == "misc") {
    std::istringstream lines(read_file("/proc/misc"));
    for (std::string text; std::getline(lines, text);)
      if (!text.ends_with(" device-mapper")) content += text + "\n";
    content += "236 device-mapper\n";
  } else if (name == "partitions") {
    content = read_file("/proc/partitions");
    if (content.empty()) content = "major minor  #blocks  name\n\n";
    for (const auto& e : all_entries())
      content += padded(std::to_string(e.what.facts.major), 4) +
                 padded(std::to_string(e.what.facts.minor), 9) +
                 padded(std::to_string(e.what.facts.size_bytes / 1024), 11) + " " + e.kernel_name +
                 "\n";
  } else {
    return node{};
  }
  CHECK(put_file(folder_ + "/proc/" + name, content));
  return file_node("/proc/" + name);
}

}  // namespace lbd::ctl
