// SPDX-License-Identifier: MIT
#include "crypto/secret.h"

#include <openssl/crypto.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#include <atomic>

#include "base/checked_math.h"

namespace lbd::crypto {
namespace {
constexpr size_t page_bytes = 4096;
std::atomic<bool> any_secret{false};
}  // namespace

bool process_has_secrets() noexcept { return any_secret.load(std::memory_order_relaxed); }

secret::secret(base::bytes_view bytes) {
  if (bytes.empty()) return;
  // The ciphers' libraries keep what they make of a key in memory of their own, and the request
  // that brought it has passed through buffers.
  if (!any_secret.exchange(true)) ::prctl(PR_SET_DUMPABLE, 0);
  const size_t mapped = base::round_up(bytes.size(), page_bytes);
  void* p = ::mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) std::abort();
  ::mlock(p, mapped);
  ::madvise(p, mapped, MADV_DONTDUMP);
  ::madvise(p, mapped, MADV_WIPEONFORK);
  data_ = static_cast<std::byte*>(p);
  bytes_ = bytes.size();
  std::memcpy(data_, bytes.data(), bytes.size());
}

void secret::wipe() noexcept {
  if (data_ == nullptr) return;
  const size_t mapped = base::round_up(bytes_, page_bytes);
  OPENSSL_cleanse(data_, mapped);
  ::munmap(data_, mapped);
  data_ = nullptr;
  bytes_ = 0;
}

void wipe_bytes(base::bytes_span bytes) noexcept { OPENSSL_cleanse(bytes.data(), bytes.size()); }

}  // namespace lbd::crypto
