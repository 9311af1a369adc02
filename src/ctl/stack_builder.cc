// SPDX-License-Identifier: MIT
#include "ctl/stack_builder.h"

#include <bit>
#include <filesystem>

#include "base/checked_math.h"
#include "base/log.h"
#include "base/size_text.h"
#include "ctl/gluster_layer.h"
#include "ctl/new_file.h"
#include "ctl/paths.h"
#include "store/file/file.h"
#include "store/null/null.h"
#include "wire/uri/uri.h"

namespace lbd::ctl {
namespace {

using base::errc;
using base::failure;
using base::outcome;

failure at_layer(const layer_spec& spec, const failure& why) {
  return failure{why.code, to_text(spec) + ": " + why.message};
}
failure at_layer(const layer_spec& spec, const std::string& why) {
  return failure{errc::inval, to_text(spec) + ": " + why};
}

// The layer as a source, whatever option named it. Change files are told by the option alone.
outcome<uri::source> source_of(const layer_spec& spec) {
  switch (spec.how) {
    case layer_option::expandable:
      return uri::source(uri::qcow2_source{spec.text});
    case layer_option::flat:
      if (uri::has_gluster_scheme(spec.text)) return uri::parse_source(spec.text);
      return uri::source(uri::file_source{spec.text, false});
    case layer_option::source:
      return uri::parse_source(spec.text);
    case layer_option::nbd:
      break;
  }
  TRY(auto server, uri::parse_nbd(spec.text));
  return uri::source(std::move(server));
}

bool exists(const std::string& path) {
  std::error_code error;
  return std::filesystem::symlink_status(path, error).type() !=
         std::filesystem::file_type::not_found;
}

// Opens one kind of source each. A named object: coroutines must not be capturing lambdas.
class opener {
 public:
  // `lock_files` as in store::file_options.
  opener(rt::runtime& runtime, bool writable, bool lock_files, const std::atomic<bool>* abandoned)
      : runtime_(runtime), writable_(writable), lock_files_(lock_files), abandoned_(abandoned) {}

  // So many layers below the top share what may be kept in memory of their tables.
  void share_cache(size_t layers) noexcept {
    const uint64_t most = block::bounds::table_cache_bytes;
    cache_bytes_ = std::min(most / 32, most / std::max<uint64_t>(layers, 1));
  }

  rt::task<outcome<open_layer>> open(uri::source from) {
    if (const auto* file = std::get_if<uri::file_source>(&from)) co_return open_file(*file);
    if (const auto* image = std::get_if<uri::qcow2_source>(&from)) {
      auto opened = co_await open_change_file(image->path);
      co_return opened;
    }
    if (const auto* server = std::get_if<uri::nbd_source>(&from)) {
      auto opened = co_await open_nbd(*server);
      co_return opened;
    }
    if (const auto* memory = std::get_if<uri::memory_source>(&from)) co_return open_memory(*memory);
    if (const auto* image = std::get_if<uri::gluster_source>(&from))
      co_return co_await open_gluster_flat(runtime_, *image, writable_, lock_files_);
    co_return open_null(std::get<uri::null_source>(from));
  }

