// SPDX-License-Identifier: MIT
// Random stacks of mapped devices over memory against a plain model: what every sector of the top
// device is (its kind), and which bytes it holds. Everything follows from a seed; a failure is
// shrunk to the requests that it needs and printed with the tables.
#include <cstdio>
#include <random>

#include "target/table_fixture_test.h"

namespace lbd::target {
namespace {

constexpr uint64_t sector = 512;
constexpr uint64_t widest_unit = 4096;  // of a target: what a partial request may touch beside it
constexpr uint64_t disk_sectors = 8192;

// What a sector does.
enum class kind : uint8_t {
  data,     // keeps what is written
  zero,     // reads zeros, forgets writes
  frozen,   // reads something fixed, forgets writes
  nowrite,  // reads something fixed, fails writes
  error,    // fails
  wild,     // not modelled
};
using kinds = std::vector<kind>;

// Exclusive ground: nobody else writes there.
struct area {
  std::string device;
  uint64_t start = 0;  // sectors
  kinds what;
};

kinds part_of(const kinds& k, uint64_t start, uint64_t length) {
  const auto first = k.begin() + static_cast<std::ptrdiff_t>(start);
  return {first, first + static_cast<std::ptrdiff_t>(length)};
}

class random_stack : public table_fixture {
 public:
  explicit random_stack(uint32_t seed) : random_(seed), seed_(seed) { build(); }
  ~random_stack() override { top_.reset(); }
  void TestBody() override {}

  // Does the given ones of the operations that the seed draws. "" or what went wrong.
  std::string play(const std::vector<uint32_t>& operations) {
    if (!wrong_.empty()) return wrong_;
    for (const uint32_t i : operations) {
      random_.seed(seed_ * 7919 + i);
      if (i == spoiled_at_) spoil();
      operate(i);
      if (!wrong_.empty()) return "operation " + std::to_string(i) + ": " + wrong_;
    }
    return {};
  }
  // A fault to be found: somebody else writes to the memory below, at this operation.
  void spoil_at(uint32_t operation) { spoiled_at_ = operation; }
  const std::string& tables() const { return tables_; }
  const std::vector<std::string>& told() const { return told_; }

 private:
  struct node {
    std::string name;
    bool reloadable = true;
    std::vector<std::vector<std::string>> messages;
  };

  uint64_t below(uint64_t n) { return random_() % n; }
  bool chance(uint64_t percent) { return below(100) < percent; }

  // ---- Building

  void build() {
    const uint64_t sectors = 8 * (8 + below(120));
    const area top = make_device(sectors, 1 + below(3), true);
    if (!wrong_.empty()) return;
    what_ = top.what;
    bytes_.assign(sectors * sector, '\0');
    known_.assign(sectors * sector, false);
    const auto opened = m_.open(key(top.device.substr(12)));
    if (!opened)
      wrong_ = opened.error().message;
    else
      top_ = (*opened).device;
  }

  // Fresh memory.
  area ground(uint64_t sectors) {
    const uint64_t gap = 8 * below(4);
    if (disks_ == 0 || used_ + gap + sectors > disk_sectors) {
      const auto n = static_cast<uint32_t>(disks_++);
      std::shared_ptr<block::block_device> disk =
          *store::memory_device::make(disk_sectors * sector);
      sources_.more["/dev/mem" + std::to_string(n)] = block::opened_device{disk, {9, n}};
      used_ = 0;
    }
    const area a{"/dev/mem" + std::to_string(disks_ - 1), used_ + gap, kinds(sectors, kind::data)};
    used_ += gap + sectors;
    return a;
  }
  // Memory that is a device of its own.
  std::string whole_disk(uint64_t sectors) {
    const std::string name = "/dev/own" + std::to_string(owned_);
    std::shared_ptr<block::block_device> disk = *store::memory_device::make(sectors * sector);
    sources_.more[name] = block::opened_device{disk, {10, static_cast<uint32_t>(owned_++)}};
    return name;
  }
  // Part of a device or of memory.
  area child(uint64_t sectors, uint64_t depth) {
    if (depth == 0 || chance(30)) return ground(sectors);
    const uint64_t before = 8 * below(3), behind = 8 * below(3);
    area a = make_device(before + sectors + behind, depth - 1, false);
    if (wrong_.empty()) a.what = part_of(a.what, before, sectors);
    a.start = before;
    return a;
  }

