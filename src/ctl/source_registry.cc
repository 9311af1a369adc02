// SPDX-License-Identifier: MIT
#include "ctl/source_registry.h"

#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "base/log.h"
#include "block/image_lock.h"
#include "ctl/paths.h"
#include "ctl/served_stack.h"
#include "ctl/stack_builder.h"

namespace lbd::ctl {
namespace {

using base::errc;
using base::failure;
using base::outcome;

constexpr auto no_such_number = static_cast<errc>(ENXIO);

// "253:7", and nothing else.
std::optional<device_number> parse_number(const std::string& text) {
  const size_t colon = text.find(':');
  if (colon == std::string::npos) return std::nullopt;
  const auto major = block::parse_u32(std::string_view(text).substr(0, colon));
  const auto minor = block::parse_u32(std::string_view(text).substr(colon + 1));
  if (!major || !minor) return std::nullopt;
  return device_number{*major, *minor};
}

device_number to_number(dev_t d) { return {gnu_dev_major(d), gnu_dev_minor(d)}; }

// The path of a block device of this host, which need not have udev's links.
std::optional<std::string> find_block_device(device_number n) {
  std::error_code error;
  const auto linked = std::filesystem::canonical("/dev/block/" + n.text(), error);
  if (!error) return linked.string();
  std::ifstream in("/sys/dev/block/" + n.text() + "/uevent");
  const std::string name = "DEVNAME=";
  for (std::string line; std::getline(in, line);)
    if (line.starts_with(name)) return "/dev/" + line.substr(name.size());
  return std::nullopt;
}

// What is opened for a source besides itself: the socket of its server, a library's log.
std::vector<std::string> paths_beside(const uri::source& s) {
  std::vector<std::string> out;
  if (const auto* server = std::get_if<uri::nbd_source>(&s)) out = {server->socket_path};
  if (const auto* on_gluster = std::get_if<uri::gluster_source>(&s))
    out = {on_gluster->socket_path, on_gluster->log_file};
  std::erase(out, "");
  return out;
}

}  // namespace

// A source that is there, by its one name.
struct source_registry::identity {
  uri::source source;
  std::string text;                    // canonical
  std::optional<device_number> real;   // of a block device
  std::optional<uint64_t> file_bytes;  // of a regular file
};

// One source that is in use, or was just now.
struct source_registry::entry {
  identity what;
  device_number number;
  std::weak_ptr<use> reader, writer;
  rt::mutex opening;
  // Uses that have ended, with something left to write out.
  std::vector<std::unique_ptr<served_stack>> ended_stacks;
  std::vector<open_layer> ended_layers;
  // Holds the file's lock for all uses; they come and go.
  std::unique_ptr<rt::file> claim;
  bool claimed_for_writing = false;

  bool is_file() const { return std::holds_alternative<uri::file_source>(what.source); }

  // Errors: busy, when another program has the file.
  outcome<void> lock(bool for_writing) {
    if (claim != nullptr && (claimed_for_writing || !for_writing)) return {};
    const auto& path = std::get<uri::file_source>(what.source).path;
    const bool had = claim != nullptr;
    claim.reset();  // our own lock would be in the way
    TRY(claim, rt::open_file(path, {}));
    auto locked = block::lock_image(*claim, for_writing);
    if (locked) {
      claimed_for_writing = for_writing;
      return {};
    }
    // Whoever came in between only reads, or its lock on the file would fail.
    if (!had || !block::lock_image(*claim, false)) claim.reset();
    claimed_for_writing = false;
    return locked.error();
  }

  // As few locks as the uses that are left need.
  void unlock(bool has_reader, bool has_writer) {
    if (claim == nullptr || has_writer) return;
    if (!has_reader) return claim.reset();
    if (claimed_for_writing) block::downgrade_image_lock(*claim);
    claimed_for_writing = false;
  }
};

// An open store, shared by all who hold it.
class source_registry::use {
 public:
  use(source_registry& owner, entry_ptr e, bool is_writer)
      : entry(std::move(e)), writable(is_writer), owner_(owner) {}
  ~use() { owner_.released(*this); }
  use(const use&) = delete;
  use& operator=(const use&) = delete;

  block::block_device& device() const noexcept {
    return stack != nullptr ? static_cast<block::block_device&>(stack->device()) : layer.device();
  }

  const entry_ptr entry;
  const bool writable;
  open_layer layer;                     // all but images
  std::unique_ptr<served_stack> stack;  // a qcow2 image

