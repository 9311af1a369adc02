// SPDX-License-Identifier: MIT
// Gluster's client library as tests need it: it keeps its volumes in memory and fails, delays,
// reorders, holds and loses as it is told. Loaded in the library's place by LBD_GFAPI; a test in
// the same process finds the functions below by dlsym().
#pragma once

#include <cstddef>
#include <cstdint>

extern "C" {
// Forgets files, rules and records. REQUIRES: nothing is open, or what is open is not used again.
void fake_reset();

// "CALL ACTION [VALUE] [skip N] [times N]", for the calls from now on. CALL is a function's name
// without "glfs_", or "io" for every one of a file's requests. The first rule that fits is used;
// without `times` for ever. Actions:
//   fail ERRNO     the request ends with that number
//   refuse ERRNO   the call itself returns -1; no request begins
//   delay MS       the answer comes that much later
//   hold           the answer waits for fake_release()
//   stall          the call itself waits for fake_release(), then it begins
//   short BYTES    a read or write does only that many bytes
//   inline         the answer comes inside the call, on the caller's thread
//   keep ERRNO     the request is done and fails all the same
void fake_rule(const char* text);
void fake_clear_rules();
void fake_release();
// Answers come in no order.
void fake_reorder(int on);

// Everything that was not synced is lost.
void fake_crash();
// The servers forget all locks. `with_files`: files that are open cannot lock any more, as after
// the library has changed its translators.
void fake_forget_locks(int with_files);
// How many ranges of a file are locked.
uint64_t fake_locks(const char* volume, const char* path);

void fake_put(const char* volume, const char* path, const void* bytes, size_t length);
// Copies the file's content; returns its size, or -1 where there is no such file.
int64_t fake_get(const char* volume, const char* path, void* to, size_t length);

// How often a call was made; of "io" the most requests at a time.
uint64_t fake_count(const char* call);
uint64_t fake_most_in_flight();
// Made by glfs_new() and not yet through glfs_fini().
uint64_t fake_connections();
// 1 when every option was set before init, and this one was among them.
int fake_had_option(const char* translator, const char* key, const char* value);
// The servers of the last connection, "tcp a:1, tcp b:2".
const char* fake_servers();
}
