// SPDX-License-Identifier: MIT
#include "app/image_options.h"

#include <CLI/CLI.hpp>
#include <map>

#include "app/options.h"
#include "base/size_text.h"

namespace lbd::app {
namespace {

using base::outcome;
using ctl::image_verb;

const std::map<std::string, image_verb> verbs = {{"create", image_verb::create},
                                                 {"info", image_verb::info},
                                                 {"resize", image_verb::resize},
                                                 {"rm", image_verb::remove},
                                                 {"ls", image_verb::list}};

CLI::App& add_verb(CLI::App& to, const char* name, const char* about) {
  CLI::App& made = *to.add_subcommand(name, about);
  const bool names_folder = std::string(name) == "ls";
  add_words(made, "URI",
            names_folder ? "gluster://SERVER/VOLUME[/FOLDER]" : "gluster://SERVER/VOLUME/PATH",
            word_count::one);
  return made;
}

outcome<uint64_t> read_size(const reader& from) {
  TRY(const std::string text, from.word("SIZE"));
  auto size = base::parse_size(text);
  if (!size) return from.wrong("SIZE: " + size.error().message);
  if (*size == 0 || *size % 512 != 0)
    return from.wrong("SIZE must be a multiple of 512 bytes, not " + text);
  return *size;
}

}  // namespace

void add_image_commands(CLI::App& app) {
  CLI::App& image = *app.add_subcommand("image", "Make, show, resize and remove images on Gluster");
  image.require_subcommand(1);
  constexpr const char* size_text = "Size of the image: bytes, or with K, M, G, T (or KiB ...)";
  CLI::App& create = add_verb(image, "create", "Make an image, all zeros");
  add_words(create, "SIZE", size_text, word_count::one);
  add_switch(add_verb(image, "info", "Show an image's size"), "--json", "As JSON");
  CLI::App& resize = add_verb(image, "resize", "Make an image larger or smaller");
  add_words(resize, "SIZE", size_text, word_count::one);
  add_switch(resize, "--shrink", "Smaller is meant: what lies behind the new end is lost");
  add_verb(image, "rm", "Remove an image");
  add_switch(add_verb(image, "ls", "List what lies in a folder"), "--json", "As JSON");
}

outcome<ctl::command> read_image(const CLI::App& verb) {
  const reader from(verb);
  ctl::image_command out;
  out.verb = verbs.at(verb.get_name());
  TRY(out.image, from.word("URI"));
  if (out.image.empty()) return from.wrong("URI is empty");
  if (out.verb == image_verb::create || out.verb == image_verb::resize) {
    TRY(out.size_bytes, read_size(from));
  }
  if (out.verb == image_verb::resize) out.shrink = from.has("shrink");
  if (out.verb == image_verb::info || out.verb == image_verb::list) out.json = from.has("json");
  return ctl::command(std::move(out));
}

}  // namespace lbd::app
