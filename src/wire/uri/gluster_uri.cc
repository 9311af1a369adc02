// SPDX-License-Identifier: MIT
#include "wire/uri/gluster_uri.h"

#include <algorithm>
#include <charconv>
#include <optional>

#include "wire/uri/pieces.h"

namespace lbd::uri {
namespace {

using base::failure;
using base::outcome;

constexpr std::string_view usage = "gluster://SERVER[:PORT]/VOLUME/PATH";
constexpr std::string_view unix_usage = "gluster+unix:///VOLUME/PATH?socket=PATH";
constexpr size_t longest_volume = 1000, longest_path = 4095, longest_socket = 107;
constexpr uint32_t longest_timeout_s = 86400;
constexpr unsigned highest_log_level = 9;

enum class transport { tcp, unix_socket, rdma };

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = is_alpha(c) ? static_cast<char>(c | 0x20) : c;
  return out;
}

std::string_view drop_slashes(std::string_view text) {
  text.remove_prefix(std::min(text.find_first_not_of('/'), text.size()));
  return text;
}

// One '/' for several.
std::string single_slashes(std::string_view text) {
  std::string out;
  for (char c : text)
    if (c != '/' || out.empty() || out.back() != '/') out += c;
  return out;
}

std::optional<uint32_t> parse_number(std::string_view digits) {
  uint32_t value = 0;
  const char* end = digits.data() + digits.size();
  const auto [at, error] = std::from_chars(digits.data(), end, value);
  if (error != std::errc() || at != end) return std::nullopt;
  return value;
}

// ---- VOLUME@SERVER:PATH

struct at_form {
  std::string_view volume, server, path;
};
bool is_volume_name(std::string_view s) {
  return is_host_name(s);  // the same characters
}
std::optional<at_form> split_at_form(std::string_view text) {
  const size_t at = text.find('@');
  if (at == std::string_view::npos || !is_volume_name(text.substr(0, at))) return std::nullopt;
  const std::string_view rest = text.substr(at + 1);
  size_t colon = rest.find(':');
  if (!rest.empty() && rest[0] == '[') {
    const size_t close = rest.find(']');
    if (close == std::string_view::npos) return std::nullopt;
    colon = close + 1 < rest.size() && rest[close + 1] == ':' ? close + 1 : std::string_view::npos;
  }
  if (colon == std::string_view::npos || rest.substr(0, colon).find('/') != std::string_view::npos)
    return std::nullopt;
  return at_form{text.substr(0, at), rest.substr(0, colon), rest.substr(colon + 1)};
}

outcome<gluster_source> parse_at_form(std::string_view text, const at_form& form,
                                      gluster_path what) {
  gluster_source out;
  TRY(endpoint server, split_host_port(text, form.server));
  if (server.host.empty()) return refuse(text, "the server is missing; write VOLUME@SERVER:PATH");
  server.port = gluster_port;
  out.servers.push_back(std::move(server));
  out.volume = form.volume;
  if (form.path.find('\0') != std::string_view::npos)
    return refuse(text, "it holds a NUL character");
  out.path = single_slashes(drop_slashes(form.path));
  if (out.path.size() > longest_path) return refuse(text, "the path is too long");
  const bool names_image = !out.path.empty() && out.path.back() != '/';
  if (what == gluster_path::image && !names_image)
    return refuse(text, "the image's path is missing; write VOLUME@SERVER:PATH");
  return out;
}

// ---- gluster://

outcome<transport> transport_of(std::string_view text, std::string_view scheme) {
  if (scheme == "gluster" || scheme == "gluster+tcp") return transport::tcp;
  if (scheme == "gluster+unix") return transport::unix_socket;
  if (scheme == "gluster+rdma") return transport::rdma;
  const std::string meant = lower(scheme);
  if (meant != scheme) return refuse(text, "write the scheme in lower case: " + meant + "://");
  if (scheme.starts_with("gluster+"))
    return refuse(text, "unknown transport '" + std::string(scheme.substr(8)) +
                            "'; write gluster+tcp, gluster+unix or gluster+rdma");
  return refuse(text, "unknown scheme '" + std::string(scheme) + "'; write " + std::string(usage) +
                          gluster_hint(text));
}

// The volume and the path in "/VOLUME/PATH".
outcome<void> take_path(std::string_view text, std::string_view raw, bool has_server,
                        gluster_path what, gluster_source& out) {
  TRY(const std::string decoded, decode(text, raw));
  const std::string_view all = drop_slashes(decoded);
  const size_t slash = all.find('/');
  out.volume = all.substr(0, slash);
  if (slash != std::string_view::npos) out.path = single_slashes(drop_slashes(all.substr(slash)));
  if (out.volume.empty()) return refuse(text, "the volume is missing; write " + std::string(usage));
  if (out.volume.size() > longest_volume) return refuse(text, "the volume's name is too long");
  if (out.path.size() > longest_path) return refuse(text, "the path is too long");
  if (what == gluster_path::folder) return {};
  if (out.path.empty()) {
    std::string why = "the image's path is missing after the volume '" + out.volume + "'; write " +
                      std::string(usage);
    if (has_server) why += " (for a server on this host gluster:///VOLUME/PATH)";
    return refuse(text, why);
  }
  if (out.path.back() == '/') return refuse(text, "the path ends with '/': it names no image");
  return {};
}

outcome<unsigned> parse_log_level(std::string_view text, const std::string& value) {
  const auto level = parse_number(value);
  if (!level) return refuse(text, "the log level is a number from 0 (nothing) to 9 (everything)");
  return std::min(*level, highest_log_level);
}

outcome<void> take_server(std::string_view text, std::string_view raw, gluster_source& out) {
  TRY(endpoint server, split_host_port(text, raw, port_zero::left_out));
  if (server.host.empty()) return refuse(text, "server= needs HOST or HOST:PORT");
  if (server.port == 0) server.port = gluster_port;
  if (out.servers.size() == gluster_most_servers)
    return refuse(text, "more than " + std::to_string(gluster_most_servers) + " servers");
  out.servers.push_back(std::move(server));
  return {};
}

// Reads "KEY=VALUE&..."; each key but `server` stands at most once.
class options_reader {
 public:
  options_reader(std::string_view text, transport how, gluster_source& out)
      : text_(text), how_(how), out_(out) {}

