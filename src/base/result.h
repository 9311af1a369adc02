// SPDX-License-Identifier: MIT
// Results without exceptions. `result<T>` is the data path's (4-byte errno-like error),
// `outcome<T>` the control plane's (code and a sentence for a person). Names follow std::expected.
#pragma once

#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string>
#include <utility>

namespace lbd::base {

// Errors of the data path: the host's errno values, so that a store passes on what the kernel said.
enum class errc : int16_t {
  ok = 0,
  perm = EPERM,
  noent = ENOENT,
  io = EIO,
  again = EAGAIN,
  nomem = ENOMEM,
  access = EACCES,
  busy = EBUSY,
  exist = EEXIST,
  nodev = ENODEV,
  inval = EINVAL,
  fbig = EFBIG,
  nospc = ENOSPC,
  rofs = EROFS,
  range = ERANGE,
  notsup = EOPNOTSUPP,
  overflow = EOVERFLOW,
  timed_out = ETIMEDOUT,
  canceled = ECANCELED,
  not_connected = ENOTCONN,
  protocol = EPROTO,
  shutdown = ESHUTDOWN,
};

// The error of one request; `detail` narrows down a code where a layer documents it (0 otherwise).
struct io_error {
  errc code = errc::io;
  uint16_t detail = 0;
  friend bool operator==(io_error, io_error) = default;
};

// The error of a control call: the message names the input and the remedy.
struct failure {
  errc code = errc::io;
  std::string message;
};

inline io_error error_from_errno(int positive_errno) noexcept {
  return io_error{static_cast<errc>(positive_errno), 0};
}

template <class T, class E>
class [[nodiscard]] basic_result {
 public:
  using value_type = T;
  using error_type = E;

  basic_result(T value) : value_(std::move(value)) {}
  basic_result(E error) : error_(std::move(error)) {}

  explicit operator bool() const noexcept { return value_.has_value(); }
  bool has_value() const noexcept { return value_.has_value(); }
  // REQUIRES: has_value().
  T& operator*() & noexcept { return value_checked(); }
  T&& operator*() && noexcept { return std::move(value_checked()); }
  const T& operator*() const& noexcept { return const_cast<basic_result*>(this)->value_checked(); }
  T* operator->() noexcept { return &value_checked(); }
  const T* operator->() const noexcept { return &const_cast<basic_result*>(this)->value_checked(); }
  // REQUIRES: !has_value().
  const E& error() const noexcept { return error_; }

 private:
  T& value_checked() noexcept {
    if (!value_) std::abort();
    return *value_;
  }
  std::optional<T> value_;
  E error_{};
};

template <class E>
class [[nodiscard]] basic_result<void, E> {
 public:
  using value_type = void;
  using error_type = E;

  basic_result() = default;
  basic_result(E error) : error_(std::move(error)), failed_(true) {}

  explicit operator bool() const noexcept { return !failed_; }
  bool has_value() const noexcept { return !failed_; }
  const E& error() const noexcept { return error_; }

 private:
  E error_{};
  bool failed_ = false;
};

template <class T>
using result = basic_result<T, io_error>;
template <class T>
using outcome = basic_result<T, failure>;

// The code of a result: errc::ok on success.
template <class T>
errc code_of(const result<T>& r) noexcept {
  return r ? errc::ok : r.error().code;
}

// A short English text for a code ("No space left on device").
std::string to_string(errc code);

}  // namespace lbd::base

// Propagation. CO_TRY declares `decl` from a result or leaves the coroutine with its error;
// CO_CHECK does so for results without a value; TRY and CHECK are the same for plain functions.
// These are declarations and statements, never expressions: gcc 12 fails on co_await in statement
// expressions.
#define LBD_CAT2(a, b) a##b
#define LBD_CAT(a, b) LBD_CAT2(a, b)
#define LBD_TRY_IMPL(ret, tmp, decl, ...) \
  auto tmp = (__VA_ARGS__);               \
  if (!tmp) ret tmp.error();              \
  decl = std::move(*tmp)
#define CO_TRY(decl, ...) LBD_TRY_IMPL(co_return, LBD_CAT(try_, __COUNTER__), decl, __VA_ARGS__)
#define TRY(decl, ...) LBD_TRY_IMPL(return, LBD_CAT(try_, __COUNTER__), decl, __VA_ARGS__)
#define CO_CHECK(...)                      \
  do {                                     \
    auto check_ = (__VA_ARGS__);           \
    if (!check_) co_return check_.error(); \
  } while (0)
#define CHECK(...)                      \
  do {                                  \
    auto check_ = (__VA_ARGS__);        \
    if (!check_) return check_.error(); \
  } while (0)
