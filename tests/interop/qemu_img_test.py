# SPDX-License-Identifier: MIT
"""Judge: qemu-img on the served device and on the change file."""

import json

import interop
import testing
from interop import MIB


class QemuImg(interop.Case):
    def setUp(self):
        super().setUp()
        testing.require("qemu-img")

    def test_info_and_map_of_the_device(self):
        flat = self.data_file("flat.img", 8 * MIB)
        server = self.serve("-E", self.path("top.qcow2"), "-f", flat)
        self.assertEqual(self.image_info(server.uri, "-f", "raw")["virtual-size"], 8 * MIB)
        extents = json.loads(self.run_ok("qemu-img", "map", "--output=json", "-f", "raw", server.uri).stdout)
        self.assertEqual(sum(e["length"] for e in extents), 8 * MIB)
        zero = [e for e in extents if e["start"] <= MIB < e["start"] + e["length"]]
        self.assertTrue(zero[0]["zero"], "a hole of the flat file")

    def test_convert_in_and_out(self):
        source = self.data_file("source.img", 64 * MIB)
        top = self.path("top.qcow2")
        server = self.serve("-s", "64M", "-E", top)
        self.run_ok("qemu-img", "convert", "-n", "-m", "8", "-W", "-f", "raw", "-O", "raw", source, server.uri)
        self.run_ok("qemu-img", "compare", "-f", "raw", "-F", "raw", source, server.uri)
        self.run_ok("qemu-img", "convert", "-m", "8", "-W", "-f", "raw", "-O", "qcow2", server.uri,
                    self.path("out.qcow2"))
        self.assert_same_content(self.path("out.qcow2"), source, "qcow2")
        self.assertEqual(server.stop(), 0)
        self.assert_clean(top)
        self.assert_same_content(top, source, "qcow2")

    def test_zeros_of_a_sparse_source_take_no_space(self):
        source = self.path("sparse.img")
        self.run_ok("qemu-img", "create", "-f", "raw", source, "1G")
        top = self.path("top.qcow2")
        server = self.serve("-s", "1G", "-E", top)
        self.run_ok("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", source, server.uri)
        self.assertEqual(server.stop(), 0)
        self.assertLess(self.image_info(top)["actual-size"], 4 * MIB)
        self.assert_clean(top)

    def test_bench_reads_and_writes(self):
        top = self.path("top.qcow2")
        server = self.serve("-s", "64M", "-E", top)
        for flags in (["-w"], [], ["-w", "--flush-interval=16"], ["-w", "-s", "512", "-S", "1536"]):
            size = [] if "-s" in flags else ["-s", "4k"]
            self.run_ok("qemu-img", "bench", "-f", "raw", "-c", "2000", "-d", "16", *size, *flags, server.uri)
        self.assertEqual(server.stop(), 0)
        self.assert_clean(top)

    def test_the_change_file_is_a_version_3_image_with_subclusters(self):
        top = self.path("top.qcow2")
        self.assertEqual(self.serve("-s", "64M", "-E", top).stop(), 0)
        info = self.image_info(top)
        self.assertEqual((info["format"], info["virtual-size"], info["cluster-size"]), ("qcow2", 64 * MIB, 65536))
        details = info["format-specific"]["data"]
        self.assertEqual(details["compat"], "1.1")
        self.assertTrue(details["extended-l2"])
        self.assertFalse(details["lazy-refcounts"])
        self.assertFalse(details["corrupt"])
        self.assertNotIn("dirty-flag", [key for key, value in info.items() if value is True])

    def test_first_write_of_4_kib_does_not_copy_a_cluster(self):
        base = self.data_file("base.img", 64 * MIB, holes=False)
        top = self.path("top.qcow2")
        server = self.serve("-E", top, "-f", base)
        writes = [word for i in range(512) for word in ("-c", f"write -P 7 {i * 65536 + 8192} 4k")]
        self.run_ok("qemu-io", "-f", "raw", *writes, server.uri)
        self.assertEqual(server.stop(), 0)
        self.assert_clean(top)
        blocks = self.image_info(top)["actual-size"]
        self.assertLess(blocks, 512 * 65536 // 4, "512 writes of 4 KiB fill most of 512 clusters on disk")

    def test_the_change_file_reads_the_same_in_qemu_while_at_rest(self):
        base = self.data_file("base.img", 16 * MIB)
        top = self.path("top.qcow2")
        server = self.serve("-E", top, "-f", base)
        self.run_ok("qemu-io", "-f", "raw", "-c", "write -P 1 100k 300k", "-c", "write -z 3M 1M", "-c", "discard 5M 1M",
                    "-c", "write -P 2 16776704 512", server.uri)
        content = self.device_bytes(server.uri)
        self.assertEqual(server.stop(), 0)
        self.run_ok("qemu-img", "convert", "-f", "qcow2", "-O", "raw", top, self.path("by-qemu.raw"))
        self.assertEqual(interop.read_file(self.path("by-qemu.raw")), content)


if __name__ == "__main__":
    interop.main()
