// SPDX-License-Identifier: MIT
#include "store/nbd/handshake.h"

#include "wire/nbd/handshake.h"
#include "wire/nbd/transmission.h"

namespace lbd::store {

namespace {

using base::bytes_view;
using base::errc;
using base::failure;
using base::outcome;
using rt::task;

// A server that sends more than this as one option's answer is not taken seriously.
constexpr unsigned most_replies = 100;
constexpr uint32_t longest_reply = nbd::max_string_bytes + 64;

failure broken(const std::string& why) {
  return {errc::protocol, "the server does not speak NBD: " + why};
}

task<outcome<void>> receive(rt::socket& s, base::bytes_span to) {
  const auto r = co_await s.recv_all(to);
  if (r) co_return outcome<void>{};
  const bool closed = r.error().code == errc::not_connected;
  co_return failure{r.error().code, closed ? "the server closed the connection in the handshake"
                                           : base::to_string(r.error().code)};
}

task<outcome<void>> send(rt::socket& s, const nbd::byte_buffer& bytes) {
  const auto r = co_await s.send_all(bytes);
  if (r) co_return outcome<void>{};
  co_return failure{r.error().code, base::to_string(r.error().code)};
}

struct reply {
  nbd::option_reply type = nbd::option_reply::ack;
  nbd::byte_buffer data;
};

task<outcome<reply>> receive_reply(rt::socket& s, nbd::option to) {
  std::byte raw[nbd::option_reply_header_bytes];
  CO_CHECK(co_await receive(s, raw));
  const auto header = nbd::decode_option_reply_header(raw);
  if (!header) co_return broken("a reply without its magic number");
  if (header->to != to) co_return broken("a reply to another option");
  if (header->length > longest_reply) co_return broken("a reply of endless length");
  reply out;
  out.type = header->type;
  out.data.resize(header->length);
  CO_CHECK(co_await receive(s, out.data));
  co_return out;
}

// A refusal in words.
failure refused(const reply& r, const std::string& export_name) {
  const std::string said = r.data.empty() ? "" : " (it says: " + nbd::printable(r.data) + ")";
  switch (r.type) {
    case nbd::option_reply::err_unknown:
      return {errc::noent, "the server has no export '" + export_name + "'" + said +
                               "; name another (nbdinfo --list shows them)"};
    case nbd::option_reply::err_tls_reqd:
      return {errc::access, "the server insists on TLS, which is not supported" + said};
    case nbd::option_reply::err_shutdown:
      return {errc::shutdown, "the server shuts down" + said};
    default:
      return {errc::access, "the server refuses export '" + export_name + "'" + said};
  }
}

// An option without data of its own in the answer: whether the server agrees.
task<outcome<bool>> agree(rt::socket& s, nbd::option what) {
  nbd::byte_buffer message;
  nbd::append_option(message, what);
  CO_CHECK(co_await send(s, message));
  CO_TRY(const reply r, co_await receive_reply(s, what));
  if (nbd::is_error(r.type)) co_return false;
  if (r.type != nbd::option_reply::ack) co_return broken("an unexpected reply to an option");
  co_return true;
}

task<outcome<void>> select_allocation(rt::socket& s, const std::string& name, nbd_session& out) {
  constexpr auto what = nbd::option::set_meta_context;
  const std::string_view query = nbd::base_allocation;
  nbd::byte_buffer message;
  nbd::append_meta_context_option(message, what, name, std::span(&query, 1));
  CO_CHECK(co_await send(s, message));
  for (unsigned i = 0; i < most_replies; ++i) {
    CO_TRY(const reply r, co_await receive_reply(s, what));
    if (nbd::is_error(r.type)) {
      out.allocation_context.reset();
      co_return outcome<void>{};
    }
    if (r.type == nbd::option_reply::ack) co_return outcome<void>{};
    const auto context = nbd::parse_meta_context_reply(r.data);
    if (r.type != nbd::option_reply::meta_context || !context) {
      co_return broken("an unexpected reply about metadata contexts");
    }
    if (context->context == query) out.allocation_context = context->id;
  }
  co_return broken("endless metadata contexts");
}

// True: the transmission phase has begun. False: the server does not know GO.
task<outcome<bool>> go(rt::socket& s, const std::string& name, nbd_session& out) {
  constexpr auto what = nbd::option::go;
  const nbd::info_type wanted = nbd::info_type::block_size;
  nbd::byte_buffer message;
  nbd::append_info_option(message, what, name, std::span(&wanted, 1));
  CO_CHECK(co_await send(s, message));
  bool told = false;
  for (unsigned i = 0; i < most_replies; ++i) {
    CO_TRY(const reply r, co_await receive_reply(s, what));
    if (r.type == nbd::option_reply::err_unsup) co_return false;
    if (nbd::is_error(r.type)) co_return refused(r, name);
    if (r.type == nbd::option_reply::ack) {
      if (!told) co_return broken("it does not tell the export's size");
      out.style = "GO";
      co_return true;
    }
    const auto info = nbd::parse_info_reply(r.data);
    if (r.type != nbd::option_reply::info || !info) co_return broken("wrong export information");
    if (info->type == nbd::info_type::block_size) out.sizes = info->sizes;
    if (info->type != nbd::info_type::export_size) continue;
    told = true;
    out.size_bytes = info->facts.size_bytes;
    out.flags = info->facts.transmission_flags;
  }
  co_return broken("endless export information");
}

task<outcome<void>> by_export_name(rt::socket& s, const std::string& name, bool no_zeroes,
                                   nbd_session& out) {
  nbd::byte_buffer message;
  nbd::append_option(message, nbd::option::export_name, base::as_bytes(name));
  CO_CHECK(co_await send(s, message));
  std::byte raw[nbd::export_name_reply_bytes];
  const auto answered = co_await receive(s, raw);
  if (!answered && answered.error().code == errc::not_connected) {
    // The only way in which this option can be refused.
    co_return failure{errc::noent, "the server refuses export '" + name + "'"};
  }
  CO_CHECK(answered);
  std::byte zeroes[nbd::export_name_zeroes];
  if (!no_zeroes) CO_CHECK(co_await receive(s, zeroes));
  const auto facts = nbd::decode_export_name_reply(raw);
  out.size_bytes = facts.size_bytes;
  out.flags = facts.transmission_flags;
  out.style = "EXPORT_NAME";
  co_return outcome<void>{};
}

task<outcome<nbd_session>> newstyle(rt::socket& s, std::string name, uint16_t offered) {
  nbd_session out;
  const bool fixed = (offered & nbd::handshake_flag::fixed_newstyle) != 0;
  const bool no_zeroes = (offered & nbd::handshake_flag::no_zeroes) != 0;
  nbd::byte_buffer message;
  nbd::append_client_flags(message, (fixed ? nbd::client_flag::fixed_newstyle : 0) |
                                        (no_zeroes ? nbd::client_flag::no_zeroes : 0));
  CO_CHECK(co_await send(s, message));
  if (fixed) {
    CO_TRY(out.structured, co_await agree(s, nbd::option::structured_reply));
    if (out.structured) CO_CHECK(co_await select_allocation(s, name, out));
    CO_TRY(const bool started, co_await go(s, name, out));
    if (started) co_return out;
  }
  CO_CHECK(co_await by_export_name(s, name, no_zeroes, out));
  co_return out;
}

// Some oldstyle servers advertise what they then refuse (nbdkit 1.32 does, of every feature). One
// flush tells; a server that refuses it is taken for one without features.
task<outcome<void>> test_advertised(rt::socket& s, nbd_session& out) {
  if (!out.has(nbd::transmission_flag::send_flush)) co_return outcome<void>{};
  nbd::byte_buffer message(nbd::request_bytes);
  nbd::encode_request(std::span(message).first<nbd::request_bytes>(),
                      nbd::request{nbd::command::flush, 0, 0, 0, 0});
  CO_CHECK(co_await send(s, message));
  std::byte raw[nbd::simple_reply_bytes];
  CO_CHECK(co_await receive(s, raw));
  if (base::load_big<uint32_t>(raw, 0) != nbd::simple_reply_magic) {
    co_return broken("a reply without its magic number");
  }
  if (nbd::decode_simple_reply(raw).error != nbd::wire_error::none) {
    out.flags &= nbd::transmission_flag::has_flags | nbd::transmission_flag::read_only |
                 nbd::transmission_flag::rotational | nbd::transmission_flag::can_multi_conn;
  }
  co_return outcome<void>{};
}

}  // namespace

task<outcome<nbd_session>> nbd_negotiate(rt::socket& s, std::string export_name) {
  std::byte greeting[nbd::oldstyle_greeting_bytes];
  const base::bytes_span all(greeting);
  CO_CHECK(co_await receive(s, all.first(nbd::greeting_magic_bytes)));
  const auto kind = nbd::decode_greeting_magic(all);
  if (!kind) co_return broken("its greeting is another one");
  if (*kind == nbd::greeting_kind::newstyle) {
    CO_CHECK(co_await receive(s, all.subspan(nbd::greeting_magic_bytes, 2)));
    co_return co_await newstyle(s, std::move(export_name), nbd::decode_handshake_flags(all));
  }
  CO_CHECK(co_await receive(s, all.subspan(nbd::greeting_magic_bytes)));
  if (!export_name.empty()) {
    co_return failure{errc::noent,
                      "the server is so old that it has no export names; leave out the name"};
  }
  const auto facts = nbd::decode_oldstyle_greeting(all);
  nbd_session out;
  out.size_bytes = facts.size_bytes;
  out.flags = facts.transmission_flags;
  out.style = "oldstyle";
  CO_CHECK(co_await test_advertised(s, out));
  co_return out;
}

}  // namespace lbd::store
