// SPDX-License-Identifier: MIT
#include "sim/stack.h"

#include <algorithm>

#include "base/checked_math.h"
#include "sim/oracle.h"
#include "sim/qcow2_check.h"
#include "stack/device.h"
#include "store/file/file.h"
#include "store/qcow2/change_file.h"
#include "target/overlay/overlay.h"

namespace lbd::sim {
namespace {

using base::failure;
using base::outcome;
using base::result;
using rt::task;
using store::change_file;

constexpr size_t most_layers = 4;

// How change files are made.
struct image_shape {
  uint32_t cluster_bits = 16;
  bool extended_l2 = false;
  uint32_t refcount_order = 4;
  uint64_t cache_bytes = uint64_t{64} << 20;
};

image_shape draw_image_shape(random& r) {
  image_shape s;
  s.cluster_bits = static_cast<uint32_t>(r.percent(40) ? 16 : r.between(9, 17));
  s.extended_l2 = s.cluster_bits >= 14 && r.percent(70);
  s.refcount_order = static_cast<uint32_t>(r.percent(70) ? 4 : r.between(0, 6));
  if (r.percent(40)) s.cache_bytes = uint64_t{4} << r.between(10, 18);
  return s;
}

// Small clusters make many tables of small devices.
uint64_t draw_size(random& r, const image_shape& s) {
  const uint64_t most = s.cluster_bits <= 11 ? 2048 : 16384;
  return 512 * r.between(128, most);
}

std::string to_string(const image_shape& s) {
  return "clusters of " + std::to_string(1u << s.cluster_bits) +
         (s.extended_l2 ? ", subclusters" : "") + ", refcounts of " +
         std::to_string(1u << s.refcount_order) + " bits, cache of " +
         std::to_string(s.cache_bytes / 1024) + " KiB";
}

task<outcome<std::unique_ptr<change_file>>> create_image(sim_disk& disk, std::string path,
                                                         image_shape s, uint64_t size_bytes) {
  store::new_change_file what;
  what.size_bytes = size_bytes;
  what.cluster_bits = s.cluster_bits;
  what.extended_l2 = s.extended_l2;
  what.refcount_order = s.refcount_order;
  auto made = change_file::create(disk, std::move(path), std::move(what));
  co_return co_await made;
}

task<outcome<std::unique_ptr<change_file>>> open_image(sim_disk& disk, std::string path,
                                                       image_shape s, bool writable) {
  store::change_file_options options;
  options.writable = writable;
  options.cache_bytes = s.cache_bytes;
  auto opened = change_file::open(disk, std::move(path), options);
  co_return co_await opened;
}

// "" or what is wrong with an image. With `no_leaks` every cluster must be in use.
std::string check_image(const sim_disk& disk, const std::string& path, bool no_leaks) {
  const qcow2_findings found = check_qcow2(disk.bytes_of(path));
  if (!found.errors.empty()) {
    std::string text = path + ":";
    for (const std::string& e : found.errors) text += "\n    " + e;
    return text;
  }
  if (no_leaks && found.leaked_clusters != 0)
    return path + ": " + std::to_string(found.leaked_clusters) +
           " clusters leaked without a crash or a fault";
  return "";
}

// --- a change file alone ---

class single final : public subject {
 public:
  explicit single(random& r) : shape_(draw_image_shape(r)), size_bytes_(draw_size(r, shape_)) {}

  std::string describe() const override {
    return "change file of " + std::to_string(size_bytes_) + " bytes, " + to_string(shape_);
  }
  uint64_t size_bytes() const override { return size_bytes_; }
  // Parts of granules keep their content.
  bool discard_zeroes() const override { return false; }
  std::vector<std::byte> prepare(sim_disk&) override { return std::vector<std::byte>(size_bytes_); }

  task<outcome<void>> open(world&, sim_disk& disk) override {
    disk_ = &disk;
    boots_at_open_ = disk.boots();
    // A file whose making was interrupted is left alone.
    if (!made_) path_ = "/change" + std::to_string(attempts_++);
    auto making = made_ ? open_image(disk, path_, shape_, true)
                        : create_image(disk, path_, shape_, size_bytes_);
    auto opened = co_await making;
    if (!opened) co_return opened.error();
    file_ = *std::move(opened);
    made_ = true;
    co_return outcome<void>{};
  }
  block::block_device& device() override { return *file_; }
  task<result<void>> close() override {
    result<void> r = co_await file_->flush({});
    const auto closed = co_await file_->close();
    if (r) r = closed;
    file_.reset();
    sound_ = sound_ && r.has_value() && disk_->boots() == boots_at_open_;
    co_return r;
  }
  std::string check_files(const sim_disk& disk) const override {
    return made_ ? check_image(disk, path_, sound_ && disk.faults() == 0) : "";
  }

