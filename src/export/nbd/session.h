// SPDX-License-Identifier: MIT
// The handshake of one connection, on reactor 0.
#pragma once

#include <optional>

#include "export/nbd/registry.h"
#include "export/nbd/transmission.h"
#include "wire/nbd/handshake.h"

namespace lbd::nbd_server {

class session {
 public:
  session(connection& c, registry& r, uint64_t limit_ns)
      : connection_(c), registry_(r), limit_ns_(limit_ns) {}
  session(const session&) = delete;
  session& operator=(const session&) = delete;

  // What the transmission phase is about, which begins at once; nothing when the connection is to
  // be closed.
  rt::task<std::optional<agreement>> run();

 private:
  enum class verdict { go_on, drop, last_words, enter };

  rt::task<bool> greet();
  // Receives one option's data; false when the connection is to be closed.
  rt::task<bool> receive_data(const nbd::option_header& h);
  verdict handle(const nbd::option_header& h);
  verdict refuse(nbd::option to, nbd::option_reply type, std::string_view why);
  verdict export_name();
  verdict list();
  verdict info(nbd::option which);
  verdict structured_reply();
  verdict meta_context(nbd::option which);
  agreement agreed() const;

  connection& connection_;
  registry& registry_;
  const uint64_t limit_ns_;
  nbd::byte_buffer data_;  // of the option at hand
  nbd::byte_buffer out_;   // the answer
  bool fixed_newstyle_ = false, no_zeroes_ = false;
  bool structured_ = false;
  std::shared_ptr<export_entry> selected_for_;  // the export whose base:allocation was selected
  std::shared_ptr<export_entry> target_;
};

}  // namespace lbd::nbd_server
