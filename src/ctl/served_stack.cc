// SPDX-License-Identifier: MIT
#include "ctl/served_stack.h"

#include "base/log.h"
#include "ctl/gluster_layer.h"

namespace lbd::ctl {
namespace {

using base::errc;
using base::failure;
using base::outcome;

constexpr const char* operation_names[block::op_count] = {"read",    "write",        "flush",
                                                          "discard", "write_zeroes", "extents"};

// A device of a part of another one, or one that refuses writes: the limits differ, requests do
// not.
class restricted_device final : public block::block_device {
 public:
  restricted_device(std::shared_ptr<open_layer> layer, uint64_t size_bytes, bool read_only)
      : layer_(std::move(layer)), below_(layer_->device()), limits_(below_.limits()) {
    limits_.size_bytes = size_bytes;
    limits_.read_only = limits_.read_only || read_only;
  }
  const block::limits& limits() const noexcept override { return limits_; }
  rt::task<base::result<void>> read(uint64_t offset, rt::segments to, block::io_opts io) override {
    return below_.read(offset, to, io);
  }
  rt::task<base::result<void>> write(uint64_t offset, rt::segments from,
                                     block::io_opts io) override {
    return below_.write(offset, from, io);
  }
  rt::task<base::result<void>> flush(block::io_opts io) override { return below_.flush(io); }
  rt::task<base::result<void>> discard(uint64_t offset, uint64_t length,
                                       block::io_opts io) override {
    return below_.discard(offset, length, io);
  }
  rt::task<base::result<void>> write_zeroes(uint64_t offset, uint64_t length,
                                            block::io_opts io) override {
    return below_.write_zeroes(offset, length, io);
  }
  rt::task<base::result<void>> extents(uint64_t offset, uint64_t length, block::extent_list& out,
                                       block::io_opts io) override {
    return below_.extents(offset, length, out, io);
  }
  block::routed route(block::op /*what*/, uint64_t offset, uint64_t /*length*/,
                      block::path& /*way*/) noexcept override {
    return {&below_, offset};
  }

