// SPDX-License-Identifier: MIT
// Requests that bring keys pass through many strings before they become ciphers. From the first key
// on, all memory that the program gives back is wiped. Clients' requests do not pay for that: their
// coroutine frames and buffers are kept in pools (rt/task.h, rt/buffer_pool.h) and not given back.
#include <malloc.h>

#include <cstdlib>
#include <new>

#include "crypto/secret.h"

#if !defined(LBD_SANITIZED)  // the sanitizers have allocators of their own

void* operator new(std::size_t bytes) {
  if (void* p = std::malloc(bytes != 0 ? bytes : 1)) return p;
  throw std::bad_alloc();
}

void operator delete(void* p) noexcept {
  if (p != nullptr && lbd::crypto::process_has_secrets())
    lbd::crypto::wipe_bytes({static_cast<std::byte*>(p), ::malloc_usable_size(p)});
  std::free(p);
}

void operator delete(void* p, std::size_t) noexcept { operator delete(p); }

#endif