  area make_device(uint64_t sectors, uint64_t depth, bool is_top) {
    node n;
    std::vector<stack::table_line> lines;
    kinds what;
    const bool alone = chance(50);
    for (uint64_t at = 0; at < sectors && wrong_.empty();) {
      uint64_t length = sectors - at;
      if (!alone && length > 16 && chance(70)) length = 8 * (1 + below(length / 8 - 1));
      stack::table_line l{at, length, "", ""};
      const kinds k = draw_target(l, depth, at == 0 && length == sectors, is_top, n);
      what.insert(what.end(), k.begin(), k.end());
      lines.push_back(std::move(l));
      at += length;
    }
    for (const kind k : what)
      somebody_fails_ |= k == kind::error || k == kind::nowrite || k == kind::wild;
    n.name = "d" + std::to_string(nodes_.size());
    nodes_.push_back(n);
    install(n.name, std::move(lines));
    return area{"/dev/mapper/" + n.name, 0, std::move(what)};
  }

  void install(const std::string& name, std::vector<stack::table_line> lines) {
    if (!wrong_.empty()) return;
    for (const auto& l : lines)
      tables_ += name + ": " + std::to_string(l.start_sector) + " " +
                 std::to_string(l.length_sectors) + " " + l.type + " " + l.args + "\n";
    (void)m_.create(name, "", {});
    const auto loaded = run(m_.load(key(name), std::move(lines), false));
    if (!loaded) wrong_ = loaded.error().message;
    const auto resumed = run(m_.resume(key(name), {}));
    if (!resumed && wrong_.empty()) wrong_ = resumed.error().message;
  }

  static std::string words(const area& a) { return a.device + " " + std::to_string(a.start); }

  kinds draw_target(stack::table_line& l, uint64_t depth, bool alone, bool is_top, node& n) {
    const uint64_t length = l.length_sectors;
    switch (below(13)) {
      case 0:
        if (is_top) break;
        l.type = "zero";
        return kinds(length, kind::zero);
      case 1:
        if (is_top || chance(50)) break;
        l.type = "error";
        return kinds(length, kind::error);
      case 2:
      case 3:
        return draw_striped(l, depth);
      case 4:
        return draw_delay(l, depth);
      case 5:
      case 6:
        return draw_flakey(l, depth);
      case 7:
      case 8:
        return draw_crypt(l, depth);
      case 9:
      case 10:
        if (!alone) break;
        return draw_multipath(l, depth, n);
      case 11:
        if (!alone) break;
        return draw_log_writes(l, depth, n);
      case 12:
        if (!alone) break;
        return draw_snapshot(l, depth, n);
      default:
        break;
    }
    l.type = "linear";
    area a = child(length, depth);
    l.args = words(a);
    return a.what;
  }

  kinds draw_striped(stack::table_line& l, uint64_t depth) {
    uint64_t stripes = 1 + below(4), chunk = 8 << below(3);
    while (l.length_sectors % (stripes * chunk) != 0) {
      if (chunk > 8)
        chunk /= 2;
      else
        --stripes;
    }
    l.type = "striped";
    l.args = std::to_string(stripes) + " " + std::to_string(chunk);
    std::vector<area> parts;
    for (uint64_t i = 0; i < stripes; ++i) {
      parts.push_back(child(l.length_sectors / stripes, depth));
      if (!wrong_.empty()) return {};
      l.args += " " + words(parts.back());
    }
    kinds what;
    for (uint64_t s = 0; s < l.length_sectors; ++s)
      what.push_back(parts[s / chunk % stripes].what[s / chunk / stripes * chunk + s % chunk]);
    return what;
  }

