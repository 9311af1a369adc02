// SPDX-License-Identifier: MIT
#include "sim/scenarios.h"

#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "sim/canary.h"
#include "sim/raw.h"
#include "sim/snapshot.h"
#include "sim/stack.h"

namespace lbd::sim {
namespace {

std::unique_ptr<subject> healthy_canary(random& shape) {
  return make_canary(bug::none, 4096 * shape.between(16, 200));
}

class qemu_img_judge final : public disk_observer {
 public:
  std::string look(const sim_disk& disk) override {
    for (const std::string& path : disk.paths()) {
      const std::vector<std::byte> bytes = disk.bytes_of(path);
      if (bytes.size() < 4 || base::load_big<uint32_t>(bytes, 0) != 0x514649fb) continue;
      const std::string wrong = check(bytes);
      if (!wrong.empty()) return path + ": " + wrong;
    }
    return "";
  }

 private:
  static std::string check(base::bytes_view bytes) {
    const char* folder = std::getenv("TMPDIR");
    std::string name = std::string(folder != nullptr ? folder : "/tmp") + "/lbd-sim-XXXXXX";
    const int fd = ::mkstemp(name.data());
    if (fd < 0) return "cannot make a temporary file";
    const bool written =
        ::write(fd, bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size());
    ::close(fd);
    std::string text = written ? run("qemu-img check -f qcow2 " + name + " 2>&1")
                               : "cannot write a temporary file";
    ::unlink(name.c_str());
    return text;
  }
  // Exit code 0: clean; 3: leaks only.
  static std::string run(const std::string& command) {
    std::FILE* out = ::popen(command.c_str(), "r");
    if (out == nullptr) return "cannot run qemu-img";
    std::string text;
    char part[1024];
    for (size_t n; (n = std::fread(part, 1, sizeof part, out)) > 0;) text.append(part, n);
    const int status = ::pclose(out);
    const int code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    return code == 0 || code == 3 ? "" : "qemu-img check: " + text.substr(0, 1000);
  }
};

}  // namespace

std::vector<scenario> all_scenarios() {
  return {
      {"stack", make_stack, 6},      {"change_file", make_change_file, 2},
      {"raw", make_raw, 1},          {"snapshot", make_snapshot, 3},
      {"merge", make_merge, 2},      {"failing_merge", make_failing_merge, 1},
      {"canary", healthy_canary, 1},
  };
}

std::unique_ptr<disk_observer> make_qemu_img_judge() { return std::make_unique<qemu_img_judge>(); }

}  // namespace lbd::sim
