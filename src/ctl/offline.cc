// SPDX-License-Identifier: MIT
#include "ctl/offline.h"

#include <array>
#include <filesystem>

#include "base/size_text.h"
#include "ctl/copy.h"
#include "ctl/gluster_layer.h"
#include "ctl/holdings.h"
#include "ctl/new_file.h"
#include "ctl/report.h"
#include "ctl/run_alone.h"

namespace lbd::ctl {
namespace {

using base::errc;
using base::failure;
using base::outcome;

failure not_written(const open_layer& layer, errc code) {
  return failure{code, "cannot write '" + layer.path + "': " + base::to_string(code)};
}

// A change file at the bottom that records a layer below it would be filled with zeros where that
// layer's bytes belong.
outcome<void> check_complete(const std::vector<open_layer>& layers) {
  const open_layer& last = layers.back();
  if (last.change == nullptr || !last.change->header().backing_name) return {};
  return failure{errc::inval, "'" + last.path + "' records the layer '" +
                                  *last.change->header().backing_name +
                                  "' below it: name that layer, too"};
}

// What the topmost layer of a stack holds by itself.
class own_runs final : public copy_source {
 public:
  explicit own_runs(store::change_file& top) : top_(top) {}
  rt::task<base::result<copy_run>> at(uint64_t offset, uint64_t length) override {
    CO_TRY(const block::placement p, co_await top_.locate(offset, length));
    copy_run out;
    out.length_bytes = std::min(length, p.length_bytes);
    if (p.kind == block::placement_kind::zero)
      out.kind = copy_kind::zero;
    else if (p.kind != block::placement_kind::absent)
      out.kind = copy_kind::copy;
    if (out.kind != copy_kind::skip) merged_bytes += out.length_bytes;
    co_return out;
  }
  uint64_t merged_bytes = 0;

 private:
  store::change_file& top_;
};

// The data that layers from `first` on hold; what reads as zeros is skipped.
class held_runs final : public copy_source {
 public:
  held_runs(overlay::device& over, const std::vector<open_layer>& layers, size_t first)
      : over_(over), layers_(layers), first_(first) {}
  rt::task<base::result<copy_run>> at(uint64_t offset, uint64_t length) override {
    CO_TRY(const held_run r, co_await find_holder(over_, layers_, offset, length));
    copy_run out;
    out.length_bytes = r.length_bytes;
    const bool data = r.kind == held_kind::data || r.kind == held_kind::compressed;
    if (data && *r.layer >= first_) out.kind = copy_kind::copy;
    co_return out;
  }

