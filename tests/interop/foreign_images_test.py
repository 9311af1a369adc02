# SPDX-License-Identifier: MIT
"""qcow2 images made by QEMU's tools: as read-only layers, as change files, and those that must be refused."""

import struct

import interop
import testing
from interop import MIB

SIZE = 8 * MIB


class ForeignImages(interop.Case):
    def setUp(self):
        super().setUp()
        testing.require("qemu-img", "qemu-io", "nbdcopy")
        self.raw = self.data_file("data.img", SIZE)

    def make(self, name, options="", *flags, source=None):
        image = self.path(name)
        words = ["-o", options] if options else []
        self.run_ok("qemu-img", "convert", "-f", "raw", "-O", "qcow2", *flags, *words, source or self.raw, image)
        return image

    def check_readable(self, image):
        """LBD reads what QEMU reads, alone and below a change file, and changes nothing."""
        before = interop.digest(image)
        expected = interop.read_file(self.raw)
        server = self.serve("-r", "--source", f"qcow2:{image}")
        self.assertEqual(self.device_bytes(server.uri), expected)
        self.assertEqual(server.stop(), 0)
        top = self.path("top-" + image.rsplit("/", 1)[1])
        server = self.serve("-E", top, "--source", f"qcow2:{image}")
        self.run_ok("qemu-io", "-f", "raw", "-c", "write -P 7 70000 1500", "-c", "write -P 8 3M 64k", "-c", "flush",
                    server.uri)
        content = self.device_bytes(server.uri)
        written = bytearray(expected)
        written[70000:71500] = b"\7" * 1500
        written[3 * MIB:3 * MIB + 65536] = b"\x08" * 65536
        self.assertEqual(content, written)
        self.assertEqual(server.stop(), 0)
        self.assertEqual(interop.digest(image), before, "the lower image changed")
        self.assert_clean(top)

    def test_version_2(self):
        self.check_readable(self.make("v2.qcow2", "compat=0.10"))

    def test_version_3(self):
        self.check_readable(self.make("v3.qcow2", "compat=1.1"))

    def test_compressed_deflate(self):
        self.check_readable(self.make("deflate.qcow2", "compression_type=zlib", "-c"))

    def test_compressed_deflate_version_2(self):
        self.check_readable(self.make("deflate2.qcow2", "compat=0.10", "-c"))

    def test_compressed_zstd(self):
        self.check_readable(self.make("zstd.qcow2", "compression_type=zstd", "-c"))

    def test_compressible_data_that_ends_inside_a_sector(self):
        with open(self.raw, "r+b") as file:
            for offset in range(0, SIZE, 65536):
                file.seek(offset)
                file.write(bytes(range(256)) * (offset // 65536 + 1))
        self.check_readable(self.make("text.qcow2", "compression_type=zlib", "-c"))
        self.check_readable(self.make("text-zstd.qcow2", "compression_type=zstd", "-c"))

    def test_extended_l2(self):
        self.check_readable(self.make("subclusters.qcow2", "extended_l2=on,cluster_size=128k"))

    def test_cluster_sizes(self):
        for size in ("512", "4k", "2M"):
            self.check_readable(self.make(f"cluster{size}.qcow2", f"cluster_size={size}"))

    def test_refcount_widths(self):
        for bits in (1, 8, 64):
            self.check_readable(self.make(f"refcount{bits}.qcow2", f"refcount_bits={bits}"))

    def test_preallocated(self):
        self.check_readable(self.make("metadata.qcow2", "preallocation=metadata"))

    def test_internal_snapshots_are_left_alone(self):
        image = self.make("snapshots.qcow2")
        self.run_ok("qemu-img", "snapshot", "-c", "first", image)
        self.run_ok("qemu-io", "-c", "write -P 1 0 1M", "-c", "write -z 2M 64k", image)
        self.run_ok("qemu-img", "snapshot", "-c", "second", image)
        with open(self.raw, "r+b") as file:
            file.write(b"\1" * MIB)
            file.seek(2 * MIB)
            file.write(bytes(65536))
        self.check_readable(image)
        names = [snapshot["name"] for snapshot in self.image_info(image)["snapshots"]]
        self.assertEqual(names, ["first", "second"])

    def test_a_chain_made_by_qemu(self):
        below = self.make("below.qcow2")
        above = self.path("above.qcow2")
        self.run_ok("qemu-img", "create", "-q", "-f", "qcow2", "-b", below, "-F", "qcow2", above)
        self.run_ok("qemu-io", "-c", "write -P 3 100k 200k", "-c", "write -z 1M 64k", "-c", "discard 2M 64k", above)
        self.run_ok("qemu-img", "convert", "-f", "qcow2", "-O", "raw", above, self.path("expected.raw"))
        server = self.serve("-r", "--source", f"qcow2:{above}", "--source", f"qcow2:{below}")
        self.assertEqual(self.device_bytes(server.uri), interop.read_file(self.path("expected.raw")))

    def test_an_image_made_by_qemu_as_change_file(self):
        for name, options in (("plain", ""), ("subclusters", "extended_l2=on"), ("big", "cluster_size=2M"),
                              ("lazy", "lazy_refcounts=on")):
            with self.subTest(name):
                image = self.make(f"{name}.qcow2", options)
                server = self.serve("-E", image)
                self.run_ok("qemu-io", "-f", "raw", "-c", "write -P 5 1000k 200k", "-c", "write -z 5M 1M",
                            "-c", "discard 3M 1M",
                            "-c", "write -P 6 8388096 512", "-c", "flush", server.uri)
                content = self.device_bytes(server.uri)
                self.assertEqual(content[1000 << 10:1200 << 10], b"\5" * (200 << 10))
                self.assertEqual(content[5 * MIB:6 * MIB], bytes(MIB))
                self.assertEqual(server.stop(), 0)
                self.assert_clean(image)
                self.run_ok("qemu-img", "convert", "-f", "qcow2", "-O", "raw", image, self.path("after.raw"))
                self.assertEqual(interop.read_file(self.path("after.raw")), content)

    def test_a_version_2_image_as_change_file_names_the_remedy(self):
        self.refused(self.make("v2.qcow2", "compat=0.10"), "amend")

    def test_writing_beside_internal_snapshots_keeps_them(self):
        image = self.make("snapshots.qcow2")
        self.run_ok("qemu-img", "snapshot", "-c", "first", image)
        process = testing.Process([testing.lbd_binary(), "serve", "-u", self.path("s"), "--socket",
                                   self.path("c"), "-E", image],
                                  self.path("log"))
        self.addCleanup(process.kill)
        testing.wait_until(lambda: not process.running() or testing.accepts(self.path("s")), "serving or refused")
        if process.running():  # a refusal is fine too; a broken snapshot is not
            self.run_ok("qemu-io", "-f", "raw", "-c", "write -P 5 0 4M", "-c", "flush",
                        f"nbd+unix:///?socket={self.path('s')}")
            process.stop()
        self.assert_clean(image)
        self.run_ok("qemu-img", "convert", "-f", "qcow2", "-O", "raw", "-l", "first", image, self.path("first.raw"))
        self.assertEqual(interop.digest(self.path("first.raw")), interop.digest(self.raw))

    def refused(self, image, *words):
        done = self.lbd_fails("serve", "-u", self.path("s"), "--socket", self.path("c"), "-E", image,
                              names=[image], timeout_s=20)
        for word in words:
            self.assertIn(word, done.stderr)

    def patch(self, image, offset, fmt, value):
        with open(image, "r+b") as file:
            file.seek(offset)
            file.write(struct.pack(fmt, value))

    def test_unknown_incompatible_features_are_refused(self):
        image = self.make("future.qcow2")
        self.patch(image, 72, ">Q", 1 << 40)
        self.refused(image)

    def test_the_corrupt_bit_is_refused(self):
        image = self.make("corrupt.qcow2")
        self.patch(image, 72, ">Q", 2)
        self.refused(image, "corrupt")

    def test_a_dirty_image_is_repaired(self):
        image = self.make("dirty.qcow2", "lazy_refcounts=on")
        self.patch(image, 72, ">Q", 1)
        server = self.serve("-E", image)
        self.run_ok("qemu-img", "compare", "-f", "raw", "-F", "raw", server.uri, self.raw)
        self.assertEqual(server.stop(), 0)
        self.assert_clean(image)

    def test_encrypted_images_are_refused(self):
        # Only marked so: qemu-img measures the CPU to make a real one, and gives up on a busy machine.
        for method in (1, 2):
            image = self.path(f"encrypted{method}.qcow2")
            self.run_ok("qemu-img", "create", "-q", "-f", "qcow2", image, "1M")
            self.patch(image, 32, ">L", method)
            self.refused(image, "encrypt")

    def test_external_data_files_are_refused(self):
        image = self.path("external.qcow2")
        self.run_ok("qemu-img", "create", "-q", "-f", "qcow2", "-o", f"data_file={self.path('data.raw')}", image, "1M")
        self.refused(image)

    def test_what_is_no_image_is_refused_and_untouched(self):
        for name, content in (("text", b"just text\n" * 1000), ("short", b"QFI\xfb"),
                              ("magic", b"QFI\xfb" + b"\xff" * 508)):
            path = self.path(name)
            with open(path, "wb") as file:
                file.write(content)
            self.refused(path)
            self.assertEqual(interop.read_file(path), content)

    def test_truncated_image_is_refused_or_reads_fail(self):
        image = self.make("cut.qcow2")
        with open(image, "r+b") as file:
            file.truncate(150_000)
        process = testing.Process([testing.lbd_binary(), "serve", "-r", "-u", self.path("s"), "--socket",
                                   self.path("c"), "--source",
                                   f"qcow2:{image}"], self.path("log"))
        self.addCleanup(process.kill)
        testing.wait_until(lambda: not process.running() or testing.accepts(self.path("s")), "serving or refused")
        if process.running():
            self.run_any("nbdcopy", f"nbd+unix:///?socket={self.path('s')}", self.path("out.raw"))
            self.assertTrue(process.running(), "the server died of a truncated image")
            self.assertEqual(process.stop(), 0)
        else:
            self.assertEqual(process.wait(), 1)


if __name__ == "__main__":
    interop.main()
