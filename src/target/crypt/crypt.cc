// SPDX-License-Identifier: MIT
#include "target/crypt/crypt.h"

#include <algorithm>

#include "base/checked_math.h"
#include "base/log.h"
#include "block/segments.h"
#include "rt/buffer_pool.h"
#include "target/crypt/params.h"

namespace lbd::target {

using base::failure;
using base::outcome;
using base::result;
using block::errc;
using block::io_error;
using block::io_opts;
using rt::segments;
using rt::task;

namespace {

constexpr const char* no_tags = "Integrity profile not supported.";

// What the libraries do not have is named, unless it may be a key in the wrong place.
std::string missing(const crypto::cipher_spec& spec) {
  const bool digits = spec.text.find_first_not_of("0123456789abcdefABCDEF") == std::string::npos;
  return "there is no cipher, mode or digest for " +
         (digits ? "these digits" : "'" + spec.text + "'") +
         " (there are aes, camellia, serpent and twofish, with cbc, xts and ecb)";
}

outcome<std::unique_ptr<crypto::sector_cipher>> make_cipher(const crypt_params& p,
                                                            block::target_context& context) {
  crypto::cipher_spec spec = p.cipher;
  // Which cannot be served, but that is found out last.
  if (spec.iv == "random") spec.iv = "plain64";
  auto made = crypto::sector_cipher::make(spec, p.key.view(), p.shape);
  const errc unknown = errc::noent;
  if (made && p.authenticates) return failure{unknown, "Error allocating crypto tfm"};
  if (made || made.error().code != unknown) return made;
  if (p.authenticates) return failure{errc::inval, no_tags};
  const std::string why = missing(p.cipher);
  base::log_warn("device-mapper", "crypt: " + why);
  context.explain(why);
  return made;
}

}  // namespace

task<outcome<std::shared_ptr<block::target>>> crypt::create(block::target_context& context,
                                                            std::vector<std::string> args) {
  if (args.size() < 5) co_return failure{errc::inval, "Not enough arguments"};
  auto params = parse_crypt(args, context.length_sectors(), context.runtime().reactor_count());
  crypto::wipe_bytes(std::as_writable_bytes(std::span(args[1].data(), args[1].size())));
  if (!params) co_return params.error();
  auto cipher = make_cipher(*params, context);
  if (!cipher) co_return cipher.error();
  CO_TRY(params->iv_offset, parse_crypt_iv_offset(args[2], params->shape.sector_bytes));
  auto child = co_await context.open(args[3]);
  if (!child) co_return failure{child.error().code, "Device lookup failed"};
  const auto start = block::parse_u64(args[4]);
  if (!start) co_return failure{errc::inval, "Invalid device sector"};
  params->start_sector = *start;
  if (params->cipher.iv == "random") co_return failure{errc::inval, no_tags};
  CO_CHECK(context.check_area(*child, params->start_sector, context.length_sectors()));
  co_return std::shared_ptr<block::target>(
      std::make_shared<crypt>(*std::move(params), *std::move(cipher), *std::move(child), context));
}

crypt::crypt(crypt_params params, std::unique_ptr<crypto::sector_cipher> cipher,
             block::opened_device child, block::target_context& context)
    : params_(std::move(params)),
      cipher_(std::move(cipher)),
      child_(std::move(child)),
      start_(params_.start_sector * block::sector_bytes),
      cores_(rt::all_cores::of(context.runtime())),
      reads_here_(params_.same_cpu || params_.no_read_workqueue),
      writes_here_(params_.same_cpu || params_.no_write_workqueue),
      limits_(child_.device->limits()) {
  limits_.size_bytes = context.length_sectors() * block::sector_bytes;
  limits_.block_bytes = std::max(limits_.block_bytes, params_.shape.sector_bytes);
  limits_.io_min_bytes = std::max(limits_.io_min_bytes, params_.shape.sector_bytes);
  limits_.can_discard &= params_.allow_discards;
  limits_.can_write_zeroes = false;
  limits_.fast_zero = false;
}

// Whole crypto sectors to encrypt or decrypt, in parts for several cores.
class crypt::job final : public rt::all_cores::work {
 public:
  enum class kind { encrypt, decrypt };
  job(const crypt& of, kind what, uint64_t offset, base::bytes_view in, base::bytes_span out)
      : work(static_cast<unsigned>(base::div_up(in.size(), part_bytes)), in.size()),
        cipher_(*of.cipher_),
        what_(what),
        sector_(of.params_.iv_offset + offset / block::sector_bytes),
        in_(in),
        out_(out) {}

