// SPDX-License-Identifier: MIT
// What an image needs before it may be written.
#pragma once

#include "format/qcow2/header.h"
#include "rt/file.h"

namespace lbd::store {

// Refuses version 2; rebuilds the refcounts of an image that was left dirty, and refuses it (busy)
// where no lock tells that nobody is writing it; clears autoclear bits (nobody here keeps dirty
// bitmaps up to date); gives the image a refcount table that is large enough for good. `h` and the
// file are changed alike. Errors: as a clause after the file's name.
rt::task<base::outcome<void>> make_writable(rt::file& file, qcow2::header& h);

}  // namespace lbd::store
