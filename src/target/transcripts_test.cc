// SPDX-License-Identifier: MIT
// The kernel's transcripts, played to the device manager without dmsetup: what a table prints, what
// a wrong one is refused with. tests/dm plays them whole, with the real dmsetup.
#include <regex>
#include <sstream>

#include "../tests/golden/pattern.h"
#include "../tests/golden/transcript.h"
#include "block/target_registry.h"
#include "target/table_fixture_test.h"

namespace lbd::target {
namespace {

using golden::transcript_command;

// vda to vdh, 254:0 and on, as the guest that the transcripts come from has them.
class virtual_disks final : public stack::source_opener {
 public:
  explicit virtual_disks(uint64_t size_bytes) {
    for (int i = 0; i < 8; ++i) disks_.push_back(std::make_shared<watched_disk>(size_bytes));
  }
  task<outcome<block::opened_device>> open(std::string source, bool) override {
    for (uint32_t i = 0; i < disks_.size(); ++i) {
      const std::string name = std::string("vd") + static_cast<char>('a' + i);
      const block::device_number number{254, i * 16};
      if (source == "/dev/" + name || source == number.text())
        co_return block::opened_device{disks_[i], number, name};
    }
    const bool by_number = std::regex_match(source, std::regex("[0-9]+:[0-9]+"));
    co_return base::failure{by_number ? static_cast<errc>(ENXIO) : errc::nodev, "no such source"};
  }
  task<bool> wipe() {
    for (const auto& d : disks_) (void)co_await d->discard(0, d->limits().size_bytes, {});
    co_return true;
  }

 private:
  std::vector<std::shared_ptr<watched_disk>> disks_;
};

// A shell's words, as far as the transcripts have them: single quotes only.
std::vector<std::string> shell_words(const std::string& text) {
  std::vector<std::string> words;
  std::string word;
  bool quoted = false, any = false;
  for (const char c : text) {
    if (c == '\'') {
      quoted = !quoted;
      any = true;
    } else if (c == ' ' && !quoted) {
      if (any || !word.empty()) words.push_back(std::exchange(word, {}));
      any = false;
    } else {
      word += c;
    }
  }
  if (any || !word.empty()) words.push_back(word);
  return words;
}

std::vector<stack::table_line> table_lines(const std::string& text) {
  std::vector<stack::table_line> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) {
    stack::table_line l;
    std::istringstream words(line);
    words >> l.start_sector >> l.length_sectors >> l.type;
    std::getline(words >> std::ws, l.args);
    lines.push_back(std::move(l));
  }
  return lines;
}

// A table of a type that this build does not have: the groups and errors of that type are left out.
bool of_missing_type(const std::vector<std::string>& words) {
  for (const std::string& word : words)
    for (const auto& line : table_lines(word)) {
      bool known = line.type.empty() || line.length_sectors == 0 || line.type == "nosuchtarget";
      for (const block::target_type* t : block::all_target_types()) known |= t->name == line.type;
      if (!known) return true;
    }
  return false;
}

class transcripts : public table_fixture {
 protected:
  void use_disks(uint64_t size_bytes) {
    if (manager_) run(manager_->remove_all(false));
    manager_.reset();
    disks_ = std::make_unique<virtual_disks>(size_bytes);
    manager_ = std::make_unique<stack::device_manager>(*rt_, *disks_);
  }
  void wipe_disks() { run(disks_->wipe()); }
  ~transcripts() override {
    if (manager_) run(manager_->remove_all(false));
  }

