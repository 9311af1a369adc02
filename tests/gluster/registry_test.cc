// SPDX-License-Identifier: MIT
// Images on Gluster that several tables of a daemon have open.
#include "ctl/source_registry.h"

#include <unistd.h>

#include <filesystem>

#include "ctl/gluster_layer.h"
#include "store_fixture.h"

namespace lbd::store {
namespace {

using ctl::source_numbers;
using ctl::source_registry;

class gluster_registry : public gluster_store {};

INSTANTIATE_TEST_SUITE_P(all, gluster_registry, testing::Values(rt::backend::threads));

TEST_P(gluster_registry, a_writer_without_a_lock_joins_nobody) {
  const std::string image = "gluster://h/v/a", from_elsewhere = "gluster://other/v/a";
  const std::string path = testing::TempDir() + "/lbd-sources-" + std::to_string(::getpid());
  {
    const rt::reactor::scope here(rt_->at(0));
    source_registry sources(*rt_, *source_numbers::open(path));
    const auto open = [&](bool writable) { return rt_->run_until(sources.open(image, writable)); };
    auto reader = open(false);
    ASSERT_TRUE(reader) << reader.error().message;
    const auto refused = open(true);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, errc::busy);
    EXPECT_THAT(refused.error().message, HasSubstr("is open for reading here already"));
    reader->device.reset();
    auto writer = open(true), joined = open(false);
    ASSERT_TRUE(writer && joined);
    EXPECT_EQ(writer->device.get(), joined->device.get());
    writer->device.reset();
    const auto other = rt_->run_until(gluster_device::open(*rt_, source(from_elsewhere), false));
    EXPECT_FALSE(other) << "the one that joined keeps the writer's lock";
    joined->device.reset();
    EXPECT_TRUE(rt_->run_until(sources.close()));
  }
  std::filesystem::remove(path);
}

TEST_P(gluster_registry, nothing_stays_of_a_change_file_made_in_vain) {
  for (const char* rule : {"pwritev fail 28", "fdatasync fail 28 skip 1", "ftruncate fail 28"}) {
    fake().clear_rules();
    fake().rule(rule);
    new_change_file what;
    what.size_bytes = 1 << 20;
    const auto made =
        rt_->run_until(ctl::make_gluster_change_file(*rt_, "gluster://h/v/top", what));
    ASSERT_FALSE(made) << rule;
    EXPECT_EQ(made.error().code, errc::nospc);
    EXPECT_EQ(content("v", "top"), "(missing)") << rule;
  }
}

}  // namespace
}  // namespace lbd::store