 private:
  const image_shape shape_;
  const uint64_t size_bytes_;
  std::unique_ptr<change_file> file_;
  const sim_disk* disk_ = nullptr;
  std::string path_;
  unsigned attempts_ = 0;
  uint64_t boots_at_open_ = 0;
  bool made_ = false;
  bool sound_ = true;  // always closed well so far, with the power on
};

// --- a stack ---

class layered final : public subject {
 public:
  explicit layered(random& r) : shape_(draw_image_shape(r)), size_bytes_(draw_size(r, shape_)) {
    if (r.coin()) base_bytes_ = 512 * r.between(1, size_bytes_ / 512 + 64);
    layers_at_start_ = r.between(1, most_layers - 1);
    for (size_t i = 0; i < most_layers; ++i) {
      shapes_.push_back(shape_);
      if (r.percent(30)) {
        shapes_.back() = draw_image_shape(r);
        shapes_.back().cluster_bits = std::max(shapes_.back().cluster_bits, shape_.cluster_bits);
      }
    }
  }

  std::string describe() const override {
    std::string text = "stack of " + std::to_string(size_bytes_) + " bytes, " +
                       std::to_string(layers_at_start_) + " change files at the start, " +
                       (base_bytes_ != 0 ? "over " + std::to_string(base_bytes_) + " bytes of file"
                                         : "nothing below");
    for (const image_shape& s : shapes_) text += "\n  " + to_string(s);
    return text;
  }
  uint64_t size_bytes() const override { return size_bytes_; }

  std::vector<std::byte> prepare(sim_disk& disk) override {
    std::vector<std::byte> content(size_bytes_);
    if (base_bytes_ == 0) return content;
    std::vector<std::byte> base(base_bytes_);
    fill_stamped(UINT32_MAX, 0, base);
    disk.put("/base", base);
    std::copy_n(base.begin(), std::min(base_bytes_, size_bytes_), content.begin());
    return content;
  }

  task<outcome<void>> open(world& w, sim_disk& disk) override;
  block::block_device& device() override { return *device_; }
  task<result<void>> close() override;
  task<outcome<void>> add_layer() override;
  task<outcome<void>> swap_table() override;
  // A layer that could not be added holds nothing.
  bool sync_failed(const sim_disk& disk) const override {
    return std::any_of(paths_.begin(), paths_.end(),
                       [&](const std::string& path) { return disk.failed_syncs(path) != 0; });
  }
  std::string check_files(const sim_disk& disk) const override;

 private:
  std::string next_path() { return "/layer" + std::to_string(named_++); }
  const image_shape& shape_of(size_t depth) const { return shapes_[depth % shapes_.size()]; }
  task<outcome<void>> make_first_layers();
  task<bool> adopt_unfinished();
  task<outcome<std::vector<overlay::member>>> open_members();
  std::shared_ptr<overlay::device> new_overlay(std::vector<overlay::member> members);
  task<outcome<std::unique_ptr<stack::table>>> build_with(std::unique_ptr<change_file> top);
  task<outcome<std::unique_ptr<stack::table>>> build_same();
  task<outcome<void>> add_layer_now();

  const image_shape shape_;
  const uint64_t size_bytes_;
  uint64_t base_bytes_ = 0;
  size_t layers_at_start_ = 1;
  std::vector<image_shape> shapes_;

