// SPDX-License-Identifier: MIT
#include "ctl/daemon_config.h"

#include <toml++/toml.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "block/target.h"
#include "ctl/paths.h"
#include "ctl/table_text.h"
#include "stack/device_name.h"

namespace lbd::ctl {
namespace {

using base::errc;
using base::failure;
using base::outcome;

std::string folder_of(const std::string& path) {
  std::error_code error;
  const auto absolute = std::filesystem::absolute(path, error);
  return error ? "/" : absolute.lexically_normal().parent_path().string();
}

// One table of the file ("[[device]]"). Reading never fails: the first thing that is wrong is kept.
class entry {
 public:
  entry(const toml::table& from, std::string kind, const std::string& path)
      : from_(from), kind_(std::move(kind)), path_(path) {}

  uint32_t line() const { return from_.source().begin.line; }

  std::optional<std::string> text(const char* key) {
    const toml::node* node = find(key);
    if (node == nullptr) return std::nullopt;
    if (const auto* value = node->as_string()) return value->get();
    refuse(*node, std::string(key) + " must be a text, in quotes");
    return std::nullopt;
  }
  std::string needed_text(const char* key) {
    const auto value = text(key);
    if (!value || value->empty()) refuse(from_, std::string(key) + " is missing");
    return value.value_or("");
  }
  // One text of several lines, or a list of lines.
  std::string lines(const char* key) {
    const toml::node* node = find(key);
    const toml::array* list = node == nullptr ? nullptr : node->as_array();
    if (list == nullptr) return needed_text(key);
    std::string out;
    for (const toml::node& one : *list) {
      const auto* value = one.as_string();
      if (value == nullptr)
        refuse(one, std::string(key) + " must be a list of texts");
      else
        out += value->get() + "\n";
    }
    return out;
  }
  bool flag(const char* key) {
    const toml::node* node = find(key);
    if (node == nullptr) return false;
    if (const auto* value = node->as_boolean()) return value->get();
    refuse(*node, std::string(key) + " must be true or false");
    return false;
  }
  std::optional<uint32_t> number(const char* key, int64_t most) {
    const toml::node* node = find(key);
    if (node == nullptr) return std::nullopt;
    const auto* value = node->as_integer();
    if (value != nullptr && value->get() >= 0 && value->get() <= most)
      return static_cast<uint32_t>(value->get());
    refuse(*node, std::string(key) + " must be a number from 0 to " + std::to_string(most));
    return std::nullopt;
  }
  void refuse_key(const char* key, const std::string& why) {
    const toml::node* node = find(key);
    refuse(node == nullptr ? from_ : *node, why);
  }

  outcome<void> finish() {
    std::string known;
    for (const std::string& key : known_) known += (known.empty() ? "" : ", ") + key;
    for (const auto& [key, node] : from_)
      if (std::find(known_.begin(), known_.end(), key.str()) == known_.end())
        refuse(node, "'" + std::string(key.str()) + "' is not known in a [[" + kind_ + "]] (" +
                         known + " are)");
    if (wrong_) return *wrong_;
    return {};
  }

 private:
  const toml::node* find(const char* key) {
    if (std::find(known_.begin(), known_.end(), key) == known_.end()) known_.emplace_back(key);
    return from_.get(key);
  }
  void refuse(const toml::node& where, const std::string& why) {
    if (wrong_) return;
    wrong_ =
        failure{errc::inval, path_ + ":" + std::to_string(where.source().begin.line) + ": " + why};
  }

