# SPDX-License-Identifier: MIT
"""Stacks of layers: what is written where, what stays untouched, and that QEMU reads the same bytes."""

import os

import interop
import testing
from interop import MIB


class Layering(interop.Case):
    def setUp(self):
        super().setUp()
        testing.require("qemu-img", "qemu-io", "nbdcopy")

    def qemu_io(self, uri, *commands):
        words = [word for command in commands for word in ("-c", command)]
        self.assertNotIn("failed", self.run_ok("qemu-io", "-f", "raw", *words, uri).stdout)

    def content_by_qemu(self, image, image_format="qcow2"):
        out = self.path("by-qemu.raw")
        self.run_ok("qemu-img", "convert", "-f", image_format, "-O", "raw", image, out)
        return interop.read_file(out)

    def test_only_the_topmost_layer_is_written(self):
        base = self.data_file("base.img", 8 * MIB)
        middle, top = self.path("middle.qcow2"), self.path("top.qcow2")
        server = self.serve("-E", middle, "-f", base)
        self.qemu_io(server.uri, "write -P 1 0 2M", "write -z 4M 64k", "flush")
        below = self.device_bytes(server.uri)
        self.assertEqual(server.stop(), 0)
        states = {path: (interop.digest(path), os.stat(path).st_mtime_ns) for path in (base, middle)}
        server = self.serve("-E", top, "-E", middle, "-f", base)
        self.assertEqual(self.device_bytes(server.uri), below)
        self.qemu_io(server.uri, "write -P 2 512 100k", "write -P 3 4M 4k", "discard 1M 1M", "write -z 6M 1M", "flush")
        above = bytearray(below)
        above[512:512 + 102400] = b"\2" * 102400
        above[4 * MIB:4 * MIB + 4096] = b"\3" * 4096
        above[MIB:2 * MIB] = bytes(MIB)
        above[6 * MIB:7 * MIB] = bytes(MIB)
        self.assertEqual(self.device_bytes(server.uri), above)
        self.assertEqual(server.stop(), 0)
        for path, state in states.items():
            self.assertEqual((interop.digest(path), os.stat(path).st_mtime_ns), state, f"{path} changed")
        server = self.serve("-r", "-E", middle, "-f", base)
        self.assertEqual(self.device_bytes(server.uri), below, "the stack without its top")
        self.assertEqual(server.stop(), 0)
        self.assertEqual(self.content_by_qemu(top), above, "QEMU reads other bytes from the chain")
        self.assertEqual(self.content_by_qemu(middle), below)
        self.assert_clean(top)

    def test_a_chain_of_many_layers(self):
        base = self.data_file("base.img", 4 * MIB)
        expected, layers = bytearray(interop.read_file(base)), ["-f", base]
        for depth in range(24):
            layers = ["-E", self.path(f"layer{depth}.qcow2"), *layers]
            server = self.serve(*layers)
            start = (depth * 37 % 60) * 65536 + depth * 512
            self.qemu_io(server.uri, f"write -P {depth + 1} {start} 70k",
                         f"write -z {depth * 131072 + 4096} 4k", "flush")
            expected[start:start + 71680] = bytes([depth + 1]) * 71680
            expected[depth * 131072 + 4096:depth * 131072 + 8192] = bytes(4096)
            self.assertEqual(server.stop(), 0)
        server = self.serve(*layers)
        self.assertEqual(self.device_bytes(server.uri), expected)
        self.assertEqual(server.stop(), 0)
        self.assertEqual(self.content_by_qemu(self.path("layer23.qcow2")), expected)
        for depth in range(24):
            self.assert_clean(self.path(f"layer{depth}.qcow2"))

    def test_the_backing_name_is_recorded(self):
        base = self.data_file("base.img", MIB)
        middle, top = self.path("middle.qcow2"), self.path("top.qcow2")
        self.assertEqual(self.serve("-E", middle, "-f", base).stop(), 0)
        self.assertEqual(self.serve("-E", top, "-E", middle, "-f", base).stop(), 0)
        for image, below, below_format in ((middle, base, "raw"), (top, middle, "qcow2")):
            info = self.image_info(image)
            self.assertEqual(info["full-backing-filename"], below)
            self.assertEqual(info["backing-filename-format"], below_format)

    def test_no_backing_name_over_nothing(self):
        top = self.path("top.qcow2")
        self.assertEqual(self.serve("-s", "1M", "-E", top).stop(), 0)
        self.assertNotIn("backing-filename", self.image_info(top))

    def test_a_backing_name_is_never_followed(self):
        base = self.data_file("base.img", 2 * MIB, holes=False)
        top = self.path("top.qcow2")
        self.run_ok("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", top)
        server = self.serve("-r", "--source", f"qcow2:{top}")
        self.assertEqual(self.device_bytes(server.uri), bytes(2 * MIB), "the unnamed backing file was read")

    def test_a_larger_device_over_a_smaller_base(self):
        base = self.data_file("base.img", 3 * MIB + 512 * 3, holes=False)
        top = self.path("top.qcow2")
        server = self.serve("-s", "8M", "-E", top, "-f", base)
        below = interop.read_file(base)
        self.assertEqual(self.device_bytes(server.uri), below.ljust(8 * MIB, b"\0"))
        start = len(below) - 512
        self.qemu_io(server.uri, f"write -P 9 {start} 1k", "write -P 8 7M 1M")
        expected = bytearray(below.ljust(8 * MIB, b"\0"))
        expected[start:start + 1024] = b"\x09" * 1024
        expected[7 * MIB:] = b"\x08" * MIB
        self.assertEqual(self.device_bytes(server.uri), expected)
        self.assertEqual(server.stop(), 0)
        self.assertEqual(self.content_by_qemu(top), expected)
        self.assert_clean(top)

    def test_a_smaller_device_over_a_larger_base(self):
        base = self.data_file("base.img", 4 * MIB, holes=False)
        server = self.serve("-s", "3M", "-E", self.path("top.qcow2"), "-f", base)
        self.assertEqual(self.device_bytes(server.uri), interop.read_file(base)[:3 * MIB])

    def test_the_size_comes_from_a_layer(self):
        base = self.data_file("base.img", 5 * MIB)
        top = self.path("top.qcow2")
        self.assertEqual(self.serve("-E", top, "-f", base).stop(), 0)
        server = self.serve("-E", top)  # now the change file itself has a size
        self.assertEqual(self.run_ok("nbdinfo", "--size", server.uri).stdout.strip(), str(5 * MIB))

    def test_memory_and_null_as_layers(self):
        base = self.data_file("base.img", 2 * MIB, holes=False)
        server = self.serve("--source", "mem:2M")
        self.qemu_io(server.uri, "read -P 0 0 2M", "write -P 5 1k 100k", "read -P 5 1k 100k", "read -P 0 0 1k")
        server = self.serve("-E", self.path("top.qcow2"), "--source", "null:10T")
        self.assertEqual(self.run_ok("nbdinfo", "--size", server.uri).stdout.strip(), str(10 << 40))
        self.qemu_io(server.uri, "write -P 5 9T 64k", "read -P 5 9T 64k", "read -P 0 8T 1M")
        self.assertEqual(server.stop(), 0)
        self.assertLess(os.stat(self.path("top.qcow2")).st_blocks * 512, 16 * MIB)
        self.assert_clean(self.path("top.qcow2"))
        self.assertTrue(base)

    def test_several_exports_in_one_server(self):
        one, two = self.data_file("one.img", 2 * MIB, seed=1), self.data_file("two.img", 3 * MIB, seed=2)
        path = self.path("s")
        self.start([testing.lbd_binary(), "serve", "-u", path, "--socket", self.path("c"), "--name", "one", "-E",
                    self.path("top1.qcow2"), "-f", one, "--name", "two", "-r", "-f", two],
                   ready=lambda: testing.accepts(path))
        for name, image in (("one", one), ("two", two)):
            uri = f"nbd+unix:///{name}?socket={path}"
            self.run_ok("qemu-img", "compare", "-f", "raw", "-F", "raw", uri, image)
        self.qemu_io(f"nbd+unix:///one?socket={path}", "write -P 1 0 4k")
        self.run_ok("qemu-img", "compare", "-f", "raw", "-F", "raw", f"nbd+unix:///two?socket={path}", two)
        listed = self.run_ok("nbdinfo", "--list", "--json", f"nbd+unix:///?socket={path}").stdout
        self.assertIn('"one"', listed)
        self.assertIn('"two"', listed)

    def test_file_store_punches_and_provisions(self):
        flat = self.data_file("flat.img", 16 * MIB, holes=False)
        server = self.serve("-f", flat)
        full = os.stat(flat).st_blocks
        self.qemu_io(server.uri, "discard 0 8M", "flush")
        self.assertLess(os.stat(flat).st_blocks, full * 3 // 4, "discard did not punch")
        holes = os.stat(flat).st_blocks
        self.qemu_io(server.uri, "write -z 0 8M", "flush")  # without MAY_UNMAP: must be provisioned
        self.assertGreater(os.stat(flat).st_blocks, holes + 8 * MIB // 1024, "NO_HOLE did not provision")
        self.qemu_io(server.uri, "read -P 0 0 8M")


if __name__ == "__main__":
    interop.main()
