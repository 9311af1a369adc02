// SPDX-License-Identifier: MIT
// Calls of the C library on block devices, as programs make them; run under `lbd run`.
//
// usage: lbd_calls end DISK      writes at and beyond the end of a disk; needs 1 MiB or more
//        lbd_calls stack DEVICE DISK LINK
//                                how much of a thread's stack calls take
//
// Says what is not as it has to be; the exit status is 0 if there was nothing.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/dm-ioctl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <initializer_list>
#include <string>

namespace {

int faults = 0;

// `got` is what a call has returned; -E if it failed with errno E.
void expect(const char* what, long got, long wanted) {
  if (got == wanted) return;
  std::fprintf(stderr, "%s: %ld, not %ld\n", what, got, wanted);
  ++faults;
}
long told(long result) { return result < 0 ? -errno : result; }

alignas(4096) char bytes[16384];

// A device is open for reading and writing.
void check_positioned_writes(int fd, off_t size) {
  expect("pwrite that fits", told(pwrite(fd, bytes, 4096, size - 4096)), 4096);
  expect("pwrite over the end", told(pwrite(fd, bytes, 8192, size - 4096)), 4096);
  expect("pwrite over the end, in pieces", told(pwrite(fd, bytes, 700, size - 100)), 100);
  expect("pwrite at the end", told(pwrite(fd, bytes, 512, size)), -ENOSPC);
  expect("pwrite far beyond", told(pwrite(fd, bytes, 512, size + (1 << 20))), -ENOSPC);
  expect("pwrite of nothing", told(pwrite(fd, bytes, 0, size + 512)), 0);
  const iovec parts[] = {{bytes, 1000}, {bytes, 3000}, {bytes, 5000}};
  const long first = told(pwritev(fd, parts, 3, size - 2000));
  if (first != 1000 && first != 2000) expect("pwritev over the end", first, 2000);
  expect("pwritev over the end in its first part", told(pwritev(fd, parts, 3, size - 600)), 600);
  expect("pwritev at the end", told(pwritev(fd, parts, 3, size)), -ENOSPC);
}

void check_writes_where_it_stands(int fd, off_t size) {
  expect("lseek to the end", told(lseek(fd, 0, SEEK_END)), size);
  expect("write at the end", told(write(fd, bytes, 512)), -ENOSPC);
  const iovec part{bytes, 4096};
  expect("writev at the end", told(writev(fd, &part, 1)), -ENOSPC);
  (void)lseek(fd, -512, SEEK_END);
  expect("write over the end", told(write(fd, bytes, 4096)), 512);
  (void)lseek(fd, -512, SEEK_END);
  expect("pwritev2 where it stands", told(pwritev2(fd, &part, 1, -1, 0)), 512);
  expect("and it moves", told(lseek(fd, 0, SEEK_CUR)), size);
}

void check_copies(int fd, off_t size) {
  const int from = memfd_create("from", MFD_CLOEXEC);
  expect("a source", told(write(from, bytes, sizeof bytes)), sizeof bytes);
  off_t at = 0;
  (void)lseek(fd, -4096, SEEK_END);
  expect("sendfile over the end", told(sendfile(fd, from, &at, sizeof bytes)), 4096);
  at = 0;
  expect("sendfile at the end", told(sendfile(fd, from, &at, 512)), -ENOSPC);
  off_t begin = 0, end = size;
  expect("copy_file_range", told(copy_file_range(from, &begin, fd, &end, 512, 0)), -EINVAL);
  (void)close(from);
}

void check_allocation(int fd, off_t size) {
  expect("ftruncate", told(ftruncate(fd, size + 4096)), -EINVAL);
  expect("fallocate", told(fallocate(fd, 0, 0, 4096)), -EOPNOTSUPP);
  expect("fallocate over the end", told(fallocate(fd, 0, 0, size + 4096)), -EINVAL);
  expect("posix_fallocate", posix_fallocate(fd, 0, 4096), ENODEV);
  expect("posix_fallocate over the end", posix_fallocate(fd, 0, size + 4096), EINVAL);
  const int hole = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
  expect("a hole", told(fallocate(fd, hole, size - 8192, 4096)), 0);
  expect("a hole over the end", told(fallocate(fd, hole, size - 4096, 8192)), 0);
  expect("a hole at the end", told(fallocate(fd, hole, size, 4096)), -EINVAL);
  expect("a hole in sectors", told(fallocate(fd, hole, 100, 4096)), -EINVAL);
  expect("zeros over the end", told(fallocate(fd, FALLOC_FL_ZERO_RANGE, size - 4096, 8192)),
         -EINVAL);
}

// Appending means nothing to a device.
void check_append(const char* path) {
  char had[8];
  memset(bytes, 'a', sizeof bytes);
  const int fd = open(path, O_RDWR | O_APPEND | O_CLOEXEC);
  expect("write of an appender", told(write(fd, "begin", 5)), 5);
  expect("is at the beginning", told(pread(fd, had, 5, 0)), 5);
  expect("of the device", memcmp(had, "begin", 5), 0);
  (void)close(fd);
  FILE* const stream = fopen(path, "a");
  if (stream == nullptr) return expect("fopen to append", -errno, -ENOSPC);
  (void)fputs("more", stream);
  expect("a stream that appends", told(fclose(stream)), -ENOSPC);
}

int check_end(const char* path) {
  const int fd = open(path, O_RDWR | O_CLOEXEC);
  uint64_t size_bytes = 0;
  expect("BLKGETSIZE64", told(ioctl(fd, BLKGETSIZE64, &size_bytes)), 0);
  const off_t size = static_cast<off_t>(size_bytes);
  check_positioned_writes(fd, size);
  check_writes_where_it_stands(fd, size);
  check_copies(fd, size);
  check_allocation(fd, size);
  check_append(path);
  expect("the size is as it was", told(lseek(fd, 0, SEEK_END)), size);
  (void)close(fd);
  return faults != 0;
}

// --- stack

constexpr size_t stack_bytes = 1 << 20;
#ifdef LBD_SANITIZED
constexpr size_t most_bytes = 64 << 10, own_frame = 16 << 10;  // frames are larger there
#else
constexpr size_t most_bytes = 4096, own_frame = 512;
#endif
constexpr char untouched = 0x5a;

struct thread_work {
  char* stack;
  const char *device, *disk, *link;
};

// How much of the stack `call` takes below its caller.
template <class Call>
__attribute__((noinline)) size_t stack_of(char* stack, Call call) {
  call();  // the dynamic linker's part
  char* const here = static_cast<char*>(__builtin_frame_address(0));
  memset(stack, untouched, static_cast<size_t>(here - stack) - own_frame);
  call();
  const char* lowest = stack;
  while (lowest < here && *lowest == untouched) ++lowest;
  return static_cast<size_t>(here - lowest);
}

template <class Call>
void expect_small(const char* what, char* stack, Call call) {
  const size_t used = stack_of(stack, call);
  if (used < most_bytes) return;
  std::fprintf(stderr, "%s takes %zu bytes of stack\n", what, used);
  ++faults;
}

void open_and_close(const char* path, int flags) {
  const int fd = open(path, flags | O_CLOEXEC, 0600);
  if (fd >= 0) (void)close(fd);
}

void ask_version() {
  const int fd = open("/dev/mapper/control", O_RDWR | O_CLOEXEC);
  dm_ioctl head{};
  head.version[0] = 4;
  head.data_size = sizeof head;
  expect("DM_VERSION", told(ioctl(fd, DM_VERSION, &head)), 0);
  (void)close(fd);
}

void* measure(void* argument) {
  const auto& w = *static_cast<thread_work*>(argument);
  struct stat st;
  char text[64];
  for (const char* path : {w.device, w.disk, w.link, "/dev/mapper/nosuch", "nosuch"}) {
    const std::string name = std::string(path);
    expect_small(("open of " + name).c_str(), w.stack, [&] { open_and_close(path, O_RDWR); });
    expect_small(("open alone of " + name).c_str(), w.stack,
                 [&] { open_and_close(path, O_RDONLY | O_EXCL); });
    expect_small(("stat of " + name).c_str(), w.stack, [&] { (void)stat(path, &st); });
    expect_small(("lstat of " + name).c_str(), w.stack, [&] { (void)lstat(path, &st); });
    expect_small(("access of " + name).c_str(), w.stack, [&] { (void)access(path, R_OK); });
    expect_small(("readlink of " + name).c_str(), w.stack,
                 [&] { (void)!readlink(path, text, sizeof text); });
  }
  expect_small("open in sysfs", w.stack,
               [] { open_and_close("/sys/block/dm-0/../dm-0/size", O_RDONLY); });
  expect_small("opendir", w.stack, [] {
    DIR* const folder = opendir("/dev/mapper");
    if (folder != nullptr) (void)closedir(folder);
  });
  expect_small("ioctl", w.stack, ask_version);
  const int fd = open(w.disk, O_RDWR | O_CLOEXEC);
  expect_small("write", w.stack, [fd] { expect("write", told(pwrite(fd, bytes, 512, 0)), 512); });
  expect_small("fstat", w.stack, [&] { expect("fstat", told(fstat(fd, &st)), 0); });
  (void)close(fd);
  return nullptr;
}

int check_stack(const char* device, const char* disk, const char* link) {
  void* const stack = mmap(nullptr, stack_bytes, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
  thread_work w{static_cast<char*>(stack), device, disk, link};
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  expect("a stack", pthread_attr_setstack(&attributes, stack, stack_bytes), 0);
  pthread_t thread;
  expect("a thread", pthread_create(&thread, &attributes, measure, &w), 0);
  pthread_join(thread, nullptr);
  return faults != 0;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "";
  if (what == "end" && argc == 3) return check_end(argv[2]);
  if (what == "stack" && argc == 5) return check_stack(argv[2], argv[3], argv[4]);
  std::fprintf(stderr, "usage: lbd_calls end DISK | stack DEVICE DISK LINK\n");
  return 2;
}
