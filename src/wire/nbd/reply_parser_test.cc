// SPDX-License-Identifier: MIT
#include "wire/nbd/reply_parser.h"

#include <gtest/gtest.h>

#include <array>
#include <map>
#include <random>
#include <string>

#include "wire/nbd/handshake.h"
#include "wire/nbd/transmission.h"

namespace lbd::nbd {
namespace {

using kind = reply_event::kind;

constexpr uint64_t offset = 65536;
constexpr uint32_t length = 4096;

// A server's stream, built with our own encoders, and the client's table of requests.
struct conversation {
  byte_buffer stream;
  std::map<uint64_t, reply_state> requests;

  void ask(command c, uint64_t cookie = 1, uint16_t flags = 0) {
    requests.emplace(cookie, reply_state(request{c, flags, cookie, offset, length}));
  }
  void simple(wire_error e, uint64_t cookie = 1) {
    encode_simple_reply(grow<simple_reply_bytes>(), e, cookie);
  }
  void none(uint64_t cookie = 1) { encode_none_chunk(grow<chunk_header_bytes>(), cookie); }
  void data(uint64_t at, uint32_t bytes, bool done, uint64_t cookie = 1) {
    encode_data_chunk(grow<data_chunk_header_bytes>(), cookie, at, bytes, done);
  }
  void hole(uint64_t at, uint32_t bytes, bool done, uint64_t cookie = 1) {
    encode_hole_chunk(grow<hole_chunk_bytes>(), cookie, at, bytes, done);
  }
  void raw_chunk(chunk_header h, const std::string& payload = "") {
    encode_chunk_header(grow<chunk_header_bytes>(), h);
    for (char c : payload) stream.push_back(static_cast<std::byte>(c));
  }
  void error(wire_error e, std::string_view text, std::optional<uint64_t> at = std::nullopt) {
    const size_t begin = stream.size();
    stream.resize(begin + error_chunk_bytes(text.size(), at.has_value()));
    encode_error_chunk(base::bytes_span(stream).subspan(begin), 1, e, text, at);
  }
  void status(uint32_t id, std::vector<extent> extents, bool done) {
    const size_t begin = stream.size();
    stream.resize(begin + block_status_chunk_bytes(extents.size()));
    encode_block_status_chunk(base::bytes_span(stream).subspan(begin), 1, id, extents, done);
  }
  template <size_t Count>
  mutable_bytes<Count> grow() {
    stream.resize(stream.size() + Count);
    return base::bytes_span(stream).last<Count>();
  }

