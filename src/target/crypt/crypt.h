// SPDX-License-Identifier: MIT
// crypt: transparent encryption, `crypt <cipher> <key> <iv_offset> <device> <start> [<#opt>
// <opt>...]`. Maps a sector to the same sector of the device, encrypted. State: the key, in locked
// memory; it is changed only while the device is suspended. After a crash: as the device below; a
// torn crypto sector of more than 512 bytes reads as noise.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "block/target.h"
#include "crypto/secret.h"
#include "crypto/sector_cipher.h"
#include "rt/all_cores.h"

namespace lbd::target {

// The words of a crypt line.
struct crypt_params {
  crypto::cipher_spec cipher;
  std::string key_word;  // as in the table, for ":size:type:description" keys
  crypto::secret key;
  uint64_t iv_offset = 0;
  uint64_t start_sector = 0;
  bool allow_discards = false, same_cpu = false, submit_from_crypt_cpus = false;
  bool no_read_workqueue = false, no_write_workqueue = false, high_priority = false;
  // Of a device with room for tags beside its sectors; ours have none, and only the kernel's checks
  // of the words are here.
  uint32_t tag_bytes = 0, integrity_key_bytes = 0;
  bool authenticates = false;
  crypto::sector_cipher::shape shape;
};

class crypt final : public block::target {
 public:
  static rt::task<base::outcome<std::shared_ptr<block::target>>> create(
      block::target_context& context, std::vector<std::string> args);

  crypt(crypt_params params, std::unique_ptr<crypto::sector_cipher> cipher,
        block::opened_device child, block::target_context& context);

  const block::limits& limits() const noexcept override { return limits_; }
  uint64_t unit_bytes() const noexcept override { return params_.shape.sector_bytes; }
  rt::task<base::result<void>> read(uint64_t offset, rt::segments to, block::io_opts io) override;
  rt::task<base::result<void>> write(uint64_t offset, rt::segments from,
                                     block::io_opts io) override;
  rt::task<base::result<void>> flush(block::io_opts io) override;
  rt::task<base::result<void>> discard(uint64_t offset, uint64_t length,
                                       block::io_opts io) override;

  rt::task<std::string> status(block::status_request q) override;
  std::string measured() const override;
  rt::task<base::outcome<std::string>> message(std::vector<std::string> words) override;
  rt::task<void> postsuspend() override;
  rt::task<base::result<void>> preresume() override;
  rt::task<void> resumed() override;
  void for_each_child(const std::function<void(const block::opened_device&)>& visit) const override;

 private:
  class job;
  base::outcome<std::string> set_key(const std::string& word);
  std::string options_text() const;

  crypt_params params_;
  std::unique_ptr<crypto::sector_cipher> cipher_;
  const block::opened_device child_;
  const uint64_t start_;  // bytes
  rt::all_cores& cores_;
  const bool reads_here_, writes_here_;  // the reactor of a request does all of its work
  block::limits limits_;
  bool suspended_ = true;
};

}  // namespace lbd::target
