// SPDX-License-Identifier: MIT
#include "export/fuse/errors.h"

namespace lbd::fuse {

int errno_of(base::errc code) noexcept {
  using base::errc;
  switch (code) {
    // What file operations are documented to return is passed on.
    case errc::ok:
    case errc::perm:
    case errc::noent:
    case errc::io:
    case errc::nomem:
    case errc::access:
    case errc::busy:
    case errc::inval:
    case errc::nospc:
    case errc::rofs:
    case errc::notsup:
    case errc::timed_out:
      return static_cast<int>(code);
    case errc::canceled:
      return EINTR;
    // "Try again" and the troubles of a connection below mean nothing to who reads a file.
    case errc::again:
    case errc::exist:
    case errc::nodev:
    case errc::fbig:
    case errc::range:
    case errc::overflow:
    case errc::not_connected:
    case errc::protocol:
    case errc::shutdown:
      return EIO;
  }
  const int other = static_cast<int>(code);
  return other == ENXIO || other == EBADMSG || other == EILSEQ || other == ENODATA ? other : EIO;
}

}  // namespace lbd::fuse
