// SPDX-License-Identifier: MIT
// Which path is what. The files themselves are made in dm_view_files.cc.
#include "ctl/dm_view.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <filesystem>

namespace lbd::ctl {

using base::errc;
using base::failure;
using base::outcome;
using block::device_number;
using stack::device_key;
using stack::device_state;

namespace {

namespace face = dm::face;

constexpr uint32_t control_major = 10, control_minor = 236;
constexpr uint32_t least_read_ahead_sectors = 256;

// Two of the best requests, in whole pages.
uint32_t read_ahead_sectors_for(uint64_t io_opt_bytes) {
  constexpr uint64_t page_bytes = 4096;
  return static_cast<uint32_t>(io_opt_bytes * 2 / page_bytes * (page_bytes / 512));
}

failure nothing() { return failure{errc::noent, "No such file or directory"}; }

// "253:0", or "253:0/dm/name" with `rest` set to what follows the number.
std::optional<device_number> parse_number(std::string_view text, std::string_view& rest) {
  device_number n;
  const char* end = text.data() + text.size();
  const auto [colon, error] = std::from_chars(text.data(), end, n.major);
  if (error != std::errc{} || colon == end || *colon != ':') return std::nullopt;
  const auto [after, error2] = std::from_chars(colon + 1, end, n.minor);
  if (error2 != std::errc{}) return std::nullopt;
  rest = {after, static_cast<size_t>(end - after)};
  return n;
}

// The text after `prefix`, if that is how `path` begins.
std::optional<std::string> after(const std::string& path, std::string_view prefix) {
  if (!path.starts_with(prefix)) return std::nullopt;
  return path.substr(prefix.size());
}

}  // namespace

std::optional<volume_name> volume_of(const device_state& s) {
  // "LVM-", the group's id and the volume's; parts of a volume have more behind.
  constexpr size_t uuid_length = 4 + 32 + 32;
  if (!s.resumed || s.uuid.size() != uuid_length || !s.uuid.starts_with("LVM-")) return {};
  // "-" stands between the two names, "--" for a "-" in one.
  std::string part[2];
  unsigned at = 0;
  for (size_t i = 0; i < s.name.size(); ++i) {
    if (s.name[i] == '-') {
      const bool doubled = i + 1 < s.name.size() && s.name[i + 1] == '-';
      if (!doubled && ++at > 1) return {};
      if (!doubled) continue;
      ++i;
    }
    part[at] += s.name[i];
  }
  for (const std::string& name : part)
    if (name.empty() || name == "." || name == "..") return {};
  return volume_name{part[0], part[1]};
}

dm_view::dm_view(stack::device_manager& devices, disk_directory& disks, const device_folder& files,
                 dm_attributes& attributes, std::string folder)
    : devices_(devices),
      disks_(disks),
      files_(files),
      attributes_(attributes),
      folder_(std::move(folder)) {}

dm_view::~dm_view() {
  std::error_code error;
  std::filesystem::remove_all(folder_, error);
}

dm_view::node dm_view::device_node(const device_state& s) {
  node out;
  face::node& f = out.facts;
  const block::limits* l = nullptr;
  if (stack::device* d = devices_.find_device({s.name, {}, {}})) l = &d->limits();
  const auto& set = attributes_.of(s.number);
  f.kind = face::node_device;
  f.major = s.number.major;
  f.minor = s.number.minor;
  f.read_only = s.read_only;
  f.readable = s.has_live;
  f.claimed = is_used_by_tables(s.number);
  f.size_bytes = s.size_bytes;
  f.block_bytes = f.physical_block_bytes = s.block_bytes;
  f.io_min_bytes = s.io_min_bytes;
  f.io_optimal_bytes = s.io_opt_bytes;
  if (l != nullptr && l->can_discard)
    f.discard_bytes = static_cast<uint32_t>(l->discard_granularity_bytes);
  f.read_ahead_sectors = set.read_ahead_sectors.value_or(
      std::max(least_read_ahead_sectors, read_ahead_sectors_for(s.io_opt_bytes)));
  f.geometry[0] = static_cast<uint32_t>(set.geometry.cylinders);
  f.geometry[1] = static_cast<uint32_t>(set.geometry.heads);
  f.geometry[2] = static_cast<uint32_t>(set.geometry.sectors);
  f.geometry[3] = static_cast<uint32_t>(set.geometry.start);
  const std::string mount = files_.path();
  if (!mount.empty() && s.has_live) out.path = mount + "/" + s.name;
  return out;
}

outcome<dm_view::node> dm_view::disk_node(device_number number, const std::string& path) {
  struct stat st {};
  if (::stat(path.c_str(), &st) != 0) return failure{static_cast<errc>(ENXIO), "no file " + path};
  node out;
  face::node& f = out.facts;
  f.kind = face::node_disk;
  f.major = number.major;
  f.minor = number.minor;
  f.read_only = ::access(path.c_str(), W_OK) != 0;
  f.readable = 1;
  f.size_bytes = static_cast<uint64_t>(st.st_size) / 512 * 512;
  f.block_bytes = f.physical_block_bytes = f.io_min_bytes = 512;
  f.discard_bytes = static_cast<uint32_t>(st.st_blksize);
  f.read_ahead_sectors =
      attributes_.of(number).read_ahead_sectors.value_or(least_read_ahead_sectors);
  out.path = path;
  f.claimed = is_used_by_tables(number);
  return out;
}

bool dm_view::is_used_by_tables(device_number number) const {
  for (const device_state& s : devices_.list())
    for (const bool inactive : {false, true}) {
      const auto used = devices_.deps({s.name, {}, {}}, inactive);
      if (used && std::find(used->begin(), used->end(), number) != used->end()) return true;
    }
  return false;
}

outcome<dm_view::node> dm_view::find(device_number number) {
  const auto state = devices_.state({{}, {}, number});
  if (state) return device_node(*state);
  TRY(const std::string path, disks_.path_of(number));
  return disk_node(number, path);
}

outcome<dm_view::node> dm_view::find_file(uint64_t inode) {
  const auto number = files_.device_of_inode(inode);
  if (!number) return failure{static_cast<errc>(ENXIO), "no such device"};
  return find(*number);
}

outcome<dm_view::node> dm_view::add_disk(const std::string& path) {
  TRY(const device_number number, disks_.number_of(path));
  (void)kernel_name_of(number, path);
  return disk_node(number, path);
}

std::string dm_view::meaning_of(const std::string& path) {
  const auto name = after(path, "/dev/");
  const auto number = name ? number_of_name(*name) : std::nullopt;
  // Of other paths the machine is not asked: the caller could lead us anywhere.
  if (!number || disks_.refuses(path) || ::access(path.c_str(), F_OK) == 0) return path;
  return number->text();
}

std::optional<device_number> dm_view::number_of_name(const std::string& name) const {
  for (const auto& [number, kernel_name] : disk_names_)
    if (kernel_name == name) return number;
  for (const device_state& s : devices_.list()) {
    const auto volume = volume_of(s);
    if (volume && name == volume->group + "/" + volume->name) return s.number;
  }
  return std::nullopt;
}

const std::string& dm_view::kernel_name_of(device_number number, const std::string& path) {
  const auto known = disk_names_.find(number);
  if (known != disk_names_.end()) return known->second;
  std::string name = std::filesystem::path(path).filename();
  for (const auto& [other, taken] : disk_names_)
    if (taken == name) name += "-" + number.text();
  return disk_names_.emplace(number, std::move(name)).first->second;
}

bool dm_view::is_ours(device_number number) { return bool(entry_of(number)); }

outcome<dm_view::block_entry> dm_view::entry_of(device_number number) {
  block_entry e;
  const auto state = devices_.state({{}, {}, number});
  if (state) {
    // The disk comes with the first table.
    if (!state->loaded) return nothing();
    e.what = device_node(*state);
    e.kernel_name = "dm-" + std::to_string(number.minor);
    e.name = state->name;
    e.uuid = state->uuid;
    e.mapped = true;
    e.suspended = state->suspended;
    return e;
  }
  const auto path = disks_.path_of(number);
  if (!path) return nothing();
  TRY(e.what, disk_node(number, *path));
  e.kernel_name = kernel_name_of(number, *path);
  return e;
}

outcome<dm_view::block_entry> dm_view::entry_named(const std::string& kernel_name) {
  for (auto& e : all_entries())
    if (e.kernel_name == kernel_name) return std::move(e);
  return nothing();
}

std::vector<dm_view::block_entry> dm_view::all_entries() {
  std::vector<block_entry> all;
  std::vector<device_number> numbers;
  for (const device_state& s : devices_.list()) numbers.push_back(s.number);
  for (const auto& [number, name] : disk_names_) numbers.push_back(number);
  for (const device_number n : numbers)
    if (auto e = entry_of(n)) all.push_back(*std::move(e));
  return all;
}

outcome<dm_view::node> dm_view::look_up(const std::string& path) {
  if (path == "/dev") return list_dev();
  if (path == "/dev/mapper") return list_mapper();
  if (path == "/sys/dev/block") return list_numbers();
  if (path == "/sys/block" || path == "/sys/class/block") return list_block(path);
  if (auto name = after(path, "/dev/")) return look_up_dev(*name);
  if (auto rest = after(path, "/sys/dev/block/")) return look_up_number(*rest);
  for (const char* folder : {"/sys/block", "/sys/class/block", "/sys/devices/virtual/block"})
    if (auto rest = after(path, std::string(folder) + "/")) return look_up_block(folder, *rest);
  if (auto rest = after(path, "/run/udev/data/b")) return look_up_udev(*rest);
  if (auto name = after(path, "/proc/")) return show_proc(*name);
  return node{};
}

outcome<dm_view::node> dm_view::look_up_dev(const std::string& name) {
  if (name == "mapper/control") {
    node out;
    out.facts.kind = face::node_control;
    out.facts.major = control_major;
    out.facts.minor = control_minor;
    return out;
  }
  if (const auto mapped = after(name, "mapper/")) {
    const auto state = devices_.state({*mapped, {}, {}});
    if (!state || !state->resumed) return nothing();
    return device_node(*state);
  }
  if (const auto minor = after(name, "dm-")) {
    for (const device_state& s : devices_.list())
      if (s.loaded && std::to_string(s.number.minor) == *minor) return device_node(s);
    return nothing();
  }
  for (const auto& [number, kernel_name] : disk_names_)
    if (kernel_name == name) return find(number);
  const size_t slash = name.find('/');
  if (slash == std::string::npos) return list_group(name);
  return look_up_volume(name.substr(0, slash), name.substr(slash + 1));
}

outcome<dm_view::node> dm_view::look_up_volume(const std::string& group, const std::string& name) {
  for (const device_state& s : devices_.list()) {
    const auto volume = volume_of(s);
    if (!volume || volume->group != group || volume->name != name) continue;
    node out;
    out.facts.kind = face::node_link;
    out.path = "/dev/mapper/" + s.name;
    return out;
  }
  return node{};
}

outcome<dm_view::node> dm_view::look_up_number(std::string_view text) {
  std::string_view rest;
  const auto number = parse_number(text, rest);
  if (!number) return node{};
  const auto e = entry_of(*number);
  if (!e) {
    // The kernel's own devices keep their numbers, except where it has ours.
    if (number->major == devices_.major()) return nothing();
    return node{};
  }
  CHECK(show(*e));
  CHECK(show_all_if_led_on(rest));
  const std::string link = "/sys/dev/block/" + number->text();
  CHECK(put_link(folder_ + link, "../../devices/virtual/block/" + e->kernel_name));
  return file_node(link + std::string(rest));
}

outcome<dm_view::node> dm_view::look_up_block(const std::string& folder, std::string_view text) {
  const size_t slash = std::min(text.find('/'), text.size());
  const std::string name(text.substr(0, slash));
  const auto e = entry_named(name);
  if (!e) {
    if (is_hidden(name)) return nothing();
    return node{};
  }
  CHECK(show(*e));
  CHECK(show_all_if_led_on(text.substr(slash)));
  const std::string own = "/sys/devices/virtual/block/" + name;
  if (folder == "/sys/devices/virtual/block")
    return file_node(own + std::string(text.substr(slash)));
  const std::string up = folder == "/sys/block" ? "../devices/" : "../../devices/";
  CHECK(put_link(folder_ + folder + "/" + name, up + "virtual/block/" + name));
  return file_node(folder + "/" + std::string(text));
}

// From one entry there are ways to others.
outcome<void> dm_view::show_all_if_led_on(std::string_view path) {
  if (!path.starts_with("/holders/") && !path.starts_with("/slaves/")) return {};
  for (const auto& e : all_entries()) CHECK(show(e));
  return {};
}

outcome<dm_view::node> dm_view::look_up_udev(std::string_view text) {
  std::string_view rest;
  const auto number = parse_number(text, rest);
  if (number && (number->major == devices_.major() || is_ours(*number))) return nothing();
  return node{};
}

dm_view::node dm_view::file_node(const std::string& path) const {
  node out;
  out.facts.kind = face::node_file;
  out.path = folder_ + path;
  return out;
}

}  // namespace lbd::ctl
