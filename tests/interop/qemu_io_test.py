# SPDX-License-Identifier: MIT
"""Judge: qemu-io."""

import interop
import testing
from interop import MIB


class QemuIo(interop.Case):
    def setUp(self):
        super().setUp()
        testing.require("qemu-io", "qemu-img")

    def qemu_io(self, uri, *commands):
        words = [word for command in commands for word in ("-c", command)]
        output = self.run_ok("qemu-io", "-f", "raw", *words, uri).stdout
        for bad in ("failed", "error", "Error"):
            self.assertNotIn(bad, output)

    def patterns(self, *layers):
        server = self.serve(*layers)
        self.qemu_io(server.uri, "write -P 0xab 1M 64k", "read -P 0xab 1M 64k", "write -P 0xcd 1049088 512",
                     "read -P 0xab 1M 512", "read -P 0xcd 1049088 512", "read -P 0xab 1049600 63k",
                     "write -z 1M 4k", "read -P 0 1M 4k", "read -P 0xab 1052672 60k", "write -z -u 1052672 60k",
                     "read -P 0 1M 64k", "write -f -P 0x11 2M 1M", "discard 2M 512k", "read -P 0x11 2621440 512k",
                     "flush", "aio_write -P 0x22 4M 1M", "aio_write -P 0x33 5M 1M", "aio_flush",
                     "read -P 0x22 4M 1M", "read -P 0x33 5M 1M", "read -P 0x33 6290944 512")
        self.assertEqual(server.stop(), 0)

    def test_memory(self):
        self.patterns("--source", "mem:16M")

    def test_flat_file(self):
        self.patterns("-f", self.data_file("flat.img", 16 * MIB))

    def test_direct_flat_file(self):
        flat = self.data_file("flat.img", 16 * MIB)
        self.patterns("--source", f"file:{flat}?direct=1")

    def test_change_file(self):
        self.patterns("-s", "16M", "-E", self.path("top.qcow2"))
        self.assert_clean(self.path("top.qcow2"))
        self.run_ok("qemu-io", "-c", "read -P 0x22 4M 1M", "-c", "read -P 0 1M 64k", self.path("top.qcow2"))

    def test_change_file_over_data(self):
        base = self.data_file("base.img", 16 * MIB, holes=False)
        self.patterns("-E", self.path("top.qcow2"), "-f", base)
        self.assert_clean(self.path("top.qcow2"))

    def test_discard_above_a_lower_layer_reads_as_zeros(self):
        base = self.data_file("base.img", 16 * MIB, holes=False)
        server = self.serve("-E", self.path("top.qcow2"), "-f", base)
        self.qemu_io(server.uri, "discard 1M 1M", "read -P 0 1M 1M", "write -P 5 1M 4k", "read -P 5 1M 4k",
                     "read -P 0 1052672 1020k", "write -P 6 4M 256k", "discard 4M 256k", "read -P 0 4M 256k",
                     "write -z 8M 2M", "read -P 0 8M 2M")
        self.assertEqual(server.stop(), 0)
        server = self.serve("-E", self.path("top.qcow2"), "-f", base)
        self.qemu_io(server.uri, "read -P 0 1052672 1020k", "read -P 0 4M 256k", "read -P 0 8M 2M")
        self.assertEqual(server.stop(), 0)
        self.assert_clean(self.path("top.qcow2"))


if __name__ == "__main__":
    interop.main()
