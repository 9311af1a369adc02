// SPDX-License-Identifier: MIT
// Fills devices with the pattern of the golden images (tests/golden/pattern.h), in the order in
// which those were made, so that what ends up on disk is the same everywhere.
//
// usage: gen fill DEVICE SEED POSITION COUNT [FIRST]     writes COUNT sectors at POSITION; pattern
//                                                        numbers from FIRST (default: POSITION)
//        gen check DEVICE SEED POSITION COUNT [FIRST]    compares them
//        gen scatter DEVICE SEED CHUNK COUNT MUL ADD LENGTH
//                    for i below COUNT: LENGTH sectors somewhere in chunk (i * MUL + ADD)
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "../golden/pattern.h"

namespace {

constexpr size_t most_sectors = 256;  // of one request

struct device {
  int fd = -1;
  char* buffer = nullptr;  // of most_sectors, aligned for direct I/O

  ~device() {
    free(buffer);
    if (fd >= 0) close(fd);
  }
  bool open(const char* path, int access) {
    fd = ::open(path, access | O_DIRECT);
    if (fd < 0 && errno == EINVAL) fd = ::open(path, access);
    if (fd < 0) perror(path);
    return fd >= 0 &&
           posix_memalign(reinterpret_cast<void**>(&buffer), 4096, most_sectors * 512) == 0;
  }
  bool write(uint64_t sector, const std::string& text) {
    std::memcpy(buffer, text.data(), text.size());
    return pwrite(fd, buffer, text.size(), static_cast<off_t>(sector * 512)) ==
           static_cast<ssize_t>(text.size());
  }
  bool read(uint64_t sector, size_t bytes) {
    return pread(fd, buffer, bytes, static_cast<off_t>(sector * 512)) ==
           static_cast<ssize_t>(bytes);
  }
  int failed(const char* what, uint64_t sector) const {
    fprintf(stderr, "gen: %s at sector %llu: %s\n", what, static_cast<unsigned long long>(sector),
            strerror(errno));
    return 1;
  }
};

int scatter(device& d, uint32_t seed, const std::vector<uint64_t>& n) {
  const uint64_t chunk = n[0], count = n[1], length = n[4];
  const auto sectors = static_cast<uint64_t>(lseek(d.fd, 0, SEEK_END)) / 512;
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t k = (i * n[2] + n[3]) % (sectors / chunk);
    const uint64_t at = k * chunk + i % (chunk - length + 1);
    if (d.write(at, lbd::golden::pattern(seed, at, length))) continue;
    fprintf(stderr, "gen: write %llu at sector %llu: %s\n", static_cast<unsigned long long>(i),
            static_cast<unsigned long long>(at), strerror(errno));
    return 1;
  }
  return 0;
}

int fill_or_check(device& d, bool check, uint32_t seed, const std::vector<uint64_t>& n) {
  const uint64_t position = n[0], count = n[1], first = n.size() > 2 ? n[2] : position;
  for (uint64_t done = 0; done < count;) {
    const uint64_t some = count - done < most_sectors ? count - done : most_sectors;
    const std::string text = lbd::golden::pattern(seed, first + done, some);
    if (!check && !d.write(position + done, text)) return d.failed("write", position + done);
    if (check && !d.read(position + done, text.size())) return d.failed("read", position + done);
    if (check && std::memcmp(d.buffer, text.data(), text.size()) != 0) {
      printf("gen: differs from sector %llu on\n",
             static_cast<unsigned long long>(position + done));
      return 1;
    }
    done += some;
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string_view verb = argc > 3 ? argv[1] : "";
  const bool check = verb == "check";
  std::vector<uint64_t> numbers;
  for (int i = 4; i < argc; ++i) numbers.push_back(strtoull(argv[i], nullptr, 0));
  if (numbers.size() < (verb == "scatter" ? 5u : 2u) ||
      (!check && verb != "fill" && verb != "scatter")) {
    fprintf(stderr, "usage: gen fill|check DEVICE SEED POSITION COUNT [FIRST]\n");
    return 2;
  }
  device d;
  if (!d.open(argv[2], check ? O_RDONLY : O_RDWR)) return 1;
  const auto seed = static_cast<uint32_t>(strtoull(argv[3], nullptr, 0));
  const int status =
      verb == "scatter" ? scatter(d, seed, numbers) : fill_or_check(d, check, seed, numbers);
  if (status == 0 && !check && fsync(d.fd) != 0) return d.failed("fsync", 0);
  return status;
}
