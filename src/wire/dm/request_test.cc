// SPDX-License-Identifier: MIT
// Requests as the kernel's own header lays them out.
#include <gtest/gtest.h>
#include <linux/dm-ioctl.h>
#include <sys/sysmacros.h>

#include <cstddef>
#include <cstring>

#include "wire/dm/ioctl.h"

namespace lbd::dm {
namespace {

static_assert(sizeof(dm_ioctl) == header_bytes && offsetof(dm_ioctl, data) == plain_answer_bytes);
static_assert(DM_NAME_LEN == name_bytes && DM_UUID_LEN == uuid_bytes);
static_assert(DM_MAX_TYPE_NAME == type_bytes && DM_IOCTL == ioctl_type);
static_assert(static_cast<int>(command::target_version) == DM_GET_TARGET_VERSION_CMD);
static_assert(command_count == DM_GET_TARGET_VERSION_CMD + 1);
static_assert(flag::read_only == DM_READONLY_FLAG && flag::suspended == DM_SUSPEND_FLAG);
static_assert(flag::buffer_full == DM_BUFFER_FULL_FLAG && flag::no_flush == DM_NOFLUSH_FLAG);
static_assert(flag::uuid == DM_UUID_FLAG && flag::data_out == DM_DATA_OUT_FLAG);
static_assert(flag::deferred_remove == DM_DEFERRED_REMOVE);
static_assert(flag::query_inactive == DM_QUERY_INACTIVE_TABLE_FLAG);

// A caller's buffer.
struct caller {
  explicit caller(size_t bytes = 16384) : buffer(bytes) {
    head().version[0] = 4;
    head().data_size = static_cast<uint32_t>(bytes);
    head().data_start = sizeof(dm_ioctl);
  }
  dm_ioctl& head() { return *reinterpret_cast<dm_ioctl*>(buffer.data()); }
  std::byte* data() { return buffer.data() + head().data_start; }
  void name(const char* text) { std::strcpy(head().name, text); }
  // Returns where the next line goes.
  size_t line(size_t at, uint64_t start, uint64_t length, const char* type, const char* params) {
    auto& spec = *reinterpret_cast<dm_target_spec*>(data() + at);
    spec.sector_start = start;
    spec.length = length;
    std::strcpy(spec.target_type, type);
    std::strcpy(reinterpret_cast<char*>(&spec + 1), params);
    spec.next = static_cast<uint32_t>((sizeof spec + std::strlen(params) + 1 + 7) & ~size_t{7});
    ++head().target_count;
    return at + spec.next;
  }
  base::outcome<request> decode(command c) { return decode_request(c, buffer); }

