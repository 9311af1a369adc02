// SPDX-License-Identifier: MIT
// Locks on image files as QEMU takes them (its file driver's scheme), so that LBD, QEMU's tools and
// a second LBD refuse an image that another has open for writing.
//
// Byte 100 + p is locked (shared) by whoever uses permission p, byte 200 + p by whoever does not
// let others use it. After taking its own locks everybody looks whether a lock of somebody else's
// forbids what it does: the other side has done the same before, so one of two always notices.
// The locks belong to the open file (OFD locks) and vanish with it.
#pragma once

#include <string>

#include "base/log.h"
#include "base/result.h"
#include "rt/file.h"

namespace lbd::block {

namespace detail {
inline constexpr uint64_t lock_uses_base = 100, lock_forbids_base = 200;
// QEMU's permissions: 0 consistent read, 1 write, 2 write unchanged, 3 resize.
inline constexpr unsigned reader_uses = 0b0001, writer_uses = 0b1011, both_forbid = 0b1010;
}  // namespace detail

// For an image that nobody else may write while it is open; a writer (`writable`) also keeps out
// everybody else who wants a consistent image. Errors: busy, with a message that names the file.
inline base::outcome<void> lock_image(rt::file& f, bool writable) {
  using detail::both_forbid;
  const std::string name = "'" + f.info().path + "'";
  const unsigned uses = writable ? detail::writer_uses : detail::reader_uses;
  for (unsigned p = 0; p < 4; ++p) {
    base::result<void> taken;
    if ((uses >> p & 1) != 0) taken = f.lock(rt::lock_kind::shared, detail::lock_uses_base + p, 1);
    if (taken && (both_forbid >> p & 1) != 0)
      taken = f.lock(rt::lock_kind::shared, detail::lock_forbids_base + p, 1);
    if (taken) continue;
    if (taken.error().code == base::errc::again)
      return base::failure{base::errc::busy, name + " is locked by another program; stop it first"};
    // Some network file systems have no locks; QEMU works on them without, too.
    base::log_warn("image", name + " cannot be locked: " + base::to_string(taken.error().code));
    return {};
  }
  for (unsigned p = 0; p < 4; ++p) {
    const bool forbidden =
        ((uses >> p & 1) != 0 &&
         f.would_block(rt::lock_kind::exclusive, detail::lock_forbids_base + p, 1)) ||
        ((both_forbid >> p & 1) != 0 &&
         f.would_block(rt::lock_kind::exclusive, detail::lock_uses_base + p, 1));
    if (!forbidden) continue;
    return base::failure{base::errc::busy,
                         writable
                             ? name +
                                   " is in use by another program; stop it first, or put a "
                                   "new change file on top"
                             : name + " is open for writing in another program; stop it first"};
  }
  return {};
}

// Whether nobody else can be writing: lock_image(f, true) has locked the file, has not only warned,
// and the lock is a fence.
inline bool holds_write_lock(rt::file& f) {
  return f.locks_are_fences() &&
         f.lock(rt::lock_kind::shared, detail::lock_uses_base + 1, 1).has_value();
}

// A writer that only reads from now on. REQUIRES: lock_image(f, true) passed.
inline void downgrade_image_lock(rt::file& f) {
  for (unsigned p = 0; p < 4; ++p) {
    if (((detail::writer_uses & ~detail::reader_uses) >> p & 1) == 0) continue;
    auto r = f.lock(rt::lock_kind::none, detail::lock_uses_base + p, 1);
    (void)r;  // held longer than needed: safe
  }
}

}  // namespace lbd::block
