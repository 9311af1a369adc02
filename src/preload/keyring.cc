// SPDX-License-Identifier: MIT
// Keys of the type "logon" are told to nobody but the kernel, so a table that names one is of no
// use to LBD. A program that sees a kernel without them puts the key itself into the table.
#include <stdarg.h>

#include "preload/preload.h"

namespace lbd::preload {

namespace {

next<long(long, long, long, long, long, long, long)> next_syscall("syscall");

bool is_logon(const char* type) { return type != nullptr && strcmp(type, "logon") == 0; }

}  // namespace

extern "C" long lbd_syscall(long number, ...) LBD_INTERPOSES("syscall");
extern "C" long lbd_syscall(long number, ...) {
  long a[6];
  va_list rest;
  va_start(rest, number);
  for (long& argument : a) argument = va_arg(rest, long);
  va_end(rest);
  const bool takes_type = number == SYS_request_key || number == SYS_add_key;
  if (takes_type && current().enabled && is_logon(reinterpret_cast<const char*>(a[0]))) {
    errno = ENOSYS;
    return -1;
  }
  return next_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

}  // namespace lbd::preload