  reply_state* find(uint64_t cookie) {
    const auto at = requests.find(cookie);
    return at == requests.end() ? nullptr : &at->second;
  }
  reply_event next(reply_parser& parser) {
    reply_event e = parser.next(stream, [this](uint64_t cookie) { return find(cookie); });
    EXPECT_LE(e.consumed, stream.size());
    const auto end = stream.begin() + static_cast<ptrdiff_t>(e.consumed);
    if (e.what != kind::extents && e.what != kind::error) stream.erase(stream.begin(), end);
    return e;
  }
  void drop(size_t bytes) {
    stream.erase(stream.begin(), stream.begin() + static_cast<ptrdiff_t>(bytes));
  }
};

#define EXPECT_VIOLATION(c, parser)                \
  do {                                             \
    const reply_event violation_ = c.next(parser); \
    EXPECT_EQ(violation_.what, kind::violation);   \
    EXPECT_FALSE(violation_.text.empty());         \
  } while (0)

TEST(reply_parser, simple_read_announces_its_data) {
  conversation c;
  c.ask(command::read);
  c.simple(wire_error::none);
  reply_parser parser(false);
  const reply_event e = c.next(parser);
  EXPECT_EQ(e.what, kind::data);
  EXPECT_TRUE(e.done);
  EXPECT_EQ(e.error, wire_error::none);
  EXPECT_EQ(e.offset, offset);
  EXPECT_EQ(e.length, length);
  EXPECT_TRUE(c.stream.empty());
}

TEST(reply_parser, simple_error_and_simple_write) {
  conversation c;
  c.ask(command::read, 1);
  c.ask(command::write, 2);
  c.simple(wire_error::none, 2);
  c.simple(wire_error::io, 1);
  reply_parser parser(false);
  reply_event e = c.next(parser);
  EXPECT_EQ(e.what, kind::finished);
  EXPECT_EQ(e.cookie, 2u);
  EXPECT_TRUE(e.done);
  EXPECT_EQ(e.error, wire_error::none);
  e = c.next(parser);
  EXPECT_EQ(e.what, kind::finished);
  EXPECT_EQ(e.cookie, 1u);
  EXPECT_EQ(e.error, wire_error::io);
}

TEST(reply_parser, structured_read_in_pieces_in_any_order) {
  conversation c;
  c.ask(command::read);
  c.data(offset + 2048, 1024, false);
  c.hole(offset, 2048, false);
  c.data(offset + 3072, 1024, true);
  reply_parser parser(true);
  reply_event e = c.next(parser);
  EXPECT_EQ(e.what, kind::data);
  EXPECT_EQ(e.offset, offset + 2048);
  EXPECT_EQ(e.length, 1024u);
  EXPECT_FALSE(e.done);
  e = c.next(parser);
  EXPECT_EQ(e.what, kind::hole);
  EXPECT_EQ(e.length, 2048u);
  EXPECT_FALSE(e.done);
  e = c.next(parser);
  EXPECT_EQ(e.what, kind::data);
  EXPECT_TRUE(e.done);
  EXPECT_EQ(e.error, wire_error::none);
}

TEST(reply_parser, chunks_of_different_replies_interleave) {
  conversation c;
  c.ask(command::read, 1);
  c.ask(command::read, 2);
  c.hole(offset, 2048, false, 1);
  c.hole(offset, 4096, true, 2);
  c.hole(offset + 2048, 2048, false, 1);
  c.none(1);
  reply_parser parser(true);
  EXPECT_FALSE(c.next(parser).done);
  reply_event e = c.next(parser);
  EXPECT_TRUE(e.done);
  EXPECT_EQ(e.cookie, 2u);
  EXPECT_FALSE(c.next(parser).done);
  e = c.next(parser);
  EXPECT_EQ(e.what, kind::finished);
  EXPECT_EQ(e.cookie, 1u);
  EXPECT_EQ(e.error, wire_error::none);
}

TEST(reply_parser, error_chunk_decides_the_reply) {
  conversation c;
  c.ask(command::read);
  c.hole(offset, 512, false);
  c.error(wire_error::io, "the disk is gone", offset + 512);
  reply_parser parser(true);
  c.next(parser);
  const reply_event e = c.next(parser);
  EXPECT_EQ(e.what, kind::error);
  EXPECT_EQ(e.text, "the disk is gone");
  EXPECT_EQ(e.offset, offset + 512);
  EXPECT_TRUE(e.done);
  EXPECT_EQ(e.error, wire_error::io);
}

TEST(reply_parser, unknown_error_chunks_are_errors) {
  conversation c;
  c.ask(command::write);
  c.raw_chunk({chunk_flag_done, static_cast<chunk_type>(0x8123), 1, 10},
              std::string("\0\0\0\x1c\0\2noXY", 10));
  reply_parser parser(true);
  const reply_event e = c.next(parser);
  EXPECT_EQ(e.what, kind::error);
  EXPECT_TRUE(e.done);
  EXPECT_EQ(e.error, wire_error::nospc);
  EXPECT_EQ(e.text, "no");
}

TEST(reply_parser, simple_error_answers_a_structured_read) {
  conversation c;
  c.ask(command::read);
  c.simple(wire_error::inval);
  reply_parser parser(true);
  const reply_event e = c.next(parser);
  EXPECT_EQ(e.what, kind::finished);
  EXPECT_EQ(e.error, wire_error::inval);
}

TEST(reply_parser, block_status_comes_in_pieces) {
  conversation c;
  c.ask(command::block_status);
  c.status(7, {{1024, 0}, {1024, 3}, {8192, 1}}, false);
  c.none();
  reply_parser parser(true, {5, 7});
  parser = reply_parser(true, {7});
  const byte_buffer all = c.stream;
  c.stream.resize(chunk_header_bytes + 4 + 2 * extent_bytes + 3);
  reply_event e = c.next(parser);
  ASSERT_EQ(e.what, kind::extents);
  ASSERT_EQ(extent_count(e), 2u);
  EXPECT_EQ(e.offset, offset);
  EXPECT_EQ(extent_at(e, 1), (extent{1024, 3}));
  const size_t used = e.consumed;
  c.stream.assign(all.begin() + static_cast<ptrdiff_t>(used), all.end());
  e = c.next(parser);
  ASSERT_EQ(e.what, kind::extents);
  ASSERT_EQ(extent_count(e), 1u);
  EXPECT_EQ(e.offset, offset + 2048);
  EXPECT_EQ(extent_at(e, 0).length, 8192u) << "the last one may go past the end";
  c.drop(e.consumed);
  e = c.next(parser);
  EXPECT_EQ(e.what, kind::finished);
  EXPECT_TRUE(e.done);
}

TEST(reply_parser, needs_are_exact_for_every_prefix) {
  conversation full;
  full.ask(command::read);
  full.data(offset, length, true);
  for (size_t have = 0; have < data_chunk_header_bytes; ++have) {
    conversation c;
    c.ask(command::read);
    c.stream.assign(full.stream.begin(), full.stream.begin() + static_cast<ptrdiff_t>(have));
    reply_parser parser(true);
    const reply_event e = c.next(parser);
    EXPECT_EQ(e.what, kind::more);
    EXPECT_GT(e.need, have);
    EXPECT_LE(e.need, data_chunk_header_bytes);
    EXPECT_EQ(e.consumed, 0u);
  }
}

TEST(reply_parser, lies_about_requests_are_violations) {
  reply_parser simple_only(false);
  reply_parser structured(true, {7});
  {
    conversation c;
    c.simple(wire_error::none, 99);
    EXPECT_VIOLATION(c, simple_only);
  }
  {
    conversation c;
    c.stream.resize(64, std::byte{0x55});
    EXPECT_VIOLATION(c, simple_only);
  }
  {
    conversation c;
    c.ask(command::read);
    c.data(offset, length, true);
    EXPECT_VIOLATION(c, simple_only);
  }
  {
    conversation c;
    c.ask(command::read);
    c.simple(wire_error::none);
    EXPECT_VIOLATION(c, structured);
  }
  {
    conversation c;
    c.ask(command::block_status);
    c.simple(wire_error::none);
    EXPECT_VIOLATION(c, structured);
  }
  {
    conversation c;
    c.ask(command::write);
    c.data(offset, length, true);
    EXPECT_VIOLATION(c, structured);
  }
  {
    conversation c;
    c.ask(command::write);
    c.hole(offset, length, true);
    EXPECT_VIOLATION(c, structured);
  }
  {
    conversation c;
    c.ask(command::read);
    c.status(7, {{4096, 0}}, true);
    EXPECT_VIOLATION(c, structured);
  }
}

TEST(reply_parser, content_outside_or_twice_is_a_violation) {
  struct piece {
    uint64_t at;
    uint32_t bytes;
  };
  const std::array<std::array<piece, 2>, 7> wrong = {{
      {{{offset, 1024}, {offset, 1024}}},
      {{{offset, 1024}, {offset + 512, 1024}}},
      {{{offset + 512, 1024}, {offset, 1024}}},
      {{{offset, 4096}, {offset + 4095, 1}}},
      {{{offset, 512}, {offset - 512, 512}}},
      {{{offset, 512}, {offset + 4096, 512}}},
      {{{offset, 512}, {UINT64_MAX - 255, 512}}},
  }};
  for (const auto& pair : wrong) {
    for (bool as_hole : {false, true}) {
      conversation c;
      c.ask(command::read);
      c.hole(pair[0].at, pair[0].bytes, false);
      if (as_hole) c.hole(pair[1].at, pair[1].bytes, false);
      if (!as_hole) c.data(pair[1].at, pair[1].bytes, false);
      reply_parser parser(true);
      EXPECT_EQ(c.next(parser).what, kind::hole);
      EXPECT_VIOLATION(c, parser);
    }
  }
}

TEST(reply_parser, a_read_that_ends_early_is_a_violation) {
  conversation c;
  c.ask(command::read);
  c.hole(offset, 4095, true);
  reply_parser parser(true);
  EXPECT_VIOLATION(c, parser);
  conversation d;
  d.ask(command::read);
  d.none();
  EXPECT_VIOLATION(d, parser);
}

TEST(reply_parser, df_allows_one_content_chunk) {
  conversation c;
  c.ask(command::read, 1, command_flag::df);
  c.hole(offset, 2048, false);
  c.hole(offset + 2048, 2048, true);
  reply_parser parser(true);
  c.next(parser);
  EXPECT_VIOLATION(c, parser);
}

TEST(reply_parser, malformed_chunks_are_violations) {
  const std::vector<std::pair<chunk_header, std::string>> wrong = {
      {{0, chunk_type::none, 1, 0}, ""},                        // not done
      {{1, chunk_type::none, 1, 4}, "abcd"},                    // not empty
      {{1, chunk_type::offset_data, 1, 8}, std::string(8, 0)},  // no data
      {{1, chunk_type::offset_data, 1, UINT32_MAX}, std::string(16, 0)},
      {{1, chunk_type::offset_hole, 1, 11}, std::string(16, 0)},
      {{1, chunk_type::offset_hole, 1, 13}, std::string(16, 0)},
      {{1, chunk_type::offset_hole, 1, 12}, std::string("\0\0\0\0\0\1\0\0\0\0\0\0", 12)},
      {{1, static_cast<chunk_type>(3), 1, 8}, std::string(8, 0)},
      {{1, static_cast<chunk_type>(0x7fff), 1, 0}, ""},
      {{1, chunk_type::error, 1, 5}, std::string(8, 1)},
      {{1, chunk_type::error, 1, UINT32_MAX}, std::string(8, 1)},
      {{1, chunk_type::error, 1, 6}, std::string("\0\0\0\0\0\0", 6)},   // no error
      {{1, chunk_type::error, 1, 7}, std::string("\0\0\0\5\0\2x", 7)},  // text too long
      {{1, chunk_type::error_offset, 1, 13}, std::string(13, 1)},
      {{1, chunk_type::error_offset, 1, 14}, std::string("\0\0\0\5\0\0\0\0\0\0\0\0\0\0", 14)},
  };
  for (size_t i = 0; i < wrong.size(); ++i) {
    conversation c;
    c.ask(command::read);
    c.raw_chunk(wrong[i].first, wrong[i].second);
    c.stream.resize(c.stream.size() + 64);
    reply_parser parser(true);
    const reply_event e = c.next(parser);
    EXPECT_EQ(e.what, kind::violation) << i;
  }
}

TEST(reply_parser, malformed_block_status_is_a_violation) {
  const auto check = [](uint16_t flags, auto build) {
    conversation c;
    c.ask(command::block_status, 1, flags);
    build(c);
    reply_parser parser(true, {7, 8});
    reply_event e;
    do {
      e = c.next(parser);
      if (e.what == kind::extents) c.drop(e.consumed);
    } while (e.what == kind::extents && !e.done);
    EXPECT_EQ(e.what, kind::violation) << e.text;
  };
  check(0, [](conversation& c) { c.status(9, {{512, 0}}, true); });            // unknown context
  check(0, [](conversation& c) { c.status(7, {{512, 0}}, true); });            // one missing
  check(0, [](conversation& c) { c.status(7, {{512, 0}, {0, 0}}, false); });   // empty extent
  check(0, [](conversation& c) { c.status(7, {{4096, 0}, {1, 0}}, false); });  // beyond
  check(0, [](conversation& c) {                                               // twice
    c.status(7, {{512, 0}}, false);
    c.status(7, {{512, 0}}, false);
  });
  check(0, [](conversation& c) { c.raw_chunk({0, chunk_type::block_status, 1, 4}, "\0\0\0\7"); });
  check(0, [](conversation& c) {
    c.raw_chunk({0, chunk_type::block_status, 1, 4 + 8 * (max_extents_per_reply + 1)}, "\0\0\0\7");
  });
  check(command_flag::req_one, [](conversation& c) { c.status(7, {{512, 0}, {512, 0}}, false); });
  check(command_flag::req_one, [](conversation& c) { c.status(7, {{8192, 0}}, false); });
  check(0, [](conversation& c) { c.none(); });
}

TEST(coverage, agrees_with_a_bitmap) {
  std::mt19937_64 random(1);
  for (int round = 0; round < 200; ++round) {
    coverage c;
    std::array<bool, 64> taken{};
    for (int i = 0; i < 64; ++i) {
      const uint64_t begin = random() % 64;
      const uint32_t count =
          static_cast<uint32_t>(1 + random() % std::min<uint64_t>(4, 64 - begin));
      bool free = true;
      for (uint64_t b = begin; b < begin + count; ++b) free = free && !taken[b];
      ASSERT_EQ(c.add(begin * 512, count * 512), free);
      if (!free) continue;
      for (uint64_t b = begin; b < begin + count; ++b) taken[b] = true;
    }
    const auto blocks = static_cast<uint64_t>(std::count(taken.begin(), taken.end(), true));
    EXPECT_EQ(c.covered_bytes(), blocks * 512);
  }
}

TEST(coverage, is_bounded) {
  coverage c;
  size_t added = 0;
  while (c.add(added * 2, 1)) ++added;
  EXPECT_EQ(added, coverage::max_pieces + 1);
}

}  // namespace
}  // namespace lbd::nbd