  outcome<void> read(std::string_view query) {
    while (!query.empty()) {
      const size_t end = query.find('&');
      const std::string_view item = query.substr(0, end);
      const size_t equals = item.find('=');
      if (equals == std::string_view::npos || equals == 0)
        return refuse(text_, "after '?' write key=value, several joined by '&'");
      CHECK(take(std::string(item.substr(0, equals)), item.substr(equals + 1)));
      query = end == std::string_view::npos ? std::string_view() : query.substr(end + 1);
    }
    return {};
  }

 private:
  outcome<void> take(std::string key, std::string_view raw) {
    if (key == "debug") key = "loglevel";
    const bool again = std::find(seen_.begin(), seen_.end(), key) != seen_.end();
    if (again && key != "server")
      return refuse(text_, key == "loglevel" ? "the log level (loglevel, debug) is given twice"
                                             : "'" + key + "' is given twice");
    seen_.push_back(key);
    if (key == "server") {
      if (how_ == transport::unix_socket)
        return refuse(text_, "server= does not go with gluster+unix: the socket is the server");
      return take_server(text_, raw, out_);
    }
    TRY(const std::string value, decode(text_, raw));
    return take_decoded(key, value);
  }
  outcome<void> take_decoded(const std::string& key, const std::string& value) {
    if (key == "socket") return take_socket(value);
    if (key == "logfile") {
      if (value.empty()) return refuse(text_, "logfile= needs a file, or - for standard error");
      out_.log_file = value == "-" ? std::string() : value;
    } else if (key == "loglevel") {
      TRY(out_.log_level, parse_log_level(text_, value));
    } else if (key == "timeout") {
      const auto seconds = parse_number(value);
      if (!seconds || *seconds > longest_timeout_s)
        return refuse(text_, "timeout= is a number of seconds, at most 86400; 0 waits for ever");
      out_.timeout_s = *seconds;
    } else if (key == "write-behind") {
      if (value != "on" && value != "off") return refuse(text_, "write-behind= is on or off");
      out_.write_behind = value == "on";
    } else {
      const char* meant = key == "sock" || key == "unix" ? " (socket=PATH?)" : "";
      return refuse(text_, "unknown option '" + key + "'" + meant +
                               "; known are server, socket, logfile, loglevel, debug, timeout and "
                               "write-behind");
    }
    return {};
  }
  outcome<void> take_socket(const std::string& value) {
    if (how_ != transport::unix_socket)
      return refuse(text_, "socket= is for a Unix socket; write " + std::string(unix_usage));
    if (value.empty())
      return refuse(text_, "the socket is missing; write " + std::string(unix_usage));
    if (value.size() > longest_socket)
      return refuse(text_, "a Unix socket's path has at most 107 bytes");
    out_.socket_path = value;
    return {};
  }