 private:
  source_registry& owner_;
};

source_registry::source_registry(rt::runtime& runtime, std::unique_ptr<source_numbers> numbers)
    : runtime_(runtime), numbers_(std::move(numbers)) {}

source_registry::~source_registry() = default;

outcome<source_registry::identity> source_registry::identify_file(uri::file_source file) {
  if (!file.path.starts_with('/'))
    return failure{errc::nodev, "'" + file.path + "' is a relative path: begin it with /"};
  if (refuses(file.path))
    return failure{errc::nodev, "'" + file.path +
                                    "' lies in a folder that this daemon shows its devices in: "
                                    "give the device's name"};
  std::error_code error;
  const auto path = std::filesystem::canonical(file.path, error);
  struct stat st {};
  if (!error && ::stat(path.c_str(), &st) != 0) error = {errno, std::generic_category()};
  if (error) {
    const bool missing = error.value() == ENOENT || error.value() == ENOTDIR;
    return failure{missing ? errc::nodev : static_cast<errc>(error.value()),
                   "'" + file.path + "': " + base::to_string(static_cast<errc>(error.value()))};
  }
  if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
    return failure{static_cast<errc>(ENOTBLK),
                   "'" + file.path + "' is neither a file nor a block device"};
  identity out;
  file.path = path;
  if (S_ISBLK(st.st_mode)) out.real = to_number(st.st_rdev);
  if (S_ISREG(st.st_mode)) out.file_bytes = static_cast<uint64_t>(st.st_size);
  out.source = std::move(file);
  out.text = uri::to_text(out.source);
  return out;
}

outcome<source_registry::identity> source_registry::identify_number(const std::string& text) {
  const device_number n = *parse_number(text);
  TRY(const std::string known, source_of(n));
  TRY(identity out, identify(known));
  return out;
}

outcome<source_registry::identity> source_registry::identify(const std::string& source) {
  if (parse_number(source)) return identify_number(source);
  auto parsed = uri::parse_source(source);
  if (!parsed) return failure{errc::nodev, parsed.error().message};
  if (auto* file = std::get_if<uri::file_source>(&*parsed)) return identify_file(std::move(*file));
  identity out;
  out.source = *std::move(parsed);
  for (const std::string& path : paths_beside(out.source)) {
    std::error_code error;
    const auto whole = std::filesystem::absolute(path, error);
    if (error || refuses(whole))
      return failure{errc::nodev,
                     "'" + path + "' lies in a folder that this daemon shows its devices in"};
  }
  if (auto* image = std::get_if<uri::qcow2_source>(&out.source)) {
    TRY(const identity file, identify_file({image->path, false}));
    image->path = std::get<uri::file_source>(file.source).path;
  }
  out.text = uri::to_text(out.source);
  return out;
}

outcome<device_number> source_registry::number_of(const identity& what) {
  if (what.real) return *what.real;
  return numbers_->number_of(what.text);
}

outcome<device_number> source_registry::number_of(const std::string& source) {
  TRY(const identity what, identify(source));
  return number_of(what);
}

outcome<std::string> source_registry::source_of(device_number number) {
  if (auto known = numbers_->find(number)) return *std::move(known);
  if (auto path = find_block_device(number)) return *std::move(path);
  return failure{no_such_number, "no source has the number " + number.text()};
}

std::string source_registry::absolute(std::string source, const std::string& directory) {
  auto parsed = uri::parse_source(source);
  if (!parsed || parse_number(source)) return source;
  std::vector<std::string*> paths;
  if (auto* file = std::get_if<uri::file_source>(&*parsed)) paths = {&file->path};
  if (auto* image = std::get_if<uri::qcow2_source>(&*parsed)) paths = {&image->path};
  if (auto* server = std::get_if<uri::nbd_source>(&*parsed)) paths = {&server->socket_path};
  if (auto* on_gluster = std::get_if<uri::gluster_source>(&*parsed))
    paths = {&on_gluster->socket_path, &on_gluster->log_file};
  std::erase_if(paths, [](const auto* path) { return path->empty() || path->starts_with('/'); });
  if (paths.empty()) return source;
  for (std::string* path : paths) *path = absolute_path(*path, directory);
  return uri::to_text(*parsed);
}

rt::task<outcome<block::opened_device>> source_registry::open(std::string source, bool writable) {
  auto what = identify(source);
  outcome<block::opened_device> opened = failure{};
  if (what)
    opened = co_await open_identified(*std::move(what), writable);
  else
    opened = what.error();
  if (!opened) drop_unused();
  co_return opened;
}

void source_registry::drop_unused() {
  std::erase_if(entries_, [](const auto& known) {
    const entry& e = *known.second;
    const bool ended = e.ended_layers.empty() && e.ended_stacks.empty();
    return e.reader.expired() && e.writer.expired() && ended && !e.opening.locked();
  });
}

rt::task<outcome<block::opened_device>> source_registry::open_identified(identity what,
                                                                         bool writable) {
  CO_TRY(const device_number number, number_of(what));
  entry_ptr& slot = entries_[what.text];
  if (slot == nullptr) {
    slot = std::make_shared<entry>();
    slot->number = number;
    slot->what = std::move(what);
  }
  const entry_ptr e = slot;
  const auto held = co_await e->opening.lock();
  co_await close_ended(e);
  // A table that only reads may share what another one writes.
  std::shared_ptr<use> shared = e->writer.lock();
  if (shared == nullptr && !writable) shared = e->reader.lock();
  if (shared == nullptr) {
    auto opened = co_await open_new(e, writable);
    if (!opened) {
      e->unlock(!e->reader.expired(), !e->writer.expired());
      co_return opened.error();
    }
    shared = *std::move(opened);
  }
  std::shared_ptr<block::block_device> device(shared, &shared->device());
  const auto* file = std::get_if<uri::file_source>(&e->what.source);
  std::string name = file != nullptr ? file->path.substr(file->path.rfind('/') + 1) : std::string();
  co_return block::opened_device{std::move(device), e->number, std::move(name)};
}

rt::task<outcome<std::shared_ptr<source_registry::use>>> source_registry::open_new(entry_ptr e,
                                                                                   bool writable) {
  const auto made = std::make_shared<use>(*this, e, writable);
  const auto* const image = std::get_if<uri::qcow2_source>(&e->what.source);
  const bool on_gluster = std::holds_alternative<uri::gluster_source>(e->what.source);
  // Two views of one image would not see each other's tables, and a file on Gluster has its lock
  // while it is open: the writer's would be in the way of the readers'.
  if ((image != nullptr || on_gluster) && !e->reader.expired())
    co_return failure{errc::busy, "'" + e->what.text + "' is open for reading here already"};
  if (image != nullptr) {
    stack_spec spec;
    spec.read_only = !writable;
    spec.layers.push_back({layer_option::expandable, image->path});
    CO_TRY(made->stack, co_await served_stack::open(runtime_, std::move(spec), {}, &abandoned_));
  } else {
    if (e->is_file()) CO_CHECK(e->lock(writable));
    const source_options how{writable, e->is_file(), &abandoned_};
    CO_TRY(made->layer, co_await open_source(runtime_, e->what.source, how));
  }
  if (writable && made->device().limits().read_only)
    co_return failure{errc::access,
                      "'" + e->what.text + "' is read-only: load the table read-only (-r)"};
  const bool shared_by_all = std::holds_alternative<uri::memory_source>(e->what.source);
  if (writable || shared_by_all)
    e->writer = made;
  else
    e->reader = made;
  co_return made;
}

// The last holder has gone. Called by its destructor, which cannot wait for writing out.
void source_registry::released(use& gone) {
  const entry_ptr e = gone.entry;
  const bool waits = gone.stack != nullptr || gone.layer.ends_slowly();
  if (gone.stack != nullptr) e->ended_stacks.push_back(std::move(gone.stack));
  if (gone.layer.ends_slowly()) e->ended_layers.push_back(std::move(gone.layer));
  gone.layer = {};
  e->unlock(!e->reader.expired(), !e->writer.expired());
  if (waits) {
    struct closing {
      static rt::task<void> run(source_registry* r, entry_ptr which) {
        {
          const auto held = co_await which->opening.lock();
          co_await r->close_ended(which);
        }
        r->drop_unused();
        if (--r->closing_ == 0) r->idle_.set();
      }
    };
    ++closing_;
    idle_.reset();
    rt::spawn(closing::run(this, e));
  }
  drop_unused();
}

// REQUIRES: e->opening is held.
rt::task<void> source_registry::close_ended(entry_ptr e) {
  outcome<void> failed;
  std::vector<open_layer> layers = std::exchange(e->ended_layers, {});
  const auto closed = co_await close_layers(layers);
  if (!closed) failed = closed;
  for (auto& stack : std::exchange(e->ended_stacks, {})) {
    const auto written = co_await stack->close();
    if (!written) failed = written;
  }
  if (failed) co_return;
  base::log_error("source", failed.error().message);
  if (first_failure_) first_failure_ = failed;
}

rt::task<outcome<uint64_t>> source_registry::size_of(std::string source) {
  auto what = identify(source);
  if (!what) co_return what.error();
  if (what->file_bytes) co_return *what->file_bytes;
  auto opened = co_await open(std::move(source), false);
  if (!opened) co_return opened.error();
  co_return opened->device->limits().size_bytes;
}

std::vector<source_registry::source_info> source_registry::list_open() const {
  std::vector<source_info> out;
  for (const auto& [text, e] : entries_) {
    std::shared_ptr<use> u = e->writer.lock();
    const bool written = u != nullptr && u->writable;
    if (u == nullptr) u = e->reader.lock();
    if (u == nullptr) continue;
    out.push_back({text, e->number, u->device().limits().size_bytes, written});
  }
  return out;
}

rt::task<outcome<void>> source_registry::close() {
  if (closing_ != 0) co_await idle_.wait();
  co_return std::exchange(first_failure_, {});
}

}  // namespace lbd::ctl