  void do_part(unsigned index) noexcept override {
    const size_t at = index * part_bytes, n = std::min(in_.size() - at, part_bytes);
    const unsigned lane = rt::reactor::current().index();
    const uint64_t sector = sector_ + at / block::sector_bytes;
    if (what_ == kind::encrypt)
      cipher_.encrypt(lane, sector, in_.subspan(at, n), out_.subspan(at, n));
    else
      cipher_.decrypt(lane, sector, in_.subspan(at, n), out_.subspan(at, n));
  }

 private:
  static constexpr size_t part_bytes = size_t{32} << 10;
  crypto::sector_cipher& cipher_;
  const kind what_;
  const uint64_t sector_;
  const base::bytes_view in_;
  const base::bytes_span out_;
};

task<result<void>> crypt::read(uint64_t offset, segments to, io_opts io) {
  const uint64_t length = block::total_bytes(to);
  for (uint64_t done = 0; done < length;) {
    const uint64_t n = std::min<uint64_t>(length - done, block::bounds::copy_chunk_bytes);
    const block::segment_list piece(to, done, n);
    rt::buffer gathered;
    base::bytes_span text;
    if (piece.view().size() == 1) {
      text = {static_cast<std::byte*>(piece.view()[0].iov_base), n};
    } else {
      gathered = rt::buffer(n);
      text = gathered.span();
    }
    const block::segment_list from_below{base::bytes_view(text)};
    CO_CHECK(co_await block::read(*child_.device, start_ + offset + done, from_below.view(), io));
    job decrypts(*this, job::kind::decrypt, offset + done, text, text);
    if (reads_here_)
      decrypts.do_here();
    else
      co_await cores_.run(decrypts);
    if (gathered) block::copy_to(piece.view(), text);
    done += n;
  }
  co_return result<void>{};
}

task<result<void>> crypt::write(uint64_t offset, segments from, io_opts io) {
  const uint64_t length = block::total_bytes(from);
  for (uint64_t done = 0; done < length;) {
    const uint64_t n = std::min<uint64_t>(length - done, block::bounds::copy_chunk_bytes);
    const block::segment_list piece(from, done, n);
    rt::buffer secret(n);
    base::bytes_view plain;
    if (piece.view().size() == 1) {
      plain = {static_cast<const std::byte*>(piece.view()[0].iov_base), n};
    } else {
      block::copy_from(piece.view(), secret.span());
      plain = secret.span();
    }
    job encrypts(*this, job::kind::encrypt, offset + done, plain, secret.span());
    if (writes_here_)
      encrypts.do_here();
    else
      co_await cores_.run(encrypts);
    const block::segment_list to_below{base::bytes_view(secret.span())};
    CO_CHECK(co_await block::write(*child_.device, start_ + offset + done, to_below.view(), io));
    done += n;
  }
  co_return result<void>{};
}

task<result<void>> crypt::flush(io_opts io) { return child_.device->flush(io); }

task<result<void>> crypt::discard(uint64_t offset, uint64_t length, io_opts io) {
  if (!params_.allow_discards) co_return io_error{errc::notsup, 0};
  co_return co_await child_.device->discard(start_ + offset, length, io);
}

std::string crypt::options_text() const {
  std::vector<std::string> words;
  if (params_.allow_discards) words.push_back("allow_discards");
  if (params_.same_cpu) words.push_back("same_cpu_crypt");
  if (params_.high_priority) words.push_back("high_priority");
  if (params_.submit_from_crypt_cpus) words.push_back("submit_from_crypt_cpus");
  if (params_.no_read_workqueue) words.push_back("no_read_workqueue");
  if (params_.no_write_workqueue) words.push_back("no_write_workqueue");
  if (params_.tag_bytes != 0)
    words.push_back("integrity:" + std::to_string(params_.tag_bytes) + ":none");
  if (params_.shape.sector_bytes != 512)
    words.push_back("sector_size:" + std::to_string(params_.shape.sector_bytes));
  if (params_.shape.iv_large_sectors) words.push_back("iv_large_sectors");
  if (params_.integrity_key_bytes != 0)
    words.push_back("integrity_key_size:" + std::to_string(params_.integrity_key_bytes));
  if (words.empty()) return {};
  std::string text = " " + std::to_string(words.size());
  for (const std::string& w : words) text += " " + w;
  return text;
}

// The key is told only to those who may see it: dmsetup asks for it always and hides it by itself,
// so whoever codes the kernel's interface decides.
task<std::string> crypt::status(block::status_request q) {
  if (q.kind == block::status_kind::info) co_return std::string();
  std::string text = params_.cipher.text + " ";
  if (!params_.key_word.empty()) {
    text += params_.key_word;
  } else if (params_.key.size() == 0) {
    text += "-";
  } else {
    static constexpr char digits[] = "0123456789abcdef";
    for (const std::byte b : params_.key.view()) {
      const auto v = q.show_keys ? static_cast<unsigned>(b) : 0u;
      text += digits[v >> 4];
      text += digits[v & 15];
    }
  }
  text += " " + std::to_string(params_.iv_offset) + " " + child_.number.text() + " " +
          std::to_string(params_.start_sector) + options_text();
  co_return text;
}

std::string crypt::measured() const {
  std::string text;
  const auto add = [&text](const std::string& name, const std::string& value) {
    text += "," + name + "=" + value;
  };
  const auto flag = [&add](const char* name, bool set) { add(name, set ? "y" : "n"); };
  flag("allow_discards", params_.allow_discards);
  flag("same_cpu_crypt", params_.same_cpu);
  flag("submit_from_crypt_cpus", params_.submit_from_crypt_cpus);
  flag("no_read_workqueue", params_.no_read_workqueue);
  flag("no_write_workqueue", params_.no_write_workqueue);
  flag("iv_large_sectors", params_.shape.iv_large_sectors);
  if (params_.tag_bytes != 0) {
    add("integrity_tag_size", std::to_string(params_.tag_bytes));
    add("cipher_auth", params_.authenticates ? "aead" : "none");
  }
  if (params_.shape.sector_bytes != block::sector_bytes)
    add("sector_size", std::to_string(params_.shape.sector_bytes));
  add("cipher_string", params_.cipher.text);
  const size_t key_bytes = params_.key.size();
  const auto parts = crypto::parts_of_key(params_.cipher, key_bytes);
  add("key_size", std::to_string(key_bytes));
  add("key_parts", std::to_string(parts.count));
  add("key_extra_size", std::to_string(parts.extra_bytes));
  add("key_mac_size", "0");
  return text;
}

outcome<std::string> crypt::set_key(const std::string& word) {
  auto key = parse_crypt_key(word);
  if (!key) return key.error();
  if (key->size() != params_.key.size())
    return failure{errc::inval, "the new key has another length"};
  auto cipher = crypto::sector_cipher::make(params_.cipher, key->view(), params_.shape);
  if (!cipher) return cipher.error();
  cipher_ = *std::move(cipher);
  params_.key = *std::move(key);
  params_.key_word = word.starts_with(":") ? word : std::string();
  return std::string();
}

task<outcome<std::string>> crypt::message(std::vector<std::string> words) {
  auto is = [&](size_t i, std::string_view text) {
    return words[i].size() == text.size() &&
           std::equal(text.begin(), text.end(), words[i].begin(),
                      [](char a, char b) { return a == (b | 0x20); });
  };
  const bool set = words.size() == 3 && is(0, "key") && is(1, "set");
  const bool wipe = words.size() == 2 && is(0, "key") && is(1, "wipe");
  if (!set && !wipe) {
    base::log_warn("device-mapper", "crypt: unrecognised message received.");
    co_return failure{errc::inval, "unrecognised message received."};
  }
  if (!suspended_) {
    base::log_warn("device-mapper", "crypt: not suspended during key manipulation.");
    co_return failure{errc::inval, "not suspended during key manipulation."};
  }
  if (set) co_return set_key(words[2]);
  // The length stays known: a wiped key prints as zeros.
  const std::vector<std::byte> zeros(params_.key.size(), std::byte{0});
  params_.key = crypto::secret(zeros);
  params_.key_word.clear();
  cipher_.reset();
  co_return std::string();
}

task<void> crypt::postsuspend() {
  suspended_ = true;
  co_return;
}
task<result<void>> crypt::preresume() {
  if (cipher_) co_return result<void>{};
  base::log_error("device-mapper", "crypt: aborting resume - crypt key is not set.");
  co_return io_error{errc::again, 0};
}
task<void> crypt::resumed() {
  suspended_ = false;
  co_return;
}

void crypt::for_each_child(const std::function<void(const block::opened_device&)>& visit) const {
  visit(child_);
}

extern const block::target_type crypt_type;
const block::target_type crypt_type = {"crypt", {1, 24, 0}, 0, &crypt::create};

}  // namespace lbd::target
