// SPDX-License-Identifier: MIT
#include "wire/uri/uri.h"

#include <algorithm>

#include "base/size_text.h"
#include "wire/uri/pieces.h"

namespace lbd::uri {

namespace {

using base::outcome;

constexpr uint16_t nbd_port = 10809;
constexpr size_t name_most_bytes = 255;
constexpr std::string_view known_forms =
    "a path, file:PATH, qcow2:PATH, nbd://HOST[:PORT]/EXPORT, nbd+unix:///EXPORT?socket=PATH, "
    "gluster://SERVER/VOLUME/PATH, mem:SIZE[?name=NAME] or null:SIZE";

outcome<parts> parse_query(std::string_view whole, std::string_view query, parts out) {
  while (!query.empty()) {
    const size_t end = query.find('&');
    const std::string_view item = query.substr(0, end);
    const size_t equals = item.find('=');
    if (equals == std::string_view::npos || equals == 0) {
      return refuse(whole, "after '?' write key=value, several joined by '&'");
    }
    TRY(std::string key, decode(whole, item.substr(0, equals)));
    TRY(std::string value, decode(whole, item.substr(equals + 1)));
    if (out.find(key) != nullptr) return refuse(whole, "'" + key + "' is given twice");
    out.query.emplace_back(std::move(key), std::move(value));
    query = end == std::string_view::npos ? std::string_view() : query.substr(end + 1);
  }
  return out;
}

outcome<void> allow_only(std::string_view whole, const parts& p, std::string_view key) {
  for (const auto& [name, value] : p.query) {
    if (name == key) continue;
    return refuse(whole, "unknown option '" + name + "'" +
                             (key.empty() ? "; " + p.scheme + " sources have none"
                                          : "; known is only " + std::string(key)));
  }
  return {};
}

// Two slashes at the beginning of a path alone would name a host.
std::string path_text(const std::string& path) {
  return (path.starts_with("//") ? "//" : "") + encode(path, "/");
}

outcome<source> file_from(std::string_view whole, const parts& p) {
  if (!p.host.empty() && p.host != "localhost") {
    return refuse(whole, "a file has no host; write " + p.scheme + ":PATH");
  }
  if (p.path.empty()) return refuse(whole, "the path is missing; write " + p.scheme + ":PATH");
  if (p.scheme == "qcow2") {
    CHECK(allow_only(whole, p, ""));
    return source(qcow2_source{p.path});
  }
  CHECK(allow_only(whole, p, "direct"));
  const std::string* direct = p.find("direct");
  if (direct != nullptr && *direct != "0" && *direct != "1") {
    return refuse(whole, "direct is 0 (use the page cache) or 1 (O_DIRECT)");
  }
  return source(file_source{p.path, direct != nullptr && *direct == "1"});
}

outcome<source> size_from(std::string_view whole, const parts& p) {
  if (p.has_authority) return refuse(whole, "write " + p.scheme + ":SIZE, as in mem:1G");
  const bool is_memory = p.scheme == "mem";
  CHECK(allow_only(whole, p, is_memory ? "name" : ""));
  const std::string* name = p.find("name");
  if (name != nullptr && (name->empty() || name->size() > name_most_bytes))
    return refuse(whole, "a name has 1 to " + std::to_string(name_most_bytes) +
                             " bytes; leave ?name= out if one memory of this size is enough");
  const auto size = base::parse_size(p.path);
  if (!size) return refuse(whole, size.error().message);
  if (*size == 0) return refuse(whole, "the size must not be 0");
  if (is_memory) return source(memory_source{*size, name == nullptr ? std::string() : *name});
  return source(null_source{*size});
}

outcome<nbd_source> nbd_from(std::string_view whole, const parts& p) {
  if (!p.has_authority) {
    return refuse(whole, p.scheme == "nbd" ? "write nbd://HOST[:PORT]/EXPORT"
                                           : "write nbd+unix:///EXPORT?socket=PATH");
  }
  CHECK(allow_only(whole, p, "socket"));
  nbd_source out;
  out.export_name = p.path.empty() ? p.path : p.path.substr(1);
  if (out.export_name.size() > 4096) return refuse(whole, "an export name has at most 4096 bytes");
  const std::string* socket = p.find("socket");
  if (p.scheme == "nbd") {
    if (socket != nullptr)
      return refuse(whole, "for a Unix socket write nbd+unix:///EXPORT?socket=PATH");
    out.address = {p.host.empty() ? "localhost" : p.host, p.port == 0 ? nbd_port : p.port};
    return out;
  }
  if (!p.host.empty() || p.port != 0) {
    return refuse(whole, "a Unix socket has no host; write nbd+unix:///EXPORT?socket=PATH");
  }
  if (socket == nullptr || socket->empty()) {
    return refuse(whole, "the socket is missing; write nbd+unix:///EXPORT?socket=PATH");
  }
  if (socket->size() > 107) return refuse(whole, "a Unix socket's path has at most 107 bytes");
  out.socket_path = *socket;
  return out;
}

}  // namespace

const std::string* parts::find(std::string_view key) const noexcept {
  for (const auto& [name, value] : query) {
    if (name == key) return &value;
  }
  return nullptr;
}

outcome<parts> parse(std::string_view text) {
  const size_t length = scheme_length(text);
  if (length == 0) return refuse(text, "no scheme; write SCHEME:...");
  if (text.find('#') != std::string_view::npos) {
    return refuse(text, "'#' has no meaning here; write %23 for the character itself");
  }
  parts out;
  for (char c : text.substr(0, length)) {
    out.scheme += is_alpha(c) ? static_cast<char>(c | 0x20) : c;
  }
  std::string_view rest = text.substr(length + 1);
  std::string_view query;
  if (const size_t mark = rest.find('?'); mark != std::string_view::npos) {
    query = rest.substr(mark + 1);
    rest = rest.substr(0, mark);
  }
  if (rest.substr(0, 2) == "//") {
    out.has_authority = true;
    rest.remove_prefix(2);
    const std::string_view authority = rest.substr(0, rest.find('/'));
    rest.remove_prefix(authority.size());
    if (authority.find('@') != std::string_view::npos) {
      return refuse(text, "user names are not used; leave out what stands before '@'");
    }
    TRY(const endpoint e, split_host_port(text, authority));
    out.host = e.host;
    out.port = e.port;
  }
  TRY(out.path, decode(text, rest));
  return parse_query(text, query, std::move(out));
}

outcome<endpoint> parse_endpoint(std::string_view text, std::string_view default_host,
                                 uint16_t default_port) {
  const bool only_digits = !text.empty() && std::all_of(text.begin(), text.end(), is_digit);
  if (only_digits) {
    const auto port = parse_port(text);
    if (!port) return refuse(text, "the port must be a number from 1 to 65535");
    return endpoint{std::string(default_host), *port};
  }
  TRY(endpoint out, split_host_port(text, text));
  if (out.host.empty()) {
    return refuse(text, "the host is missing; write PORT or HOST:PORT (0.0.0.0 or [::] for all)");
  }
  if (out.port == 0) out.port = default_port;
  if (out.port == 0) return refuse(text, "the port is missing; write HOST:PORT");
  return out;
}

outcome<source> parse_source(std::string_view text) {
  if (text.empty()) return refuse(text, "the source is empty; write " + std::string(known_forms));
  if (text.find('\0') != std::string_view::npos) return refuse(text, "it holds a NUL character");
  if (text[0] == '/' || text[0] == '.' || text.find(':') == std::string_view::npos) {
    return source(file_source{std::string(text), false});
  }
  if (looks_like_gluster(text)) {
    TRY(gluster_source image, parse_gluster(text));
    return source(std::move(image));
  }
  const size_t length = scheme_length(text);
  if (length == 0)
    return refuse(text,
                  "for a file of this name write ./" + std::string(text) + gluster_hint(text));
  std::string scheme(text.substr(0, length));
  for (char& c : scheme) c = is_alpha(c) ? static_cast<char>(c | 0x20) : c;
  const bool is_nbd = scheme == "nbd" || scheme == "nbd+unix";
  const bool is_size = scheme == "mem" || scheme == "null";
  if (is_nbd || is_size || scheme == "file" || scheme == "qcow2") {
    TRY(const parts p, parse(text));
    if (is_size) return size_from(text, p);
    if (!is_nbd) return file_from(text, p);
    TRY(nbd_source nbd, nbd_from(text, p));
    return source(std::move(nbd));
  }
  if (scheme == "nbds" || scheme == "nbds+unix") {
    return refuse(text,
                  "TLS is not supported; write " + scheme.substr(0, 3) + scheme.substr(4) + ":...");
  }
  std::string why = "unknown kind of source '" + scheme + "'; write " + std::string(known_forms);
  if (parse_port(text.substr(length + 1)))
    why += " (for an NBD server: nbd://" + std::string(text) + ")";
  why += gluster_hint(text);
  return refuse(text, why);
}

outcome<nbd_source> parse_nbd(std::string_view text) {
  const size_t length = scheme_length(text);
  const bool is_uri = text.find("://") != std::string_view::npos ||
                      text.substr(0, length) == "nbd" || text.substr(0, length) == "nbd+unix";
  if (is_uri) {
    TRY(source s, parse_source(text));
    if (auto* nbd = std::get_if<nbd_source>(&s)) return std::move(*nbd);
    return refuse(text,
                  "this is no NBD server; write HOST:PORT, nbd://HOST[:PORT]/EXPORT or "
                  "nbd+unix:///EXPORT?socket=PATH");
  }
  if (text.find('/') != std::string_view::npos) {
    return refuse(text,
                  "write HOST:PORT, nbd://HOST[:PORT]/EXPORT or nbd+unix:///EXPORT?socket=PATH");
  }
  TRY(endpoint e, parse_endpoint(text, "localhost", nbd_port));
  nbd_source out;
  out.address = std::move(e);
  return out;
}

std::string to_text(const nbd_source& s) {
  const std::string name = encode(s.export_name, "/");
  if (!s.socket_path.empty())
    return "nbd+unix:///" + name + "?socket=" + encode(s.socket_path, "/");
  return "nbd://" + to_authority(s.address) + "/" + name;
}

std::string to_text(const source& s) {
  if (const auto* nbd = std::get_if<nbd_source>(&s)) return to_text(*nbd);
  if (const auto* memory = std::get_if<memory_source>(&s)) {
    return "mem:" + std::to_string(memory->size_bytes) +
           (memory->name.empty() ? "" : "?name=" + encode(memory->name, ""));
  }
  if (const auto* null = std::get_if<null_source>(&s)) {
    return "null:" + std::to_string(null->size_bytes);
  }
  if (const auto* image = std::get_if<gluster_source>(&s)) return to_text(*image);
  if (const auto* image = std::get_if<qcow2_source>(&s)) return "qcow2:" + path_text(image->path);
  const auto& file = std::get<file_source>(s);
  if (file.direct) return "file:" + path_text(file.path) + "?direct=1";
  const bool is_plain = !file.path.empty() && (file.path[0] == '/' || file.path[0] == '.' ||
                                               file.path.find(':') == std::string::npos);
  return is_plain ? file.path : "./" + file.path;
}

}  // namespace lbd::uri
