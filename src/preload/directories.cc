// SPDX-License-Identifier: MIT
// Folders of the kernel's in which LBD's devices appear are read where the daemon has made them.
#include <dirent.h>

#include "preload/preload.h"

namespace lbd::preload {

namespace {

next<DIR*(const char*)> next_opendir("opendir");
next<int(const char*, dirent***, int (*)(const dirent*), int (*)(const dirent**, const dirent**))>
    next_scandir("scandir");

// Where the folder lies that `path` means. False with errno: it cannot be read.
bool place_of(const char* path, const char*& place, found& n) {
  path_buffer absolute;
  place = path;
  if (!claims(AT_FDCWD, path, absolute) && !follow_to_claimed(AT_FDCWD, path, absolute))
    return true;
  const int error = look_up(absolute, n);
  if (error != 0) errno = error;
  if (error != 0) return false;
  if (n.facts.kind == face::node_file) place = n.path;
  if (n.facts.kind == face::node_device || n.facts.kind == face::node_control) errno = ENOTDIR;
  return n.facts.kind == face::node_file || n.facts.kind == face::node_elsewhere;
}

}  // namespace

extern "C" {

DIR* lbd_opendir(const char* path) LBD_INTERPOSES("opendir");
DIR* lbd_opendir(const char* path) {
  found n;
  const char* place = nullptr;
  return place_of(path, place, n) ? next_opendir(place) : nullptr;
}

int lbd_scandir(const char* path, dirent*** list, int (*filter)(const dirent*),
                int (*compare)(const dirent**, const dirent**)) LBD_INTERPOSES("scandir");
int lbd_scandir(const char* path, dirent*** list, int (*filter)(const dirent*),
                int (*compare)(const dirent**, const dirent**)) {
  found n;
  const char* place = nullptr;
  return place_of(path, place, n) ? next_scandir(place, list, filter, compare) : -1;
}
int lbd_scandir64(const char* path, dirent*** list, int (*filter)(const dirent*),
                  int (*compare)(const dirent**, const dirent**)) LBD_INTERPOSES("scandir64");
int lbd_scandir64(const char* path, dirent*** list, int (*filter)(const dirent*),
                  int (*compare)(const dirent**, const dirent**)) {
  return lbd_scandir(path, list, filter, compare);
}

}  // extern "C"

}  // namespace lbd::preload
