// SPDX-License-Identifier: MIT
#pragma once

#if defined(__SANITIZE_THREAD__)
#define LBD_THREAD_SANITIZER
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define LBD_THREAD_SANITIZER
#endif
#endif

#if defined(LBD_THREAD_SANITIZER)
extern "C" void AnnotateIgnoreReadsBegin(const char* file, int line);
extern "C" void AnnotateIgnoreReadsEnd(const char* file, int line);
extern "C" void AnnotateIgnoreWritesBegin(const char* file, int line);
extern "C" void AnnotateIgnoreWritesEnd(const char* file, int line);
#endif

namespace lbd::store {

// For the scope of one copy of clients' bytes. Clients that use the same bytes at the same time
// race for them, as on every disk; and when they take turns, only they know. The thread sanitizer
// sees neither and would call it a fault of ours.
class clients_race {
 public:
  clients_race() noexcept {
#if defined(LBD_THREAD_SANITIZER)
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
#endif
  }
  clients_race(const clients_race&) = delete;
  clients_race& operator=(const clients_race&) = delete;
  ~clients_race() {
#if defined(LBD_THREAD_SANITIZER)
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
#endif
  }
};

}  // namespace lbd::store
