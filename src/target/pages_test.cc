// SPDX-License-Identifier: MIT
// The pages of the targets: each type has one, and the tables in it can be loaded.
#include <filesystem>
#include <fstream>
#include <regex>
#include <set>
#include <sstream>

#include "block/target_registry.h"
#include "target/table_fixture_test.h"

namespace lbd::target {
namespace {

using page_tables = std::vector<std::vector<stack::table_line>>;

// Tables: lines in code blocks that begin with two numbers and a name, the first one with 0.
page_tables tables_of(const std::filesystem::path& page) {
  static const std::regex line_form("    ([0-9]+) ([0-9]+) ([a-z-]+) ?(.*)");
  page_tables all;
  std::ifstream in(page);
  for (std::string text; std::getline(in, text);) {
    std::smatch m;
    if (!std::regex_match(text, m, line_form)) continue;
    const uint64_t start = std::stoull(m[1]);
    if (start == 0 || all.empty()) all.emplace_back();
    all.back().push_back({start, std::stoull(m[2]), m[3], m[4]});
  }
  return all;
}

// /dev/vda to /dev/vdh.
class large_disks final : public stack::source_opener {
 public:
  task<outcome<block::opened_device>> open(std::string source, bool) override {
    const auto i = static_cast<uint32_t>(source.back() - 'a');
    if (!source.starts_with("/dev/vd") || i >= 8)
      co_return base::failure{errc::nodev, "no such source"};
    if (!disks_[i]) disks_[i] = std::make_shared<watched_disk>(uint64_t{4} << 30);
    co_return block::opened_device{disks_[i], {254, i * 16}};
  }

 private:
  std::shared_ptr<watched_disk> disks_[8];
};

class pages : public table_fixture {
 protected:
  ~pages() override { run(manager_.remove_all(false)); }
  large_disks disks_;
  stack::device_manager manager_{*rt_, disks_};
};

TEST_F(pages, every_type_has_one_with_tables_that_can_be_loaded) {
  std::set<std::string> told;
  for (const auto& file : std::filesystem::recursive_directory_iterator(LBD_TARGET_FOLDER)) {
    if (file.path().extension() != ".md") continue;
    for (const auto& table : tables_of(file.path())) {
      ASSERT_TRUE(manager_.create("d", "", {}));
      const auto loaded = run(manager_.load(key("d"), table, false));
      EXPECT_TRUE(loaded) << file.path() << ": " << loaded.error().message;
      ASSERT_TRUE(run(manager_.remove(key("d"), false)));
      for (const auto& line : table)
        if (line.type == file.path().stem()) told.insert(line.type);
    }
  }
  for (const block::target_type* t : block::all_target_types())
    EXPECT_TRUE(told.contains(std::string(t->name))) << t->name << ".md has no example";
}

}  // namespace
}  // namespace lbd::target
