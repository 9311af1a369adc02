// SPDX-License-Identifier: MIT
#include "crypto/aes_xts.h"

#if defined(__x86_64__)

#include <immintrin.h>

#include <array>

#include "crypto/secret.h"

// Only code with this mark may use the instructions; make_aes_xts() asks the processor first.
#define LBD_VAES __attribute__((target("aes,avx512f,avx512bw,avx512vl,vaes,vpclmulqdq")))

namespace lbd::crypto {
namespace {

using base::bytes_span;
using base::bytes_view;

constexpr size_t block = 16, rounds_most = 14;
constexpr size_t stride = 16 * block;  // bytes of one turn of the loop

struct schedule {
  __m128i keys[rounds_most + 1];
};

// Encryption and decryption of the data, encryption of the tweak.
struct alignas(64) schedules {
  schedule encrypt, decrypt, tweak;
  size_t rounds;
};

// The schedule grows by words: every word is the one `key_words` before, exclusive-or the last one,
// which is changed at each key_words-th (FIPS 197, section 5.2).
LBD_VAES void expand(bytes_view key, size_t rounds, schedule& to) {
  const size_t key_words = key.size() / 4, words = 4 * (rounds + 1);
  std::array<uint32_t, 4 * (rounds_most + 1)> w{};
  std::memcpy(w.data(), key.data(), key.size());
  uint32_t constant = 1;
  for (size_t i = key_words; i < words; ++i) {
    uint32_t last = w[i - 1];
    // Words 2 and 3: SubWord, and RotWord of it.
    const __m128i changed = _mm_aeskeygenassist_si128(_mm_set1_epi32(static_cast<int>(last)), 0);
    if (i % key_words == 0) {
      last = static_cast<uint32_t>(_mm_extract_epi32(changed, 3)) ^ constant;
      constant = constant << 1 ^ (constant >> 7) * 0x11b;
    } else if (key_words == 8 && i % key_words == 4) {
      last = static_cast<uint32_t>(_mm_extract_epi32(changed, 2));
    }
    w[i] = w[i - key_words] ^ last;
  }
  std::memcpy(to.keys, w.data(), words * 4);
  wipe_bytes(std::as_writable_bytes(std::span(w)));
}

LBD_VAES void invert(const schedules& s, schedule& to) {
  const __m128i* keys = s.encrypt.keys;
  to.keys[0] = keys[s.rounds];
  for (size_t i = 1; i < s.rounds; ++i) to.keys[i] = _mm_aesimc_si128(keys[s.rounds - i]);
  to.keys[s.rounds] = keys[0];
}

LBD_VAES inline __m128i encrypt_block(__m128i x, const __m128i* keys, size_t rounds) {
  x = _mm_xor_si128(x, keys[0]);
  for (size_t i = 1; i < rounds; ++i) x = _mm_aesenc_si128(x, keys[i]);
  return _mm_aesenclast_si128(x, keys[rounds]);
}

LBD_VAES inline __m128i decrypt_block(__m128i x, const __m128i* keys, size_t rounds) {
  x = _mm_xor_si128(x, keys[0]);
  for (size_t i = 1; i < rounds; ++i) x = _mm_aesdec_si128(x, keys[i]);
  return _mm_aesdeclast_si128(x, keys[rounds]);
}

// The tweak of the next block: times x in GF(2^128), modulo x^128 + x^7 + x^2 + x + 1.
LBD_VAES inline __m128i next_tweak(__m128i t) {
  const __m128i carries =
      _mm_and_si128(_mm_shuffle_epi32(_mm_srai_epi32(t, 31), 0x93), _mm_set_epi32(1, 1, 1, 0x87));
  return _mm_xor_si128(_mm_slli_epi32(t, 1), carries);
}

// The tweaks of the blocks First to First + 3: up by as many bits.
template <int First>
LBD_VAES inline __m512i tweaks_from(__m128i t) {
  const __m512i up = _mm512_set_epi64(First + 3, First + 3, First + 2, First + 2, First + 1,
                                      First + 1, First, First);
  const __m512i all = _mm512_broadcast_i32x4(t);
  const __m512i fallen = _mm512_srlv_epi64(all, _mm512_sub_epi64(_mm512_set1_epi64(64), up));
  const __m512i back =
      _mm512_clmulepi64_epi128(_mm512_bsrli_epi128(fallen, 8), _mm512_set1_epi64(0x87), 0);
  return _mm512_ternarylogic_epi64(_mm512_sllv_epi64(all, up), _mm512_bslli_epi128(fallen, 8), back,
                                   0x96);
}

// Four tweaks at once, each that of the block 16 blocks later: two bytes up, and what falls out
// comes back times 0x87.
LBD_VAES inline __m512i later_tweaks(__m512i t) {
  const __m512i fallen = _mm512_bsrli_epi128(t, 14);
  const __m512i back = _mm512_clmulepi64_epi128(fallen, _mm512_set1_epi64(0x87), 0);
  return _mm512_xor_si512(_mm512_bslli_epi128(t, 2), back);
}

// Four blocks in each of four registers: as many as hide the latency of a round.
struct wide {
  __m512i a, b, c, d;
};

LBD_VAES inline wide mixed(const wide& x, const wide& y) {
  return {_mm512_xor_si512(x.a, y.a), _mm512_xor_si512(x.b, y.b), _mm512_xor_si512(x.c, y.c),
          _mm512_xor_si512(x.d, y.d)};
}
LBD_VAES inline wide load(const void* from) {
  const auto* p = static_cast<const __m512i*>(from);
  return {_mm512_loadu_si512(p), _mm512_loadu_si512(p + 1), _mm512_loadu_si512(p + 2),
          _mm512_loadu_si512(p + 3)};
}
LBD_VAES inline void store(void* to, const wide& x) {
  auto* p = static_cast<__m512i*>(to);
  _mm512_storeu_si512(p, x.a);
  _mm512_storeu_si512(p + 1, x.b);
  _mm512_storeu_si512(p + 2, x.c);
  _mm512_storeu_si512(p + 3, x.d);
}
LBD_VAES inline wide later(const wide& t) {
  return {later_tweaks(t.a), later_tweaks(t.b), later_tweaks(t.c), later_tweaks(t.d)};
}
template <bool Encrypt>
LBD_VAES inline wide round(const wide& x, __m512i k) {
  if constexpr (Encrypt)
    return {_mm512_aesenc_epi128(x.a, k), _mm512_aesenc_epi128(x.b, k),
            _mm512_aesenc_epi128(x.c, k), _mm512_aesenc_epi128(x.d, k)};
  else
    return {_mm512_aesdec_epi128(x.a, k), _mm512_aesdec_epi128(x.b, k),
            _mm512_aesdec_epi128(x.c, k), _mm512_aesdec_epi128(x.d, k)};
}
template <bool Encrypt>
LBD_VAES inline wide last_round(const wide& x, __m512i k) {
  if constexpr (Encrypt)
    return {_mm512_aesenclast_epi128(x.a, k), _mm512_aesenclast_epi128(x.b, k),
            _mm512_aesenclast_epi128(x.c, k), _mm512_aesenclast_epi128(x.d, k)};
  else
    return {_mm512_aesdeclast_epi128(x.a, k), _mm512_aesdeclast_epi128(x.b, k),
            _mm512_aesdeclast_epi128(x.c, k), _mm512_aesdeclast_epi128(x.d, k)};
}

template <bool Encrypt, size_t Rounds>
LBD_VAES inline void run(const schedules& s, bytes_view iv, bytes_view in, bytes_span out) {
  const __m128i* keys = Encrypt ? s.encrypt.keys : s.decrypt.keys;
  const std::byte* from = in.data();
  std::byte* to = out.data();
  size_t left = in.size();
  __m128i t = encrypt_block(_mm_loadu_si128(reinterpret_cast<const __m128i*>(iv.data())),
                            s.tweak.keys, Rounds);
  if (left >= stride) {
    wide tweaks = {tweaks_from<0>(t), tweaks_from<4>(t), tweaks_from<8>(t), tweaks_from<12>(t)};
    for (; left >= stride; left -= stride, from += stride, to += stride) {
      const __m512i k = _mm512_broadcast_i32x4(keys[0]);
      wide x = mixed(mixed(load(from), tweaks), {k, k, k, k});
      for (size_t i = 1; i < Rounds; ++i) x = round<Encrypt>(x, _mm512_broadcast_i32x4(keys[i]));
      x = last_round<Encrypt>(x, _mm512_broadcast_i32x4(keys[Rounds]));
      store(to, mixed(x, tweaks));
      tweaks = later(tweaks);
    }
    t = _mm512_castsi512_si128(tweaks.a);
  }
  for (; left >= block; left -= block, from += block, to += block) {
    __m128i x = _mm_xor_si128(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)), t);
    x = Encrypt ? encrypt_block(x, keys, Rounds) : decrypt_block(x, keys, Rounds);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm_xor_si128(x, t));
    t = next_tweak(t);
  }
}

