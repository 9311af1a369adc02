// SPDX-License-Identifier: MIT
// Drives a fuzzer (LLVMFuzzerTestOneInput) without libFuzzer, the same way on every run: a fixed
// seed and a fixed number of inputs, some random, most of them mutations of a corpus.
//
//   x_fuzz [-runs=N] [-seed=N] [-max_len=N] [-dump=N] [DIRECTORY|FILE]...
//
// A directory's files are the corpus; a file alone is replayed and nothing is mutated. -dump=N
// writes input N to standard output instead of running it. A crash prints the number of the input.
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

using input = std::vector<uint8_t>;

struct options {
  uint64_t runs = 20000;
  uint64_t seed = 1;
  size_t max_len = 4096;
  uint64_t dump = ~uint64_t{0};
  std::vector<std::filesystem::path> directories;
  std::vector<std::filesystem::path> files;
};

volatile uint64_t current_input = 0;

extern "C" void report_crash(int signal_number) {
  char text[96];
  int n = std::snprintf(text, sizeof text, "\ncrashed on input %llu: see -dump=N\n",
                        static_cast<unsigned long long>(current_input));
  if (n > 0) {
    auto ignored = ::write(2, text, static_cast<size_t>(n));
    (void)ignored;
  }
  ::signal(signal_number, SIG_DFL);
  ::raise(signal_number);
}

bool parse_number(const char* arg, const char* name, uint64_t& out) {
  size_t n = std::strlen(name);
  if (std::strncmp(arg, name, n) != 0) return false;
  out = std::strtoull(arg + n, nullptr, 10);
  return true;
}

options parse_options(int argc, char** argv) {
  options o;
  uint64_t max_len = o.max_len;
  for (int i = 1; i < argc; ++i) {
    if (parse_number(argv[i], "-runs=", o.runs) || parse_number(argv[i], "-seed=", o.seed) ||
        parse_number(argv[i], "-max_len=", max_len) || parse_number(argv[i], "-dump=", o.dump)) {
      continue;
    }
    bool directory = std::filesystem::is_directory(argv[i]);
    (directory ? o.directories : o.files).emplace_back(argv[i]);
  }
  o.max_len = static_cast<size_t>(max_len);
  return o;
}

input read_input(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

std::vector<input> read_corpus(const options& o) {
  std::vector<std::filesystem::path> paths;
  for (const auto& directory : o.directories) {
    for (const auto& entry : std::filesystem::directory_iterator(directory)) {
      if (entry.is_regular_file()) paths.push_back(entry.path());
    }
  }
  std::sort(paths.begin(), paths.end());  // directory order differs between machines
  std::vector<input> corpus;
  for (const auto& path : paths) corpus.push_back(read_input(path));
  return corpus;
}

// std::uniform_int_distribution differs between libraries; this does not.
class chooser {
 public:
  chooser(uint64_t seed, uint64_t run) : engine_(seed * 0x9e3779b97f4a7c15 + run) {}
  uint64_t any() { return engine_(); }
  size_t below(size_t n) { return n == 0 ? 0 : static_cast<size_t>(engine_() % n); }

 private:
  std::mt19937_64 engine_;
};

void put_integer(input& in, chooser& pick) {
  static constexpr uint64_t values[] = {
      0,     1,     2,       7,       8,          9,          63,         64,
      127,   128,   255,     256,     511,        512,        4095,       4096,
      65535, 65536, 1 << 21, 1 << 30, 0x7fffffff, 0x80000000, 0xffffffff, ~0ull};
  size_t width = size_t{1} << pick.below(4);
  if (in.size() < width) return;
  uint64_t value = pick.below(4) == 0 ? pick.any() : values[pick.below(std::size(values))];
  size_t at = pick.below(in.size() - width + 1);
  bool big = pick.below(2) == 0;
  for (size_t i = 0; i < width; ++i) {
    size_t shift = 8 * (big ? width - 1 - i : i);
    in[at + i] = static_cast<uint8_t>(value >> shift);
  }
}

void splice(input& in, const input& other, chooser& pick) {
  if (other.empty()) return;
  size_t from = pick.below(other.size());
  size_t length = 1 + pick.below(other.size() - from);
  size_t at = pick.below(in.size() + 1);
  auto first = other.begin() + static_cast<ptrdiff_t>(from);
  in.insert(in.begin() + static_cast<ptrdiff_t>(at), first, first + static_cast<ptrdiff_t>(length));
}

void mutate_once(input& in, const std::vector<input>& corpus, chooser& pick) {
  size_t at = pick.below(in.size());
  switch (pick.below(8)) {
    case 0:
      if (!in.empty()) in[at] = static_cast<uint8_t>(in[at] ^ (1u << pick.below(8)));
      return;
    case 1:
      if (!in.empty()) in[at] = static_cast<uint8_t>(pick.any());
      return;
    case 2:
      in.insert(in.begin() + static_cast<ptrdiff_t>(at), static_cast<uint8_t>(pick.any()));
      return;
    case 3: {
      size_t end = std::min(in.size(), at + 1 + pick.below(16));
      in.erase(in.begin() + static_cast<ptrdiff_t>(at), in.begin() + static_cast<ptrdiff_t>(end));
      return;
    }
    case 4:
      in.resize(at);
      return;
    case 5:
      splice(in, corpus[pick.below(corpus.size())], pick);
      return;
    default:
      put_integer(in, pick);
      return;
  }
}

input make_input(const options& o, const std::vector<input>& corpus, uint64_t run) {
  chooser pick(o.seed, run);
  input in;
  if (corpus.empty() || pick.below(16) == 0) {
    in.resize(pick.below(pick.below(4) == 0 ? o.max_len : 64));
    for (auto& b : in) b = static_cast<uint8_t>(pick.any());
    return in;
  }
  in = corpus[pick.below(corpus.size())];
  for (size_t n = 1 + pick.below(6); n > 0; --n) mutate_once(in, corpus, pick);
  if (in.size() > o.max_len) in.resize(o.max_len);
  return in;
}

void run_input(const input& in) {
  // A copy of the exact size: sanitizers then see every read past the end.
  input exact(in.begin(), in.end());
  exact.shrink_to_fit();
  LLVMFuzzerTestOneInput(exact.data(), exact.size());
}

}  // namespace

int main(int argc, char** argv) {
  options o = parse_options(argc, argv);
  for (const auto& file : o.files) run_input(read_input(file));
  if (!o.files.empty()) return 0;
  std::vector<input> corpus = read_corpus(o);
  if (o.dump != ~uint64_t{0}) {
    input in = make_input(o, corpus, o.dump);
    std::fwrite(in.data(), 1, in.size(), stdout);
    return 0;
  }
  for (int s : {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL}) ::signal(s, report_crash);
  for (const auto& in : corpus) run_input(in);
  for (uint64_t run = 0; run < o.runs; ++run) {
    current_input = run;
    run_input(make_input(o, corpus, run));
  }
  std::printf("%zu corpus files, %llu inputs, seed %llu\n", corpus.size(),
              static_cast<unsigned long long>(o.runs), static_cast<unsigned long long>(o.seed));
  return 0;
}