 private:
  std::shared_ptr<open_layer> layer_;
  block::block_device& below_;
  block::limits limits_;
};

operation_report to_operation(const char* name, const block::op_totals& t) {
  operation_report out;
  out.name = name;
  out.requests = t.requests;
  out.bytes = t.bytes;
  out.errors = t.errors;
  out.latency.assign(t.latency.begin(), t.latency.end());
  while (!out.latency.empty() && out.latency.back() == 0) out.latency.pop_back();
  return out;
}

std::optional<uint64_t> allocated_bytes(const open_layer& layer) {
  if (layer.change != nullptr) return layer.change->allocated_bytes();
  if (layer.memory != nullptr) return layer.memory->allocated_bytes();
  if (layer.file != nullptr) return layer.file->file().allocated_bytes();
  return std::nullopt;
}

}  // namespace

client_report to_client_report(const nbd_server::connection_info& c, uint64_t now_ns) {
  client_report out;
  out.id = c.id;
  out.peer = c.peer;
  out.connected_ms = now_ns > c.connected_ns ? (now_ns - c.connected_ns) / 1'000'000 : 0;
  out.in_flight = c.in_flight;
  out.requests = c.counters.requests;
  out.bytes_read = c.counters.bytes_read;
  out.bytes_written = c.counters.bytes_written;
  out.errors = c.counters.errors;
  return out;
}

std::vector<operation_report> to_operations(const stack::device_totals& totals) {
  std::vector<operation_report> out;
  for (size_t i = 0; i < block::op_count; ++i)
    out.push_back(to_operation(operation_names[i], totals[i]));
  return out;
}

rt::task<outcome<std::unique_ptr<served_stack>>> served_stack::open(
    rt::runtime& runtime, stack_spec spec, change_file_options options,
    const std::atomic<bool>* abandoned) {
  open_mode mode;
  mode.abandoned = abandoned;
  if (!spec.read_only) mode.writable = 0;
  mode.create = !spec.read_only;
  mode.change_files = options;
  CO_TRY(open_layers opened, co_await open_stack(runtime, spec, mode));
  warn_about_backing(opened.layers);
  co_return std::unique_ptr<served_stack>(
      new served_stack(runtime, spec.name, std::move(opened), spec.read_only, options));
}

served_stack::served_stack(rt::runtime& runtime, std::string export_name, open_layers opened,
                           bool read_only, change_file_options options)
    : runtime_(runtime),
      export_name_(std::move(export_name)),
      size_bytes_(opened.size_bytes),
      read_only_(read_only || !opened.layers.front().writable),
      options_(options),
      layers_(std::move(opened.layers)),
      earlier_(layers_.size()) {
  const std::string name = export_name_.empty() ? "default" : export_name_;
  device_ = std::make_unique<stack::device>(runtime_, name, make_table());
}

served_stack::~served_stack() = default;

std::unique_ptr<stack::table> served_stack::make_table() {
  const open_layer& top = layers_.front();
  overlay_ = nullptr;
  // A plain device at the top that can serve the whole range needs no map: it hides what is below.
  if (top.change == nullptr && size_bytes_ <= top.size_bytes()) {
    const bool as_it_is =
        size_bytes_ == top.size_bytes() && (!read_only_ || top.flat->limits().read_only);
    if (as_it_is) return stack::table::whole(top.flat);
    return stack::table::whole(std::make_shared<restricted_device>(
        std::make_shared<open_layer>(top), size_bytes_, read_only_));
  }
  block::change_layer* writable = read_only_ ? nullptr : top.change.get();
  overlay_ =
      std::make_shared<overlay::device>(runtime_, to_members(layers_), writable, size_bytes_);
  return stack::table::whole(overlay_);
}

// Everything that was written is durable afterwards. With `for_good` a change file at the top is
// read-only from then on.
rt::task<outcome<void>> served_stack::seal_top(bool for_good) {
  base::result<void> done;
  if (overlay_ != nullptr)
    done = co_await overlay_->close(for_good);
  else if (!read_only_)
    done = co_await layers_.front().flat->flush({});
  if (done) co_return outcome<void>{};
  co_return failure{done.error().code, "cannot write out '" + layers_.front().path +
                                           "': " + base::to_string(done.error().code)};
}

// While nothing is in flight: the old top is sealed, a new overlay takes over.
rt::task<outcome<std::unique_ptr<stack::table>>> served_stack::put_on_top(open_layer added) {
  CO_CHECK(co_await seal_top(true));
  if (overlay_ != nullptr) {
    for (size_t i = 0; i < layers_.size(); ++i) {
      const overlay::layer_totals t = overlay_->totals(i);
      earlier_[i].reads += t.reads;
      earlier_[i].writes += t.writes;
    }
  }
  layers_.front().writable = false;
  layers_.insert(layers_.begin(), std::move(added));
  earlier_.insert(earlier_.begin(), overlay::layer_totals{});
  co_return make_table();
}

rt::task<outcome<void>> served_stack::add_layer(std::string path) {
  const auto held = co_await changing_.lock();
  if (read_only_)
    co_return failure{errc::rofs, "device '" + name() +
                                      "' is read-only: a new layer would never be "
                                      "written"};
  if (closed_) co_return failure{errc::shutdown, "the server is shutting down"};
  // Made before the device stops for a moment: that takes as long as the file system likes.
  CO_TRY(open_layer added,
         co_await make_change_file(runtime_, path, size_bytes_, layers_, options_));
  auto file = added.change;
  stack::device::builder build = [this, &added](const stack::table&) {
    return put_on_top(std::move(added));
  };
  const auto swapped = co_await device_->replace_table(build);
  if (swapped) {
    base::log_info("stack", "device '" + name() + "': '" + path + "' is the topmost layer now");
    co_return swapped;
  }
  const auto closed = co_await file->close();
  (void)co_await remove_image(runtime_, path);
  if (!closed) base::log_warn("stack", "'" + path + "': " + base::to_string(closed.error().code));
  co_return swapped;
}

rt::task<outcome<void>> served_stack::close() {
  const auto held = co_await changing_.lock();
  closed_ = true;
  outcome<void> first = co_await seal_top(false);
  const auto closed = co_await close_layers(layers_);
  if (first) first = closed;
  co_return first;
}

device_report served_stack::report() const {
  device_report out;
  out.name = device_->name();
  out.export_name = export_name_;
  out.size_bytes = device_->limits().size_bytes;
  out.read_only = device_->limits().read_only;
  out.operations = to_operations(device_->totals());
  for (size_t i = 0; i < layers_.size(); ++i) {
    const open_layer& l = layers_[i];
    layer_report r;
    r.kind = l.kind;
    r.path = l.path;
    r.size_bytes = l.size_bytes();
    r.allocated_bytes = allocated_bytes(l);
    r.writable = l.writable && !read_only_;
    if (overlay_ != nullptr) {
      overlay::layer_totals t = overlay_->totals(i);
      r.operations.push_back(to_operation("read", t.reads += earlier_[i].reads));
      r.operations.push_back(to_operation("write", t.writes += earlier_[i].writes));
    } else if (i == 0) {
      r.operations = out.operations;
    }
    out.layers.push_back(std::move(r));
  }
  return out;
}

}  // namespace lbd::ctl