  const std::string_view text_;
  const transport how_;
  gluster_source& out_;
  std::vector<std::string> seen_;
};

// Takes "//[USER@]HOST[:PORT]" off the front of `rest`; the user has no meaning, as in QEMU.
outcome<endpoint> take_authority(std::string_view text, std::string_view& rest) {
  rest.remove_prefix(2);
  std::string_view authority = rest.substr(0, rest.find('/'));
  rest.remove_prefix(authority.size());
  if (const size_t at = authority.rfind('@'); at != std::string_view::npos)
    authority.remove_prefix(at + 1);
  return split_host_port(text, authority, port_zero::left_out);
}

// What "gluster:/A/B/C" may mean; without C there is no room for a server.
std::string with_server_or_without(std::string_view rest) {
  const std::string here = "gluster://" + std::string(rest);
  if (std::count(rest.begin(), rest.end(), '/') < 3) return here + " for a server on this host";
  return "gluster:/" + std::string(rest) + " (for a server on this host " + here + ")";
}

outcome<gluster_source> parse_uri(std::string_view text, gluster_path what) {
  const size_t length = scheme_length(text);
  TRY(const transport how, transport_of(text, text.substr(0, length)));
  std::string_view rest = text.substr(length + 1);
  rest = rest.substr(0, rest.find('#'));
  const size_t mark = rest.find('?');
  const std::string_view query =
      mark == std::string_view::npos ? std::string_view() : rest.substr(mark + 1);
  rest = rest.substr(0, mark);
  gluster_source out;
  out.rdma = how == transport::rdma;
  endpoint server;
  const bool has_authority = rest.starts_with("//");
  if (has_authority) {
    TRY(server, take_authority(text, rest));
  } else if (rest.starts_with("/")) {
    return refuse(text,
                  "two slashes stand before the server; write " + with_server_or_without(rest));
  }
  const bool has_server = !server.host.empty() || server.port != 0;
  if (how == transport::unix_socket && has_server)
    return refuse(text, "a Unix socket has no host; write " + std::string(unix_usage));
  if (how != transport::unix_socket) {
    if (server.host.empty()) server.host = "localhost";
    if (server.port == 0) server.port = gluster_port;
    out.servers.push_back(std::move(server));
  }
  CHECK(options_reader(text, how, out).read(query));
  if (how == transport::unix_socket && out.socket_path.empty())
    return refuse(text, "the socket is missing; write " + std::string(unix_usage));
  CHECK(take_path(text, rest, has_server, what, out));
  return out;
}

}  // namespace

bool has_gluster_scheme(std::string_view text) {
  const std::string scheme = lower(text.substr(0, scheme_length(text)));
  return scheme == "gluster" || scheme == "glusterfs" || scheme.starts_with("gluster+");
}

bool looks_like_gluster(std::string_view text) {
  if (text.empty() || text[0] == '/' || text[0] == '.') return false;
  if (scheme_length(text) == 0) return split_at_form(text).has_value();
  return has_gluster_scheme(text);
}

outcome<gluster_source> parse_gluster(std::string_view text, gluster_path what) {
  if (text.find('\0') != std::string_view::npos) return refuse(text, "it holds a NUL character");
  if (scheme_length(text) != 0) return parse_uri(text, what);
  if (const auto form = split_at_form(text)) return parse_at_form(text, *form, what);
  return refuse(text,
                "write " + std::string(usage) + " or VOLUME@SERVER:PATH" + gluster_hint(text));
}

std::string gluster_hint(std::string_view text) {
  const auto meant = [](std::string_view server, const std::string& path) {
    return " (for an image on Gluster: gluster://" + std::string(server) + path + ")";
  };
  if (const auto form = split_at_form(text)) {
    const auto image = parse_at_form(text, *form, gluster_path::image);
    return image ? meant(form->server, "/" + image->volume + "/" + encode(image->path, "/")) : "";
  }
  const size_t colon = text.find(":/");
  if (colon == std::string_view::npos || text.substr(colon + 1).starts_with("//")) return "";
  const std::string_view server = text.substr(0, colon), path = text.substr(colon + 1);
  const size_t slash = path.find('/', 1);
  if (slash == std::string_view::npos || slash < 2 || slash + 1 == path.size()) return "";
  const auto host = split_host_port(text, server);
  return host && !host->host.empty() ? meant(server, std::string(path)) : "";
}

std::string to_qemu_text(const gluster_source& s) {
  gluster_source known;
  if (!s.servers.empty()) known.servers.push_back(s.servers.front());
  known.socket_path = s.socket_path;
  known.volume = s.volume;
  known.path = s.path;
  return to_text(known);
}

std::string to_text(const gluster_source& s) {
  std::string out = s.rdma ? "gluster+rdma://" : "gluster://";
  std::string options;
  const auto add = [&options](const char* key, const std::string& value) {
    options += (options.empty() ? "?" : "&") + std::string(key) + "=" + value;
  };
  if (!s.socket_path.empty()) {
    out = "gluster+unix://";
    add("socket", encode(s.socket_path, "/"));
  }
  for (size_t i = 0; i < s.servers.size(); ++i) {
    if (i == 0)
      out += to_authority(s.servers[i]);
    else
      add("server", to_authority(s.servers[i]));
  }
  if (!s.log_file.empty()) add("logfile", encode(s.log_file, "/"));
  if (s.log_level != gluster_default_log_level) add("loglevel", std::to_string(s.log_level));
  if (s.timeout_s != 0) add("timeout", std::to_string(s.timeout_s));
  if (s.write_behind) add("write-behind", "on");
  return out + "/" + encode(s.volume, "") + "/" + encode(s.path, "/") + options;
}

}  // namespace lbd::uri
