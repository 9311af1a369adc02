// SPDX-License-Identifier: MIT
#include "ctl/copy.h"

#include <algorithm>

#include "block/segments.h"
#include "rt/buffer_pool.h"
#include "rt/sync.h"

namespace lbd::ctl {
namespace {

using base::outcome;
using base::result;

constexpr unsigned workers = 4;
constexpr uint64_t chunk_bytes = block::bounds::copy_chunk_bytes;

struct chunk {
  copy_kind kind = copy_kind::skip;
  uint64_t offset = 0, length_bytes = 0;
};

class copier {
 public:
  copier(copy_source& runs, block::block_device& from, block::block_device& to, uint64_t size_bytes,
         progress& shown)
      : runs_(runs), from_(from), to_(to), size_bytes_(size_bytes), shown_(shown) {}

  rt::task<outcome<void>> run() {
    std::vector<rt::task<bool>> all;
    for (unsigned i = 0; i < workers; ++i) all.push_back(work());
    co_await rt::when_all(std::move(all));
    co_return state_;
  }

 private:
  rt::task<bool> work() {
    rt::buffer buffer(chunk_bytes);
    while (state_) {
      const chunk next = co_await take();
      if (next.length_bytes == 0) break;
      const result<void> done = co_await carry_out(next, buffer);
      if (!done) {
        note(done.error(), next.offset);
        break;
      }
      shown_.add(next.length_bytes);
    }
    co_return true;
  }

  rt::task<result<void>> carry_out(chunk c, rt::buffer& buffer) {
    if (c.kind == copy_kind::skip) co_return result<void>{};
    if (c.kind == copy_kind::zero)
      co_return co_await to_.write_zeroes(c.offset, c.length_bytes, {});
    const base::bytes_span bytes = buffer.first(c.length_bytes);
    const block::segment_list segments{base::bytes_view(bytes)};
    CO_CHECK(co_await block::read(from_, c.offset, segments.view(), {}));
    co_return co_await block::write(to_, c.offset, segments.view(), {});
  }

  // The next piece of work; empty at the end and after a failure.
  rt::task<chunk> take() {
    const auto held = co_await taking_.lock();
    if (run_.length_bytes == 0 && position_ < size_bytes_ && state_) {
      const auto next = co_await runs_.at(position_, size_bytes_ - position_);
      if (next)
        run_ = *next;
      else
        note(next.error(), position_);
    }
    chunk out;
    if (!state_) co_return out;
    // Skipped runs cost nothing, however long they are.
    const uint64_t most = run_.kind == copy_kind::skip ? run_.length_bytes : chunk_bytes;
    out.kind = run_.kind;
    out.offset = position_;
    out.length_bytes = std::min(run_.length_bytes, most);
    run_.length_bytes -= out.length_bytes;
    position_ += out.length_bytes;
    co_return out;
  }

  void note(base::io_error e, uint64_t offset) {
    if (state_)
      state_ =
          base::failure{e.code, base::to_string(e.code) + " at byte " + std::to_string(offset)};
  }

  copy_source& runs_;
  block::block_device& from_;
  block::block_device& to_;
  const uint64_t size_bytes_;
  progress& shown_;
  rt::mutex taking_;
  copy_run run_;
  uint64_t position_ = 0;
  outcome<void> state_;
};

}  // namespace

rt::task<outcome<void>> copy_runs(copy_source& runs, block::block_device& from,
                                  block::block_device& to, uint64_t size_bytes, progress& shown) {
  copier one(runs, from, to, size_bytes, shown);
  co_return co_await one.run();
}

}  // namespace lbd::ctl