  kinds draw_delay(stack::table_line& l, uint64_t depth) {
    const area a = child(l.length_sectors, depth);
    auto ms = [this] { return " " + std::to_string(below(3) * below(20)); };
    l.type = "delay";
    l.args = words(a) + ms();
    for (uint64_t more = below(3); more > 0; --more) l.args += " " + words(a) + ms();
    return a.what;
  }

  kinds draw_flakey(stack::table_line& l, uint64_t depth) {
    area a = child(l.length_sectors, depth);
    l.type = "flakey";
    l.args = words(a);
    const uint64_t mode = below(4);
    l.args += mode < 2 ? " 4000000 0" : mode == 2 ? " 0 60 1 drop_writes" : " 0 60 1 error_writes";
    if (mode < 2) return a.what;
    for (kind& k : a.what) {
      if (k == kind::wild) continue;
      if (mode == 2)
        k = k == kind::zero ? kind::zero : k == kind::error ? kind::wild : kind::frozen;
      else if (k != kind::error)
        k = kind::nowrite;
    }
    return a.what;
  }

  kinds draw_crypt(stack::table_line& l, uint64_t depth) {
    area a = child(l.length_sectors, depth);
    const bool large = chance(40);
    l.type = "crypt";
    l.args = std::string(chance(50) ? "aes-xts-plain64 " : "aes-cbc-essiv:sha256 ") +
             "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f " +
             std::to_string(8 * below(100)) + " " + words(a);
    const std::string options =
        std::string(large ? " sector_size:4096" : "") + (chance(50) ? " allow_discards" : "");
    if (!options.empty()) l.args += (large && options.size() > 17 ? " 2" : " 1") + options;
    const uint64_t unit = large ? 8 : 1;
    for (uint64_t s = 0; s + unit <= a.what.size(); s += unit) {
      const auto first = a.what.begin() + static_cast<std::ptrdiff_t>(s);
      const auto last = first + static_cast<std::ptrdiff_t>(unit);
      kind k = *first;
      if (std::find(first, last, kind::wild) != last)
        k = kind::wild;
      else if (std::find(first, last, kind::error) != last)
        k = kind::error;
      else if (std::count(first, last, k) != static_cast<std::ptrdiff_t>(unit))
        k = kind::wild;
      else if (k == kind::zero)
        k = kind::frozen;
      std::fill(first, last, k);
    }
    return a.what;
  }

  kinds draw_multipath(stack::table_line& l, uint64_t depth, node& n) {
    area a = make_device(l.length_sectors, depth == 0 ? 0 : depth - 1, false);
    // Errors of the device would be taken for the paths': queueing would never end.
    bool errors = false;
    for (const kind k : a.what) errors |= k == kind::error || k == kind::nowrite || k == kind::wild;
    if (errors) {
      l.type = "linear";
      l.args = words(a);
      return a.what;
    }
    constexpr const char* selectors[] = {"round-robin", "queue-length", "service-time",
                                         "historical-service-time"};
    auto group = [&] { return std::string(selectors[below(4)]) + " 0 1 0 " + a.device; };
    l.type = "multipath";
    l.args = "2 queue_mode bio 0 2 1 " + group() + " " + group();
    n.messages = {{"switch_group", "1"}, {"switch_group", "2"}, {"disable_group", "1"},
                  {"enable_group", "1"}, {"queue_if_no_path"},  {"fail_if_no_path"}};
    return a.what;
  }

