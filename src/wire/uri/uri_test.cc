// SPDX-License-Identifier: MIT
#include "wire/uri/uri.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace lbd::uri {
namespace {

using testing::HasSubstr;

TEST(uri, plain_paths_are_taken_as_they_stand) {
  for (const char* path :
       {"/srv/disk.img", "./a:b", "../x%20y?direct=1", "disk.img", "/a b#c", "."}) {
    const auto s = parse_source(path);
    ASSERT_TRUE(s) << path;
    EXPECT_EQ(std::get<file_source>(*s), (file_source{path, false}));
  }
}

TEST(uri, files) {
  const auto file = [](const char* text) { return std::get<file_source>(*parse_source(text)); };
  EXPECT_EQ(file("file:/srv/disk.img"), (file_source{"/srv/disk.img", false}));
  EXPECT_EQ(file("file:///srv/disk.img"), (file_source{"/srv/disk.img", false}));
  EXPECT_EQ(file("file://localhost/srv/disk.img"), (file_source{"/srv/disk.img", false}));
  EXPECT_EQ(file("file:disk.img?direct=1"), (file_source{"disk.img", true}));
  EXPECT_EQ(file("FILE:disk.img?direct=0"), (file_source{"disk.img", false}));
  EXPECT_EQ(file("file:/a%20b%3fc%25"), (file_source{"/a b?c%", false}));
  EXPECT_EQ(std::get<qcow2_source>(*parse_source("qcow2:/srv/a.qcow2")).path, "/srv/a.qcow2");
}

TEST(uri, sizes) {
  EXPECT_EQ(std::get<memory_source>(*parse_source("mem:1G")).size_bytes, 1u << 30);
  EXPECT_EQ(std::get<memory_source>(*parse_source("mem:1M?name=a%20b")),
            (memory_source{1 << 20, "a b"}));
  EXPECT_FALSE(parse_source("mem:1M?name=" + std::string(256, 'n')));
  EXPECT_EQ(std::get<null_source>(*parse_source("null:10T")).size_bytes, uint64_t{10} << 40);
}

TEST(uri, nbd_over_tcp) {
  const auto nbd = [](const char* text) { return std::get<nbd_source>(*parse_source(text)); };
  EXPECT_EQ(nbd("nbd://example.com/disk"), (nbd_source{{"example.com", 10809}, "", "disk"}));
  EXPECT_EQ(nbd("nbd://example.com"), (nbd_source{{"example.com", 10809}, "", ""}));
  EXPECT_EQ(nbd("nbd://example.com/"), (nbd_source{{"example.com", 10809}, "", ""}));
  EXPECT_EQ(nbd("nbd:///disk"), (nbd_source{{"localhost", 10809}, "", "disk"}));
  EXPECT_EQ(nbd("nbd://127.0.0.1:7777/a/b"), (nbd_source{{"127.0.0.1", 7777}, "", "a/b"}));
  EXPECT_EQ(nbd("nbd://h:1//abs"), (nbd_source{{"h", 1}, "", "/abs"}));
  EXPECT_EQ(nbd("nbd://[::1]:7777/x%2fy%20z"), (nbd_source{{"::1", 7777}, "", "x/y z"}));
  EXPECT_EQ(nbd("nbd://[fe80::1%25eth0]/"), (nbd_source{{"fe80::1%eth0", 10809}, "", ""}));
}

TEST(uri, nbd_over_a_unix_socket) {
  const auto nbd = [](const char* text) { return std::get<nbd_source>(*parse_source(text)); };
  EXPECT_EQ(nbd("nbd+unix:///disk?socket=/run/a.sock"), (nbd_source{{}, "/run/a.sock", "disk"}));
  EXPECT_EQ(nbd("nbd+unix://?socket=/run/a%20b"), (nbd_source{{}, "/run/a b", ""}));
  EXPECT_EQ(nbd("nbd+unix:///?socket=rel"), (nbd_source{{}, "rel", ""}));
}

TEST(uri, nbd_option_takes_host_and_port) {
  EXPECT_EQ(*parse_nbd("localhost:7777"), (nbd_source{{"localhost", 7777}, "", ""}));
  EXPECT_EQ(*parse_nbd("localhost"), (nbd_source{{"localhost", 10809}, "", ""}));
  EXPECT_EQ(*parse_nbd("[::1]:1234"), (nbd_source{{"::1", 1234}, "", ""}));
  EXPECT_EQ(*parse_nbd("nbd://h/x"), (nbd_source{{"h", 10809}, "", "x"}));
  EXPECT_EQ(*parse_nbd("nbd+unix:///x?socket=s"), (nbd_source{{}, "s", "x"}));
}

TEST(uri, endpoints) {
  EXPECT_EQ(*parse_endpoint("6666", "localhost", 0), (endpoint{"localhost", 6666}));
  EXPECT_EQ(*parse_endpoint("0.0.0.0:80", "localhost", 0), (endpoint{"0.0.0.0", 80}));
  EXPECT_EQ(*parse_endpoint("[::]:80", "localhost", 0), (endpoint{"::", 80}));
  EXPECT_EQ(*parse_endpoint("example.com", "localhost", 10809), (endpoint{"example.com", 10809}));
  EXPECT_EQ(to_text(endpoint{"::1", 80}), "[::1]:80");
  EXPECT_EQ(to_text(endpoint{"h", 80}), "h:80");
  for (const char* bad :
       {"", ":80", "0", "65536", "h:", "h:0", "h:x", "h:65536", "h:80x", "h:-1", "::1:80", "[::1",
        "[::1]80", "[h]:80", "a b:80", "h:80:80", "example.com", "h:18446744073709551617"}) {
    const auto e = parse_endpoint(bad, "localhost", 0);
    ASSERT_FALSE(e) << bad;
    EXPECT_THAT(e.error().message, HasSubstr(std::string("'") + bad + "'"));
  }
}

TEST(uri, wrong_forms_name_the_remedy) {
  struct {
    const char* text;
    const char* remedy;
  } const wrong[] = {
      {"", "mem:SIZE"},
      {"gopher://x", "unknown kind of source 'gopher'"},
      {"localhost:7777", "nbd://localhost:7777"},
      {"disk:1x", "unknown kind of source 'disk'"},
      {"1disk:x", "./1disk:x"},
      {"nbds://h/x", "write nbd:"},
      {"nbd:h:1234", "nbd://HOST[:PORT]/EXPORT"},
      {"nbd://h:0/x", "1 to 65535"},
      {"nbd://h:99999/x", "1 to 65535"},
      {"nbd://::1/x", "brackets"},
      {"nbd://user@h/x", "'@'"},
      {"nbd://h/x?socket=/s", "nbd+unix:///EXPORT?socket=PATH"},
      {"nbd://h/x?sokket=/s", "unknown option 'sokket'"},
      {"nbd://h/x#y", "%23"},
      {"nbd+unix:///x", "socket=PATH"},
      {"nbd+unix:///x?socket=", "socket=PATH"},
      {"nbd+unix:/x?socket=s", "nbd+unix:///EXPORT?socket=PATH"},
      {"nbd+unix://h/x?socket=s", "no host"},
      {"nbd://[fe80::1%25]/x", "no IPv6 address"},
      {"nbd://[fe80::1%25a%2525b]/x", "no IPv6 address"},
      {"nbd://h/%0", "%25"},
      {"nbd://h/%zz", "%25"},
      {"nbd://h/%00", "NUL"},
      {"file:", "the path is missing"},
      {"file://h/x", "file:PATH"},
      {"file:x?direct=2", "direct is 0"},
      {"file:x?direct", "key=value"},
      {"file:x?=1", "key=value"},
      {"file:x?direct=1&direct=1", "twice"},
      {"qcow2:x?direct=1", "unknown option 'direct'"},
      {"mem:", "''"},
      {"mem:0", "must not be 0"},
      {"mem:1KB", "'1KB'"},
      {"mem://1G", "mem:SIZE"},
      {"mem:1G?name=", "1 to 255 bytes"},
      {"mem:1G?nome=a", "known is only name"},
      {"null:1G?name=a", "have none"},
      {"null:10X", "'10X'"},
  };
  for (const auto& w : wrong) {
    const auto s = parse_source(w.text);
    ASSERT_FALSE(s) << w.text;
    EXPECT_EQ(s.error().code, base::errc::inval);
    EXPECT_THAT(s.error().message, HasSubstr(w.remedy)) << w.text;
    EXPECT_THAT(s.error().message, HasSubstr(std::string("'") + w.text + "'"));
  }
  EXPECT_FALSE(parse_nbd("mem:1G"));
  EXPECT_FALSE(parse_nbd("/srv/x"));
  EXPECT_FALSE(parse_nbd("file:///srv/x"));
  EXPECT_FALSE(parse_nbd(""));
  EXPECT_FALSE(parse_nbd("nbd+unix:///x?socket=" + std::string(108, 's')));
}

TEST(uri, canonical_text_reads_back) {
  for (const char* text :
       {"nbd://h:1/x", "nbd://[::1]:7777/a%20b", "nbd+unix:///d%3F?socket=/a%26b",
        "nbd://[fe80::1%25eth0]:9/", "mem:1073741824", "mem:512?name=a%20b", "null:512", "/srv/x",
        "./a:b", "qcow2:/a%20b", "file:/a%3F?direct=1", "file:////a?direct=1", "qcow2:////a"}) {
    const auto s = parse_source(text);
    ASSERT_TRUE(s) << text;
    EXPECT_EQ(to_text(*s), text);
  }
  EXPECT_EQ(to_text(source(file_source{"a:b", false})), "./a:b");
}

}  // namespace
}  // namespace lbd::uri