class aes_xts final : public cipher {
 public:
  LBD_VAES explicit aes_xts(bytes_view key) : memory_(bytes_view(zeros_)) {
    const size_t half = key.size() / 2;
    s_ = reinterpret_cast<schedules*>(const_cast<std::byte*>(memory_.view().data()));
    s_->rounds = half / 4 + 6;
    expand(key.first(half), s_->rounds, s_->encrypt);
    invert(*s_, s_->decrypt);
    expand(key.last(half), s_->rounds, s_->tweak);
  }
  LBD_VAES void encrypt(unsigned, bytes_view iv, bytes_view in, bytes_span out) override {
    s_->rounds == 10 ? run<true, 10>(*s_, iv, in, out) : run<true, 14>(*s_, iv, in, out);
  }
  LBD_VAES void decrypt(unsigned, bytes_view iv, bytes_view in, bytes_span out) override {
    s_->rounds == 10 ? run<false, 10>(*s_, iv, in, out) : run<false, 14>(*s_, iv, in, out);
  }
  size_t block_bytes() const noexcept override { return block; }
  size_t iv_bytes() const noexcept override { return block; }

 private:
  static constexpr std::array<std::byte, sizeof(schedules)> zeros_{};
  secret memory_;  // page-aligned, locked
  schedules* s_;
};

}  // namespace

std::unique_ptr<cipher> make_aes_xts(bytes_view key) {
  if ((key.size() != 32 && key.size() != 64) || !__builtin_cpu_supports("vaes") ||
      !__builtin_cpu_supports("vpclmulqdq") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512vl"))
    return nullptr;
  return std::make_unique<aes_xts>(key);
}

}  // namespace lbd::crypto

#else

namespace lbd::crypto {
std::unique_ptr<cipher> make_aes_xts(base::bytes_view) { return nullptr; }
}  // namespace lbd::crypto

#endif
