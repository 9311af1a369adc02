// SPDX-License-Identifier: MIT
#include "sim/raw.h"

#include "sim/oracle.h"
#include "stack/device.h"
#include "store/file/file.h"

namespace lbd::sim {
namespace {

using rt::task;

class raw final : public subject {
 public:
  explicit raw(random& shape)
      : size_bytes_(512 * shape.between(128, 4096)), content_(shape.coin() ? 0 : UINT32_MAX) {}

  std::string describe() const override {
    return "raw file of " + std::to_string(size_bytes_) + " bytes";
  }
  uint64_t size_bytes() const override { return size_bytes_; }
  // Without holes in files nothing is discarded.
  bool discard_zeroes() const override { return false; }

  std::vector<std::byte> prepare(sim_disk& disk) override {
    std::vector<std::byte> content(size_bytes_);
    fill_stamped(content_, 0, content);
    disk.put("/raw", content);
    return content;
  }
  task<base::outcome<void>> open(world& w, sim_disk& disk) override {
    store::file_options options;
    options.writable = true;
    auto opened = store::open_file_store(disk, "/raw", options);
    if (!opened) co_return opened.error();
    target_ = *std::move(opened);
    device_ = std::make_unique<stack::device>(w.runtime(), "raw", stack::table::whole(target_));
    co_return base::outcome<void>{};
  }
  block::block_device& device() override { return *device_; }
  task<base::result<void>> close() override {
    const auto r = co_await device_->flush({});
    device_.reset();
    target_.reset();
    co_return r;
  }
  task<base::outcome<void>> swap_table() override {
    stack::device::builder build = [this](const stack::table&) { return same_table(target_); };
    co_return co_await device_->replace_table(build);
  }

 private:
  static task<base::outcome<std::unique_ptr<stack::table>>> same_table(
      std::shared_ptr<block::block_device> target) {
    co_return stack::table::whole(std::move(target));
  }

  const uint64_t size_bytes_;
  const uint32_t content_;  // stamp of the content at the start
  std::shared_ptr<block::block_device> target_;
  std::unique_ptr<stack::device> device_;
};

}  // namespace

std::unique_ptr<subject> make_raw(random& shape) { return std::make_unique<raw>(shape); }

}  // namespace lbd::sim
