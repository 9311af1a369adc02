// SPDX-License-Identifier: MIT
#include "wire/uri/gluster_uri.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "wire/uri/uri.h"

namespace lbd::uri {
namespace {

using testing::HasSubstr;

gluster_source at(std::string host, uint16_t port, std::string volume, std::string path) {
  gluster_source s;
  s.servers.push_back({std::move(host), port});
  s.volume = std::move(volume);
  s.path = std::move(path);
  return s;
}

gluster_source parsed(const std::string& text) {
  const auto s = parse_source(text);
  EXPECT_TRUE(s) << text << ": " << (s ? "" : s.error().message);
  if (!s || !std::holds_alternative<gluster_source>(*s)) return {};
  return std::get<gluster_source>(*s);
}

TEST(gluster_uri, forms_of_one_image) {
  const gluster_source image = at("10.0.0.1", 24007, "vol1", "a.img");
  for (const char* text :
       {"gluster://10.0.0.1/vol1/a.img", "gluster+tcp://10.0.0.1/vol1/a.img",
        "gluster+tcp://10.0.0.1:24007/vol1/a.img", "gluster://10.0.0.1:0/vol1/a.img",
        "gluster://10.0.0.1//vol1///a.img", "gluster://10.0.0.1/vol1/a%2eimg",
        "gluster://user@10.0.0.1/vol1/a.img", "gluster://10.0.0.1/vol1/a.img#part",
        "gluster://10.0.0.1/vol1/a.img?", "gluster://10.0.0.1/vol1/a.img?logfile=-",
        "gluster://10.0.0.1/vol1/a.img?loglevel=4", "gluster://10.0.0.1/vol1/a.img?timeout=0",
        "vol1@10.0.0.1:a.img", "vol1@10.0.0.1:/a.img"}) {
    EXPECT_EQ(parsed(text), image) << text;
  }
}

TEST(gluster_uri, defaults) {
  for (const char* text : {"gluster:vol1/a.img", "gluster:///vol1/a.img",
                           "gluster://localhost/vol1/a.img", "gluster://:24007/vol1/a.img"})
    EXPECT_EQ(parsed(text), at("localhost", 24007, "vol1", "a.img")) << text;
  EXPECT_EQ(parsed("gluster://h:24008/v/dir/sub/a.img"), at("h", 24008, "v", "dir/sub/a.img"));
  EXPECT_EQ(parsed("gluster://h/v/dir//a%20b%3Fc"), at("h", 24007, "v", "dir/a b?c"));
}

TEST(gluster_uri, ipv6_addresses_stand_in_brackets) {
  EXPECT_EQ(parsed("gluster://[::1]/v/a"), at("::1", 24007, "v", "a"));
  EXPECT_EQ(parsed("gluster://[fd00::7]:24008/v/a"), at("fd00::7", 24008, "v", "a"));
  EXPECT_EQ(parsed("gluster://[fe80::1%25eth0]/v/a"), at("fe80::1%eth0", 24007, "v", "a"));
  EXPECT_EQ(parsed("v@[fd00::7]:dir/a"), at("fd00::7", 24007, "v", "dir/a"));
}

TEST(gluster_uri, unix_sockets) {
  gluster_source s;
  s.socket_path = "/run/glusterd.socket";
  s.volume = "vol1";
  s.path = "a.img";
  EXPECT_EQ(parsed("gluster+unix:///vol1/a.img?socket=/run/glusterd.socket"), s);
  EXPECT_EQ(parsed("gluster+unix:vol1/a.img?socket=/run/glusterd.socket"), s);
  s.log_level = 9;
  EXPECT_EQ(parsed("gluster+unix:///vol1/a.img?socket=%2frun/glusterd.socket&debug=9"), s);
}

TEST(gluster_uri, rdma_is_remembered_for_a_warning) {
  gluster_source s = at("h", 24007, "v", "a");
  s.rdma = true;
  EXPECT_EQ(parsed("gluster+rdma://h:24007/v/a"), s);
}

TEST(gluster_uri, options) {
  gluster_source s = at("a", 24007, "v", "x");
  s.servers.push_back({"b", 24007});
  s.servers.push_back({"::1", 7});
  s.servers.push_back({"c", 24007});
  s.log_file = "/var/log/x y.log";
  s.log_level = 7;
  s.timeout_s = 30;
  s.write_behind = true;
  EXPECT_EQ(parsed("gluster://a/v/x?server=b&server=[::1]:7&server=c:0&logfile=/var/log/x%20y.log"
                   "&loglevel=7&timeout=30&write-behind=on"),
            s);
  EXPECT_EQ(parsed("gluster://a/v/x?debug=11").log_level, 9u);
  EXPECT_EQ(parsed("gluster://a/v/x?debug=0").log_level, 0u);
}

struct wrong_form {
  const char* text;
  const char* remedy;
};
const wrong_form wrong_forms[] = {
    {"gluster:/10.0.0.1/vol1/a.img", "write gluster://10.0.0.1/vol1/a.img"},
    {"gluster:/10.0.0.1/vol1/a.img", "(for a server on this host gluster:///10.0.0.1/vol1/a.img)"},
    {"gluster:/vol1/a.img", "write gluster:///vol1/a.img for a server on this host"},
    {"gluster://10.0.0.1/vol1", "the image's path is missing after the volume 'vol1'"},
    {"gluster://vol1/a.img", "gluster:///VOLUME/PATH"},
    {"gluster://10.0.0.1/vol1/", "the image's path is missing"},
    {"gluster://10.0.0.1/vol1/dir/", "ends with '/'"},
    {"gluster://10.0.0.1", "the volume is missing"},
    {"gluster://10.0.0.1/", "the volume is missing"},
    {"gluster://", "the volume is missing"},
    {"gluster:", "the volume is missing"},
    {"gluster:vol1", "the image's path is missing"},
    {"gluster://h:99999/v/a", "1 to 65535"},
    {"gluster://h:abc/v/a", "1 to 65535"},
    {"gluster://h:/v/a", "1 to 65535"},
    {"gluster://::1/v/a", "brackets"},
    {"gluster://[::1/v/a", "']' is missing"},
    {"gluster://[h]/v/a", "no IPv6 address"},
    {"gluster://a b/v/a", "no host name"},
    {"gluster://h/v/a?socket=/s", "gluster+unix:///VOLUME/PATH?socket=PATH"},
    {"gluster+tcp://h/v/a?socket=/s", "gluster+unix:///VOLUME/PATH?socket=PATH"},
    {"gluster+unix:///v/a", "the socket is missing"},
    {"gluster+unix:///v/a?socket=", "the socket is missing"},
    {"gluster+unix:///v/a?sock=/s", "socket=PATH?"},
    {"gluster+unix://h/v/a?socket=/s", "no host"},
    {"gluster+unix://:1/v/a?socket=/s", "no host"},
    {"gluster+unix:///v/a?socket=/s&socket=/t", "'socket' is given twice"},
    {"gluster+unix:///v/a?socket=/s&server=h", "the socket is the server"},
    {"gluster+udp://h/v/a", "unknown transport 'udp'"},
    {"gluster+://h/v/a", "unknown transport ''"},
    {"GLUSTER://h/v/a", "gluster://"},
    {"Gluster+tcp://h/v/a", "lower case"},
    {"glusterfs://h/v/a", "write gluster://"},
    {"gluster://h/v/a?server=", "server= needs HOST"},
    {"gluster://h/v/a?server=b:x", "1 to 65535"},
    {"gluster://h/v/a?servers=b", "unknown option 'servers'"},
    {"gluster://h/v/a?loglevel=x", "0 (nothing) to 9"},
    {"gluster://h/v/a?loglevel=1&debug=2", "given twice"},
    {"gluster://h/v/a?logfile=", "logfile= needs"},
    {"gluster://h/v/a?timeout=1s", "number of seconds"},
    {"gluster://h/v/a?timeout=86401", "at most 86400"},
    {"gluster://h/v/a?write-behind=yes", "on or off"},
    {"gluster://h/v/a?timeout", "key=value"},
    {"gluster://h/v/%zz", "%25"},
    {"gluster://h/v/a%00", "NUL"},
    {"v@h:", "the image's path is missing"},
    {"v@:a", "the server is missing"},
    {"h:/vol1/a.img", "gluster://h/vol1/a.img"},
    {"10.0.0.1:/vol1/a.img", "gluster://10.0.0.1/vol1/a.img"},
    {"[fd00::7]:/vol1/a.img", "gluster://[fd00::7]/vol1/a.img"},
};

TEST(gluster_uri, wrong_forms_name_the_remedy) {
  for (const auto& w : wrong_forms) {
    const auto s = parse_source(w.text);
    ASSERT_FALSE(s) << w.text;
    EXPECT_EQ(s.error().code, base::errc::inval);
    EXPECT_THAT(s.error().message, HasSubstr(w.remedy)) << w.text;
    EXPECT_THAT(s.error().message, HasSubstr(std::string("'") + w.text + "'"));
  }
  std::string many = "gluster://h/v/a?server=b";
  for (int i = 0; i < 20; ++i) many += "&server=b";
  EXPECT_FALSE(parse_source(many));
}

TEST(gluster_uri, hints) {
  const auto hint = [](const char* to) {
    return std::string(" (for an image on Gluster: gluster://") + to + ")";
  };
  EXPECT_EQ(gluster_hint("h:/v/dir/a"), hint("h/v/dir/a"));
  EXPECT_EQ(gluster_hint("10.0.0.1:/v/a"), hint("10.0.0.1/v/a"));
  EXPECT_EQ(gluster_hint("v@h:a b"), hint("h/v/a%20b"));
  EXPECT_EQ(gluster_hint("v@[fd00::7]:/dir/a"), hint("[fd00::7]/v/dir/a"));
  for (const char* text : {"", "a", "a@b", "v@h:", "h:a", "h:/a", "h:/a/", ":/v/a", "/mnt/h:/v/a",
                           "some dir:/v/a", "nbd://h/v/a", "x@y z:/v/a"})
    EXPECT_EQ(gluster_hint(text), "") << text;
  EXPECT_THAT(parse_gluster("h:/v/a").error().message, HasSubstr(hint("h/v/a")));
}

TEST(gluster_uri, folders) {
  const auto folder = [](const char* text) {
    const auto s = parse_gluster(text, gluster_path::folder);
    EXPECT_TRUE(s) << text;
    return s ? *s : gluster_source();
  };
  EXPECT_EQ(folder("gluster://h/v"), at("h", 24007, "v", ""));
  EXPECT_EQ(folder("gluster://h/v/"), at("h", 24007, "v", ""));
  EXPECT_EQ(folder("gluster://h/v/dir/"), at("h", 24007, "v", "dir/"));
  EXPECT_EQ(folder("v@h:"), at("h", 24007, "v", ""));
  EXPECT_FALSE(parse_gluster("gluster://h", gluster_path::folder));
  EXPECT_FALSE(parse_gluster("/srv/a.img", gluster_path::folder));
}

TEST(gluster_uri, canonical_text_reads_back) {
  for (const char* text :
       {"gluster://h:24007/v/dir/a%20b", "gluster://[::1]:1/v/a",
        "gluster://[fe80::1%25eth0]:24007/v/a", "gluster+rdma://h:24007/v/a",
        "gluster+unix:///v/a?socket=/run/g%26d.sock&loglevel=9",
        "gluster://a:24007/v/x?server=b:24007&server=[::1]:7&logfile=/x%20y&loglevel=7"
        "&timeout=30&write-behind=on"})
    EXPECT_EQ(to_text(source(parsed(text))), text);
}

// Paths, and other kinds of sources, stay what they were.
TEST(gluster_uri, takes_nothing_from_other_sources) {
  for (const char* text : {"/v@h:a", "./gluster:a", "v@h", "a@b", "dir/v@h"})
    EXPECT_TRUE(std::holds_alternative<file_source>(*parse_source(text))) << text;
  EXPECT_FALSE(looks_like_gluster("nbd://user@h/x"));
  EXPECT_FALSE(looks_like_gluster("a/b@c:d"));
}

}  // namespace
}  // namespace lbd::uri
