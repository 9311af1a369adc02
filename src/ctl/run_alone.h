// SPDX-License-Identifier: MIT
// Commands that do their work in this process and print what comes of it.
#pragma once

#include <string>
#include <string_view>

#include "ctl/say.h"
#include "rt/runtime.h"

namespace lbd::ctl {

// `work` takes the runtime, of one reactor, and gives a task of the text. Returns the exit status.
template <class Work>
int run_alone(std::string_view name, Work work) {
  rt::runtime_options options;
  options.reactors = 1;
  const auto runtime = rt::runtime::start(options);
  if (!runtime) return fail(name, runtime.error());
  return finish(name, (*runtime)->run_until(work(**runtime)));
}

}  // namespace lbd::ctl