  // 0 or the error's text; `shown` is what a query printed. nullopt: not a command of ours.
  std::optional<std::string> play(const std::vector<std::string>& w, std::string& shown) {
    const std::string verb = w.size() > 1 ? w[1] : "";
    for (const std::string& word : w)
      if (word == "|" || word == "&" || word == ";" || word.starts_with(">")) return std::nullopt;
    if (w[0] == "gen") return generate(w);
    if (w[0] == "dd" && w.size() > 2 && w[2] == "of=/dev/vdb") {
      const auto disk = run(disks_->open("/dev/vdb", true));
      (void)run(zeroing(*(*disk).device, 0, 65536));
      return "";
    }
    if (w[0] != "dmsetup" || w.size() < 3 || w[2].starts_with("-")) return std::nullopt;
    if (verb == "create" && w.size() >= 4) return created(w);
    if (w.back().starts_with("-")) return std::nullopt;
    const stack::device_key k = key(w.back());
    if (verb == "table" || verb == "status") return queried(w, shown);
    if (verb == "deps" && w.size() == 3) return listed_deps(k, shown);
    if (verb == "suspend") return text_of(run(manager_->suspend(k, {})));
    if (verb == "resume") return text_of(run(manager_->resume(k, {})));
    if (verb == "remove") return text_of(run(manager_->remove(k, false)));
    if (verb == "clear") return text_of(run(manager_->clear(k)));
    if (verb == "rename" && w.size() == 4) return text_of(manager_->rename(key(w[2]), w[3]));
    if (verb == "reload" || verb == "load")
      return text_of(run(manager_->load(key(w[2]), table_lines(w[4]), false)));
    if (verb == "message" && (w.size() < 4 || !block::parse_u64(w[3]))) return std::nullopt;
    if (verb == "message") {
      std::vector<std::string> words(w.begin() + 4, w.end());
      std::erase(words, "");
      return text_of(run(manager_->message(key(w[2]), std::stoull(w[3]), std::move(words))));
    }
    return std::nullopt;
  }

 private:
  template <class T>
  static std::string text_of(const outcome<T>& r) {
    return r ? "" : r.error().message.empty() ? "unknown" : r.error().message;
  }

  std::optional<std::string> created(const std::vector<std::string>& w) {
    std::string uuid, table;
    bool read_only = false;
    for (size_t i = 3; i < w.size(); ++i) {
      if (w[i] == "-u") uuid = w[i + 1];
      if (w[i] == "--table") table = w[i + 1];
      read_only |= w[i] == "-r";
    }
    const std::string name = w[2];
    if (name.find(' ') != std::string::npos) return std::nullopt;  // dmsetup changes it
    const auto made = manager_->create(name, uuid, {});
    if (!made || table.empty()) return text_of(made);
    const auto loaded = run(manager_->load(key(name), table_lines(table), read_only));
    const auto resumed = loaded ? run(manager_->resume(key(name), {})) : loaded;
    if (!resumed) (void)run(manager_->remove(key(name), false));
    return text_of(resumed);
  }

  std::optional<std::string> queried(const std::vector<std::string>& w, std::string& shown) {
    block::status_request q;
    if (w[1] == "table") q.kind = block::status_kind::table;
    bool inactive = false;
    for (const std::string& word : w) {
      q.show_keys |= word == "--showkeys";
      inactive |= word == "--inactive";
    }
    const auto lines = run(manager_->status(key(w.back()), q, inactive));
    if (!lines) return lines.error().message;
    for (const auto& l : *lines)
      shown += std::to_string(l.start_sector) + " " + std::to_string(l.length_sectors) + " " +
               l.type + " " + l.args + "\n";
    if ((*lines).empty()) shown = "\n";
    return "";
  }

  std::optional<std::string> listed_deps(const stack::device_key& k, std::string& shown) {
    const auto all = manager_->deps(k, false);
    if (!all) return all.error().message;
    shown = std::to_string((*all).size()) + " dependencies\t:";
    for (const auto& n : *all)
      shown += " (" + std::to_string(n.major) + ", " + std::to_string(n.minor) + ")";
    shown += "\n";
    return "";
  }

  // gen fill|check DEVICE SEED POSITION COUNT [FIRST]
  std::string generate(const std::vector<std::string>& w) {
    const std::string name = w[2].substr(w[2].rfind('/') + 1);
    auto opened = w[2].starts_with("/dev/mapper/") ? manager_->open(key(name))
                                                   : run(disks_->open(w[2], true));
    if (!opened) return opened.error().message;
    block::block_device& d = *(*opened).device;
    const auto seed = static_cast<uint32_t>(std::stoul(w[3]));
    const uint64_t position = std::stoull(w[4]), count = std::stoull(w[5]);
    if (w[1] == "scatter") return scatter(d, w);
    const uint64_t first = w.size() > 6 ? std::stoull(w[6]) : position;
    for (uint64_t done = 0; done < count;) {
      const uint64_t some = std::min<uint64_t>(count - done, 256);
      const std::string text = golden::pattern(seed, first + done, some);
      if (w[1] == "fill" && write(d, (position + done) * 512, text) != errc::ok) return "I/O error";
      if (w[1] == "check" && read(d, (position + done) * 512, text.size()) != text)
        return "differs";
      done += some;
    }
    return w[1] == "check" || flush(d) == errc::ok ? "" : "I/O error";
  }