  const toml::table& from_;
  const std::string kind_;
  const std::string& path_;
  std::vector<std::string> known_;
  std::optional<failure> wrong_;
};

outcome<void> take(entry& from, config_device& out) {
  constexpr int64_t most_minor = (1 << 20) - 1;
  out.line = from.line();
  out.name = from.needed_text("name");
  out.uuid = from.text("uuid").value_or("");
  out.minor = from.number("minor", most_minor);
  out.read_only = from.flag("read_only");
  out.table = from.lines("table");
  const auto lines = parse_table(out.table, false);
  if (!lines) from.refuse_key("table", lines.error().message);
  if (lines && lines->empty()) from.refuse_key("table", "the table has no line");
  return from.finish();
}

outcome<void> take(entry& from, config_export& out) {
  out.line = from.line();
  out.device = from.needed_text("device");
  out.nbd = from.needed_text("nbd");
  out.name = from.text("name");
  out.read_only = from.flag("read_only");
  return from.finish();
}

outcome<void> take(entry& from, config_mount& out) {
  out.line = from.line();
  out.folder = from.needed_text("folder");
  return from.finish();
}

// All [[kind]] of the file.
template <class Entry>
outcome<std::vector<Entry>> take_all(const toml::table& from, const std::string& kind,
                                     const std::string& path) {
  std::vector<Entry> out;
  const toml::node* node = from.get(kind);
  if (node == nullptr) return out;
  const toml::array* list = node->as_array();
  for (size_t i = 0; list != nullptr && i < list->size(); ++i) {
    const toml::table* one = list->get(i)->as_table();
    if (one == nullptr) list = nullptr;
    if (one == nullptr) break;
    entry reading(*one, kind, path);
    CHECK(take(reading, out.emplace_back()));
  }
  if (list != nullptr) return out;
  return failure{errc::inval, path + ":" + std::to_string(node->source().begin.line) +
                                  ": write [[" + kind + "]] before each " + kind};
}

// One name can be written in several ways.
bool is_same_name(const std::string& a, const std::string& b) {
  return stack::kept_name(a) == stack::kept_name(b);
}

// Whether a word of a table is this device of the file. Without `major` not by its number.
bool is_device(const std::string& word, const config_device& d, std::optional<uint32_t> major) {
  const std::string mapper = "/dev/mapper/";
  if (word.starts_with(mapper)) return is_same_name(word.substr(mapper.size()), d.name);
  if (d.minor && word == "/dev/dm-" + std::to_string(*d.minor)) return true;
  if (d.minor && major && word == block::device_number{*major, *d.minor}.text()) return true;
  return is_same_name(word, d.name);
}

// Whether the table of `user` names `used`.
bool names_device(const config_device& user, const config_device& used,
                  std::optional<uint32_t> major = {}) {
  const auto lines = parse_table(user.table, false);
  if (!lines) return false;
  for (const stack::table_line& l : *lines)
    for (const std::string& word : stack::split_args(l.args))
      if (is_device(word, used, major)) return true;
  return false;
}

// The lowest free ones in the order of the devices: one that cannot be made keeps its number, so
// that the others have theirs at every start.
void hand_out_minors(std::vector<config_device>& devices) {
  std::set<uint32_t> taken;
  for (const config_device& d : devices)
    if (d.minor) taken.insert(*d.minor);
  uint32_t next = 0;
  for (config_device& d : devices) {
    if (d.minor) continue;
    while (taken.contains(next)) ++next;
    d.minor = next++;
  }
}

// Each device after those that its table names; otherwise in the order of the file.
outcome<std::vector<config_device>> in_order(std::vector<config_device> left,
                                             const std::string& path) {
  std::vector<config_device> out;
  while (!left.empty()) {
    const auto ready = std::find_if(left.begin(), left.end(), [&left](const config_device& d) {
      return std::none_of(left.begin(), left.end(), [&d](const config_device& other) {
        return &other != &d && names_device(d, other);
      });
    });
    if (ready == left.end())
      return failure{errc::inval,
                     path + ":" + std::to_string(left.front().line) + ": device '" +
                         left.front().name +
                         "' stands on itself by way of other devices: break the circle"};
    out.push_back(std::move(*ready));
    left.erase(ready);
  }
  return out;
}

outcome<void> check_names(const daemon_config& c) {
  std::map<std::string, uint32_t> seen;
  for (const config_device& d : c.devices) {
    const auto [at, fresh] = seen.emplace(stack::kept_name(d.name), d.line);
    if (!fresh)
      return failure{errc::inval, c.path + ":" + std::to_string(std::max(d.line, at->second)) +
                                      ": device '" + d.name + "' is there twice"};
  }
  for (const config_export& e : c.exports)
    if (!seen.contains(stack::kept_name(e.device)))
      return failure{errc::inval, c.path + ":" + std::to_string(e.line) + ": no device '" +
                                      e.device + "' in this file"};
  return {};
}

outcome<toml::table> parse_toml(std::string_view text, const std::string& path) {
  try {
    return toml::parse(text);
  } catch (const toml::parse_error& e) {
    return failure{errc::inval, path + ":" + std::to_string(e.source().begin.line) + ": " +
                                    std::string(e.description())};
  }
}

failure at_line(const daemon_config& c, uint32_t line, const failure& why) {
  return failure{why.code, c.path + ":" + std::to_string(line) + ": " + why.message};
}

}  // namespace

outcome<daemon_config> parse_config(std::string_view text, const std::string& path) {
  TRY(const toml::table all, parse_toml(text, path));
  for (const auto& [key, node] : all) {
    const std::string name(key.str());
    if (name == "device" || name == "export" || name == "mount") continue;
    return failure{errc::inval, path + ":" + std::to_string(node.source().begin.line) + ": '" +
                                    name +
                                    "' is not known ([[device]], [[export]] and [[mount]] are)"};
  }
  daemon_config out;
  out.path = path;
  TRY(auto devices, take_all<config_device>(all, "device", path));
  TRY(out.devices, in_order(std::move(devices), path));
  hand_out_minors(out.devices);
  TRY(out.exports, take_all<config_export>(all, "export", path));
  TRY(out.mounts, take_all<config_mount>(all, "mount", path));
  CHECK(check_names(out));
  return out;
}

outcome<daemon_config> read_config(const std::string& path) {
  std::error_code folder;
  std::ifstream in(path, std::ios::binary);
  errc code = in ? errc::ok : static_cast<errc>(errno);
  if (std::filesystem::is_directory(path, folder)) code = static_cast<errc>(EISDIR);
  if (code != errc::ok)
    return failure{code, "cannot read '" + path + "': " + base::to_string(code)};
  const std::string text(std::istreambuf_iterator<char>(in), {});
  return parse_config(text, path);
}

namespace {

using nlohmann::json;

class restorer {
 public:
  restorer(daemon& d, const daemon_config& from, bool strict)
      : daemon_(d), from_(from), strict_(strict), folder_(folder_of(from.path)) {
    std::set<uint32_t> minors;
    for (const config_device& one : from.devices) {
      left_.push_back(&one);
      if (one.minor) minors.insert(*one.minor);
    }
    // Also those of devices that are missing now: the next start has them again.
    d.devices().reserve_minors(std::move(minors));
  }