  std::vector<std::byte> buffer;
};

TEST(dm_request, decodes_the_header) {
  caller c;
  c.name("base");
  c.head().flags = DM_SUSPEND_FLAG | DM_BUFFER_FULL_FLAG | DM_NOFLUSH_FLAG;
  c.head().event_nr = 7;
  c.head().dev = makedev(253, 0x12345);
  const auto r = c.decode(command::suspend);
  ASSERT_TRUE(r);
  EXPECT_EQ(r->head.name, "base");
  EXPECT_EQ(r->head.uuid, "");
  EXPECT_EQ(r->head.flags, flag::suspended | flag::no_flush);
  EXPECT_EQ(r->head.event_number, 7u);
  EXPECT_EQ(decode_number(r->head.device), (device_number{253, 0x12345}));
}

TEST(dm_request, numbers_are_those_of_the_c_library) {
  for (const device_number n : {device_number{253, 0}, {8, 255}, {253, 256}, {4095, 0xfffff}}) {
    EXPECT_EQ(encode_number(n), makedev(n.major, n.minor));
    EXPECT_EQ(decode_number(encode_number(n)), n);
  }
}

TEST(dm_request, refuses_other_versions) {
  caller c;
  c.head().version[0] = 5;
  EXPECT_EQ(c.decode(command::version).error().message,
            "ioctl: ioctl interface mismatch: kernel(4.47.0), user(5.0.0), cmd(0)");
  c.head().version[0] = 4;
  c.head().version[1] = 48;
  EXPECT_FALSE(c.decode(command::version));
  c.head().version[1] = 47;
  c.head().version[2] = 9;
  EXPECT_TRUE(c.decode(command::version));
}

TEST(dm_request, refuses_bad_headers) {
  caller c;
  c.head().data_size = 304;
  EXPECT_FALSE(c.decode(command::list_devices));
  c.head().data_size = 305;
  EXPECT_TRUE(c.decode(command::list_devices));
  EXPECT_FALSE(c.decode(command::create)) << "no name";
  c.name("a");
  EXPECT_TRUE(c.decode(command::create));
  std::strcpy(c.head().uuid, "u");
  EXPECT_TRUE(c.decode(command::create));
  EXPECT_FALSE(c.decode(command::status)) << "both";
  EXPECT_FALSE(decode_request(command::status, base::bytes_view(c.buffer).first(311)));
}

TEST(dm_request, names_end_in_their_field) {
  caller c;
  std::memset(c.head().name, 'x', sizeof c.head().name);
  const auto r = c.decode(command::status);
  ASSERT_TRUE(r);
  EXPECT_EQ(r->head.name, std::string(127, 'x'));
}

TEST(dm_request, decodes_tables) {
  caller c;
  size_t at = c.line(0, 0, 8, "linear", "254:0 8");
  at = c.line(at, 8, 16, "zero", "");
  c.line(at, 24, 8, "error", " x");
  const auto r = c.decode(command::load);
  ASSERT_TRUE(r);
  ASSERT_EQ(r->targets.size(), 3u);
  EXPECT_EQ(r->targets[0].type, "linear");
  EXPECT_EQ(r->targets[0].text, "254:0 8");
  EXPECT_EQ(r->targets[1].start_sector, 8u);
  EXPECT_EQ(r->targets[1].length_sectors, 16u);
  EXPECT_EQ(r->targets[1].text, "");
  EXPECT_EQ(r->targets[2].text, " x");
}

TEST(dm_request, refuses_lines_outside_the_buffer) {
  caller c;
  c.line(0, 0, 8, "linear", "254:0 8");
  const base::bytes_view bytes(c.buffer);
  EXPECT_TRUE(decode_request(command::load, bytes.first(312 + 48)));
  EXPECT_FALSE(decode_request(command::load, bytes.first(312 + 47))) << "the text's end";
  caller d;
  d.line(0, 0, 8, "zero", "");
  d.head().target_count = 2;
  auto& spec = *reinterpret_cast<dm_target_spec*>(d.data());
  for (const uint32_t next : {0u, 39u, 16384u, 0xffffffffu}) {
    spec.next = next;
    EXPECT_EQ(d.decode(command::load).error().message, "ioctl: unable to find target") << next;
  }
  d.head().target_count = 1;
  d.head().data_start = 100;
  EXPECT_FALSE(d.decode(command::load)) << "inside the header";
  d.head().target_count = 0xffffffff;
  EXPECT_FALSE(d.decode(command::load));
}

TEST(dm_request, decodes_new_names) {
  caller c;
  c.name("a");
  std::strcpy(reinterpret_cast<char*>(c.data()), "b");
  EXPECT_EQ(c.decode(command::rename)->text, "b");
  const std::string longest(127, 'n');
  std::strcpy(reinterpret_cast<char*>(c.data()), (longest + "n").c_str());
  EXPECT_FALSE(c.decode(command::rename));
  c.head().flags = DM_UUID_FLAG;
  EXPECT_EQ(c.decode(command::rename)->text.size(), 128u);
  c.data()[0] = std::byte{0};
  EXPECT_FALSE(c.decode(command::rename));
}

TEST(dm_request, decodes_messages) {
  caller c(312 + 16);
  c.name("a");
  auto& m = *reinterpret_cast<dm_target_msg*>(c.data());
  m.sector = 77;
  std::strcpy(m.message, "key");
  const auto r = c.decode(command::message);
  ASSERT_TRUE(r);
  EXPECT_EQ(r->sector, 77u);
  EXPECT_EQ(r->text, "key");
  std::memset(m.message, 'x', 8);
  EXPECT_EQ(c.decode(command::message).error().message,
            "ioctl: Invalid target message parameters.");
}

TEST(dm_request, decodes_geometries) {
  const auto g = parse_geometry("1024 16 63 8");
  ASSERT_TRUE(g);
  EXPECT_EQ(g->heads, 16u);
  EXPECT_EQ(g->start, 8u);
  for (const char* bad : {"", "1 2 3", "1 2 3 4 5", "65536 1 1 0", "1 256 1 0", "1 1 1 2"})
    EXPECT_FALSE(parse_geometry(bad)) << bad;
}

}  // namespace
}  // namespace lbd::dm
