// SPDX-License-Identifier: MIT
// Preloaded into QEMU's tools by tests: ending a connection takes Gluster's library ten seconds,
// and a process that ends needs none of it.
extern "C" int glfs_fini(void* /*connection*/) { return 0; }
