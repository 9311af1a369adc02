// SPDX-License-Identifier: MIT
// A caller's buffer for each command: what is decoded lies inside it, and answers fit it.
// DEPS: lbd_wire_dm
#include <algorithm>
#include <cstdlib>

#include "wire/dm/ioctl.h"

using namespace lbd::dm;

namespace {

void require(bool what) {
  if (!what) std::abort();
}

void check_answer(answer& a, size_t capacity) {
  const auto bytes = a.finish();
  require(bytes.size() <= std::max(capacity, plain_answer_bytes));
}

void check(const request& r, size_t buffer_bytes) {
  require(r.head.name.size() < name_bytes && r.head.uuid.size() < uuid_bytes);
  require(r.text.size() < buffer_bytes);
  size_t text_bytes = 0;
  for (const target_line& line : r.targets) {
    require(line.type.size() <= type_bytes);
    text_bytes += line.text.size() + 1;
  }
  require(text_bytes <= buffer_bytes);
  if (r.what == command::version) return;
  const size_t capacity = r.head.data_size;
  answer status(r.head);
  status.put_status(r.targets);
  check_answer(status, capacity);
  answer devices(r.head);
  devices.put_devices({{{253, 1}, r.head.name, r.head.uuid, 1}, {{253, 2}, "b", "", 2}});
  check_answer(devices, capacity);
  answer deps(r.head);
  deps.put_deps(std::vector<device_number>(r.targets.size(), device_number{8, 1}));
  check_answer(deps, capacity);
  answer reply(r.head);
  reply.put_reply(r.text);
  check_answer(reply, capacity);
  answer versions(r.head);
  versions.put_versions({{"zero", {1, 1, 0}}, {r.head.name, {1, 4, 0}}});
  check_answer(versions, capacity);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const auto c = static_cast<command>(data[0] % command_count);
  const lbd::base::bytes_view buffer(reinterpret_cast<const std::byte*>(data + 1), size - 1);
  const auto r = decode_request(c, buffer);
  if (r) check(*r, buffer.size());
  if (r && c == command::set_geometry) (void)parse_geometry(r->text);
  return 0;
}
