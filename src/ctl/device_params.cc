// SPDX-License-Identifier: MIT
#include "ctl/device_params.h"

#include <linux/limits.h>

#include <nlohmann/json.hpp>

#include "ctl/table_text.h"
#include "stack/device_name.h"

namespace lbd::ctl {

stack::device_key read_key(rpc_params& from) {
  stack::device_key key;
  key.name = stack::kept_name(from.text("name"));
  key.uuid = stack::kept_uuid(from.text("uuid"));
  const std::string number = from.text("number");
  if (!number.empty()) {
    const size_t colon = std::min(number.find(':'), number.size());
    const auto major = block::parse_u32(std::string_view(number).substr(0, colon));
    const auto minor =
        block::parse_u32(std::string_view(number).substr(std::min(colon + 1, number.size())));
    if (major && minor)
      key.number = block::device_number{*major, *minor};
    else
      from.refuse("number must be of the form MAJOR:MINOR");
  }
  const int given = int(!key.name.empty()) + int(!key.uuid.empty()) + int(!number.empty());
  if (given != 1) from.refuse("give exactly one of name, uuid and number");
  return key;
}

table_params read_table(rpc_params& from) {
  table_params out;
  out.read_only = from.flag("read_only");
  std::string directory = from.text("directory");
  if (!directory.empty() && !directory.starts_with('/'))
    from.refuse("directory must be an absolute path");
  if (directory.size() > PATH_MAX) {
    from.refuse("directory is too long");
    directory.clear();  // each line would have it
  }
  auto lines = parse_table(from.text("table"), false);
  if (lines)
    out.lines = *std::move(lines);
  else
    from.refuse(lines.error().message);
  for (stack::table_line& l : out.lines) {
    l.directory = directory;
    l.names = true;
  }
  return out;
}

rpc_answer device_failed(const stack::device_key& key, const base::failure& why) {
  const std::string missing = base::to_string(static_cast<base::errc>(ENXIO));
  if (why.message != missing) return rpc_answer::failed(why);
  const std::string which = key.number ? key.number->text()
                            : key.uuid.empty()
                                ? "'" + stack::shown_name(key.name) + "'"
                                : "with the uuid '" + stack::shown_uuid(key.uuid) + "'";
  return rpc_answer::failed(
      {why.code, "no device " + which + " (lbd device ls shows what there is)"});
}

nlohmann::json to_json(const stack::device_state& s) {
  return {{"name", stack::shown_name(s.name)},
          {"uuid", stack::shown_uuid(s.uuid)},
          {"major", s.number.major},
          {"minor", s.number.minor},
          {"suspended", s.suspended},
          {"read_only", s.read_only},
          {"deferred_remove", s.deferred_remove},
          {"live", s.has_live},
          {"inactive", s.has_inactive},
          {"open_count", s.open_count},
          {"event_number", s.event_number},
          {"target_count", s.target_count},
          {"size_bytes", s.size_bytes},
          {"block_bytes", s.block_bytes},
          {"io_min_bytes", s.io_min_bytes},
          {"io_opt_bytes", s.io_opt_bytes}};
}

}  // namespace lbd::ctl