 private:
  overlay::device& over_;
  const std::vector<open_layer>& layers_;
  const size_t first_;
};

outcome<void> check_commit(const open_layers& stack) {
  const open_layer& top = stack.layers[0];
  const open_layer& below = stack.layers[1];
  if (top.change == nullptr)
    return failure{errc::inval, "'" + top.path + "' is no change file: only those can be merged"};
  if (!below.writable)
    return failure{errc::inval, "'" + below.path +
                                    "' cannot be written: merge into a change file "
                                    "(-E), a flat file (-f) or an NBD server (-n)"};
  if (below.memory != nullptr || below.kind == "null")
    return failure{errc::inval, "'" + below.path + "' would not keep what is merged into it"};
  if (top.size_bytes() > below.size_bytes())
    return failure{errc::inval, "'" + top.path + "' has " + base::format_size(top.size_bytes()) +
                                    " and does not fit into '" + below.path + "' with " +
                                    base::format_size(below.size_bytes()) +
                                    ": enlarge that first (truncate -s for a flat file, qemu-img "
                                    "resize for a change file)"};
  return check_complete(stack.layers);
}

// Copies the topmost layer into the stack below it and makes that durable.
rt::task<outcome<uint64_t>> merge_top(rt::runtime& runtime, const std::vector<open_layer>& layers) {
  store::change_file& top = *layers[0].change;
  const std::vector<open_layer> lower(layers.begin() + 1, layers.end());
  std::unique_ptr<overlay::device> over;
  block::block_device* target = lower[0].flat.get();
  if (lower[0].change != nullptr) {
    over = std::make_unique<overlay::device>(runtime, to_members(lower), lower[0].change.get(),
                                             lower[0].size_bytes());
    target = over.get();
  }
  own_runs runs(top);
  progress shown("commit", top.limits().size_bytes);
  outcome<void> done = co_await copy_runs(runs, top, *target, top.limits().size_bytes, shown);
  if (done) {
    const auto flushed = co_await target->flush({});
    if (!flushed) done = not_written(lower[0], flushed.error().code);
  } else {
    done = failure{done.error().code, "merging '" + layers[0].path + "' into '" + lower[0].path +
                                          "': " + done.error().message};
  }
  if (over != nullptr) {
    const auto ended = co_await over->close(false);
    if (!ended && done) done = not_written(lower[0], ended.error().code);
  }
  if (!done) co_return done.error();
  shown.finish();
  co_return runs.merged_bytes;
}

rt::task<outcome<std::string>> commit(rt::runtime& runtime, const commit_command& what) {
  open_mode mode;
  mode.writable = 1;
  CO_TRY(open_layers stack, co_await open_stack(runtime, what.stack, mode));
  const std::string top = stack.layers[0].path, below = stack.layers[1].path;
  outcome<uint64_t> merged = uint64_t{0};
  if (const auto checked = check_commit(stack); !checked)
    merged = checked.error();
  else
    merged = co_await merge_top(runtime, stack.layers);
  const auto closed = co_await close_layers(stack.layers);
  if (!merged) co_return merged.error();
  if (!closed) co_return closed.error();
  std::string text = "merged " + human_bytes(*merged) + " of " + top + " into " + below;
  if (!what.remove) co_return text + "; " + top + " is not needed any more\n";
  const auto removed = co_await remove_image(runtime, top);
  if (!removed) co_return failure{errc::io, text + ", but " + removed.error().message};
  co_return text + " and removed it\n";
}

outcome<std::unique_ptr<block::block_device>> size_flat(const std::string& path,
                                                        uint64_t size_bytes) {
  std::error_code error;
  std::filesystem::resize_file(path, size_bytes, error);
  if (error)
    return failure{errc::fbig, "cannot make '" + path + "' " + base::format_size(size_bytes) +
                                   " long: " + error.message()};
  CHECK(sync_folder_of(path));
  return open_flat(path);
}

// A new, empty flat file with a durable name, open for writing. Nothing stays of it after an error.
outcome<std::unique_ptr<block::block_device>> make_flat_file(const std::string& path,
                                                             uint64_t size_bytes) {
  rt::open_options options;
  options.writable = options.create = options.exclusive = true;
  new_files files;
  { TRY(const auto made, files.open(path, options)); }
  auto flat = size_flat(path, size_bytes);
  if (!flat) files.remove_made(path);
  return flat;
}

// The same, by path or by URI.
rt::task<outcome<open_layer>> make_flat(rt::runtime& runtime, std::string path,
                                        uint64_t size_bytes) {
  if (uri::has_gluster_scheme(path))
    co_return co_await make_gluster_flat(runtime, path, size_bytes);
  open_layer out;
  CO_TRY(out.flat, make_flat_file(path, size_bytes));
  out.kind = "flat";
  out.path = std::move(path);
  out.writable = true;
  co_return out;
}

rt::task<outcome<void>> flatten_into(rt::runtime& runtime, overlay::device& over,
                                     const open_layers& stack, const std::string& path) {
  std::vector<open_layer> target(1);
  CO_TRY(target[0], co_await make_flat(runtime, path, stack.size_bytes));
  block::block_device& to = *target[0].flat;
  held_runs runs(over, stack.layers, 0);
  progress shown("flatten", stack.size_bytes);
  outcome<void> done = co_await copy_runs(runs, over, to, stack.size_bytes, shown);
  if (done) {
    const auto flushed = co_await to.flush({});
    if (!flushed) done = failure{flushed.error().code, base::to_string(flushed.error().code)};
  }
  const auto closed = co_await close_layers(target);
  if (done) done = closed;
  if (done) {
    shown.finish();
    co_return done;
  }
  // Half a copy is of no use to anybody; the first failure is the one to tell.
  (void)co_await remove_image(runtime, path);
  co_return failure{done.error().code, "writing '" + path + "': " + done.error().message};
}

// The topmost change file takes up what the layers below hold.
rt::task<outcome<void>> flatten_top(overlay::device& over, const open_layers& stack) {
  held_runs runs(over, stack.layers, 1);
  progress shown("flatten", stack.size_bytes);
  const auto copied = co_await copy_runs(runs, over, over, stack.size_bytes, shown);
  if (!copied)
    co_return failure{copied.error().code,
                      "writing '" + stack.layers[0].path + "': " + copied.error().message};
  const auto flushed = co_await over.flush({});
  if (!flushed) co_return not_written(stack.layers[0], flushed.error().code);
  shown.finish();
  co_return outcome<void>{};
}

// Takes the recorded name of the layer below out of a closed change file: the fields
// backing_file_offset and backing_file_size of the header, which lie in one sector.
rt::task<outcome<void>> forget_backing(rt::runtime& runtime, std::string path) {
  constexpr uint64_t field_offset = 8;
  const std::array<std::byte, 12> none{};
  rt::open_options options;
  options.writable = true;
  CO_TRY(const auto file, co_await open_image_file(runtime, path, options));
  auto done = co_await file->write_all(field_offset, none);
  if (done) {
    const auto synced = co_await file->sync_data();
    if (!synced) done = synced.error();
  }
  if (!done) co_return failure{done.error().code, "cannot write '" + path + "'"};
  co_return outcome<void>{};
}

rt::task<outcome<std::string>> flatten(rt::runtime& runtime, const flatten_command& what) {
  const bool in_place = what.output.empty();
  open_mode mode;
  if (in_place) mode.writable = 0;
  CO_TRY(open_layers stack, co_await open_stack(runtime, what.stack, mode));
  const std::string top = stack.layers[0].path;
  outcome<void> done = check_complete(stack.layers);
  if (done && in_place && stack.layers[0].kind != "expandable")
    done =
        failure{errc::inval, "'" + top + "' is no change file (-E): name a new flat file with -o"};
  if (done) {
    block::change_layer* writable = in_place ? stack.layers[0].change.get() : nullptr;
    overlay::device over(runtime, to_members(stack.layers), writable, stack.size_bytes);
    if (in_place)
      done = co_await flatten_top(over, stack);
    else
      done = co_await flatten_into(runtime, over, stack, what.output);
    const auto ended = co_await over.close(false);
    if (!ended && done) done = not_written(stack.layers[0], ended.error().code);
  }
  const auto closed = co_await close_layers(stack.layers);
  if (!done) co_return done.error();
  if (!closed) co_return closed.error();
  if (in_place) CO_CHECK(co_await forget_backing(runtime, top));
  co_return (in_place ? top : what.output) + " holds everything by itself now\n";
}

}  // namespace

int run_commit(const commit_command& what) {
  return run_alone("commit", [&what](rt::runtime& runtime) { return commit(runtime, what); });
}

int run_flatten(const flatten_command& what) {
  return run_alone("flatten", [&what](rt::runtime& runtime) { return flatten(runtime, what); });
}

}  // namespace lbd::ctl