  kinds draw_log_writes(stack::table_line& l, uint64_t depth, node& n) {
    area a = make_device(l.length_sectors, depth == 0 ? 0 : depth - 1, false);
    l.type = "log-writes";
    l.args = a.device + " " + whole_disk(1 + below(60'000));
    n.messages = {{"mark", "here"}};
    return a.what;
  }

  kinds draw_snapshot(stack::table_line& l, uint64_t depth, node& n) {
    area a = child(l.length_sectors, depth);
    for (const kind k : a.what)
      if (k == kind::error || k == kind::wild || a.start != 0) {
        l.type = "linear";
        l.args = words(a);
        return a.what;
      }
    l.type = "snapshot";
    const uint64_t chunk = 8 << below(3);
    l.args = a.device + " " + whole_disk(4 * l.length_sectors + 4096) +
             (chance(50) ? " P " : " N ") + std::to_string(chunk);
    n.reloadable = false;  // a handover, which empties an N
    return kinds(l.length_sectors, kind::data);
  }

  // ---- Operating

  struct request {
    char what = 'r';  // r w z d f e
    uint64_t offset = 0, length = 0;
    std::string text;
    block::extent_list runs;
    std::shared_ptr<outcome_of> answer;
  };

  void operate(uint32_t index) {
    std::vector<request> batch(1 + below(5));
    for (request& q : batch) draw_request(q, batch);
    std::string line = std::to_string(index) + ":";
    for (request& q : batch) {
      if (q.answer || (q.length == 0 && q.what != 'f')) continue;
      line += std::string(" ") + q.what + std::to_string(q.offset) + "+" + std::to_string(q.length);
      send(q);
    }
    if (chance(40)) line += disturb();
    told_.push_back(line);
    for (request& q : batch)
      for (int i = 0; q.answer && q.answer->at_ns == 0 && i < 10'000; ++i) advance(5'000'000);
    for (request& q : batch)
      if (q.answer && wrong_.empty()) judge(q);
  }

  // Requests of a batch do not overlap.
  void draw_request(request& q, const std::vector<request>& others) {
    constexpr char all[] = "rrrrwwwwwzzdfe";
    q.what = all[below(sizeof all - 1)];
    if (q.what == 'f') return;
    const uint64_t size = bytes_.size();
    const uint64_t unit = chance(50) ? sector : chance(50) ? 1 : widest_unit;
    uint64_t offset = below(size) / unit * unit;
    uint64_t length = unit * (1 + below(chance(70) ? 8 : 200));
    length = std::min(length, size - offset);
    for (const request& o : others)
      if (o.length != 0 && o.offset < offset + length && offset < o.offset + o.length) return;
    q.offset = offset;
    q.length = length;
    q.text.assign(length, static_cast<char>('a' + below(26)));
    for (uint64_t i = 0; i + 8 < length; i += 97) q.text[i] = static_cast<char>(random_());
  }

  static task<errc> telling(block::block_device& d, request& q) {
    co_return base::code_of(co_await d.extents(q.offset, q.length, q.runs, {}));
  }
  void send(request& q) {
    block::io_opts io;
    if (chance(20)) io.flags = block::io_fua;
    switch (q.what) {
      case 'r':
        q.text.assign(q.length, '?');
        q.answer = start(reading(*top_, q.offset, q.text, io));
        break;
      case 'w':
        q.answer = start(writing(*top_, q.offset, q.text, io));
        break;
      case 'z':
        q.answer = start(zeroing(*top_, q.offset, q.length));
        break;
      case 'd':
        q.answer = start(discarding(*top_, q.offset, q.length));
        break;
      case 'e':
        q.answer = start(telling(*top_, q));
        break;
      default:
        q.answer = start(flushing(*top_, {}));
    }
  }

  // Something happens to a device of the stack while requests are in flight.
  std::string disturb() {
    const node& n = nodes_[below(nodes_.size())];
    const uint64_t what = below(3);
    if (what == 2 && !n.messages.empty()) {
      auto message = n.messages[below(n.messages.size())];
      const std::string text = " message " + n.name + " " + message[0];
      const auto r = run(m_.message(key(n.name), 0, std::move(message)));
      if (!r) wrong_ = r.error().message;
      return text;
    }
    if (what == 1 && n.reloadable) {
      reload(n.name);
      return " reload " + n.name;
    }
    suspend(n.name);
    advance(below(20) * 1'000'000);
    const std::string error = resume(n.name);
    if (!error.empty()) wrong_ = error;
    return " suspend " + n.name;
  }
  void reload(const std::string& name) {
    block::status_request q;
    q.kind = block::status_kind::table;
    q.show_keys = true;
    auto lines = run(m_.status(key(name), q, false));
    if (!lines) return;
    const auto loaded = run(m_.load(key(name), *std::move(lines), false));
    const std::string error = loaded ? resume(name) : loaded.error().message;
    if (!error.empty()) wrong_ = "reload: " + error;
  }

  void spoil() {
    for (const auto& [name, d] : sources_.more) {
      if (!name.starts_with("/dev/mem")) continue;
      EXPECT_EQ(write(*d.device, 0, std::string(disk_sectors * sector, '!')), errc::ok);
    }
  }

  // ---- Judging

  struct touched {
    bool error = false, nowrite = false, wild = false;
  };
  touched kinds_of(uint64_t begin, uint64_t end) const {
    touched t;
    for (uint64_t s = begin / sector; s < std::min((end + sector - 1) / sector, what_.size());
         ++s) {
      t.error |= what_[s] == kind::error;
      t.nowrite |= what_[s] == kind::nowrite;
      t.wild |= what_[s] == kind::wild;
    }
    return t;
  }

  void judge(request& q) {
    if (q.answer->at_ns == 0) {
      wrong_ = "a request never ended";
      return;
    }
    const bool ok = q.answer->code == errc::ok;
    const bool writes = q.what == 'w' || q.what == 'z';
    const bool all = q.what == 'f';
    const touched exact = kinds_of(q.offset, q.offset + q.length);
    const uint64_t begin = all ? 0 : q.offset / widest_unit * widest_unit;
    const touched wide =
        all ? kinds_of(0, bytes_.size()) : kinds_of(begin, q.offset + q.length + widest_unit);
    const bool must_fail = !exact.wild && (exact.error || (writes && exact.nowrite));
    const bool may_fail = wide.error || wide.wild || (q.what != 'r' && wide.nowrite);
    if (ok && must_fail && (writes || q.what == 'r')) wrong_ = "succeeded where it cannot";
    if (!ok && !may_fail && !(q.what == 'd' && q.answer->code == errc::notsup) &&
        !(all && somebody_fails_))
      wrong_ = "failed: " + base::to_string(q.answer->code);
    if (!wrong_.empty()) return;
    if (q.what == 'r' && ok) return judge_read(q);
    if (q.what == 'e' && ok) return judge_extents(q);
    if (q.what == 'z') q.text.assign(q.length, '\0');
    if (writes || q.what == 'd') change(q, ok && writes);
  }
  void change(const request& q, bool written) {
    for (uint64_t i = 0; i < q.length; ++i) {
      const uint64_t at = q.offset + i;
      const kind k = what_[at / sector];
      if (k == kind::zero || k == kind::frozen) continue;
      known_[at] = written && k == kind::data;
      bytes_[at] = q.text[i];
    }
  }
  void judge_read(const request& q) {
    for (uint64_t i = 0; i < q.length; ++i) {
      const uint64_t at = q.offset + i;
      const kind k = what_[at / sector];
      if (k == kind::wild) continue;
      if (k == kind::zero ? q.text[i] != 0 : known_[at] && q.text[i] != bytes_[at]) {
        wrong_ = "byte " + std::to_string(at) + " is " + std::to_string(q.text[i]) + ", not " +
                 std::to_string(bytes_[at]);
        return;
      }
      bytes_[at] = q.text[i];
      known_[at] = true;
    }
  }
  void judge_extents(const request& q) {
    uint64_t at = q.offset;
    for (const block::extent& e : q.runs.runs()) {
      for (uint64_t i = 0; i < e.length_bytes && at < q.offset + q.length; ++i, ++at)
        if (e.zero && known_[at] && bytes_[at] != 0 && what_[at / sector] == kind::data)
          wrong_ = "told to be zero at byte " + std::to_string(at);
    }
    if (at > q.offset + q.length || q.runs.total_bytes() == 0) wrong_ = "extents of a wrong length";
  }

  std::mt19937 random_;
  const uint32_t seed_;
  std::string wrong_, tables_;
  std::vector<std::string> told_;
  std::vector<node> nodes_;
  uint64_t disks_ = 0, owned_ = 0, used_ = 0;
  uint32_t spoiled_at_ = UINT32_MAX;
  bool somebody_fails_ = false;  // a flush reaches also what the top device does not show
  std::shared_ptr<block::block_device> top_;
  kinds what_;
  std::string bytes_;
  std::vector<bool> known_;
};

std::string play(uint32_t seed, const std::vector<uint32_t>& operations) {
  random_stack s(seed);
  return s.play(operations);
}

// Leaves out what the failure does not need: halves first, single operations at the end.
std::vector<uint32_t> shrink(uint32_t seed, std::vector<uint32_t> operations) {
  for (size_t piece = operations.size() / 2; piece > 0; piece /= 2)
    for (size_t at = 0; at < operations.size();) {
      std::vector<uint32_t> less = operations;
      const auto first = less.begin() + static_cast<std::ptrdiff_t>(at);
      less.erase(first, first + static_cast<std::ptrdiff_t>(std::min(piece, less.size() - at)));
      if (play(seed, less).empty())
        at += piece;
      else
        operations = std::move(less);
    }
  return operations;
}

void check(uint32_t seed, uint32_t count) {
  std::vector<uint32_t> operations;
  for (uint32_t i = 0; i < count; ++i) operations.push_back(i);
  if (play(seed, operations).empty()) return;
  operations = shrink(seed, std::move(operations));
  random_stack s(seed);
  const std::string wrong = s.play(operations);
  std::string story;
  for (const std::string& line : s.told()) story += line + "\n";
  ADD_FAILURE() << "seed " << seed << ": " << wrong << "\n" << s.tables() << story;
}

// The model is worth something only if it finds what is wrong.
TEST(random_stack_model, finds_a_planted_fault) {
  std::vector<uint32_t> operations;
  for (uint32_t i = 0; i < 60; ++i) operations.push_back(i);
  int found = 0;
  for (uint32_t seed = 1; seed <= 50; ++seed) {
    random_stack s(seed);
    s.spoil_at(20);
    found += s.play(operations).empty() ? 0 : 1;
  }
  EXPECT_GE(found, 35) << "of 50; some stacks keep hardly anything";
}

// And only if what it looks at is what it is meant to look at.
TEST(random_stack_model, draws_every_kind_of_target) {
  std::string all;
  for (uint32_t seed = 1; seed <= 100; ++seed) all += random_stack(seed).tables();
  for (const char* type : {"linear", "striped", "zero", "error", "delay", "flakey", "crypt",
                           "multipath", "log-writes", "snapshot"})
    EXPECT_NE(all.find(std::string(" ") + type + " "), std::string::npos) << type;
}

class random_stacks : public testing::TestWithParam<uint32_t> {};
class random_stacks_long : public testing::TestWithParam<uint32_t> {};

TEST_P(random_stacks, agree_with_the_model) { check(GetParam(), 40); }
TEST_P(random_stacks_long, agree_with_the_model) {
  for (uint32_t i = 0; i < 100; ++i) check(1000 + GetParam() * 100 + i, 150);
}

INSTANTIATE_TEST_SUITE_P(seeds, random_stacks, testing::Range(1u, 101u));
INSTANTIATE_TEST_SUITE_P(seeds, random_stacks_long, testing::Range(0u, 10u));

}  // namespace
}  // namespace lbd::target
