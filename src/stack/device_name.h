// SPDX-License-Identifier: MIT
// Names and uuids as the kernel's tools keep them. dmsetup writes every byte that is not a letter,
// a digit or one of #+-.:=@_ as `\xNN`, and lists nothing more when a name holds such a byte, so
// that ours keep to it: two faces see the same devices.
#pragma once

#include <string>
#include <string_view>

namespace lbd::stack {

// What is written so already stays as it is.
std::string kept_uuid(std::string_view uuid);
// The same, but for names with a '/', which there cannot be: they are refused as they are.
std::string kept_name(std::string_view name);
// As people write them; as they are kept when that would be no printable UTF-8, or would not lead
// back to what is kept (a name with a '/').
std::string shown_uuid(std::string_view kept);
std::string shown_name(std::string_view kept);

}  // namespace lbd::stack
