// SPDX-License-Identifier: MIT
#include "wire/line/line_splitter.h"

#include <gtest/gtest.h>

namespace lbd::wire {
namespace {

TEST(line_splitter, cuts_lines_wherever_the_pieces_end) {
  const std::string stream = "one\ntwo\r\n\n\r\nthree\rx\nrest";
  for (size_t piece = 1; piece <= stream.size(); ++piece) {
    line_splitter lines(7);
    std::string seen;
    for (size_t at = 0; at < stream.size(); at += piece) {
      lines.push(std::string_view(stream).substr(at, piece));
      while (const auto line = lines.next()) seen += "[" + std::string(*line) + "]";
    }
    EXPECT_EQ(seen, "[one][two][][][three\rx]") << piece;
    EXPECT_FALSE(lines.too_long());
  }
}

TEST(line_splitter, refuses_long_lines_before_they_end) {
  line_splitter lines(4);
  lines.push("1234\n1234\r\n1234");
  EXPECT_EQ(lines.next(), "1234");
  EXPECT_EQ(lines.next(), "1234");
  EXPECT_EQ(lines.next(), std::nullopt);
  EXPECT_FALSE(lines.too_long());
  lines.push("56");
  EXPECT_EQ(lines.next(), std::nullopt);
  EXPECT_TRUE(lines.too_long());
  lines.push("\nok\n");
  EXPECT_EQ(lines.next(), std::nullopt);
}

TEST(line_splitter, a_line_one_too_long_is_refused_at_its_end) {
  line_splitter lines(4);
  lines.push("12345\n");
  EXPECT_EQ(lines.next(), std::nullopt);
  EXPECT_TRUE(lines.too_long());
}

}  // namespace
}  // namespace lbd::wire