 private:
  outcome<open_layer> open_file(const uri::file_source& from) {
    const store::file_options options{writable_, from.direct, lock_files_};
    TRY(auto device, store::open_file_store(rt::os_files(), from.path, options));
    open_layer out;
    out.kind = "flat";
    out.path = absolute_path(from.path);
    out.writable = writable_;
    out.file = std::move(device);
    out.flat = out.file;
    return out;
  }
  rt::task<outcome<open_layer>> open_change_file(std::string path) {
    if (uri::has_gluster_scheme(path))
      co_return co_await open_gluster_change_file(runtime_, path, writable_);
    store::change_file_options options;
    options.writable = writable_;
    if (!writable_) options.cache_bytes = cache_bytes_;
    CO_TRY(auto file, co_await store::change_file::open(rt::os_files(), path, options));
    open_layer out;
    out.kind = "qcow2";
    out.path = absolute_path(path);
    out.writable = writable_;
    out.change = std::move(file);
    co_return out;
  }
  rt::task<outcome<open_layer>> open_nbd(uri::nbd_source from) {
    store::nbd_options options;
    options.host = from.address.host;
    options.port = from.address.port;
    options.socket_path = from.socket_path;
    options.export_name = from.export_name;
    options.read_only = !writable_;
    options.abandoned = abandoned_;
    CO_TRY(auto device, co_await store::nbd_device::open(runtime_, options));
    open_layer out;
    out.kind = "nbd";
    // As others, who may run elsewhere, have to name it.
    if (!from.socket_path.empty()) from.socket_path = absolute_path(from.socket_path);
    out.path = uri::to_text(from);
    out.nbd = std::move(device);
    out.flat = out.nbd;
    out.writable = writable_ && !out.flat->limits().read_only;
    co_return out;
  }
  outcome<open_layer> open_memory(const uri::memory_source& from) {
    TRY(auto device, store::memory_device::make(from.size_bytes));
    open_layer out;
    out.kind = "memory";
    out.path = uri::to_text(uri::source(from));
    out.writable = writable_;
    out.memory = std::move(device);
    out.flat = out.memory;
    return out;
  }
  outcome<open_layer> open_null(const uri::null_source& from) {
    open_layer out;
    out.kind = "null";
    out.path = uri::to_text(uri::source(from));
    out.writable = writable_;
    out.flat = std::make_shared<store::null_device>(from.size_bytes);
    return out;
  }

