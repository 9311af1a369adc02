// SPDX-License-Identifier: MIT
#include "wire/nbd/handshake.h"

#include <gtest/gtest.h>

#include <array>
#include <string>

namespace lbd::nbd {
namespace {

using base::as_bytes;
using base::as_text;
using base::bytes_view;
using namespace std::string_literals;
using namespace std::string_view_literals;

std::string text_of(const byte_buffer& b) { return std::string(as_text(b)); }
bytes_view data_of_option(const byte_buffer& b) {
  return bytes_view(b).subspan(option_header_bytes);
}
bytes_view data_of_reply(const byte_buffer& b) {
  return bytes_view(b).subspan(option_reply_header_bytes);
}

TEST(handshake, newstyle_greeting) {
  byte_buffer out;
  append_newstyle_greeting(out, handshake_flag::fixed_newstyle | handshake_flag::no_zeroes);
  EXPECT_EQ(text_of(out), "NBDMAGICIHAVEOPT\0\3"s);
  ASSERT_EQ(out.size(), newstyle_greeting_bytes);
  EXPECT_EQ(decode_greeting_magic(out), greeting_kind::newstyle);
  EXPECT_EQ(decode_handshake_flags(out), 3);
}

TEST(handshake, oldstyle_greeting) {
  byte_buffer out;
  append_oldstyle_greeting(out, 0x123456789a, 0x8085);
  ASSERT_EQ(out.size(), oldstyle_greeting_bytes);
  EXPECT_EQ(text_of(out).substr(0, 28),
            "NBDMAGIC\x00\x00\x42\x02\x81\x86\x12\x53\0\0\0\x12\x34\x56\x78\x9a\0\0\x80\x85"s);
  EXPECT_EQ(decode_greeting_magic(out), greeting_kind::oldstyle);
  const export_reply facts = decode_oldstyle_greeting(out);
  EXPECT_EQ(facts.size_bytes, 0x123456789au);
  EXPECT_EQ(facts.transmission_flags, 0x8085);
}

TEST(handshake, foreign_greetings_are_none) {
  EXPECT_EQ(decode_greeting_magic(as_bytes("SSH-2.0-OpenSSH_9.2")), std::nullopt);
  EXPECT_EQ(decode_greeting_magic(as_bytes("NBDMAGICNBDMAGIC")), std::nullopt);
}

TEST(handshake, client_flags_must_be_offered_and_known) {
  const auto decode = [](uint32_t flags, uint16_t offered) {
    byte_buffer raw;
    append_client_flags(raw, flags);
    EXPECT_EQ(raw.size(), client_flags_bytes);
    return decode_client_flags(raw, offered);
  };
  EXPECT_EQ(decode(3, 3), 3u);
  EXPECT_EQ(decode(0, 3), 0u);
  EXPECT_EQ(decode(1, 1), 1u);
  EXPECT_EQ(decode(3, 1), std::nullopt);
  EXPECT_EQ(decode(4, 3), std::nullopt);
  EXPECT_EQ(decode(4, 7), std::nullopt) << "unknown on both sides";
  EXPECT_EQ(decode(0x80000001, 3), std::nullopt);
}

TEST(handshake, option_header) {
  byte_buffer out;
  append_option(out, option::export_name, as_bytes("disk"));
  EXPECT_EQ(text_of(out), "IHAVEOPT\0\0\0\1\0\0\0\4disk"s);
  const auto header = decode_option_header(out);
  ASSERT_TRUE(header);
  EXPECT_EQ(header->type, option::export_name);
  EXPECT_EQ(header->length, 4u);
  out[0] = std::byte{'i'};
  EXPECT_FALSE(decode_option_header(out));
}

TEST(handshake, strings_are_utf8_without_nul_and_bounded) {
  for (std::string_view good : {""sv, "disk"sv,
                                "gr\xc3\xb6\xc3\x9f"
                                "er"sv,
                                "\xf0\x9f\x92\xbe"sv, "\xed\x9f\xbf"sv, "\xf4\x8f\xbf\xbf"sv}) {
    EXPECT_TRUE(is_valid_string(good)) << good;
  }
  for (std::string_view bad :
       {"a\0b"sv, "\x80"sv, "\xc0\xaf"sv, "\xc3"sv, "\xe0\x80\xaf"sv, "\xed\xa0\x80"sv,
        "\xf5\x80\x80\x80"sv, "\xf4\x90\x80\x80"sv, "\xff"sv, "\xf0\x8f\xbf\xbf"sv, "\xe2\x82"sv}) {
    EXPECT_FALSE(is_valid_string(bad));
  }
  EXPECT_TRUE(is_valid_string(std::string(4096, 'x')));
  EXPECT_FALSE(is_valid_string(std::string(4097, 'x')));
  EXPECT_EQ(parse_export_name(as_bytes("disk")), "disk");
  EXPECT_EQ(parse_export_name(as_bytes("a\0b"sv)), std::nullopt);
  EXPECT_EQ(parse_export_name(as_bytes(std::string(4097, 'x'))), std::nullopt);
}

TEST(handshake, info_request_round_trip) {
  const std::array<info_type, 5> wanted = {info_type::block_size, info_type::export_size,
                                           info_type::name, info_type::name,
                                           static_cast<info_type>(999)};
  byte_buffer out;
  append_info_option(out, option::go, "disk", wanted);
  const auto r = parse_info_request(data_of_option(out));
  ASSERT_TRUE(r);
  EXPECT_EQ(r->name, "disk");
  EXPECT_TRUE(r->wants_block_size);
  EXPECT_TRUE(r->wants_name);
  EXPECT_FALSE(r->wants_description);
}

TEST(handshake, info_request_with_wrong_lengths_is_refused_as_invalid) {
  for (std::string_view bad : {
           ""sv, "\0\0\0"sv,
           "\0\0\0\4disk"sv,      // no count
           "\0\0\0\5disk\0\0"sv,  // name longer than the data
           "\xff\xff\xff\xff"
           "disk\0\0"sv,                  // much longer
           "\0\0\0\4disk\0\1"sv,          // count beyond the data
           "\0\0\0\4disk\0\1\0"sv,        // half a request
           "\0\0\0\4disk\0\0\0"sv,        // trailing byte
           "\0\0\0\4disk\0\1\0\1\0\1"sv,  // trailing request
           "\0\0\0\4di\0k\0\0"sv,         // NUL in the name
           "\0\0\0\1\xff\0\0"sv,          // not UTF-8
       }) {
    const auto r = parse_info_request(as_bytes(bad));
    ASSERT_FALSE(r) << bad;
    EXPECT_EQ(r.error().type, option_reply::err_invalid);
    EXPECT_FALSE(r.error().message.empty());
  }
  byte_buffer out;
  append_info_option(out, option::go, std::string(4096, 'x'), {});
  EXPECT_TRUE(parse_info_request(data_of_option(out)));
  out.clear();
  append_info_option(out, option::go, std::string(4097, 'x'), {});
  EXPECT_FALSE(parse_info_request(data_of_option(out)));
}

TEST(handshake, meta_context_round_trip) {
  const std::array<std::string_view, 2> queries = {"base:allocation", "base:"};
  byte_buffer out;
  append_meta_context_option(out, option::set_meta_context, "disk", queries);
  const auto r = parse_meta_context_request(data_of_option(out));
  ASSERT_TRUE(r);
  EXPECT_EQ(r->name, "disk");
  ASSERT_EQ(r->queries.size(), 2u);
  EXPECT_EQ(r->queries[0], "base:allocation");
  EXPECT_EQ(r->queries[1], "base:");
}

TEST(handshake, meta_context_with_wrong_lengths_is_refused_as_invalid) {
  for (std::string_view bad : {
           ""sv,
           "\0\0\0\1x"sv,                          // no count
           "\0\0\0\2x\0\0\0\0"sv,                  // name beyond the data
           "\0\0\0\1x\0\0\0\1"sv,                  // query missing
           "\0\0\0\1x\xff\xff\xff\xff\0\0\0\0"sv,  // endless queries
           "\0\0\0\1x\0\0\0\1\0\0\0\5base"sv,      // query beyond the data
           "\0\0\0\1x\0\0\0\1\xff\xff\xff\xff"
           "ba"sv,
           "\0\0\0\1x\0\0\0\0\0"sv,           // trailing byte
           "\0\0\0\1x\0\0\0\1\0\0\0\2a\0"sv,  // NUL in a query
       }) {
    const auto r = parse_meta_context_request(as_bytes(bad));
    ASSERT_FALSE(r);
    EXPECT_EQ(r.error().type, option_reply::err_invalid);
  }
}

TEST(handshake, wildcards_list_but_never_select) {
  const auto request = [](std::vector<std::string_view> queries) {
    return meta_context_request{"", std::move(queries)};
  };
  const bool set = false;
  const bool list = true;
  EXPECT_TRUE(selects(request({base_allocation}), base_allocation, set));
  EXPECT_TRUE(selects(request({base_allocation, base_allocation}), base_allocation, set));
  EXPECT_TRUE(selects(request({"x:y", base_allocation}), base_allocation, list));
  EXPECT_FALSE(selects(request({}), base_allocation, set));
  EXPECT_TRUE(selects(request({}), base_allocation, list));
  EXPECT_FALSE(selects(request({"base:"}), base_allocation, set));
  EXPECT_TRUE(selects(request({"base:"}), base_allocation, list));
  for (bool listing : {set, list}) {
    for (const char* no : {"", "base", "base:nonesuch", "base:allocatio", "base:allocation2",
                           "qemu:", "allocation", ":"}) {
      EXPECT_FALSE(selects(request({no}), base_allocation, listing)) << no;
    }
  }
}

TEST(handshake, option_replies_have_the_protocols_layout) {
  const std::string magic = "\x00\x03\xe8\x89\x04\x55\x65\xa9"s;
  byte_buffer out;
  append_ack(out, option::go);
  EXPECT_EQ(text_of(out), magic + "\0\0\0\7\0\0\0\1\0\0\0\0"s);
  out.clear();
  append_error(out, option::list, option_reply::err_policy, "no");
  EXPECT_EQ(text_of(out), magic + "\0\0\0\3\x80\0\0\2\0\0\0\2no"s);
  out.clear();
  append_server(out, "a", "desc");
  EXPECT_EQ(text_of(out), magic + "\0\0\0\3\0\0\0\2\0\0\0\x09\0\0\0\1adesc"s);
  out.clear();
  append_info_export(out, option::go, 0x100000, 0x0103);
  EXPECT_EQ(text_of(out), magic + "\0\0\0\7\0\0\0\3\0\0\0\x0c\0\0\0\0\0\0\0\x10\0\0\1\3"s);
  out.clear();
  append_info_block_size(out, option::info, {1, 4096, 0x4000000});
  EXPECT_EQ(text_of(out), magic + "\0\0\0\6\0\0\0\3\0\0\0\x0e\0\3\0\0\0\1\0\0\x10\0\4\0\0\0"s);
  out.clear();
  append_meta_context(out, option::set_meta_context, 1, "base:allocation");
  EXPECT_EQ(text_of(out), magic + "\0\0\0\x0a\0\0\0\4\0\0\0\x13\0\0\0\1base:allocation"s);
}

TEST(handshake, export_name_reply_with_and_without_zeroes) {
  byte_buffer out;
  append_export_name_reply(out, 0x100000, 0x0103, true);
  EXPECT_EQ(text_of(out), "\0\0\0\0\0\x10\0\0\1\3"s);
  const export_reply r = decode_export_name_reply(out);
  EXPECT_EQ(r.size_bytes, 0x100000u);
  EXPECT_EQ(r.transmission_flags, 0x103);
  out.clear();
  append_export_name_reply(out, 1, 1, false);
  EXPECT_EQ(out.size(), export_name_reply_bytes + export_name_zeroes);
}

TEST(handshake, client_reads_every_kind_of_information) {
  byte_buffer out;
  append_info_export(out, option::go, 77, 5);
  auto header = decode_option_reply_header(out);
  ASSERT_TRUE(header);
  EXPECT_EQ(header->to, option::go);
  EXPECT_EQ(header->type, option_reply::info);
  EXPECT_EQ(header->length, 12u);
  auto info = parse_info_reply(data_of_reply(out));
  ASSERT_TRUE(info);
  EXPECT_EQ(info->facts.size_bytes, 77u);
  EXPECT_EQ(info->facts.transmission_flags, 5);

  out.clear();
  append_info_description(out, option::go, "a disk");
  info = parse_info_reply(data_of_reply(out));
  ASSERT_TRUE(info);
  EXPECT_EQ(info->type, info_type::description);
  EXPECT_EQ(info->text, "a disk");

  out.clear();
  append_info_name(out, option::go, "");
  info = parse_info_reply(data_of_reply(out));
  ASSERT_TRUE(info);
  EXPECT_EQ(info->text, "");

  out.clear();
  append_info_block_size(out, option::go, {512, 4096, UINT32_MAX});
  info = parse_info_reply(data_of_reply(out));
  ASSERT_TRUE(info);
  EXPECT_EQ(info->sizes, (block_sizes{512, 4096, UINT32_MAX}));

  info = parse_info_reply(as_bytes("\x12\x34 something new"sv));
  ASSERT_TRUE(info) << "unknown information is to be ignored";
  EXPECT_EQ(static_cast<int>(info->type), 0x1234);
}

TEST(handshake, client_refuses_information_that_cannot_be) {
  for (std::string_view bad : {""sv, "\0"sv, "\0\0"sv, "\0\0\0\0\0\0\0\0\0\1\0"sv,
                               "\0\0\0\0\0\0\0\0\0\1\0\0\0"sv, "\0\3\0\0\2\0"sv}) {
    EXPECT_FALSE(parse_info_reply(as_bytes(bad)));
  }
  for (const block_sizes& s : {block_sizes{0, 4096, 65536}, block_sizes{3, 4096, 65536},
                               block_sizes{131072, 131072, 131072}, block_sizes{512, 256, 65536},
                               block_sizes{512, 4000, 65536}, block_sizes{512, 4096, 256},
                               block_sizes{512, 4096, 65537}}) {
    byte_buffer out;
    append_info_block_size(out, option::go, s);
    EXPECT_FALSE(parse_info_reply(data_of_reply(out)));
  }
  EXPECT_FALSE(parse_info_reply(as_bytes("\0\1"s + std::string(4097, 'x'))));
}

TEST(handshake, client_reads_lists_and_contexts) {
  byte_buffer out;
  append_server(out, "disk", "words");
  auto server = parse_server_reply(data_of_reply(out));
  ASSERT_TRUE(server);
  EXPECT_EQ(server->name, "disk");
  EXPECT_EQ(server->description, "words");
  EXPECT_FALSE(parse_server_reply(as_bytes("\0\0\0\5disk"sv)));
  EXPECT_FALSE(parse_server_reply(as_bytes("\0\0\0"sv)));

  out.clear();
  append_meta_context(out, option::set_meta_context, 9, base_allocation);
  auto context = parse_meta_context_reply(data_of_reply(out));
  ASSERT_TRUE(context);
  EXPECT_EQ(context->id, 9u);
  EXPECT_EQ(context->context, base_allocation);
  EXPECT_FALSE(parse_meta_context_reply(as_bytes("\0\0\0"sv)));

  out[3] = std::byte{0};
  EXPECT_FALSE(decode_option_reply_header(out));
}

TEST(handshake, a_servers_words_are_made_printable) {
  EXPECT_EQ(printable(as_bytes("gr\xc3\xb6\xc3\x9f\x1b[31m\n\xff\0x"sv)),
            "gr\xc3\xb6\xc3\x9f?[31m???x");
  EXPECT_EQ(printable(as_bytes(std::string(5000, 'x'))).size(), 256u);
}

}  // namespace
}  // namespace lbd::nbd