  rt::task<std::vector<failure>> run() {
    while (!left_.empty() && !over()) {
      const config_device& d = take_next();
      const auto done = co_await make(d);
      if (done) continue;
      failures_.push_back(at_line(from_, d.line, done.error()));
      missing_.push_back(&d);
    }
    for (const config_export& e : from_.exports) {
      if (over()) break;
      const auto done = co_await make(e);
      if (!done) failures_.push_back(at_line(from_, e.line, done.error()));
    }
    for (const config_mount& m : from_.mounts) {
      if (over()) break;
      const auto wanted =
          std::make_shared<const json>(json{{"folder", absolute_path(m.folder, folder_)}});
      const auto done = co_await daemon_.call("mount.add", wanted);
      if (!done) failures_.push_back(at_line(from_, m.line, done.error()));
    }
    co_return std::move(failures_);
  }

 private:
  // When it is stopped meanwhile, nothing more can be made.
  bool over() const { return daemon_.stopped().is_set() || (strict_ && !failures_.empty()); }
  static failure stands_on(const config_device& missing) {
    return failure{errc::nodev, "it stands on device '" + missing.name + "' (line " +
                                    std::to_string(missing.line) + "), which is missing"};
  }

  bool names(const config_device& user, const config_device& used) const {
    return names_device(user, used, daemon_.devices().major());
  }

  // After what it names, and snapshots before what writes to their origins.
  const config_device& take_next() {
    const auto waits_for_no_other = [this](auto waits) {
      return [this, waits](const config_device* d) {
        return std::none_of(left_.begin(), left_.end(), [&](const config_device* other) {
          return other != d && waits(*d, *other);
        });
      };
    };
    const auto named = [this](const auto& d, const auto& other) { return names(d, other); };
    auto at = std::find_if(
        left_.begin(), left_.end(), waits_for_no_other([this](const auto& d, const auto& other) {
          return names(d, other) || (writes_origin_of(d, other) && !merges_with(d, other));
        }));
    if (at == left_.end()) at = std::find_if(left_.begin(), left_.end(), waits_for_no_other(named));
    if (at == left_.end()) at = left_.begin();
    const config_device* const next = *at;
    left_.erase(at);
    return *next;
  }

  // The same text for one source, however a table names it.
  const std::string& source_of(const std::string& word) {
    const auto [at, fresh] = sources_.try_emplace(word);
    if (!fresh) return at->second;
    for (const config_device& d : from_.devices)
      if (is_device(word, d, daemon_.devices().major())) return at->second = "device " + d.name;
    const std::string whole = daemon_.sources().absolute(word, folder_);
    const auto number = daemon_.sources().number_of(whole);
    return at->second = number ? number->text() : whole;
  }

