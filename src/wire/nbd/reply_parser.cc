// SPDX-License-Identifier: MIT
#include "wire/nbd/reply_parser.h"

#include <algorithm>

#include "base/checked_math.h"
#include "wire/nbd/transmission.h"

namespace lbd::nbd {

namespace {

using base::bytes_view;
using base::load_big;
using kind = reply_event::kind;

chunk_header chunk_at_front(bytes_view in) noexcept {
  return decode_chunk_header(in.first<chunk_header_bytes>());
}

bool inside_request(uint64_t offset, uint32_t length, const request& r) noexcept {
  return offset >= r.offset && base::range_fits(offset - r.offset, length, r.length);
}

}  // namespace

bool coverage::add(uint64_t offset, uint32_t length) {
  const range added{offset, offset + length};
  if (covered_bytes_ == 0) first_ = {offset, offset};
  const auto overlaps = [&](const range& r) { return added.begin < r.end && r.begin < added.end; };
  if (overlaps(first_)) return false;
  auto after = std::lower_bound(others_.begin(), others_.end(), added.begin,
                                [](const range& r, uint64_t begin) { return r.begin < begin; });
  if (after != others_.end() && overlaps(*after)) return false;
  if (after != others_.begin() && overlaps(*(after - 1))) return false;
  covered_bytes_ += length;
  if (added.begin == first_.end) {
    first_.end = added.end;
  } else if (after != others_.begin() && (after - 1)->end == added.begin) {
    (after - 1)->end = added.end;
  } else if (after != others_.end() && after->begin == added.end) {
    after->begin = added.begin;
  } else {
    if (others_.size() == max_pieces) return false;
    others_.insert(after, added);
  }
  return true;
}

reply_parser::reply_parser(bool structured, std::vector<uint32_t> context_ids)
    : structured_(structured), context_ids_(std::move(context_ids)) {
  if (context_ids_.size() > 64) std::abort();
}

reply_event reply_parser::violation(std::string_view text) noexcept {
  reply_event e;
  e.what = kind::violation;
  e.text = text;
  return e;
}

reply_event reply_parser::more(size_t need) noexcept {
  reply_event e;
  e.need = need;
  return e;
}

std::optional<uint64_t> reply_parser::look(bytes_view in, reply_event& event) const noexcept {
  if (in.size() < simple_reply_bytes) {
    event.need = simple_reply_bytes;
    return std::nullopt;
  }
  const uint32_t magic = load_big<uint32_t>(in, 0);
  if (magic == simple_reply_magic) return load_big<uint64_t>(in, 8);
  if (magic != structured_reply_magic) {
    event = violation("a reply without the magic number");
    return std::nullopt;
  }
  if (!structured_) {
    event = violation("a structured reply that was not negotiated");
    return std::nullopt;
  }
  if (in.size() < chunk_header_bytes) {
    event.need = chunk_header_bytes;
    return std::nullopt;
  }
  return load_big<uint64_t>(in, 8);
}

// The end of a reply: did it answer the request?
reply_event reply_parser::finish(reply_event event, const reply_state& state) const {
  event.done = true;
  event.error = state.error;
  if (state.error != wire_error::none) return event;
  if (state.asked.type == command::read && state.content.covered_bytes() != state.asked.length) {
    return violation("a read that ended before all its bytes had come");
  }
  if (state.asked.type == command::block_status) {
    const size_t count = context_ids_.size();
    const uint64_t all = count == 64 ? UINT64_MAX : (uint64_t{1} << count) - 1;
    if (state.contexts_seen != all) return violation("a block status without all contexts");
  }
  return event;
}

reply_event reply_parser::interpret(bytes_view in, reply_state& state) {
  if (load_big<uint32_t>(in, 0) == simple_reply_magic) return simple(in, state);
  const chunk_header h = chunk_at_front(in);
  switch (h.type) {
    case chunk_type::none: {
      if (h.length != 0 || (h.flags & chunk_flag_done) == 0) {
        return violation("an empty chunk that is not empty or not the last");
      }
      reply_event e;
      e.what = kind::finished;
      e.consumed = chunk_header_bytes;
      e.cookie = h.cookie;
      return finish(e, state);
    }
    case chunk_type::offset_data:
      return data(in, state);
    case chunk_type::offset_hole:
      return hole(in, state);
    case chunk_type::block_status:
      return begin_extents(in, state);
    default:
      // An error of a kind that we do not know is still an error.
      if (is_error(h.type)) return error(in, state);
      return violation("a chunk of an unknown type");
  }
}

reply_event reply_parser::simple(bytes_view in, reply_state& state) const {
  const simple_reply r = decode_simple_reply(in.first<simple_reply_bytes>());
  if (state.content_chunks != 0 || state.contexts_seen != 0 || state.error != wire_error::none) {
    return violation("a simple reply inside a structured one");
  }
  reply_event e;
  e.cookie = r.cookie;
  e.consumed = simple_reply_bytes;
  e.done = true;
  e.error = r.error;
  e.what = kind::finished;
  if (r.error != wire_error::none) {
    // Old servers answer failed reads so even where structured replies were negotiated.
    state.error = r.error;
    return e;
  }
  if (state.asked.type == command::block_status) return violation("a block status without extents");
  if (state.asked.type != command::read) return e;
  if (structured_) return violation("a simple reply to a read where a structured one was due");
  e.what = kind::data;
  e.offset = state.asked.offset;
  e.length = state.asked.length;
  if (e.length == 0) e.what = kind::finished;
  return e;
}

reply_event reply_parser::data(bytes_view in, reply_state& state) const {
  const chunk_header h = chunk_at_front(in);
  if (state.asked.type != command::read) return violation("data for a request that reads nothing");
  if (h.length < 9) return violation("a data chunk without data");
  if (in.size() < data_chunk_header_bytes) return more(data_chunk_header_bytes);
  reply_event e;
  e.what = kind::data;
  e.consumed = data_chunk_header_bytes;
  e.cookie = h.cookie;
  e.offset = load_big<uint64_t>(in, chunk_header_bytes);
  e.length = h.length - 8;
  if (!inside_request(e.offset, e.length, state.asked)) return violation("data not asked for");
  if ((state.asked.flags & command_flag::df) != 0 && state.content_chunks != 0) {
    return violation("a fragmented reply where none was allowed");
  }
  if (!state.content.add(e.offset, e.length)) return violation("data chunks that overlap");
  state.content_chunks = 1;
  return (h.flags & chunk_flag_done) != 0 ? finish(e, state) : e;
}

reply_event reply_parser::hole(bytes_view in, reply_state& state) const {
  const chunk_header h = chunk_at_front(in);
  if (state.asked.type != command::read)
    return violation("a hole for a request that reads nothing");
  if (h.length != 12) return violation("a hole chunk of a wrong length");
  if (in.size() < hole_chunk_bytes) return more(hole_chunk_bytes);
  reply_event e;
  e.what = kind::hole;
  e.consumed = hole_chunk_bytes;
  e.cookie = h.cookie;
  e.offset = load_big<uint64_t>(in, chunk_header_bytes);
  e.length = load_big<uint32_t>(in, chunk_header_bytes + 8);
  if (e.length == 0) return violation("an empty hole");
  if (!inside_request(e.offset, e.length, state.asked)) return violation("a hole not asked for");
  if ((state.asked.flags & command_flag::df) != 0 && state.content_chunks != 0) {
    return violation("a fragmented reply where none was allowed");
  }
  if (!state.content.add(e.offset, e.length)) return violation("chunks that overlap");
  state.content_chunks = 1;
  return (h.flags & chunk_flag_done) != 0 ? finish(e, state) : e;
}

reply_event reply_parser::error(bytes_view in, reply_state& state) const {
  const chunk_header h = chunk_at_front(in);
  const size_t fixed = h.type == chunk_type::error_offset ? 14 : 6;
  if (h.length < fixed) return violation("an error chunk that is too short");
  if (chunk_header_bytes + size_t{h.length} > max_need) return violation("an endless error chunk");
  if (in.size() < chunk_header_bytes + h.length) return more(chunk_header_bytes + h.length);
  const size_t text_bytes = load_big<uint16_t>(in, chunk_header_bytes + 4);
  if (text_bytes > h.length - fixed) return violation("an error text longer than its chunk");
  reply_event e;
  e.what = kind::error;
  e.consumed = chunk_header_bytes + h.length;
  e.cookie = h.cookie;
  e.offset = state.asked.offset;
  e.error = static_cast<wire_error>(load_big<uint32_t>(in, chunk_header_bytes));
  if (e.error == wire_error::none) return violation("an error chunk without an error");
  e.text = base::as_text(in.subspan(chunk_header_bytes + 6, text_bytes));
  if (h.type == chunk_type::error_offset) {
    e.offset = load_big<uint64_t>(in, chunk_header_bytes + 6 + text_bytes);
    if (e.offset < state.asked.offset || e.offset - state.asked.offset > state.asked.length) {
      return violation("an error at a place not asked for");
    }
  }
  if (state.error == wire_error::none) state.error = e.error;
  return (h.flags & chunk_flag_done) != 0 ? finish(e, state) : e;
}

reply_event reply_parser::begin_extents(bytes_view in, reply_state& state) {
  const chunk_header h = chunk_at_front(in);
  if (state.asked.type != command::block_status) return violation("extents not asked for");
  if (h.length < 12 || (h.length - 4) % extent_bytes != 0) {
    return violation("a block status of a wrong length");
  }
  const uint32_t count = (h.length - 4) / static_cast<uint32_t>(extent_bytes);
  if (count > max_extents_per_reply) return violation("a block status with too many extents");
  if ((state.asked.flags & command_flag::req_one) != 0 && count != 1) {
    return violation("several extents where one was asked for");
  }
  constexpr size_t fixed = chunk_header_bytes + 4;
  if (in.size() < fixed + extent_bytes) return more(fixed + extent_bytes);
  const auto id = load_big<uint32_t>(in, chunk_header_bytes);
  const auto at = std::find(context_ids_.begin(), context_ids_.end(), id);
  if (at == context_ids_.end()) return violation("a block status of an unknown context");
  chunk_context_ = static_cast<size_t>(at - context_ids_.begin());
  const uint64_t bit = uint64_t{1} << chunk_context_;
  if ((state.contexts_seen & bit) != 0) return violation("a context's block status twice");
  state.contexts_seen |= bit;
  state.status_offset = state.asked.offset;
  current_ = &state;
  chunk_left_ = h.length - 4;
  chunk_done_ = (h.flags & chunk_flag_done) != 0;
  reply_event e = next_extents(in.subspan(fixed), state);
  e.consumed += fixed;
  return e;
}

// Hands out the whole descriptors that are there. Their sizes are checked: all but the last one of
// a chunk must begin and end inside the request.
reply_event reply_parser::next_extents(bytes_view in, reply_state& state) {
  const size_t bytes = std::min<size_t>(in.size(), chunk_left_) / extent_bytes * extent_bytes;
  if (bytes == 0) return more(extent_bytes);
  reply_event e;
  e.what = kind::extents;
  e.consumed = bytes;
  e.cookie = state.asked.cookie;
  e.context = chunk_context_;
  e.offset = state.status_offset;
  e.extents = in.first(bytes);
  const uint64_t end = state.asked.offset + state.asked.length;
  for (size_t i = 0; i < bytes / extent_bytes; ++i) {
    const uint32_t length = load_big<uint32_t>(in, i * extent_bytes);
    if (length == 0) return violation("an empty extent");
    if (state.status_offset >= end) return violation("an extent beyond the request");
    state.status_offset += length;
  }
  if ((state.asked.flags & command_flag::req_one) != 0 && state.status_offset > end) {
    return violation("one extent longer than the request");
  }
  chunk_left_ -= static_cast<uint32_t>(bytes);
  if (chunk_left_ != 0 || !chunk_done_) return e;
  return finish(e, state);
}

}  // namespace lbd::nbd
