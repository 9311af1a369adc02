// SPDX-License-Identifier: MIT
// Folders of the kernel's in which LBD's devices appear are read where the daemon has made them.
#include <dirent.h>

#include "preload/preload.h"

namespace lbd::preload {

namespace {

next<DIR*(const char*)> next_opendir("opendir");
next<int(const char*, dirent***, int (*)(const dirent*), int (*)(const dirent**, const dirent**))>
    next_scandir("scandir");

// Where the folder of a claim lies; nullptr with errno: it cannot be read.
const char* place_of(const claim& c) {
  if (c.error == 0 && c.what.facts.kind == face::node_file) return c.what.path;
  if (c.error == 0 && c.what.facts.kind == face::node_elsewhere) return c.path;
  errno = c.error == 0 ? ENOTDIR : c.error;
  return nullptr;
}

// The listing of /dev has LBD's names, too, which look-ups find without it.
bool lists_dev(const char* path, room<claim>& to) {
  if (path == nullptr || (strcmp(path, "/dev") != 0 && strcmp(path, "/dev/") != 0)) return false;
  if (!current().enabled || to.get() == nullptr) return false;
  return look_up("/dev", to->what) == 0 && to->what.facts.kind == face::node_file;
}

// `list` is given the folder's place.
template <class List, class Failed>
auto list_any(const char* path, Failed failed, List list) {
  room<claim> c;
  if (!lists_dev(path, c) && !claims(AT_FDCWD, path, c)) {
    const auto listed = list(path);
    if (listed != failed || errno != ENOENT || !follow_to_claimed(AT_FDCWD, path, c)) return listed;
  }
  const char* const place = place_of(*c);
  return place != nullptr ? list(place) : failed;
}

}  // namespace

extern "C" {

DIR* lbd_opendir(const char* path) LBD_INTERPOSES("opendir");
DIR* lbd_opendir(const char* path) {
  DIR* const failed = nullptr;
  return list_any(path, failed, [](const char* place) { return next_opendir(place); });
}

int lbd_scandir(const char* path, dirent*** list, int (*filter)(const dirent*),
                int (*compare)(const dirent**, const dirent**)) LBD_INTERPOSES("scandir");
int lbd_scandir(const char* path, dirent*** list, int (*filter)(const dirent*),
                int (*compare)(const dirent**, const dirent**)) {
  return list_any(path, -1,
                  [&](const char* place) { return next_scandir(place, list, filter, compare); });
}
int lbd_scandir64(const char* path, dirent*** list, int (*filter)(const dirent*),
                  int (*compare)(const dirent**, const dirent**)) LBD_INTERPOSES("scandir64");
int lbd_scandir64(const char* path, dirent*** list, int (*filter)(const dirent*),
                  int (*compare)(const dirent**, const dirent**)) {
  return lbd_scandir(path, list, filter, compare);
}

}  // extern "C"

}  // namespace lbd::preload