  sim_disk* disk_ = nullptr;
  world* world_ = nullptr;
  unsigned named_ = 0;
  std::vector<std::string> paths_;  // change files, topmost first
  std::string unfinished_;          // of an add_layer() that has not returned
  std::shared_ptr<overlay::device> overlay_;
  std::unique_ptr<stack::device> device_;
  change_file* top_ = nullptr;
  uint64_t boots_at_open_ = 0;
  bool adding_ = false;
  bool sound_ = true;  // always closed well so far, with the power on
};

task<outcome<void>> layered::make_first_layers() {
  for (size_t i = 0; i < layers_at_start_; ++i) {
    const std::string path = next_path();
    auto made = co_await create_image(*disk_, path, shape_of(i), size_bytes_);
    if (!made) co_return made.error();
    const auto closed = co_await (*made)->close();
    if (!closed) co_return failure{closed.error().code, "cannot close a new change file"};
    paths_.insert(paths_.begin(), path);
  }
  co_return outcome<void>{};
}

// A layer that was being added when the power went: if its file is whole it may hold answered
// writes.
task<bool> layered::adopt_unfinished() {
  const std::string path = std::exchange(unfinished_, "");
  if (path.empty() || !disk_->exists(path)) co_return false;
  auto opened = co_await open_image(*disk_, path, shape_of(paths_.size()), false);
  if (!opened) co_return false;
  paths_.insert(paths_.begin(), path);
  co_return true;
}

task<outcome<std::vector<overlay::member>>> layered::open_members() {
  std::vector<overlay::member> members;
  for (size_t i = 0; i < paths_.size(); ++i) {
    auto opened = co_await open_image(*disk_, paths_[i], shape_of(paths_.size() - 1 - i), i == 0);
    if (!opened) co_return opened.error();
    if (i == 0) top_ = opened->get();
    overlay::member m;
    m.change = *std::move(opened);
    m.name = paths_[i];
    members.push_back(std::move(m));
  }
  if (base_bytes_ != 0) {
    auto opened = store::open_file_store(*disk_, "/base", {});
    if (!opened) co_return opened.error();
    overlay::member m;
    m.flat = *std::move(opened);
    m.name = "/base";
    members.push_back(std::move(m));
  }
  co_return members;
}

std::shared_ptr<overlay::device> layered::new_overlay(std::vector<overlay::member> members) {
  return std::make_shared<overlay::device>(world_->runtime(), std::move(members), top_,
                                           size_bytes_);
}

task<outcome<void>> layered::open(world& w, sim_disk& disk) {
  disk_ = &disk;
  world_ = &w;
  boots_at_open_ = disk.boots();
  if (paths_.empty()) CO_CHECK(co_await make_first_layers());
  co_await adopt_unfinished();
  CO_TRY(auto members, co_await open_members());
  overlay_ = new_overlay(std::move(members));
  device_ = std::make_unique<stack::device>(w.runtime(), "stack", stack::table::whole(overlay_));
  co_return outcome<void>{};
}

task<result<void>> layered::close() {
  result<void> r = co_await device_->flush({});
  const auto closed = co_await overlay_->close(false);
  if (r) r = closed;
  const auto file = co_await top_->close();
  if (r) r = file;
  device_.reset();
  overlay_.reset();
  top_ = nullptr;
  sound_ = sound_ && r.has_value() && disk_->boots() == boots_at_open_;
  co_return r;
}

// The new top over what the old overlay had, which is sealed first.
task<outcome<std::unique_ptr<stack::table>>> layered::build_with(
    std::unique_ptr<change_file> new_top) {
  const auto sealed = co_await overlay_->close(true);
  if (!sealed) {
    // Of no use to anybody: nothing was written to it.
    const auto closed = co_await new_top->close();
    (void)closed;
    co_return failure{sealed.error().code, "cannot seal the former top"};
  }
  std::vector<overlay::member> members = overlay_->members();
  overlay::member m;
  top_ = new_top.get();
  m.name = new_top->path();
  m.change = std::move(new_top);
  members.insert(members.begin(), std::move(m));
  overlay_ = new_overlay(std::move(members));
  co_return stack::table::whole(overlay_);
}

task<outcome<void>> layered::add_layer_now() {
  const std::string path = next_path();
  unfinished_ = path;
  auto made = co_await create_image(*disk_, path, shape_of(paths_.size()), size_bytes_);
  if (!made) co_return made.error();
  auto top = std::make_shared<std::unique_ptr<change_file>>(*std::move(made));
  stack::device::builder build = [this, top](const stack::table&) {
    return build_with(std::move(*top));
  };
  CO_CHECK(co_await device_->replace_table(build));
  paths_.insert(paths_.begin(), path);
  co_return outcome<void>{};
}

task<outcome<void>> layered::add_layer() {
  if (adding_ || paths_.size() >= most_layers)
    co_return failure{base::errc::notsup, "one at a time, and not too many"};
  adding_ = true;
  const uint64_t boots = disk_->boots();
  const auto done = co_await add_layer_now();
  adding_ = false;
  if (done || disk_->boots() == boots) unfinished_.clear();
  co_return done;
}

task<outcome<std::unique_ptr<stack::table>>> layered::build_same() {
  co_return stack::table::whole(overlay_);
}

task<outcome<void>> layered::swap_table() {
  stack::device::builder build = [this](const stack::table&) { return build_same(); };
  co_return co_await device_->replace_table(build);
}

std::string layered::check_files(const sim_disk& disk) const {
  for (const std::string& path : paths_) {
    const std::string wrong = check_image(disk, path, sound_ && disk.faults() == 0);
    if (!wrong.empty()) return wrong;
  }
  return "";
}

}  // namespace

std::unique_ptr<subject> make_stack(random& shape) { return std::make_unique<layered>(shape); }
std::unique_ptr<subject> make_change_file(random& shape) { return std::make_unique<single>(shape); }

}  // namespace lbd::sim
