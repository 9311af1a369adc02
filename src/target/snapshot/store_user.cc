// SPDX-License-Identifier: MIT
#include "target/snapshot/store_user.h"

#include <algorithm>

#include "base/log.h"

namespace lbd::snapshot {

using base::failure;
using base::outcome;

namespace {

constexpr const char* scope = "device-mapper";

uint32_t block_bytes_of(const block::opened_device& d) noexcept {
  return d.device->limits().block_bytes;
}

}  // namespace

store_user::store_user(making m) : made_(std::move(m)), limits_(store_device().limits()) {
  const block::limits& o = origin().limits();
  limits_.size_bytes = made_.length_bytes;
  block::stack_io_sizes(limits_, o);
  limits_.preferred_bytes = std::max(limits_.preferred_bytes, o.preferred_bytes);
  limits_.max_transfer_bytes = std::min(limits_.max_transfer_bytes, o.max_transfer_bytes);
  limits_.can_discard = made_.words.discard_zeroes_cow;
  limits_.can_write_zeroes = limits_.fast_zero = false;
  limits_.read_only |= made_.merges && o.read_only;
}

store_user::~store_user() = default;

task<outcome<std::shared_ptr<block::target>>> store_user::create(block::target_context& context,
                                                                 std::vector<std::string> args,
                                                                 bool merges) {
  making m;
  CO_TRY(m.words, parse_params(args));
  auto origin = co_await context.open(m.words.origin);
  if (!origin) co_return failure{origin.error().code, "Cannot get origin device"};
  auto store = co_await context.open(m.words.store);
  if (!store) co_return failure{store.error().code, "Cannot get COW device"};
  if (origin->number == store->number)
    co_return failure{errc::inval, "COW device cannot be the same as origin device"};
  std::string why;
  const auto read = read_store_words(m.words, block_bytes_of(*store), block_bytes_of(*origin), why);
  if (!read) {
    context.explain(std::move(why));
    co_return read.error();
  }
  const store_words words = *read;
  if (merges && !words.type.persistent)
    co_return failure{errc::inval, "Snapshot exception store does not support snapshot-merge."};
  CO_CHECK(context.check_area(*origin, 0, context.length_sectors()));
  m.type = words.type;
  m.origin = *std::move(origin);
  m.store = *std::move(store);
  m.event = context.event_sink();
  m.begin_bytes = context.begin_sector() * block::sector_bytes;
  m.length_bytes = context.length_sectors() * block::sector_bytes;
  m.merges = merges;
  rt::runtime& runtime = context.runtime();
  const std::function<std::shared_ptr<void>()> make_group = [&runtime] {
    return std::make_shared<origin_group>(runtime);
  };
  m.group = std::static_pointer_cast<origin_group>(
      context.shared_state("snapshot-origin " + m.origin.number.text(), make_group));
  std::shared_ptr<store_user> made;
  if (merges)
    made = std::make_shared<merge_target>(std::move(m));
  else
    made = std::make_shared<snapshot_target>(std::move(m));
  const auto opened = co_await made->open_store(words);
  if (opened) co_return std::shared_ptr<block::target>(std::move(made));
  if (made->core_) context.explain(made->core_->store().trouble());
  co_await made->closed();
  co_return opened.error();
}

task<outcome<void>> store_user::open_store(const store_words& words) {
  CO_TRY(waiting_, join());
  if (made_.words.discard_zeroes_cow)
    limits_.discard_granularity_bytes =
        std::max<uint64_t>(words.chunk_sectors, 1) * block::sector_bytes;
  if (waiting_) co_return outcome<void>{};
  std::unique_ptr<exception_store> store;
  if (words.type.persistent)
    store = make_persistent_store(made_.store, words.type, words.chunk_sectors,
                                  block_bytes_of(made_.origin));
  else
    store = make_transient_store(made_.store, words.chunk_sectors);
  core_ = std::make_shared<snapshot_core>(made_.group->runtime(), made_.origin, std::move(store),
                                          made_.group->copies());
  const auto loaded = co_await core_->load();
  if (!loaded) co_return failure{loaded.error().code, "Failed to read snapshot metadata"};
  if (core_->store().chunk_sectors() == 0) co_return failure{errc::inval, "Chunk size not set"};
  if (made_.words.discard_zeroes_cow) limits_.discard_granularity_bytes = core_->chunk_bytes();
  co_return outcome<void>{};
}

store_user::sharing store_user::find_sharing() const noexcept {
  sharing s;
  for (store_user* u : made_.group->users()) {
    s.merging |= u->made_.merges;
    if (u->made_.store.number != made_.store.number) continue;
    (u->active_ ? s.source : s.heir) = u;
    ++s.count;
  }
  return s;
}

outcome<bool> store_user::join() {
  const sharing s = find_sharing();
  if (s.count == 2 || s.heir != nullptr)
    return failure{errc::inval, "Snapshot cow pairing for exception table handover failed"};
  if (s.source != nullptr && made_.merges) {
    if (s.merging) return failure{errc::inval, "A snapshot is already merging."};
    if (!s.source->made_.type.persistent)
      return failure{errc::inval, "Snapshot exception store does not support snapshot-merge."};
  }
  made_.group->users().push_back(this);
  joined_ = true;
  return s.source != nullptr;
}

void store_user::take_over_from(store_user& source) {
  core_ = std::move(source.core_);
  source.core_ = nullptr;
  waiting_ = false;
}

task<result<void>> store_user::preresume() {
  const sharing s = find_sharing();
  if (s.source == nullptr || s.heir == nullptr) co_return result<void>{};
  const char* wrong = nullptr;
  if (s.source == this)
    wrong = "Unable to resume snapshot source until handover completes.";
  else if (!s.source->suspended_)
    wrong = "Unable to perform snapshot handover until source is suspended.";
  if (wrong == nullptr) co_return result<void>{};
  base::log_error(scope, std::string("snapshots: ") + wrong);
  co_return io_error{errc::inval, 0};
}

task<void> store_user::resumed() {
  const sharing s = find_sharing();
  if (s.source != nullptr && s.heir == this) take_over_from(*s.source);
  active_ = true;
  suspended_ = false;
  if (!core_) co_return;
  core_->set_owner(made_.begin_bytes + made_.length_bytes, made_.event);
  if (made_.merges) {
    co_await made_.group->remove(core_.get());
    co_await core_->set_merging(true);
  } else {
    if (core_->merging()) co_await core_->set_merging(false);
    co_await made_.group->add(core_);
  }
  started();
}

task<void> store_user::postsuspend() {
  suspended_ = true;
  co_return;
}

task<void> store_user::closed() {
  if (joined_) {
    const sharing s = find_sharing();
    if (s.source == this && s.heir != nullptr) {
      s.heir->waiting_ = false;  // without a core it is invalid
      base::log_error(scope, "snapshots: Cancelling snapshot handover.");
    }
  }
  co_await stopped();
  std::vector<store_user*>& users = made_.group->users();
  users.erase(std::remove(users.begin(), users.end(), this), users.end());
  if (!core_) co_return;
  co_await made_.group->remove(core_.get());
  co_await core_->close();
  core_.reset();
}

task<std::string> store_user::status(block::status_request q) {
  const uint64_t store_sectors = store_device().limits().size_bytes / block::sector_bytes;
  if (q.kind == block::status_kind::table) {
    const dm_snapshot::store_type type = core_ ? core_->store().type() : made_.type;
    std::string text = made_.origin.number.text() + " " + made_.store.number.text() + " " +
                       type.text() + " " +
                       std::to_string(core_ ? core_->store().chunk_sectors() : 0);
    if (made_.words.discard_passdown_origin)
      text += " 2 discard_zeroes_cow discard_passdown_origin";
    else if (made_.words.discard_zeroes_cow)
      text += " 1 discard_zeroes_cow";
    co_return text;
  }
  if (waiting_) co_return "0/" + std::to_string(store_sectors) + " 0";
  if (!core_ || !core_->valid()) co_return "Invalid";
  if (core_->merge_failed()) co_return "Merge failed";
  if (core_->overflowed()) co_return "Overflow";
  const store_usage u = core_->store().usage();
  co_return std::to_string(u.allocated_sectors) + "/" + std::to_string(u.total_sectors) + " " +
      std::to_string(u.metadata_sectors);
}

std::string store_user::measured() const {
  const auto yes = [](bool so) { return so ? "y" : "n"; };
  const bool valid = waiting_ || (core_ && core_->valid());
  return ",snap_origin_name=" + made_.origin.number.text() +
         ",snap_cow_name=" + made_.store.number.text() + ",snap_valid=" + yes(valid) +
         ",snap_merge_failed=" + yes(core_ && core_->merge_failed()) +
         ",snapshot_overflowed=" + yes(core_ && core_->overflowed());
}

void store_user::for_each_child(
    const std::function<void(const block::opened_device&)>& visit) const {
  visit(made_.origin);
  visit(made_.store);
}

}  // namespace lbd::snapshot
