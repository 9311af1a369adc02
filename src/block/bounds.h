// SPDX-License-Identifier: MIT
// Everything is bounded; the bounds stand here.
#pragma once

#include <cstddef>
#include <cstdint>

namespace lbd::block::bounds {

// Crossings of one routed request: gates, clocks and hooks of about twelve stacked devices. A
// deeper stack goes on by a coroutine, which begins a new path.
inline constexpr size_t path_crossings = 24;
// Runs in one answer about extents.
inline constexpr size_t extents_per_answer = 4096;
// Segments of one vectored request to the operating system.
inline constexpr size_t segments_per_request = 512;
// One request of a client (NBD payload).
inline constexpr uint64_t request_bytes = uint64_t{64} << 20;
// Requests in flight and payload bytes of one connection.
inline constexpr unsigned requests_per_connection = 256;
inline constexpr uint64_t bytes_per_connection = uint64_t{96} << 20;
// Connections of one server, and how many of them may still be in their handshake.
inline constexpr unsigned connections = 1024;
inline constexpr unsigned handshakes = 128;
// A client's time for its handshake, and for taking a reply that is ready.
inline constexpr uint64_t handshake_ns = 10'000'000'000;
inline constexpr uint64_t stalled_send_ns = 60'000'000'000;
// Requests in flight of one mounted folder, and the payload bytes that they hold. Of those that
// programs do not wait for (AIO, readahead) the kernel sends fewer, so that there is room for
// others.
inline constexpr unsigned requests_per_mount = 32768;
inline constexpr unsigned background_requests_per_mount = 16384;
inline constexpr uint64_t bytes_per_mount = uint64_t{256} << 20;
// What all reads of one of its devices hold; further ones wait without memory.
inline constexpr uint64_t read_bytes_per_mounted_device = uint64_t{16} << 20;
// Layers of one stack.
inline constexpr unsigned layers = 4000;
// What all read-only layers of a stack together keep of their tables, about.
inline constexpr uint64_t table_cache_bytes = uint64_t{256} << 20;
// Bytes that are written at once where zeros or copies go through memory.
inline constexpr size_t copy_chunk_bytes = size_t{1} << 20;
// One line of a management protocol.
inline constexpr size_t management_line_bytes = size_t{1} << 20;

}  // namespace lbd::block::bounds