  rt::runtime& runtime_;
  const bool writable_, lock_files_;
  const std::atomic<bool>* const abandoned_;
  uint64_t cache_bytes_ = 0;
};

// What to do where a layer that is to be written cannot be.
const char* remedy_for_denied(const open_mode& mode) noexcept {
  return mode.create ? "; serve it with -r, or put a change file (-E) on top"
                     : "; this command writes it";
}

rt::task<outcome<open_layer>> open_layer_at(rt::runtime& runtime, const stack_spec& stack,
                                            size_t index, const open_mode& mode) {
  const layer_spec& spec = stack.layers[index];
  const bool writable = index == mode.writable;
  if (mode.abandoned != nullptr && mode.abandoned->load(std::memory_order_relaxed))
    co_return failure{errc::canceled, "stopped while opening " + to_text(spec)};
  const bool is_change_file = spec.how == layer_option::expandable;
  if (is_change_file && !uri::has_gluster_scheme(spec.text) && !exists(spec.text))
    co_return at_layer(
        spec, (writable ? "there is no such file (check the path)"
                        : "there is no such file (only the topmost, writable layer is made)") +
                  uri::gluster_hint(spec.text));
  auto source = source_of(spec);
  if (!source) co_return at_layer(spec, source.error());
  // An image named as a source is somebody else's: never written.
  const bool foreign = std::holds_alternative<uri::qcow2_source>(*source) && !is_change_file;
  opener with(runtime, writable && !foreign, true, mode.abandoned);
  with.share_cache(stack.layers.size());
  auto opened = co_await with.open(*std::move(source));
  if (!opened) {
    failure why = opened.error();
    const bool denied = why.code == errc::access || why.code == errc::rofs;
    if (writable && denied && why.message.find("with -r") == std::string::npos)
      why.message += remedy_for_denied(mode);
    if (spec.how == layer_option::flat && why.code == errc::noent)
      why.message += uri::gluster_hint(spec.text);
    co_return at_layer(spec, why);
  }
  if (is_change_file) opened->kind = "expandable";
  co_return opened;
}

// Whether the topmost layer is to be made now.
rt::task<outcome<bool>> makes_top(rt::runtime& runtime, const stack_spec& spec,
                                  const open_mode& mode) {
  const layer_spec& top = spec.layers.front();
  if (!mode.create || top.how != layer_option::expandable) co_return false;
  if (!uri::has_gluster_scheme(top.text)) {
    if (exists(top.text)) co_return false;
    const std::string meant = uri::gluster_hint(top.text);
    if (meant.empty()) co_return true;
    co_return at_layer(top, "for a new file of this name write ./" + top.text + meant);
  }
  const auto there = co_await gluster_image_exists(runtime, top.text);
  if (!there) co_return at_layer(top, there.error());
  co_return !*there;
}

outcome<uint64_t> size_for_new(const stack_spec& spec, const std::vector<open_layer>& below) {
  const layer_spec& top = spec.layers.front();
  if (spec.size_bytes) {
    if (*spec.size_bytes % 512 != 0)
      return failure{errc::inval, "-s " + std::to_string(*spec.size_bytes) +
                                      ": must be a multiple of 512 bytes"};
    return *spec.size_bytes;
  }
  if (below.empty())
    return at_layer(top, "a new change file with nothing below needs a size: add -s SIZE");
  return base::round_up(below.front().size_bytes(), 512);
}

// The device's size where the topmost layer is open already.
outcome<uint64_t> size_for_open(const stack_spec& spec, const open_layer& top) {
  const uint64_t has = top.size_bytes();
  if (!spec.size_bytes || *spec.size_bytes == has) return has;
  const uint64_t wanted = *spec.size_bytes;
  if (top.kind == "expandable")
    return at_layer(spec.layers.front(), "this change file is for " + base::format_size(has) +
                                             ", not " + base::format_size(wanted) +
                                             ": leave -s out, or change the file's size "
                                             "(qemu-img resize)");
  if (wanted > has && top.writable)
    return at_layer(spec.layers.front(), "has only " + base::format_size(has) + ", -s wants " +
                                             base::format_size(wanted) +
                                             ": make it larger, put a change file (-E) on "
                                             "top, or serve it with -r");
  return wanted;
}

outcome<void> check_size(const layer_spec& source, uint64_t size_bytes) {
  if (size_bytes == 0)
    return at_layer(source,
                    "is empty: make it larger, or put a change file with a size on top (-E FILE "
                    "-s SIZE)");
  if (size_bytes > overlay::largest_size_bytes)
    return failure{errc::inval, "a device of " + base::format_size(size_bytes) +
                                    " is too large: at most " +
                                    base::format_size(overlay::largest_size_bytes)};
  return {};
}

rt::task<outcome<void>> open_all(rt::runtime& runtime, const stack_spec& spec,
                                 const open_mode& mode, open_layers& out) {
  CO_TRY(const bool make_top, co_await makes_top(runtime, spec, mode));
  for (size_t i = spec.layers.size(); i-- > (make_top ? 1u : 0u);) {
    co_await rt::yield_now{};  // thousands of layers: a signal to stop is heard between them
    auto opened = co_await open_layer_at(runtime, spec, i, mode);
    if (!opened) co_return opened.error();
    out.layers.insert(out.layers.begin(), *std::move(opened));
  }
  auto size = make_top ? size_for_new(spec, out.layers) : size_for_open(spec, out.layers.front());
  if (!size) co_return size.error();
  // The layer whose size it is, where none was given.
  const bool from_below = make_top && spec.layers.size() > 1;
  CO_CHECK(check_size(spec.layers[from_below ? 1 : 0], *size));
  out.size_bytes = *size;
  if (!make_top) co_return outcome<void>{};
  auto made = co_await make_change_file(runtime, spec.layers.front().text, *size, out.layers,
                                        mode.change_files);
  if (!made) co_return at_layer(spec.layers.front(), made.error());
  out.layers.insert(out.layers.begin(), *std::move(made));
  co_return outcome<void>{};
}

// The name and format of `layer` for a change file above it, if QEMU's tools can read the same
// bytes there.
struct backing {
  std::optional<std::string> name, format;
};
backing backing_for(const std::vector<open_layer>& below, uint64_t size_bytes) {
  if (below.empty()) return {};
  const open_layer& layer = below.front();
  std::string name = layer.path;
  if (uri::has_gluster_scheme(name))
    if (const auto image = uri::parse_gluster(name)) name = uri::to_qemu_text(*image);
  if (name.size() > qcow2::max_backing_name_bytes) return {};
  if (layer.kind == "memory" || layer.kind == "null") return {};
  if (layer.change != nullptr) return {name, "qcow2"};
  // Behind a flat layer's end QEMU sees zeros, LBD the next layer.
  if (below.size() > 1 && layer.size_bytes() < size_bytes) return {};
  return {name, "raw"};
}

}  // namespace

const char* to_option(layer_option how) noexcept {
  switch (how) {
    case layer_option::expandable:
      return "-E";
    case layer_option::flat:
      return "-f";
    case layer_option::nbd:
      return "-n";
    case layer_option::source:
      break;
  }
  return "--source";
}

base::outcome<std::unique_ptr<block::block_device>> open_flat(const std::string& path) {
  TRY(auto opened, store::open_file_store(rt::os_files(), path, {true, false, true}));
  return std::unique_ptr<block::block_device>(std::move(opened));
}

rt::task<outcome<open_layer>> open_source(rt::runtime& runtime, uri::source from,
                                          source_options how) {
  opener with(runtime, how.writable, !how.locked, how.abandoned);
  co_return co_await with.open(std::move(from));
}

std::string to_text(const layer_spec& spec) {
  return std::string(to_option(spec.how)) + " " + spec.text;
}

rt::task<outcome<open_layers>> open_stack(rt::runtime& runtime, const stack_spec& spec,
                                          open_mode mode) {
  if (spec.layers.size() > block::bounds::layers)
    co_return failure{errc::inval, "more than " + std::to_string(block::bounds::layers) +
                                       " layers: merge some with lbd commit"};
  open_layers out;
  const auto opened = co_await open_all(runtime, spec, mode, out);
  if (!opened) {
    // The first failure is the one to tell.
    const auto closed = co_await close_layers(out.layers);
    if (!closed) base::log_warn("stack", closed.error().message);
    co_return opened.error();
  }
  co_return out;
}

void warn_about_backing(const std::vector<open_layer>& layers) {
  const open_layer& last = layers.back();
  if (last.change == nullptr || !last.change->header().backing_name) return;
  base::log_warn("stack", "'" + last.path + "' records the layer '" +
                              *last.change->header().backing_name +
                              "' below it, which is not named: what it holds reads as zeros");
}

rt::task<outcome<open_layer>> make_change_file(rt::runtime& runtime, std::string path,
                                               uint64_t size_bytes,
                                               const std::vector<open_layer>& below,
                                               change_file_options options) {
  backing from = backing_for(below, size_bytes);
  store::new_change_file what;
  what.size_bytes = size_bytes;
  if (options.cluster_bytes != 0)
    what.cluster_bits = static_cast<uint32_t>(std::bit_width(options.cluster_bytes) - 1);
  what.backing_name = std::move(from.name);
  what.backing_format = std::move(from.format);
  if (uri::has_gluster_scheme(path))
    co_return co_await make_gluster_change_file(runtime, path, std::move(what));
  new_files files;
  auto file = co_await store::change_file::create(files, path, what);
  outcome<void> done;
  if (file)
    done = sync_folder_of(path);
  else
    done = file.error();
  if (!done) {
    if (file) (void)co_await (*file)->close();  // the first failure is the one to tell
    files.remove_made(path);
    co_return done.error();
  }
  open_layer out;
  out.kind = "expandable";
  out.path = absolute_path(path);
  out.writable = true;
  out.change = *std::move(file);
  co_return out;
}

rt::task<outcome<void>> close_layers(std::vector<open_layer>& layers) {
  outcome<void> first;
  for (open_layer& l : layers) {
    if (l.nbd != nullptr) co_await l.nbd->close();
    if (l.gluster != nullptr) co_await l.gluster->close();
    if (l.change == nullptr || !l.writable) continue;
    const auto closed = co_await l.change->close();
    if (!closed && first)
      first = failure{closed.error().code,
                      "cannot write out '" + l.path + "': " + base::to_string(closed.error().code)};
  }
  layers.clear();
  co_return first;
}

std::vector<overlay::member> to_members(const std::vector<open_layer>& layers) {
  std::vector<overlay::member> out;
  for (const open_layer& l : layers) {
    overlay::member m;
    m.change = l.change;
    m.flat = l.flat;
    m.name = l.kind + " " + l.path;
    out.push_back(std::move(m));
  }
  return out;
}

}  // namespace lbd::ctl
