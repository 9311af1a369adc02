// SPDX-License-Identifier: MIT
// Layers: what a stack of change files is made of. An overlay (target/overlay) keeps one merged map
// over its layers and asks each of them only once per block of the map.
#pragma once

#include <functional>
#include <string>

#include "block/device.h"

namespace lbd::block {

// What a layer has for a run of its address space.
enum class placement_kind : uint8_t {
  absent,  // nothing: the layer below decides
  zero,    // zeros, whatever lies below
  data,    // plain bytes at `offset` of the layer's data_device(), as they are
  opaque,  // content that the layer must produce itself by read() (compressed)
};

struct placement {
  placement_kind kind = placement_kind::absent;
  uint64_t length_bytes = 0;  // of the run, at least 1; long runs save the caller questions
  uint64_t offset = 0;        // data: bytes in data_device(), a multiple of 512
};

// A read-only view of a layer. Any reactor may call; the answers hold as long as the layer is not
// written (a layer below the top never is).
class layer : public block_device {
 public:
  // The run at `offset`: at most `length` bytes. REQUIRES: offset < size, length > 0.
  virtual task<result<placement>> locate(uint64_t offset, uint64_t length) = 0;
  // Where all data placements of this layer lie: usually the file that holds it. Any reactor may
  // read it, and for a change layer write it, at the places told.
  virtual block_device& data_device() noexcept = 0;
  virtual std::string describe() const = 0;  // "qcow2 /path/file", for people
};

// What an allocation hands out: where to put the bytes of one run.
struct allocation {
  uint64_t offset = 0;         // of the run in the layer's address space
  uint64_t length_bytes = 0;   // multiple of the granule
  uint64_t device_offset = 0;  // bytes in data_device()
};

// The top of a stack. All calls on the layer's home reactor, the one that opened it, flush()
// included; only read(), extents() and data_device() may come from any. The caller excludes
// overlapping calls (range lock). write(), discard() and write_zeroes() of a change layer are not
// used by an overlay.
class change_layer : public layer {
 public:
  // The unit in which the layer takes content: a write must cover whole granules (the overlay fills
  // the rest from below). Power of two.
  virtual uint64_t granule_bytes() const noexcept = 0;
  // The unit in which space is allocated; one run never crosses it. Power of two, >= granule.
  virtual uint64_t cluster_bytes() const noexcept = 0;

  // Space for [offset, offset + length): granule-aligned, inside one cluster. The cluster's present
  // place if it has one of its own, otherwise a new one. Nothing is visible yet. Errors: nospc.
  virtual task<result<allocation>> allocate(uint64_t offset, uint64_t length) = 0;
  // The bytes are in place: the map takes them up (in memory; on disk with the next flush). After
  // this locate() says data.
  virtual task<result<void>> publish(const allocation& a) = 0;
  // The bytes could not be written: gives back what allocate() took.
  virtual void abandon(const allocation& a) = 0;

  // Granule-aligned: reads as zeros from now on; the space of whole clusters is given back once no
  // reader can be in it (set_quiesce()). With `keep_space` the space stays allocated where there is
  // any.
  virtual task<result<void>> set_zero(uint64_t offset, uint64_t length, bool keep_space) = 0;

  // `quiesce` returns when readers and writers that were routed before its call have left: freed
  // clusters are used again only after that. Set by the owner before the first write; without one
  // nobody else is routed into the file. Calls come one at a time.
  virtual void set_quiesce(std::function<task<void>()> quiesce) = 0;

  // From now on read-only for good: metadata is written out and durable (live add of a layer).
  virtual task<result<void>> seal() = 0;

  // Space used in the file, for people and counters.
  virtual uint64_t allocated_bytes() const noexcept = 0;
};

}  // namespace lbd::block