  // What changes an origin without its snapshot spoils the snapshot for good. Other snapshots only
  // read it.
  bool writes_origin_of(const config_device& writer, const config_device& snapshot) {
    const auto kept = parse_table(snapshot.table, false), lines = parse_table(writer.table, false);
    if (!kept || !lines) return false;
    for (const stack::table_line& k : *kept) {
      const auto args = stack::split_args(k.args);
      if ((k.type != "snapshot" && k.type != "snapshot-merge") || args.empty()) continue;
      for (const stack::table_line& l : *lines)
        for (const std::string& word : stack::split_args(l.args))
          if (l.type != "snapshot" && source_of(word) == source_of(args[0])) return true;
    }
    return false;
  }

  // What a device merges into, as text for one source.
  std::set<std::string> merges_into(const config_device& d) {
    std::set<std::string> out;
    const auto lines = parse_table(d.table, false);
    if (!lines) return out;
    for (const stack::table_line& l : *lines) {
      const auto args = stack::split_args(l.args);
      if (l.type == "snapshot-merge" && !args.empty()) out.insert(source_of(args[0]));
    }
    return out;
  }
  bool merges_with(const config_device& one, const config_device& other) {
    const auto mine = merges_into(one), its = merges_into(other);
    return std::ranges::any_of(mine, [&its](const auto& origin) { return its.contains(origin); });
  }
  // Each would change what the other shows, and neither can be first.
  outcome<void> check_merge(const config_device& device) {
    for (const config_device& other : from_.devices)
      if (&other != &device && merges_with(device, other))
        return failure{errc::busy, "device '" + device.name + "': device '" + other.name +
                                       "' (line " + std::to_string(other.line) +
                                       ") merges into the same origin, and only one can at a "
                                       "time: make the other a snapshot until that is done"};
    return {};
  }

  rt::task<outcome<void>> make(const config_device& device) {
    CO_CHECK(check_merge(device));
    for (const config_device* m : missing_) {
      if (names(device, *m))
        co_return failure{errc::nodev, "device '" + device.name + "': " + stands_on(*m).message};
      if (writes_origin_of(device, *m))
        co_return failure{errc::nodev, "device '" + device.name +
                                           "': it writes to the origin of snapshot '" + m->name +
                                           "' (line " + std::to_string(m->line) +
                                           "), which is missing and would lose its data: mend '" +
                                           m->name + "', or take it out of the file"};
    }
    json params = {{"name", device.name},
                   {"table", device.table},
                   {"read_only", device.read_only},
                   {"directory", folder_}};
    if (!device.uuid.empty()) params["uuid"] = device.uuid;
    if (device.minor) params["minor"] = *device.minor;
    const auto wanted = std::make_shared<const json>(std::move(params));
    const auto done = co_await daemon_.call("device.create", wanted);
    if (done) co_return outcome<void>{};
    co_return failure{done.error().code, "device '" + device.name + "': " + done.error().message};
  }

  rt::task<outcome<void>> make(const config_export& e) {
    for (const config_device* m : missing_)
      if (is_same_name(m->name, e.device))
        co_return failure{errc::nodev, "export: " + stands_on(*m).message};
    const std::string prefix = "unix:";
    std::string nbd = e.nbd;
    if (nbd.starts_with(prefix)) nbd = prefix + absolute_path(nbd.substr(prefix.size()), folder_);
    json params = {{"name", e.device}, {"nbd", nbd}, {"read_only", e.read_only}};
    if (e.name) params["export"] = *e.name;
    const auto wanted = std::make_shared<const json>(std::move(params));
    const auto done = co_await daemon_.call("export.add", wanted);
    if (!done) co_return done.error();
    co_return outcome<void>{};
  }

  daemon& daemon_;
  const daemon_config& from_;
  const bool strict_;
  const std::string folder_;
  std::vector<failure> failures_;
  std::vector<const config_device*> left_, missing_;
  std::map<std::string, std::string> sources_;  // by the words of tables
};

}  // namespace

rt::task<std::vector<failure>> restore(daemon& d, const daemon_config& from, bool strict) {
  restorer all(d, from, strict);
  co_return co_await all.run();
}

}  // namespace lbd::ctl