  // gen scatter DEVICE SEED CHUNK COUNT MUL ADD LENGTH
  std::string scatter(block::block_device& d, const std::vector<std::string>& w) {
    std::vector<uint64_t> n;
    for (size_t i = 3; i < w.size(); ++i) n.push_back(std::stoull(w[i]));
    const uint64_t chunk = n[1], chunks = d.limits().size_bytes / 512 / chunk, length = n[5];
    for (uint64_t i = 0; i < n[2]; ++i) {
      const uint64_t at = (i * n[3] + n[4]) % chunks * chunk + i % (chunk - length + 1);
      if (write(d, at * 512, golden::pattern(static_cast<uint32_t>(n[0]), at, length)) != errc::ok)
        return "I/O error";
    }
    return flush(d) == errc::ok ? "" : "I/O error";
  }

  std::unique_ptr<virtual_disks> disks_;
  std::unique_ptr<stack::device_manager> manager_;
};

TEST_F(transcripts, answers_are_the_kernels) {
  // With a file's name goes how many of its commands can be played here. Multipath's are not: it
  // has requests in the background.
  const std::pair<const char*, int> files[] = {
      {"status", 100},   {"small", 35},    {"flakey", 35},   {"crypt", 40},   {"messages", 15},
      {"log-writes", 8}, {"snapshot", 35}, {"overflow", 25}, {"handover", 15}};
  for (const auto& [file, least] : files) {
    use_disks(16u << 20);
    int played = 0;
    std::string left_out = "?", group;
    for (const transcript_command& c :
         golden::read_transcript(std::string(LBD_GOLDEN "/transcripts/") + file + ".transcript")) {
      const auto words = shell_words(c.text);
      if (of_missing_type(words)) left_out = c.group;
      if (c.group == left_out) continue;
      if (std::exchange(group, c.group) != c.group) wipe_disks();
      std::string shown;
      testing::internal::CaptureStderr();
      const auto error = play(words, shown);
      const std::string log = testing::internal::GetCapturedStderr();
      if (!error) continue;
      ++played;
      EXPECT_EQ(error->empty(), c.status == 0) << file << ": " << c.text << ": " << *error;
      if (c.status == 0) {
        EXPECT_EQ(shown, c.output) << file << ": " << c.text;
        continue;
      }
      for (const std::string& line : c.logged)
        EXPECT_NE(log.find(line), std::string::npos) << c.text << "\n" << line << "\n" << log;
    }
    if (left_out == "?") {
      EXPECT_GT(played, least) << file;
    }
  }
}

TEST_F(transcripts, wrong_tables) {
  use_disks(4u << 20);
  int played = 0;
  bool left_out = false;
  for (const transcript_command& c :
       golden::read_transcript(LBD_GOLDEN "/transcripts/errors.transcript")) {
    const auto words = shell_words(c.text);
    const bool missing = of_missing_type(words);
    left_out = missing || (left_out && words[1] == "remove");
    if (left_out) continue;
    std::string shown;
    testing::internal::CaptureStderr();
    const auto error = play(words, shown);
    const std::string log = testing::internal::GetCapturedStderr();
    ASSERT_TRUE(error) << c.text;
    ++played;
    EXPECT_EQ(error->empty(), c.status == 0) << c.text << ": " << *error;
    for (const std::string& line : c.logged)
      EXPECT_NE(log.find(line), std::string::npos) << c.text << "\n" << line << "\n" << log;
    if (c.status != 0 && !c.logged.empty()) {
      bool told = false;
      for (const std::string& line : c.logged) told |= line == "device-mapper: " + *error;
      EXPECT_TRUE(told) << c.text << ": " << *error;
    }
  }
  EXPECT_GT(played, 45);
}

}  // namespace
}  // namespace lbd::target
