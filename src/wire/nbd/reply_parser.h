// SPDX-License-Identifier: MIT
// The client's side of the transmission phase: the stream of replies of a server that may be
// hostile.
//
// The caller owns the received bytes and a table of its requests in flight. It calls next() with
// what it has; the parser says what the front of it means and how many bytes that took. Data of a
// read never pass through the parser: an event `data` announces them and the caller moves them
// itself, straight from the socket where it can. Every length, offset and order is checked against
// the request before the caller sees it, so that an event can be obeyed without further tests.
// After `violation` the connection must be dropped. Source: proto.md "Structured reply types",
// "Request types".
#pragma once

#include <array>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "wire/nbd/protocol.h"

namespace lbd::nbd {

// Disjoint ranges inside one request, for replies that come in pieces.
class coverage {
 public:
  // False when the range overlaps an earlier one, or when there are more than max_pieces gaps.
  bool add(uint64_t offset, uint32_t length);
  uint64_t covered_bytes() const noexcept { return covered_bytes_; }

  static constexpr size_t max_pieces = 4096;

 private:
  struct range {
    uint64_t begin = 0;
    uint64_t end = 0;
  };
  range first_;                // grows at its end: the normal case needs no memory
  std::vector<range> others_;  // sorted, disjoint
  uint64_t covered_bytes_ = 0;
};

// What the parser keeps for one request in flight; lives in the caller's table.
struct reply_state {
  request asked;
  coverage content;
  uint64_t contexts_seen = 0;  // bit per negotiated context
  uint64_t status_offset = 0;  // where the next extent of the current chunk begins
  wire_error error = wire_error::none;
  uint16_t content_chunks = 0;

  explicit reply_state(const request& r) : asked(r) {}
};

struct reply_event {
  enum class kind : uint8_t {
    more,       // nothing to say yet: `need` bytes must be there, counted from the front
    data,       // `length` bytes for `offset` follow the consumed ones; the caller takes them
    hole,       // `length` bytes at `offset` read as zeros
    extents,    // `extents` descriptors of the context number `context`
    error,      // an error was told; the reply may go on
    finished,   // nothing but the end of the reply
    violation,  // the server broke the protocol; `text` says how
  };
  kind what = kind::more;
  bool done = false;    // the reply ends with this event (with its data, for `data`)
  size_t consumed = 0;  // bytes to drop from the front
  size_t need = 0;
  uint64_t cookie = 0;
  uint64_t offset = 0;  // of the export
  uint32_t length = 0;
  size_t context = 0;                   // index into the context ids given to the parser
  base::bytes_view extents;             // whole descriptors, big endian; decode with extent_at()
  wire_error error = wire_error::none;  // with `done`: the reply's verdict
  std::string_view text;
};

constexpr size_t extent_count(const reply_event& e) noexcept {
  return e.extents.size() / extent_bytes;
}
inline extent extent_at(const reply_event& e, size_t index) noexcept {
  return {base::load_big<uint32_t>(e.extents, index * extent_bytes),
          base::load_big<uint32_t>(e.extents, index * extent_bytes + 4)};
}

class reply_parser {
 public:
  // `context_ids`: the ids of the metadata contexts that the server gave, at most 64.
  explicit reply_parser(bool structured, std::vector<uint32_t> context_ids = {});

  // One event from the front of `in`. `find(cookie)` returns the reply_state of the request in
  // flight with this cookie, or nullptr. A reply_state must live, at the same address, until its
  // event with `done`. The caller must not pass the data that an event `data` announced.
  template <class Find>
  reply_event next(base::bytes_view in, Find&& find) {
    if (chunk_left_ != 0) return next_extents(in, *current_);
    reply_event event;
    const std::optional<uint64_t> cookie = look(in, event);
    if (!cookie) return event;
    reply_state* state = std::forward<Find>(find)(*cookie);
    if (state == nullptr) return violation("a reply to a request that was not made");
    return interpret(in, *state);
  }

  // The most bytes that next() ever needs at once.
  static constexpr size_t max_need = chunk_header_bytes + 16 + 2 * max_string_bytes;

 private:
  // The cookie of the reply at the front, or nothing and why in `event`.
  std::optional<uint64_t> look(base::bytes_view in, reply_event& event) const noexcept;
  reply_event interpret(base::bytes_view in, reply_state& state);
  reply_event simple(base::bytes_view in, reply_state& state) const;
  reply_event data(base::bytes_view in, reply_state& state) const;
  reply_event hole(base::bytes_view in, reply_state& state) const;
  reply_event error(base::bytes_view in, reply_state& state) const;
  reply_event begin_extents(base::bytes_view in, reply_state& state);
  reply_event next_extents(base::bytes_view in, reply_state& state);
  reply_event finish(reply_event event, const reply_state& state) const;
  static reply_event violation(std::string_view text) noexcept;
  static reply_event more(size_t need) noexcept;

  bool structured_;
  std::vector<uint32_t> context_ids_;
  // A block-status chunk being handed out.
  reply_state* current_ = nullptr;
  uint32_t chunk_left_ = 0;
  size_t chunk_context_ = 0;
  bool chunk_done_ = false;
};

}  // namespace lbd::nbd
