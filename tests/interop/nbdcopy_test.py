# SPDX-License-Identifier: MIT
"""Judge: nbdcopy, with four connections."""

import filecmp

import interop
import testing
from interop import MIB


class Nbdcopy(interop.Case):
    def setUp(self):
        super().setUp()
        testing.require("nbdcopy", "qemu-img")

    def round_trip(self, *layers, size=96 * MIB):
        """Copies a file in and out again, also after a restart of the server."""
        source = self.data_file("source.img", size)
        server = self.serve(*layers)
        self.run_ok("nbdcopy", "--connections=4", "--flush", source, server.uri)
        out = self.path("out.img")
        self.run_ok("nbdcopy", "--connections=4", server.uri, out)
        self.assertTrue(filecmp.cmp(source, out, shallow=False), "the copy differs")
        self.assertEqual(server.stop(), 0)
        if "mem:96M" not in layers:
            server = self.serve(*layers)
            self.run_ok("nbdcopy", server.uri, out)
            self.assertTrue(filecmp.cmp(source, out, shallow=False), "the copy differs after a restart")
            self.assertEqual(server.stop(), 0)

    def test_memory(self):
        self.round_trip("--source", "mem:96M")

    def test_flat_file(self):
        flat = self.data_file("flat.img", 96 * MIB, seed=9)
        self.round_trip("-f", flat)
        self.assertTrue(filecmp.cmp(self.path("source.img"), flat, shallow=False))

    def test_change_file(self):
        top = self.path("top.qcow2")
        self.round_trip("-s", "96M", "-E", top)
        self.assert_clean(top)
        self.assert_same_content(top, self.path("source.img"), "qcow2")

    def test_change_file_over_other_data(self):
        base = self.data_file("base.img", 96 * MIB, seed=5, holes=False)
        before = interop.digest(base)
        top = self.path("top.qcow2")
        self.round_trip("-E", top, "-f", base)
        self.assert_clean(top)
        self.assertEqual(interop.digest(base), before, "the base changed")

    def test_size_that_is_no_multiple_of_a_cluster(self):
        size = 3 * MIB + 7 * 512
        self.round_trip("-s", f"{size}", "-E", self.path("top.qcow2"), size=size)
        self.assert_clean(self.path("top.qcow2"))

    def test_from_one_server_to_another(self):
        source = self.serve("-r", "-f", self.data_file("source.img", 32 * MIB))
        target = self.serve("-s", "32M", "-E", self.path("top.qcow2"))
        self.run_ok("nbdcopy", "--connections=4", "--flush", source.uri, target.uri)
        self.run_ok("qemu-img", "compare", "-f", "raw", "-F", "raw", source.uri, target.uri)


if __name__ == "__main__":
    interop.main()
