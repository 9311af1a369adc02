// SPDX-License-Identifier: MIT
#include "ctl/image_command.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/size_text.h"
#include "ctl/run_alone.h"
#include "store/gluster/gluster.h"

namespace lbd::ctl {
namespace {

using base::errc;
using base::outcome;
using nlohmann::json;
using rt::task;

std::string shown_size(uint64_t bytes) {
  return std::to_string(bytes) + " (" + base::format_size(bytes) + ")";
}

task<outcome<std::string>> create(rt::runtime& runtime, uri::gluster_source image,
                                  uint64_t size_bytes) {
  CO_TRY(auto made, co_await store::gluster_device::make(runtime, image, size_bytes));
  co_await made->close();
  co_return uri::to_text(image) + ": made, " + base::format_size(size_bytes) + "\n";
}

task<outcome<std::string>> info(rt::runtime& runtime, uri::gluster_source image, bool as_json) {
  CO_TRY(const auto status, co_await store::gluster_image_status(runtime, image));
  const std::string name = uri::to_text(image);
  if (as_json) {
    const json out = {{"image", name},
                      {"folder", status.is_folder},
                      {"size_bytes", status.size_bytes},
                      {"allocated_bytes", status.allocated_bytes}};
    co_return out.dump(2) + "\n";
  }
  if (status.is_folder) co_return name + ": a folder\n";
  co_return name + "\n  size       " + shown_size(status.size_bytes) + "\n  allocated  " +
      shown_size(status.allocated_bytes) + "\n";
}

task<outcome<std::string>> resize(rt::runtime& runtime, uri::gluster_source image,
                                  uint64_t size_bytes, bool shrink) {
  CO_CHECK(co_await store::resize_gluster_image(runtime, image, size_bytes, shrink));
  co_return uri::to_text(image) + ": " + base::format_size(size_bytes) + " now\n";
}

task<outcome<std::string>> remove(rt::runtime& runtime, uri::gluster_source image) {
  CO_CHECK(co_await store::remove_gluster_image(runtime, image));
  co_return uri::to_text(image) + ": removed\n";
}

task<outcome<std::string>> list(rt::runtime& runtime, uri::gluster_source folder, bool as_json) {
  CO_TRY(const auto images, co_await store::list_gluster_folder(runtime, folder));
  if (as_json) {
    json out = json::array();
    for (const auto& i : images)
      out.push_back({{"name", i.name},
                     {"folder", i.is_folder},
                     {"size_bytes", i.size_bytes},
                     {"allocated_bytes", i.allocated_bytes}});
    co_return out.dump(2) + "\n";
  }
  size_t width = 0;
  for (const auto& i : images) width = std::max(width, i.name.size() + (i.is_folder ? 1 : 0));
  std::string out;
  for (const auto& i : images) {
    std::string name = i.name + (i.is_folder ? "/" : "");
    if (!i.is_folder) {
      name.resize(width + 2, ' ');
      name += shown_size(i.size_bytes);
    }
    out += name + "\n";
  }
  co_return out;
}

task<outcome<std::string>> carry_out(rt::runtime& runtime, image_command what,
                                     uri::gluster_source image) {
  switch (what.verb) {
    case image_verb::create:
      return create(runtime, std::move(image), what.size_bytes);
    case image_verb::info:
      return info(runtime, std::move(image), what.json);
    case image_verb::resize:
      return resize(runtime, std::move(image), what.size_bytes, what.shrink);
    case image_verb::remove:
      return remove(runtime, std::move(image));
    case image_verb::list:
      break;
  }
  return list(runtime, std::move(image), what.json);
}

const char* title_of(image_verb verb) {
  constexpr const char* titles[] = {"image create", "image info", "image resize", "image rm",
                                    "image ls"};
  return titles[static_cast<size_t>(verb)];
}

}  // namespace

int run_image(const image_command& what) {
  const char* title = title_of(what.verb);
  const bool names_folder = what.verb == image_verb::list || what.verb == image_verb::info;
  auto image = uri::parse_gluster(
      what.image, names_folder ? uri::gluster_path::folder : uri::gluster_path::image);
  if (!image) return fail(title, image.error());
  return run_alone(title, [&what, &image](rt::runtime& runtime) {
    return carry_out(runtime, what, *std::move(image));
  });
}

}  // namespace lbd::ctl
